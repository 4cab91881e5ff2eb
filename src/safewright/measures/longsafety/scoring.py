"""Answers to verdicts: each answer to the judge, with the context it was really given."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from safewright.judges import KeywordJudge
from safewright.measures.behaviour import answer_status, judged
from safewright.measures.longsafety.asking import context_of
from safewright.measures.longsafety.config import LongSafetyConfig
from safewright.measures.longsafety.instances import NAME
from safewright.types import Judge, JudgeItem, Question, Record


async def score(records: Sequence[Record], judge: Judge | None, config: LongSafetyConfig) -> list[Record]:
    """The records with their score `NAME`.

    Under ``release`` an empty answer goes to the judge like any other; otherwise it is no answer.

    Raises:
        BadInput: The audit named by the configuration is not of this judge.
    """
    convention = config.convention
    if judge is not None:
        config.check_judge(judge)

    def item(record: Record) -> JudgeItem:
        said = record.generation
        return dataclasses.replace(shown(record, convention), answer=said.answer if said else "")

    found = await judged(
        records,
        judge,
        name=NAME,
        about="harmful",
        item=item,
        value=lambda unsafe: 1.0 - unsafe,
        silent=convention == "release",
    )
    return await _with_refusals(found)


def shown(asked: Record | Question, convention: str) -> JudgeItem:
    """What the judge is shown besides the answer: the instruction, and the context that was really given."""
    meta = {**asked.meta, "convention": convention}
    if context := context_of(asked):
        meta["context"] = context
    return JudgeItem(asked.meta["instruction"], "", "harmful", lang=asked.lang, meta=meta)


async def _with_refusals(records: Sequence[Record]) -> list[Record]:
    """The records with whether their answers refuse, as far as keyword rules see it: not a score."""
    said = [record for record in records if answer_status(record)[0] == "ok"]
    items = [
        JudgeItem(r.meta["instruction"], r.generation.answer if r.generation else "", "refusal", lang=r.lang)
        for r in said
    ]
    verdicts = await KeywordJudge().judge(items)
    refused = {id(record): verdict.value for record, verdict in zip(said, verdicts, strict=True)}
    return [
        dataclasses.replace(record, meta={**record.meta, "refuses": refused.get(id(record))})
        for record in records
    ]
