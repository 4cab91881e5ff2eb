"""Which records a page shows, and how much of each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safewright.report import text
from safewright.types import Record, Scorecard


@dataclass(frozen=True)
class Example:
    """One record, cut to a readable length."""

    record: Record
    turns: tuple[tuple[str, str, int, str], ...]
    """Who speaks, the beginning, how many characters are left out after it, and the end behind them."""
    output: tuple[str, int] | None
    reasoning: tuple[str, int] | None
    scores: tuple[tuple[str, str], ...]
    facts: tuple[str, ...]


@dataclass(frozen=True)
class ExampleGroup:
    """Records with the same outcome."""

    title: str
    total: int
    sensitive: bool
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class ExampleSet:
    """The examples of one scorecard."""

    title: str
    label: str
    total: int
    shown: int
    sensitive: bool
    groups: tuple[ExampleGroup, ...]


_UNPLEASANT = re.compile(r"harm(?!on)|attack|jailbreak|toxic|safety")  # no harmonic means


def is_sensitive(card: Scorecard) -> bool:
    """Whether a measure's questions and answers may be unpleasant to read."""
    names = [card.measure, *(reading.name for reading in card.readings)]
    return any(_UNPLEASANT.search(name.lower()) for name in names)


PROMPT_LIMIT, OUTPUT_LIMIT = 800, 1200


def example_set(card: Scorecard, records: Sequence[Record], label: str, limit: int) -> ExampleSet | None:
    """At most ``limit`` records of a scorecard, of every outcome; None where there are none to show."""
    if not records or limit < 1:
        return None
    sensitive = is_sensitive(card)
    outcome: dict[str, list[Record]] = {}
    for record in records:
        outcome.setdefault(_outcome(record), []).append(record)
    order = sorted(outcome, key=lambda name: (name not in STATUS_TITLES, name), reverse=True)
    share = _shares([len(outcome[name]) for name in order], limit)
    groups = tuple(
        ExampleGroup(
            title=STATUS_TITLES.get(name, name),
            total=len(outcome[name]),
            sensitive=sensitive and name not in BENIGN and not (name.endswith("= 0") and name != "safe = 0"),
            examples=tuple(_example(record) for record in _spread(outcome[name], count)),
        )
        for name, count in zip(order, share, strict=True)
        if count
    )
    shown = sum(len(group.examples) for group in groups)
    return ExampleSet(text.title_of(card.measure), label, len(records), shown, sensitive, groups)


BENIGN = frozenset({"safe = 1"})
"""Outcomes that are good news although their score is not 0."""

STATUS_TITLES: Mapping[str, str] = {
    "unparsed": "Unscored: the judge's reply could not be read",
    "refused": "Unscored: the judge declined",
    "error": "Unscored: an error",
    "no_answer": "Unscored: no answer",
    "unscored": "Unscored",
}


def _outcome(record: Record) -> str:
    """The group a record is shown in: why it is unscored, or its first score."""
    for status in record.status.values():
        if status != "ok":
            return status
    for name, value in record.scores.items():
        if value is None:
            return "unscored"
        if value in (0.0, 1.0):
            return f"{name} = {value:g}"
        return f"{name} between 0 and 1" if 0 < value < 1 else f"{name} outside 0 to 1"
    return "unscored"


def _shares(totals: Sequence[int], limit: int) -> list[int]:
    """``limit`` places dealt out in turn, so that a rare outcome is seen as well as a common one."""
    shares = [0] * len(totals)
    left = min(limit, sum(totals))
    while left:
        for i, total in enumerate(totals):
            if left and shares[i] < total:
                shares[i] += 1
                left -= 1
    return shares


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """``count`` records evenly spaced over the data's order."""
    return [records[i * len(records) // count] for i in range(count)]


def _cut(body: str, limit: int) -> tuple[str, int]:
    return text.shorten(text.clean(body), limit)


def _both_ends(body: str, limit: int) -> tuple[str, int, str]:
    """Beginning, number of characters left out, end: what is asked may stand behind a long context."""
    whole = text.clean(body)
    if len(whole) <= limit:
        return whole, 0, ""
    end = limit * 3 // 8
    return whole[: limit - end], len(whole) - limit, whole[-end:]


def _example(record: Record) -> Example:
    said = record.generation
    facts = [f"sample {record.sample}"] if record.sample else []
    if record.role != "target":
        facts.append(f"role {record.role}")
    if said is not None:
        facts.append(f"{said.tokens} tokens")
        if said.stop != "stop":
            facts.append(f"stopped: {said.stop}")
        if said.error:
            facts.append(said.error)
    if record.why:
        facts.append(record.why)
    return Example(
        record=record,
        turns=tuple(
            (text.one_line(m.get("role", "")), *_both_ends(m.get("content", ""), PROMPT_LIMIT))
            for m in record.input
        ),
        output=_cut(record.output, OUTPUT_LIMIT) if record.output is not None else None,
        reasoning=_cut(said.reasoning, OUTPUT_LIMIT) if said is not None and said.reasoning else None,
        scores=tuple(
            (
                text.one_line(name).replace("_", " "),
                f"{value:.3g}"
                if value is not None
                else record.status.get(name, "unscored").replace("_", " "),
            )
            for name, value in record.scores.items()
        ),
        facts=tuple(text.one_line(fact) for fact in facts),
    )
