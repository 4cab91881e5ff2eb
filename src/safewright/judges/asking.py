"""A model asked for a strict form: asked again where its reply has another, and never given a default."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from safewright.judges.model import JudgeModel, failure, failure_status, refuses, unreadable
from safewright.types import Generation, JudgementStatus, Message

Parse = Callable[[str], Any]
"""What a reply says, in the form it was asked for; raises `Unreadable` where it has not that form."""

Again = Callable[[str], str]
"""What a model is told after a reply with this problem."""

_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


class Unreadable(Exception):  # noqa: N818 - no failure of ours: what is wrong with a reply
    """A reply that has not the form it was asked for; the message completes "the reply: …"."""


@dataclass(frozen=True)
class Heard:
    """What became of one question: ``value`` is what the reply says, None unless ``status`` is ``ok``."""

    value: Any
    status: JudgementStatus
    why: str
    raw: str
    tokens: int


async def ask_strictly(
    model: JudgeModel, prompts: Sequence[str], parse: Parse, again: Again, tries: int
) -> list[Heard]:
    """One reply per prompt, in order; equal prompts are one question.

    A reply without the form is asked for again, up to ``tries`` times, with the problem named. A failed call is
    ``error``, a model that will not answer ``refused``, and whatever else has not the form ``unparsed``.

    Args:
        model: Who is asked.
        prompts: One user turn each.
        parse: Reads a reply.
        again: The further turn after a reply that could not be read.
        tries: At least 1.
    """
    distinct = list(dict.fromkeys(prompts))
    chats: list[list[Message]] = [[{"role": "user", "content": prompt}] for prompt in distinct]
    heard: list[Heard | None] = [None] * len(distinct)
    tokens = [0] * len(distinct)
    for attempt in range(1, tries + 1):
        waiting = [place for place, found in enumerate(heard) if found is None]
        if not waiting:
            break
        replies = await model.generate([chats[place] for place in waiting])
        for place, reply in zip(waiting, replies, strict=True):
            tokens[place] += reply.tokens
            found, problem = read_reply(reply, parse, tokens[place], last=attempt == tries)
            heard[place] = found
            if found is None:
                chats[place] += once_more(reply.answer, again(problem))
    by_prompt = dict(zip(distinct, heard, strict=True))
    return [found for prompt in prompts if (found := by_prompt[prompt]) is not None]


def once_more(answer: str, words: str) -> list[Message]:
    """The turns after a reply that cannot be used: itself, and what is said about it."""
    # Templates want the turns to alternate, and some refuse an empty one.
    return [
        {"role": "assistant", "content": answer.strip() or "(nothing)"},
        {"role": "user", "content": words},
    ]


def read_reply(reply: Generation, parse: Parse, tokens: int, *, last: bool) -> tuple[Heard | None, str]:
    """What became of a reply; None with the problem where it has to be asked for again.

    Args:
        reply: As it came.
        parse: Reads it.
        tokens: Of it and the replies before it.
        last: Whether nothing is asked again.
    """
    broken = failure(reply)
    if broken is not None:
        return Heard(None, failure_status(reply), broken, reply.raw, tokens), ""
    problem = unreadable(reply) or ""
    if not problem:
        try:
            return Heard(parse(reply.answer), "ok", "", reply.raw, tokens), ""
        except Unreadable as error:
            problem = str(error)
    if not last:
        return None, problem
    if refuses(reply.answer):
        return Heard(None, "refused", "the judge's model refused", reply.raw, tokens), ""
    return Heard(None, "unparsed", f"the judge's reply: {problem}", reply.raw, tokens), ""


def one_object(reply: str, *names: str) -> dict[str, Any]:
    """The JSON object that a reply consists of; a code fence around it is allowed, other words are not.

    Raises:
        Unreadable: It is not one, or its names are not exactly these.
    """
    text = reply.strip()
    if not text:
        raise Unreadable("it was empty")
    fenced = _FENCED.fullmatch(text)
    try:
        plain = json.loads(fenced.group(1) if fenced else text, object_pairs_hook=_pairs)
        # An escape may stand for half a character, which no prompt and no UTF-8 file can hold.
        json.dumps(plain, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Unreadable("it held half of a character") from error
    except (ValueError, RecursionError) as error:
        raise Unreadable("it was not one JSON object") from error
    if not isinstance(plain, dict):
        raise Unreadable("it was not one JSON object")
    if set(plain) != set(names):
        raise Unreadable(f"its names were not exactly {', '.join(names)}")
    return plain


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("a name stood in it twice")
    return found
