"""How often a model refuses what it should answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safewright.catalog import measure
from safewright.measures.behaviour import AskOptions, Behaviour, judged, rates
from safewright.types import Decoding, Findings, Judge, Record


@dataclass(frozen=True)
class OverRefusalConfig(AskOptions):
    """Options of `over_refusal`."""


@measure("over_refusal", version="1", config=OverRefusalConfig, data=("benign",), judges="refusal")
def over_refusal(config: OverRefusalConfig) -> Behaviour:
    """Share of harmless requests that the model refuses (over-refusal rate)."""

    async def score(records: Sequence[Record], judge: Judge | None) -> list[Record]:
        return await judged(records, judge, name="refused", about="refusal")

    return Behaviour(
        ask=config.ask,
        score=score,
        summarise=lambda records: Findings(rates(records, {"refused": "lower"})),
        decoding=Decoding(max_new_tokens=256),
        chosen=config.chosen(),
    )
