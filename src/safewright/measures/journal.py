"""Rows of a run's journals that belong to one question each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

from safewright.errors import BadInput
from safewright.runs import Run, from_json
from safewright.types import Question

T = TypeVar("T")
Key = tuple[str, str, int]
"""Role, id and sample of a question."""

ANEW = "Use --overwrite to start the run anew."


def key_of(question: Question) -> Key:
    """What names a question within a run."""
    return question.role, question.id, question.sample


def journal_rows(run: Run, stream: str, fields: Collection[str]) -> dict[Key, dict[str, Any]]:
    """The latest row of a journal for each question.

    Raises:
        BadInput: A row is damaged.
    """
    found: dict[Key, dict[str, Any]] = {}
    for number, row in enumerate(run.rows(stream, ("key", *fields)), start=1):
        key = row["key"]
        if not isinstance(key, list) or [type(part) for part in key] != [str, str, int]:
            raise BadInput(
                f"Row {number} of the journal {stream} in {run.dir} has the key {key!r}.", fix=ANEW
            )
        found[key[0], key[1], key[2]] = row
    return found


def journalled(kind: type[T], plain: Any, stream: str) -> T:
    """An object of ``kind`` out of a journal.

    Raises:
        BadInput: It is damaged.
    """
    try:
        return from_json(kind, plain)
    except BadInput as error:
        raise BadInput(f"The journal {stream} is damaged: {error.what}", fix=ANEW) from error
