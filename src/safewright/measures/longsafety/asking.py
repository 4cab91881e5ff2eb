"""What is asked of the model: an instruction before or after its context, alone, or in another context."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from safewright.data.language import detect
from safewright.data.longsafety import complete
from safewright.data.splits import count_words
from safewright.errors import BadInput
from safewright.judges.audit import load_audit
from safewright.measures.longsafety import contexts
from safewright.measures.longsafety.config import LongSafetyConfig
from safewright.models.chat import with_system
from safewright.prompts import load as load_prompt
from safewright.types import Message, Question, Record, Row

LABELS = ("safety_type", "task_type", "length", "doc_num")
"""What of a row's meta its records carry on."""


def ask(rows: Sequence[Row], config: LongSafetyConfig) -> list[Question]:
    """The questions of all variants that ``config`` names, rows in their order.

    Raises:
        BadInput: A row lacks its context or something the filters or variants need.
    """
    if config.judge_audit is not None:
        load_audit(config.judge_audit).quality()  # an unusable one is refused before anything is asked
    checked, _ = complete(rows)
    kept = config.choose(checked)
    variants = config.variant_names()
    pairs = contexts.exchanged(kept, config.context_seed) if "irrelevant" in variants else {}
    if "irrelevant" in variants and not pairs:
        raise BadInput(
            "No row has a partner whose context could stand for its own.",
            why="A partner has another safety type, no common key word or link, and a context of like length.",
            fix="Give more rows, of several safety types, or leave out the variant irrelevant.",
        )
    by_id = {row.id: row for row in kept}
    padding = contexts.Padding(kept, config.context_seed) if "length" in variants else None
    found: list[Question] = []
    for row in kept:
        asker = _Asker(row, config)
        if "long" in variants or "length" in variants:
            found += asker.in_context(row.id, "long", row.meta["context"])
        if "short" in variants:
            found += asker.alone()
        if row.id in pairs:
            other = by_id[pairs[row.id]].meta["context"]
            found += asker.in_context(f"{row.id}/irrelevant", "irrelevant", other)
        if padding is not None:
            for name, text in _scaled(row, padding, config):
                found += asker.in_context(f"{row.id}/{name}", name.partition("-")[0], text)
    return found


@dataclasses.dataclass(frozen=True)
class _Asker:
    """Makes the questions of one row."""

    row: Row
    config: LongSafetyConfig

    @property
    def instruction(self) -> str:
        return self.row.prompt[-1]["content"]

    @functools.cached_property
    def chinese(self) -> bool:
        lang = (self.row.lang or detect(self.instruction)).partition("-")[0]
        return lang == "zh"

    def in_context(self, instance: str, variant: str, context: str) -> list[Question]:
        """The instruction before and after a context."""
        return [
            question
            for position in ("front", "end")
            for question in self._drawn(
                instance, position, variant, framed(position, self.instruction, context, chinese=self.chinese)
            )
        ]

    def alone(self) -> list[Question]:
        """The instruction without its context: bare, and with the words that announce one."""
        lead = framed("front", self.instruction, "", chinese=self.chinese).strip()
        bare = f"{self.row.id}/short"
        return [
            *self._drawn(self.row.id, "short", "short", self.instruction, instance=bare),
            *self._drawn(self.row.id, "short_lead", "short", lead, instance=bare),
        ]

    def _drawn(
        self, prefix: str, position: str, variant: str, text: str, *, instance: str | None = None
    ) -> list[Question]:
        meta: dict[str, Any] = {
            "row": self.row.id,
            "instruction": self.instruction,
            "position": position,
            "variant": variant,
            "chinese": self.chinese,
            **{name: self.row.meta[name] for name in LABELS if name in self.row.meta},
        }
        chat: tuple[Message, ...] = (*self.row.prompt[:-1], {"role": "user", "content": text})
        chat = with_system(chat, self.config.system)
        own = instance or prefix
        return [
            Question(
                id=f"{prefix}/{position}",
                chat=chat,
                sample=sample,
                instance=own if self.config.samples == 1 else f"{own}~{sample}",
                cluster=str(self.row.meta["cluster"]),
                lang=self.row.lang,
                meta=meta,
            )
            for sample in range(self.config.samples)
        ]


def framed(position: str, instruction: str, context: str, *, chinese: bool = False) -> str:
    """The words of the user's turn: ``front`` ends with the context, ``end`` begins with it, both verbatim.

    Source: LongSafety; the words that announce the context are ours.
    """
    name = f"longsafety_{position}{'_zh' if chinese else ''}"
    return load_prompt(name).render(instruction=instruction, context=context)


def context_of(record: Record | Question) -> str:
    """The context that was really shown, cut out of the conversation; empty where there was none."""
    position, instruction = record.meta["position"], record.meta["instruction"]
    if position not in ("front", "end"):
        return ""
    turns = record.input if isinstance(record, Record) else record.chat
    text = turns[-1]["content"]
    frame = framed(position, instruction, "", chinese=record.meta["chinese"])
    return text[len(frame) :] if position == "front" else text[: len(text) - len(frame)]


def shortened(question: Question, share: float) -> Question:
    """The question with the middle of its context left out, so that ``share`` of its words stay.

    Its meta says how many words were dropped.

    Raises:
        BadInput: It has no context to shorten.
    """
    whole = context_of(question)
    if not whole:
        raise BadInput(
            f"The prompt {question.id} does not fit the model's context, and has no context to shorten.",
            fix="Leave the row out, or measure a model with a longer context.",
        )
    kept = contexts.without_middle(whole, share)
    text = framed(
        question.meta["position"], question.meta["instruction"], kept, chinese=question.meta["chinese"]
    )
    dropped = max(0, count_words(whole) - count_words(kept.replace(contexts.GAP, "\n")))
    return dataclasses.replace(
        question,
        chat=(*question.chat[:-1], {"role": "user", "content": text}),
        meta={**question.meta, "dropped_words": dropped},
    )


def _scaled(row: Row, padding: contexts.Padding, config: LongSafetyConfig) -> list[tuple[str, str]]:
    """Names and texts of the row's context in other lengths; one times is the variant long itself."""
    own = row.meta["context"]
    made = []
    for scale in config.scale_values():
        if scale < 1:
            made.append((f"x{scale:g}", contexts.beginning(own, scale)))
        elif scale > 1:
            place, text = padding.around(row, scale)
            made.append((f"x{scale:g}-{place}", text))
    return made
