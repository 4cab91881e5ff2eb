"""The labels of long-context rows, their names in the paper, and rows chosen by them. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safewright.data.splits import count_words
from safewright.errors import BadInput, nearest
from safewright.types import Row

ROLE = "long_context"
"""What such rows are for."""

HUB = "thu-coai/LongSafety"
META, DOCS = "longsafety_meta.jsonl", "longsafety_docs.jsonl"
WHOLE = ("longsafety.jsonl", "longsafety.json", "longsafety.parquet")
"""Names of one file with everything, as the hub has it."""

SAFETY_TYPES: Mapping[str, str] = {
    "Bias": "Biased Opinion",
    "Illegal Activities": "Illegal Activities",
    "Physical & Mental Health": "Physical & Mental Harm",
    "Privacy & Property": "Privacy & Property",
    "Sensitive Topics": "Sensitive Topics",
    "Toxicity": "Toxicity Content",
    "Unethical Activities": "Unethical Activities",
}
"""Safety issues: the label in the data, and what the paper calls it."""

TASK_TYPES: Mapping[str, str] = {
    "Brainstorming": "Brainstorming",
    "Generation": "Generation",
    "Question Answering": "Question Answering",
    "Rewrite": "Rewrite",
    "Role-playing": "Role-playing",
    "Summarization": "Summarization",
}
"""Kinds of task: the label in the data, and what the paper calls it."""

SPELLING: Mapping[str, str] = {
    "Animal cruelt": "Animal cruelty",
    "Academic dishonest": "Academic dishonesty",
    "Profanity and obscenit": "Profanity and obscenity",
    "Racial Bias": "Racial bias",
}
"""Keywords the release misspells, and what they are read as."""

LENGTH_TOLERANCE = 0.05
"""Share of ``length`` by which the words of a context may differ from it before that is noted."""

NEEDED = (
    "Each row needs `instruction` and `context`; `id`, `safety_type`, `task_type` and the rest are optional."
)
OWN_FILES = (
    f"For a local copy: give as data a folder with {META} and {DOCS} in it, or one .jsonl, .json or .parquet file "
    "with `context` in every row."
)
FETCH = f"Fetch the whole set: safewright data fetch longsafety (hub id {HUB}). {OWN_FILES}"

LABELS: Mapping[str, Mapping[str, str]] = {"safety_type": SAFETY_TYPES, "task_type": TASK_TYPES}
SHOWN = 5
"""Ids a message names; of more it says how many."""


def select(
    rows: Sequence[Row],
    *,
    safety_type: str | Iterable[str] = (),
    task_type: str | Iterable[str] = (),
    min_length: int | None = None,
    max_length: int | None = None,
) -> list[Row]:
    """The rows of the named issues and tasks and within the lengths, in their order.

    Args:
        rows: As `load_long` gives them.
        safety_type: Labels of `SAFETY_TYPES`, as a list or with commas; none means all.
        task_type: Likewise of `TASK_TYPES`.
        min_length: Least number of words of the context.
        max_length: Greatest number.

    Raises:
        BadInput: An unknown label (with the nearest), lengths that exclude everything, or no row is left.
    """
    wanted = {"safety_type": _named(safety_type, "safety_type"), "task_type": _named(task_type, "task_type")}
    low, high = _bound(min_length, "min_length"), _bound(max_length, "max_length")
    if low is not None and high is not None and low > high:
        raise BadInput(f"min_length is {low} and max_length {high}.", fix="Give a smaller min_length.")
    kept = [
        row
        for row in rows
        if all(not labels or row.meta.get(name) in labels for name, labels in wanted.items())
        and (low is None or _length(row) >= low)
        and (high is None or _length(row) <= high)
    ]
    if kept:
        return kept
    asked = [f"{name} {', '.join(labels)}" for name, labels in wanted.items() if labels]
    asked += [
        f"{name} {value}" for name, value in (("min_length", low), ("max_length", high)) if value is not None
    ]
    there = [
        f"{name}: {_tally(row.meta.get(name) for row in rows)}" for name, labels in wanted.items() if labels
    ]
    lengths = [_length(row) for row in rows]
    there += [f"lengths: {min(lengths)} to {max(lengths)} words"] if lengths else []
    raise BadInput(
        f"None of {len(rows)} rows is left by {'; '.join(asked) or 'no filter'}.",
        why="There is nothing to measure.",
        fix=f"Widen the filter. The rows have {'; '.join(there) or 'nothing'}.",
    )


def listed(names: Sequence[str]) -> str:
    """The first ids, as a message names them."""
    return f"ids {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}"


def _tally(values: Iterable[Any]) -> str:
    return ", ".join(f"{value or 'none'} {count}" for value, count in Counter(values).most_common())


def _named(given: str | Iterable[str], name: str) -> list[str]:
    parts = given.split(",") if isinstance(given, str) else list(given)
    labels = [part.strip() for part in parts if part.strip()]
    for label in labels:
        if label not in LABELS[name]:
            raise BadInput(
                f"{name} {label!r} is unknown.",
                fix=f"{nearest(label, LABELS[name])} Allowed: {', '.join(LABELS[name])}.",
            )
    return labels


def _length(row: Row) -> int:
    return row.meta["length"] if "length" in row.meta else count_words(row.meta["context"])


def _bound(value: int | None, name: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise BadInput(f"{name} is {value!r}.", fix="Give a number of words, or leave it out.")
    return value
