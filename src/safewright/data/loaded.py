"""Rows with their provenance, and the sample a limit takes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from safewright.data.rows import rows_digest
from safewright.errors import BadInput
from safewright.types import Row


@dataclass(frozen=True)
class LoadedData:
    """Rows and where they come from.

    ``digest`` is over the rows as they are used; ``total`` counts the rows before a limit. ``pinned`` is
    False only for a preset without a revision of its own: a file or rows at hand are what their digest
    says. ``parts`` are the data by role where several were merged (`safewright.data.roles.merged`).
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
    parts: Mapping[str, LoadedData] = field(default_factory=dict)

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
        if self.parts and not self.pinned:
            said["pinned"] = False
        if self.parts:
            # Where each lies is said once, above: the same bytes elsewhere are the same data.
            said["parts"] = {
                role: {key: value for key, value in part.describe().items() if key != "source"}
                for role, part in self.parts.items()
            }
        return said


def check_limit(limit: int | None) -> None:
    """Raise BadInput, naming ``--limit``, unless it is None or at least one."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise BadInput(
            f"--limit is {limit!r}.",
            why="A measure over no rows says nothing.",
            fix="Give a number of rows of at least 1, or leave --limit out for all of them.",
        )


def chosen(data: LoadedData, choose: Callable[[Sequence[Row]], Sequence[Row]]) -> LoadedData:
    """The data with the rows that are chosen, and their digest."""
    rows = tuple(choose(data.rows))
    return data if len(rows) == len(data.rows) else replace(data, rows=rows, digest=rows_digest(rows))


def limited(data: LoadedData, limit: int | None, seed: int) -> LoadedData:
    """The data with at most ``limit`` rows; see `sample`."""
    return chosen(data, lambda rows: sample(rows, limit, seed))


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
