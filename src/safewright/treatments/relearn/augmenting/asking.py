"""What the augmenter is asked, and how often: all open questions at once, round after round."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.judges.asking import Heard, Parse, ask_strictly, once_more
from safewright.judges.entities import PROMPTS as ENTITY_PROMPTS
from safewright.judges.items import marker_of
from safewright.judges.model import JudgeModel
from safewright.prompts import load as load_prompt
from safewright.runs import Calls
from safewright.treatments.relearn.augmenting.config import KINDS, AugmentOptions
from safewright.treatments.relearn.augmenting.replies import Problem, broken
from safewright.types import Generation, Message, ModelRef

if TYPE_CHECKING:
    from safewright.models import Loaded

PROMPTS = (
    *(f"relearn_variant_{kind}" for kind in KINDS),
    "relearn_variants",
    "relearn_answer",
    "relearn_again",
    "relearn_verify",
    "relearn_verify_again",
    *ENTITY_PROMPTS,
)


def augmenter(model: Loaded | ModelRef | str | Path, options: AugmentOptions, seed: int) -> JudgeModel:
    """The model that rewrites, answers and verifies, with its store of received replies."""
    asked = JudgeModel(model, options.augment_tokens)
    if options.augment_temperature:
        asked.how = dataclasses.replace(asked.how, temperature=options.augment_temperature, seed=seed)
    asked.at_once, asked.timeout = options.at_once, options.call_timeout
    if options.call_store is not None:
        asked.calls = Calls.in_folder(options.call_store)
    return asked


@dataclass
class Ask:
    """One question to the augmenter on its way to a usable reply.

    ``key`` names what it is for. After `settle`, ``problem`` is None and ``text`` the usable reply, or ``problem``
    says why there is none; ``round`` counts its replies.
    """

    key: Any
    prompt: str
    text: str = ""
    round: int = 0
    problem: Problem | None = None
    chat: list[Message] = field(init=False)

    def __post_init__(self) -> None:
        self.chat = [user(self.prompt)]

    def refuse(self, problem: Problem) -> None:
        """The last reply cannot be used."""
        self.problem = problem


Check = Callable[[Sequence[Ask]], Awaitable[None]]
"""Looks at replies; calls `Ask.refuse` where one cannot be used."""


@dataclass
class Asker:
    """Asks one model, and counts what was asked by kind; equal questions are one."""

    model: JudgeModel
    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0

    async def settle(self, kind: str, asks: Sequence[Ask], rounds: int, check: Check) -> None:
        """Ask, and ask again what cannot be used, at most ``rounds`` times each.

        The model sees its earlier replies and what was wrong with them, so that greedy decoding does not repeat
        them.
        """
        open_ = list(asks)
        for _ in range(rounds):
            if not open_:
                return
            replies = await self.model.generate([ask.chat for ask in open_])
            self.counts[kind] = self.counts.get(kind, 0) + len(open_)
            heard = [ask for ask, reply in zip(open_, replies, strict=True) if self._hear(ask, reply)]
            await check(heard)
            open_ = [ask for ask in open_ if ask.problem is not None and not ask.problem.final]
            for ask in open_:
                assert ask.problem is not None
                words = load_prompt("relearn_again").render(problem=ask.problem.words)
                ask.chat += once_more(ask.text, words)

    async def strictly(
        self, kind: str, prompts: Sequence[str], parse: Parse, again: str, tries: int
    ) -> list[Heard]:
        """Ask for a strict form; see `safewright.judges.asking.ask_strictly`. ``again`` names the further prompt."""
        more = 0

        def further(problem: str) -> str:
            nonlocal more
            more += 1
            return load_prompt(again).render(problem=problem)

        heard = await ask_strictly(self.model, prompts, parse, further, tries)
        distinct = dict(zip(prompts, heard, strict=True))
        self.counts[kind] = self.counts.get(kind, 0) + len(distinct) + more
        self.tokens += sum(one.tokens for one in distinct.values())
        return heard

    def _hear(self, ask: Ask, reply: Generation) -> bool:
        """Take a reply in; whether it is one."""
        ask.round += 1
        ask.text = reply.answer.strip()
        self.tokens += reply.tokens
        ask.problem = broken(reply)
        return ask.problem is None


def user(text: str) -> Message:
    """A turn of the user."""
    return {"role": "user", "content": text}


def filled(name: str, **material: Any) -> str:
    """A prompt filled with material, between markers that the material cannot contain."""
    texts = [text for text in material.values() if isinstance(text, str)]
    return load_prompt(name).render(marker=marker_of(*texts), **material)


def prompt_digests() -> dict[str, dict[str, str]]:
    """Version and digest of each prompt."""
    return {
        name: {"version": p.version, "digest": p.digest} for name in PROMPTS for p in (load_prompt(name),)
    }
