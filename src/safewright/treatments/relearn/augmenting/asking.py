"""What the augmenter is asked, and how often: all open questions at once, round after round."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.judges.asking import once_more
from safewright.judges.entities import PROMPTS as ENTITY_PROMPTS
from safewright.judges.model import JudgeModel
from safewright.prompts import load as load_prompt
from safewright.runs import Calls
from safewright.treatments.asking import Asker, user
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


async def settle(asker: Asker, kind: str, asks: Sequence[Ask], rounds: int, check: Check) -> None:
    """Ask, and ask again what cannot be used, at most ``rounds`` times each.

    The model sees its earlier replies and what was wrong with them, so that greedy decoding does not repeat them.
    """
    open_ = list(asks)
    for _ in range(rounds):
        if not open_:
            return
        replies = await asker.generate(kind, [ask.chat for ask in open_])
        heard = [ask for ask, reply in zip(open_, replies, strict=True) if _hear(ask, reply)]
        await check(heard)
        open_ = [ask for ask in open_ if ask.problem is not None and not ask.problem.final]
        for ask in open_:
            assert ask.problem is not None
            words = load_prompt("relearn_again").render(problem=ask.problem.words)
            ask.chat += once_more(ask.text, words)


def _hear(ask: Ask, reply: Generation) -> bool:
    """Take a reply in; whether it is one."""
    ask.round += 1
    ask.text = reply.answer.strip()
    ask.problem = broken(reply)
    return ask.problem is None
