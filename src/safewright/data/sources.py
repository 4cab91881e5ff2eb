"""The one entry for ``--data``: a file, a preset, or rows at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from safewright.data import longsafety
from safewright.data.hub import load_preset
from safewright.data.load import SUFFIXES, load_rows
from safewright.data.loaded import LoadedData, check_limit, limited
from safewright.data.presets import DEFAULTS, PRESETS, find_preset
from safewright.data.rows import rows_digest
from safewright.errors import BadInput
from safewright.types import Row

QUICK_ROWS = 100
"""Rows per role of a quick audit."""


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
            or None for the role's default preset; for ``long_context`` also a folder.
        role: What the rows are for: ``harm``, ``benign``, ``utility``, ``long_context`` (each row needs a
            context, see `longsafety.load_long`), or a role of a method.
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
        return limited(data, limit, seed)
    if isinstance(data, (str, Path)):
        if isinstance(data, str) and (data in PRESETS or not _is_path(data)):
            return _preset(data, role, limit, seed)
        if role == longsafety.ROLE:
            rows, notes = longsafety.load_long(data)
        else:
            rows, notes = load_rows(data, need_reference=role == "utility"), ()
        return limited(_described(rows, notes, str(data), "file", role), limit, seed)
    if not data:
        raise BadInput(f"The rows for {role!r} are empty.", why="There is nothing to measure.")
    rows, notes = longsafety.complete(data) if role == longsafety.ROLE else (list(data), ())
    return limited(_described(rows, notes, "rows", "rows", role), limit, seed)


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
    return load_preset(name, limit=limit, seed=seed)


def _described(
    rows: Sequence[Row], notes: tuple[str, ...], source: str, kind: Literal["file", "rows"], role: str
) -> LoadedData:
    digest = rows_digest(rows)
    return LoadedData(tuple(rows), digest, source, kind, role=role, total=len(rows), notes=notes)
