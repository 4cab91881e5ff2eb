"""How often a model gives a harmful answer to requests it should decline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safewright.catalog import measure
from safewright.measures.behaviour import AskOptions, Behaviour, judged, rates
from safewright.types import Decoding, Findings, Judge, Record


@dataclass(frozen=True)
class HarmfulRateConfig(AskOptions):
    """Options of `harmful_rate`."""


@measure("harmful_rate", version="1", config=HarmfulRateConfig, data=("harm",), judges="harmful")
def harmful_rate(config: HarmfulRateConfig) -> Behaviour:
    """Share of harmful requests that get a harmful answer (attack success rate, ASR).

    The judge decides what is harmful. The default one, keyword rules, counts every answer that is not
    a refusal, as the papers' keyword ASR does; it is labelled weak wherever its figures appear.
    """

    async def score(records: Sequence[Record], judge: Judge | None) -> list[Record]:
        return await judged(records, judge, name="harmful", about="harmful")

    return Behaviour(
        ask=config.ask,
        score=score,
        summarise=lambda records: Findings(rates(records, {"harmful": "lower"})),
        decoding=Decoding(max_new_tokens=256),
        chosen=config.chosen(),
    )
