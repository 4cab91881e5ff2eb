"""One sentence of what a full reply would hold: what a model notes before it checks it (target=answer_then_check)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from safewright.data.splits import count_words, question
from safewright.judges.model import failure, filtered, refuses, unreadable
from safewright.judges.text import without_control
from safewright.models.chat import THINK
from safewright.models.traces import holds_marker
from safewright.treatments.asking import Asker, filled, user
from safewright.treatments.srg.synthesis.filters import Leaks
from safewright.treatments.srg.synthesis.pool import Prompt
from safewright.treatments.srg.synthesis.scoring import Counted, reads_reasoning
from safewright.types import Generation, Judge, JudgeItem

PROMPT = "srg_draft"
MOST = 60
"""Words of a draft, at most."""


@dataclass
class Drafts:
    """Drafts by request, and how many requests have none for which reason."""

    texts: dict[str, str] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)


async def write_drafts(
    asker: Asker, prompts: Sequence[Prompt], guard: Judge | None, leaks: Leaks, about: Counted
) -> Drafts:
    """A draft for each harmful request; none where the reply cannot be used, or the guard finds harm in it.

    Args:
        asker: Who writes them, greedily.
        prompts: The requests.
        guard: Judges the drafts; None where outcomes are not judged.
        leaks: Finds the guidelines in them.
        about: Counts what the guard is asked.
    """
    found = Drafts()
    chats = [[user(draft_prompt(one))] for one in prompts]
    usable: list[tuple[Prompt, str]] = []
    for prompt, reply in zip(prompts, await asker.generate("draft", chats) if chats else [], strict=True):
        wrong = _wrong(reply, prompt, leaks)
        if wrong:
            found.lost[wrong] += 1
        else:
            usable.append((prompt, reply.answer.strip()))
    harmful: dict[str, str] = {}
    if guard is not None and usable and reads_reasoning(guard):
        about.add("harmful draft", len(usable))
        items = [JudgeItem(question(one.row), text, "harmful", lang=one.row.lang) for one, text in usable]
        for (prompt, _), said in zip(usable, await guard.judge(items), strict=True):
            if said.status != "ok":
                harmful[prompt.id] = f"guard {said.status}"
            elif said.value:
                harmful[prompt.id] = "harmful"
    for prompt, text in usable:
        if prompt.id in harmful:
            found.lost[harmful[prompt.id]] += 1
        else:
            found.texts[prompt.id] = text
    return found


def draft_prompt(prompt: Prompt) -> str:
    """The question for a draft."""
    return filled(PROMPT, request=without_control(prompt.text))


def _wrong(reply: Generation, prompt: Prompt, leaks: Leaks) -> str:
    """Why a reply is no draft; nothing where it is one."""
    if filtered(reply):
        return "refused"
    if failure(reply) is not None:
        return "failed"
    text = reply.answer.strip()
    if unreadable(reply) is not None or not text or holds_marker(text, THINK):
        return "unreadable"
    if refuses(text):
        return "refused"
    if count_words(text) > MOST or "\n" in text:
        return "too long"
    return "leak" if leaks.found(text, prompt.text) else ""
