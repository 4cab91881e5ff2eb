"""Rows with their provenance, and the one entry for ``--data``: a file, a preset, or rows at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safewright.data.load import SUFFIXES, load_rows
from safewright.data.presets import DEFAULTS, PRESETS, find_preset
from safewright.data.rows import rows_digest
from safewright.errors import BadInput
from safewright.types import Row

QUICK_ROWS = 100
"""Rows per role of a quick audit."""


@dataclass(frozen=True)
class LoadedData:
    """Rows and where they come from.

    ``digest`` is over the rows as they are used; ``total`` counts the rows before a limit. ``pinned`` is
    False only for a preset without a revision of its own: a file or rows at hand are what their digest
    says.
    """

    rows: tuple[Row, ...]
    digest: str
    source: str
    kind: Literal["file", "preset", "rows"]
    name: str = ""
    role: str = ""
    revision: str | None = None
    pinned: bool = True
    licence: str | None = None
    total: int = 0
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """What a scorecard says about its data."""
        said: dict[str, Any] = {
            "source": self.source,
            "kind": self.kind,
            "digest": self.digest,
            "rows": len(self.rows),
            "of": self.total,
        }
        if self.kind == "preset":
            said |= {
                "preset": self.name,
                "revision": self.revision or "none (local folder)",
                "pinned": self.pinned,
                "licence": self.licence,
            }
        if self.notes:
            said["notes"] = list(self.notes)
        return said


def load_data(
    data: str | Path | LoadedData | Sequence[Row] | None,
    role: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    quick: bool = False,
) -> LoadedData:
    """The rows for one role, from whatever names them.

    Args:
        data: A preset's name, a file's path (``./NAME`` for a file named like a preset), loaded data, rows,
            or None for the role's default preset.
        role: What the rows are for: ``harm``, ``benign``, ``utility``, or a role of a method.
        limit: At most so many rows: a sample that depends on ``seed`` and the rows' ids, in their order.
        seed: Of the sample.
        quick: 100 rows where no limit is given.

    Raises:
        BadInput: No such preset or file, unusable rows, a preset for another role, or a limit below one.
        Missing: A preset is not cached and cannot be fetched, or a package is not installed.
    """
    check_limit(limit)
    if quick and limit is None:
        limit = QUICK_ROWS
    if data is None:
        if role not in DEFAULTS:
            raise BadInput(f"The role {role!r} was given no data.", fix=f"Give it: --data {role}=rows.jsonl")
        data = DEFAULTS[role]
    if isinstance(data, LoadedData):
        return _limited(data, limit, seed)
    if isinstance(data, (str, Path)):
        if isinstance(data, str) and (data in PRESETS or not _is_path(data)):
            return _preset(data, role, limit, seed)
        rows = load_rows(data, need_reference=role == "utility")
        return _limited(_described(rows, str(data), "file", role), limit, seed)
    if not data:
        raise BadInput(f"The rows for {role!r} are empty.", why="There is nothing to measure.")
    return _limited(_described(data, "rows", "rows", role), limit, seed)


def check_limit(limit: int | None) -> None:
    """Raise BadInput, naming ``--limit``, unless it is None or at least one."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise BadInput(
            f"--limit is {limit!r}.",
            why="A measure over no rows says nothing.",
            fix="Give a number of rows of at least 1, or leave --limit out for all of them.",
        )


def sample(rows: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """At most ``limit`` rows, in their order; which ones depends on ``seed`` and their ids only.

    A row that is chosen among some rows is also chosen among fewer of them, and under a larger limit.

    Raises:
        BadInput: The limit is below one.
    """
    check_limit(limit)
    if limit is None or limit >= len(rows):
        return list(rows)
    ranks = [(hashlib.sha256(f"{seed}\0{row.id}".encode()).digest(), i) for i, row in enumerate(rows)]
    return [rows[i] for i in sorted(i for _, i in sorted(ranks)[:limit])]


def _is_path(name: str) -> bool:
    return "/" in name or "\\" in name or Path(name).suffix.lower() in SUFFIXES or Path(name).exists()


def _preset(name: str, role: str, limit: int | None, seed: int) -> LoadedData:
    preset = find_preset(name)
    if role in DEFAULTS and preset.role != role:
        fitting = ", ".join(sorted(p.name for p in PRESETS.values() if p.role == role))
        raise BadInput(
            f"The preset {name!r} is {preset.role} data, but it was given for {role!r}.",
            why="The rate would bear the wrong name.",
            fix=f"Presets for {role}: {fitting}.",
        )
    from safewright.data.hub import load_preset

    return load_preset(name, limit=limit, seed=seed)


def _described(rows: Sequence[Row], source: str, kind: Literal["file", "rows"], role: str) -> LoadedData:
    return LoadedData(tuple(rows), rows_digest(rows), source, kind, role=role, total=len(rows))


def _limited(data: LoadedData, limit: int | None, seed: int) -> LoadedData:
    if limit is None or limit >= len(data.rows):
        return data
    chosen = sample(data.rows, limit, seed)
    return replace(data, rows=tuple(chosen), digest=rows_digest(chosen))
