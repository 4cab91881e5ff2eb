"""The questions H was made from, as digests in the prepared folder: rows of a test are checked against them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safewright.data.splits import GRAM, normalise, question, words
from safewright.errors import BadInput
from safewright.types import Row

SEEN = "questions"
"""Their name in prep.json."""


def digests(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Digests of the normalised questions and of their 13-grams, sorted."""
    exact, grams = set(), set()
    for row in rows:
        exact.add(_digest(normalise(question(row))))
        grams |= _grams(row)
    return {"exact": sorted(exact), "grams": sorted(grams)}


def require_unseen(facts: Mapping[str, Any], where: object, test: Sequence[Row]) -> None:
    """Pass when no row of a test is among the questions of a prepared folder, by the rule of `safewright.data`.

    Raises:
        BadInput: Some are, or the folder does not say.
    """
    if not test:
        return
    seen = facts.get(SEEN)
    if not isinstance(seen, Mapping) or not {"exact", "grams"} <= seen.keys():
        raise BadInput(
            f"{where} was prepared without keeping which questions it saw.",
            why="The test rows cannot be checked against them.",
            fix="Run the stage prepare again, or leave --data test=… out.",
        )
    exact, grams = frozenset(seen["exact"]), frozenset(seen["grams"])
    same = [row.id for row in test if _digest(normalise(question(row))) in exact]
    known = frozenset(same)
    alike = [row.id for row in test if row.id not in known and not grams.isdisjoint(_grams(row))]
    if same or alike:
        raise BadInput(
            f"{len(same) + len(alike)} of {len(test)} rows of 'test' are also among the calibration rows of {where} "
            f"({len(same)} exact, {len(alike)} by {GRAM} words in a row; first: {[*same, *alike][0]}).",
            why="What a model was tuned on says nothing about new questions.",
            fix="Remove those rows from the test, or prepare with other rows.",
        )


def _grams(row: Row) -> set[str]:
    said = words(question(row))
    return {_digest(" ".join(said[i : i + GRAM])) for i in range(len(said) - GRAM + 1)}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
