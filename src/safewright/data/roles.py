"""Rows of several roles as one set: who plays which role stands in each row's id and meta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from safewright.data.loaded import LoadedData
from safewright.data.rows import rows_digest
from safewright.errors import BadInput, nearest
from safewright.types import Row

SET = "set"
"""The entry of a row's meta that holds its role."""


def merged(parts: Mapping[str, LoadedData]) -> LoadedData:
    """The rows of all roles, one role after the other: ids ``ROLE/ID``, and meta with ``"set": ROLE``.

    Args:
        parts: Data by role.

    Raises:
        BadInput: A row's meta has another ``set`` already.
    """
    rows = tuple(row for role, part in parts.items() for row in _named(role, part.rows))
    return LoadedData(
        rows=rows,
        digest=rows_digest(rows),
        source=", ".join(f"{role}: {part.source}" for role, part in parts.items()),
        kind="rows",
        role=",".join(parts),
        pinned=all(part.pinned for part in parts.values()),
        total=sum(part.total for part in parts.values()),
        notes=tuple(f"{role}: {note}" for role, part in parts.items() for note in part.notes),
        parts=dict(parts),
    )


def _named(role: str, rows: Sequence[Row]) -> list[Row]:
    for row in rows:
        if row.meta.get(SET, role) != role:
            raise BadInput(
                f"The row {row.id!r} was given as {role}, but its meta says {SET}: {row.meta[SET]!r}.",
                why="Which of the two it is cannot be told.",
                fix=f"Leave {SET} out of the rows, or give them in the role it names.",
            )
    return [replace(row, id=f"{role}/{row.id}", meta={**row.meta, SET: role}) for row in rows]


def check_roles(given: Mapping[str, object], needed: Sequence[str], known: Sequence[str], what: str) -> None:
    """Pass when data is given for every role that is needed, and for none that nobody reads.

    Raises:
        BadInput: A role is unknown (the nearest is named), or has no data.
    """
    for role in given:
        if role not in known:
            raise BadInput(f"{what} reads no data in the role {role!r}.", fix=nearest(str(role), known))
    lacking = [role for role in needed if given.get(role) is None]
    if lacking:
        raise BadInput(
            f"{what} was given no data in the role {lacking[0]!r}.",
            fix="Give it: " + " ".join(f"--data {role}=rows.jsonl" for role in needed),
        )
