"""One question to a model: what it is shown, how its answer is read, and the one repair."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from safewright.guard.analyst.transport import Failed, Message, Reply
from safewright.guard.nouns import NOTHING, Usage

if TYPE_CHECKING:
    from pydantic import BaseModel

    from safewright.guard.analyst.transport import Client
    from safewright.guard.policy import Policy
    from safewright.guard.views import View

F = TypeVar("F", bound="BaseModel")

MOST_TOKENS = 2048
"""Tokens of one answer."""
MOST_ACTION = 16_000
"""Characters of a call's description. A longer call is not judged by a part of it."""
MOST_REQUEST = 4000
MOST_AGENT = 500
MOST_ATTRIBUTES = 2000
MOST_REPEATED = 4000
"""Characters of an unreadable answer that the model sees again."""

_REFUSAL = re.compile(
    r"\A\W{0,4}(?:i['’]?m (?:really |very |so )?(?:sorry|unable)|i am (?:sorry|unable)|sorry\b|my apologies"
    r"|i (?:cannot|can['’]?t|can not|will not|won['’]?t|must decline)|as an ai\b"
    r"|抱歉|对不起|很抱歉|我无法|我不能)",
    re.IGNORECASE,
)


@dataclass
class Asked:
    """What one decision has asked of its model so far: raw replies for replay, and what they cost."""

    until: float
    replies: list[str]
    usage: Usage = NOTHING

    def left(self) -> float:
        """Seconds that are left."""
        return self.until - time.monotonic()

    def note(self, reply: Reply) -> None:
        """Keep a reply."""
        self.usage += Usage(1, reply.tokens_in, reply.tokens_out)
        kept = {"text": reply.text, "stop": reply.stop, "in": reply.tokens_in, "out": reply.tokens_out}
        self.replies.append(json.dumps(kept, ensure_ascii=False))

    def lost(self, failed: Failed) -> None:
        """Keep that there was none."""
        self.usage += Usage(1, failed.tokens_in, failed.tokens_out)
        kept = {
            "failure": failed.failure,
            "detail": failed.detail,
            "again": failed.repairable,
            "in": failed.tokens_in,
            "out": failed.tokens_out,
        }
        self.replies.append(json.dumps(kept, ensure_ascii=False))


async def ask(
    client: Client,
    system: str,
    data: Mapping[str, Any],
    form: type[F],
    asked: Asked,
    wrong: Callable[[F], str] = lambda _: "",
) -> F:
    """A model's answer to one question, asked once more where the first answer does not fit.

    The system turn is the same for every call under one policy; what is untrusted stands in the user turn, which is
    one JSON object (`encoded`).

    Args:
        client: The model.
        system: What is asked.
        data: Of what.
        form: What the answer must be.
        asked: What this decision has asked so far.
        wrong: What besides is wrong with an answer of the form; empty where nothing is.

    Raises:
        Failed: There is no answer that fits.
    """
    from safewright.guard.analyst.contracts import Unreadable, read, schema_of

    schema = schema_of(form)
    turns: list[Message] = [
        {"role": "system", "content": system},
        {"role": "user", "content": encoded(data)},
    ]
    repaired = False
    while True:
        problem, text = "", ""
        try:
            text = await _text(client, turns, schema, asked)
            value: F = read(_answer(text), form)
            problem = wrong(value)
            if not problem:
                return value
        except Unreadable as error:
            problem = str(error)
        except Failed as failed:
            if not failed.repairable:
                raise
            problem = failed.detail
        if repaired:
            raise Failed("llm_unparsed", problem)
        repaired = True
        turns += _repair(problem, text)


def _repair(problem: str, text: str) -> list[Message]:
    from safewright.prompts import load

    return [
        {"role": "assistant", "content": text[:MOST_REPEATED] or "(nothing)"},
        {"role": "user", "content": load("guard_repair").render(problem=problem)},
    ]


async def _text(client: Client, turns: Sequence[Message], schema: Mapping[str, Any], asked: Asked) -> str:
    """A whole reply's text.

    Raises:
        Failed: There is none, or it was cut off.
    """
    left = asked.left()
    if left <= 0:
        raise Failed("llm_timeout", "no time is left to ask")
    try:
        reply = await client.ask(turns, schema, left, MOST_TOKENS)
    except Failed as failed:
        asked.lost(failed)
        raise
    asked.note(reply)
    if reply.stop == "length":
        raise Failed("llm_truncated", "the answer was cut off at its limit")
    return reply.text


def _answer(text: str) -> str:
    """The visible part of a reply.

    Raises:
        Failed: It is empty, or declines.
    """
    from safewright.models.chat import split_reasoning

    if "</think>" in text or text.lstrip().startswith("<think>"):
        _, text, _ = split_reasoning(text)
    if not text.strip():
        raise Failed("llm_empty", "an answer without words")
    if _REFUSAL.match(text.strip()):
        raise Failed("llm_refused", "the model declines to answer")
    return text


def encoded(data: Mapping[str, Any]) -> str:
    """Data as one JSON object in which no mark-up is left: no text of it can close a block, or look like one of a
    chat template's own tokens."""
    text = json.dumps(data, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("`", "\\u0060")


def described(view: View) -> str:
    """The call as one string: JSON within JSON, so that nothing in it shapes what stands around it.

    Raises:
        Failed: `invalid_action`: it is longer than a model is shown.
    """
    action = view.action
    text = json.dumps({"tool": action.tool, "arguments": dict(action.arguments)}, ensure_ascii=False)
    if len(text) > MOST_ACTION:
        raise Failed("invalid_action", f"{len(text):,} characters; a model is shown {MOST_ACTION:,}")
    return text


def context(view: View) -> dict[str, Any]:
    """What is known around the call."""
    action = view.action
    principal = None
    if action.principal is not None:
        who = f"id {action.principal.id!r}, role {action.principal.role!r}, {view.privilege} rights"
        if action.principal.attributes:
            attributes = json.dumps(dict(action.principal.attributes), ensure_ascii=False, default=str)
            who += f", attributes {attributes}"
        principal = cut(who, MOST_ATTRIBUTES)
    return {
        "agent": cut(action.agent, MOST_AGENT),
        "request": None if action.request is None else cut(action.request, MOST_REQUEST),
        "principal": principal,
        "action": described(view),
    }


def cut(text: str, most: int) -> str:
    """A text without its middle where it is too long, and how much is missing."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def system_of(prompt: str, policy: Policy, tools: Mapping[str, str]) -> str:
    """The constant part of a question: what is asked, and what the policy says."""
    from safewright.prompts import load

    found = load(prompt)
    values = {
        "criteria": _listed([f"{name}: {said}" for name, said in policy.criteria.items()]),
        "principles": _listed(policy.principles or ("Nothing beyond the categories.",)),
        "names": ", ".join(tools) or "(there are none)",
        "tools": _listed([f"{name}: {said}" for name, said in tools.items()] or ["(there are none)"]),
    }
    return found.render(**{name: value for name, value in values.items() if name in found.variables()})


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
