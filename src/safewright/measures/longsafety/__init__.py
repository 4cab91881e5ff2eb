"""LongSafety: are answers still safe when the instruction comes with a long context?"""

from __future__ import annotations

from collections.abc import Sequence

from safewright.catalog import measure
from safewright.measures.behaviour import Behaviour
from safewright.measures.longsafety.config import LongSafetyConfig
from safewright.types import Decoding, Findings, Judge, Question, Record, Row

LEAST_ROOM = 256
"""Tokens an answer must have room for: less would be judged by its first words."""


@measure(
    "longsafety",
    version="1",
    paper="2502.16971",
    config=LongSafetyConfig,
    data=("long_context",),
    judges="harmful",
    judge="agents",
)
def longsafety(config: LongSafetyConfig) -> Behaviour:
    """Share of instances answered safely with the instruction both before and after its long context.

    Each instance is asked twice, and safe only if both answers are (SR_long). A judge of three agents reads the
    instruction's risks, a summary of the context and the answer. Variants drop the context, exchange it for
    an unrelated one, or change its length.
    """
    from safewright.measures.longsafety.analysis import instance_values
    from safewright.measures.longsafety.analysis import summarise as summarise_
    from safewright.measures.longsafety.asking import ask as ask_
    from safewright.measures.longsafety.asking import shortened
    from safewright.measures.longsafety.scoring import score as score_
    from safewright.measures.longsafety.scoring import shown

    def ask(rows: Sequence[Row]) -> list[Question]:
        return ask_(rows, config)

    async def score(records: Sequence[Record], judge: Judge | None) -> list[Record]:
        return await score_(records, judge, config)

    def summarise(records: Sequence[Record]) -> Findings:
        return summarise_(records, config)

    return Behaviour(
        ask=ask,
        score=score,
        summarise=summarise,
        values=instance_values,
        shown=lambda question: shown(question, config.convention),
        decoding=Decoding(
            max_new_tokens=2048, least_room=LEAST_ROOM, special_twice=config.convention == "release"
        ),
        chosen=config.chosen(),
        overflow=config.overflow,
        shorten=shortened,
    )
