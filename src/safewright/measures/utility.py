"""How well a model still does its work: answers compared with known ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from safewright.catalog import measure
from safewright.errors import BadInput
from safewright.measures.behaviour import AskOptions, Behaviour, answer_status, rates, scored
from safewright.types import Decoding, Findings, Judge, Question, Reading, Record, Row

Metric = Literal["auto", "exact", "number", "rouge"]
ROUGE = ("rouge1", "rougeL")


@dataclass(frozen=True)
class UtilityConfig(AskOptions):
    """Options of `utility`."""

    metric: Metric = field(
        default="auto",
        metadata={
            "help": "exact, number (last number of the answer), rouge; auto chooses by the references."
        },
    )


@measure("utility", version="1", config=UtilityConfig, data=("utility",))
def utility(config: UtilityConfig) -> Behaviour:
    """Agreement of answers with the rows' references: exact match, last number, or ROUGE F1.

    ``auto`` takes ``number`` when every reference is a number, ``exact`` when every reference has at
    most five words, ROUGE otherwise; the scorecard names the readings it took.
    """

    def ask(rows: Sequence[Row]) -> list[Question]:
        lacking = [row.id for row in rows if not (row.reference or "").strip()]
        if lacking:
            raise BadInput(
                f"{len(lacking)} of {len(rows)} utility rows have no reference (first: {lacking[0]}).",
                fix="Each row needs response, output, or a last assistant turn.",
            )
        chosen = (
            config.metric if config.metric != "auto" else choose_metric([r.reference or "" for r in rows])
        )
        return [
            Question(**{**_fields(question), "meta": {**question.meta, "metric": chosen}})
            for question in config.ask(rows)
        ]

    async def score(records: Sequence[Record], judge: Judge | None) -> list[Record]:
        return [_score(record) for record in records]

    return Behaviour(
        ask=ask,
        score=score,
        summarise=summarise,
        decoding=Decoding(max_new_tokens=512),
        chosen=config.chosen(),
    )


def _fields(question: Question) -> dict[str, Any]:
    return {name: getattr(question, name) for name in question.__dataclass_fields__}


def choose_metric(references: Sequence[str]) -> Metric:
    """The metric that fits references: numbers, short labels, or running text."""
    from safewright.stats.rouge import words

    if all(_NUMBER.fullmatch(reference.strip()) for reference in references):
        return "number"
    if all(len(words(reference)) <= 5 for reference in references):
        return "exact"
    return "rouge"


def _score(record: Record) -> Record:
    metric, reference = record.meta["metric"], record.reference or ""
    status, why = answer_status(record)
    names = ROUGE if metric == "rouge" else (f"{metric}_match",)
    if status != "ok" or record.generation is None:
        for name in names:
            record = scored(record, name, None, status, why)
            why = ""
        return record
    answer = record.generation.answer
    if metric == "rouge":
        from safewright.stats.rouge import rouge

        for name, value in rouge(reference, answer).items():
            record = scored(record, name, value, "ok")
        return record
    match = exact_match if metric == "exact" else number_match
    return scored(record, names[0], float(match(reference, answer)), "ok")


def summarise(records: Sequence[Record]) -> Findings:
    """Match rates with Wilson intervals; ROUGE as means with an interval over rows."""
    from safewright.stats import mean_reading

    names = sorted({name for record in records for name in record.status})
    matches = [name for name in names if name not in ROUGE]
    readings: list[Reading] = list(rates(records, dict.fromkeys(matches, "higher")))
    for name in (name for name in names if name in ROUGE):
        good = [record for record in records if record.status.get(name) == "ok"]
        readings.append(
            mean_reading(
                name,
                [float(record.scores[name] or 0.0) for record in good],
                clusters=[record.cluster or record.id for record in good],
                unscored=sum(name in record.status for record in records) - len(good),
                better="higher",
            )
        )
    return Findings(tuple(readings))


_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?%?")


def number_match(reference: str, answer: str) -> bool:
    """Whether the answer's number is the reference's.

    The answer's number is the first after its last ``####``, else its last number; thousands
    separators, a currency sign and a trailing per-cent sign are ignored.
    """
    _, marked, tail = answer.rpartition("####")
    found = _NUMBER.findall(tail if marked else answer)
    wanted = _NUMBER.findall(reference)
    if not found or not wanted:
        return False
    return _value(found[0 if marked else -1]) == _value(wanted[-1])


def _value(text: str) -> float:
    return float(text.replace(",", "").replace("$", "").rstrip("%"))


def exact_match(reference: str, answer: str) -> bool:
    """Whether answer and reference are the same words, apart from case, width and edge punctuation."""
    return _normal(reference) == _normal(answer)


def _normal(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(" .!?,;:。！？，；：\"'")
