"""Made-up scorecards for the tests of this room: bland questions, invented figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safewright.stats import rate_reading
from safewright.types import (
    Better,
    Cost,
    Curve,
    Generation,
    Message,
    ModelRef,
    Reading,
    Record,
    Scorecard,
    Status,
)

QUALITY = {
    "en": {
        "all": {
            "n": 104,
            "sensitivity": {"right": 47, "n": 52, "value": 0.9038, "low": 0.794, "high": 0.9582},
            "specificity": {"right": 49, "n": 52, "value": 0.9423, "low": 0.8436, "high": 0.9802},
        },
        "hard": {
            "n": 40,
            "sensitivity": {"right": 15, "n": 20, "value": 0.75, "low": 0.5313, "high": 0.8881},
            "specificity": {"right": 17, "n": 20, "value": 0.85, "low": 0.6396, "high": 0.9476},
        },
    },
    "zh": {
        "all": {
            "n": 102,
            "sensitivity": {"right": 45, "n": 51, "value": 0.8824, "low": 0.7662, "high": 0.9449},
            "specificity": {"right": 48, "n": 51, "value": 0.9412, "low": 0.8408, "high": 0.9798},
        },
    },
}

CONVENTIONS: dict[str, Any] = {
    "config": {"samples": 1, "system": None},
    "decoding": {"target": {"max_new_tokens": 256, "temperature": 0.0, "top_p": 1.0, "seed": 0}},
    "models": {"target": {"engine": "hf", "device": "cpu", "dtype": "float32", "batch_size": 16}},
    "judge": {
        "name": "keyword",
        "strength": "weak",
        "harmful_means": "not refused",
        "quality": QUALITY,
        "matching": "refusal rules on normalised text without quotations",
    },
    "sees": "answer",
    "data": {
        "source": "walledai/XSTest",
        "digest": "sha256:" + "ab12" * 16,
        "revision": "d0c1b2",
        "pinned": False,
        "rows": 100,
    },
    "seed": 0,
    "versions": {"safewright": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
}


def model(name: str = "aligned", **more: Any) -> ModelRef:
    """A reference to a model folder that does not exist."""
    digit = format(sum(map(ord, name)) % 16, "x")
    fields = {"kind": "hf", "where": f"models/{name}", "digest": "sha256:" + digit * 64, "dtype": "float32"}
    return ModelRef(**{**fields, **more})


def turn(content: str, role: str = "user") -> Message:
    """One message."""
    return {"role": role, "content": content}


def record(
    number: int,
    score: str,
    value: float | None,
    *,
    status: Status = "ok",
    question: str = "",
    answer: str | None = "The answer.",
    **more: Any,
) -> Record:
    """A scored record with a generation."""
    said = Generation(answer or "", "", answer or "", status != "no_answer", "stop", 12)
    return Record(
        **{
            "id": f"row-{number:03d}",
            "input": (turn(question or f"Question {number}?"),),
            "output": answer,
            "scores": {score: value},
            "status": {score: status},
            "cluster": f"row-{number:03d}",
            "generation": said,
            **more,
        }
    )


def rates(records: Sequence[Record], score: str, better: Better) -> tuple[Reading, ...]:
    """The readings a behaviour measure makes: the rate, its bounds where answers are missing, cut_short."""
    good = [float(r.scores[score] or 0) for r in records if r.status[score] == "ok"]
    silent = sum(r.status[score] == "no_answer" for r in records)
    lost = len(records) - len(good)
    found = [rate_reading(score, good, unscored=lost, better=better)]
    if silent:
        found += [
            rate_reading(f"{score}_no_answer_{end}", good + [value] * silent, unscored=lost - silent)
            for end, value in (("low", 0.0), ("high", 1.0))
        ]
    return (*found, rate_reading("cut_short", [0.0] * len(records)))


def taken(
    measure: str = "harmful_rate",
    score: str = "harmful",
    values: Sequence[float | None] = (1.0, 0.0, 0.0, 0.0),
    *,
    ref: ModelRef | None = None,
    statuses: Sequence[Status] = (),
    better: Better = "lower",
    readings: Sequence[Reading] | None = None,
    records: Sequence[Record] | None = None,
    curves: Sequence[Curve] = (),
    conventions: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[Scorecard, list[Record]]:
    """A scorecard with records that agree with it; values of None are unscored."""
    kinds = [*statuses] or ["ok" if value is not None else "unparsed" for value in values]
    own = (
        list(records)
        if records is not None
        else [
            record(i, score, value, status=status)
            for i, (value, status) in enumerate(zip(values, kinds, strict=True))
        ]
    )
    unscored: dict[str, int] = {}
    for found in own:
        for status in found.status.values():
            if status != "ok":
                unscored[status] = unscored.get(status, 0) + 1
    card = Scorecard(
        measure=measure,
        version="1",
        models={"target": ref or model()},
        readings=tuple(readings) if readings is not None else rates(own, score, better),
        curves=tuple(curves),
        records="records.jsonl",
        conventions=CONVENTIONS if conventions is None else conventions,
        unscored=unscored,
        cost=Cost(seconds=83.4, model_calls=len(own), tokens=12 * len(own), judge_calls=len(own)),
        **more,
    )
    return card, own
