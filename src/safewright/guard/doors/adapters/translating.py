"""What the adapters share: a conversation as turns, a verdict as what a model is told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from safewright.errors import BadInput
from safewright.guard.nouns import Turn, Verdict

FAILED = "The safety check could not be completed, so the call was not made."


def told(verdict: Verdict) -> str:
    """What a model is told of a call that is not made."""
    said = {"escalate": "The call needs a person's approval, and nobody can be asked here."}
    lines = [said.get(verdict.decision, "The call was not made."), *verdict.reasons]
    if verdict.decision == "modify":
        lines.append(f"Call it instead with: {json.dumps(dict(verdict.modified or {}))}")
    return " ".join(lines)


def arguments_of(given: Any) -> Mapping[str, Any]:
    """A call's arguments, from a JSON text or an object.

    Raises:
        BadInput: They are neither.
    """
    values = given
    if isinstance(given, str):
        try:
            values = json.loads(given) if given.strip() else {}
        except ValueError as error:
            raise BadInput(f"The call's arguments are no JSON: {error}.") from error
    if not isinstance(values, Mapping):
        raise BadInput("The call's arguments are no JSON object.")
    return values


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return text_of(content["text"]) if "text" in content else json.dumps(content, default=str)
    if isinstance(content, Iterable):
        return "\n".join(text_of(part) for part in content)
    return "" if content is None else str(content)


def turns_of(messages: Iterable[Mapping[str, Any]]) -> tuple[Turn, ...]:
    """Messages of the chat or the responses interface as turns.

    Raises:
        BadInput: A call's arguments cannot be read.
    """
    turns: list[Turn] = []
    names: dict[str, str] = {}

    def call(name: str, arguments: Any, id: str) -> None:
        names[id] = name
        turns.append(Turn("call", tool=name, arguments=arguments_of(arguments), id=id))

    for message in messages:
        kind, role = message.get("type"), message.get("role")
        if kind == "function_call":
            call(str(message["name"]), message.get("arguments"), str(message.get("call_id", "")))
        elif kind == "function_call_output" or role == "tool":
            id = str(message.get("call_id") or message.get("tool_call_id") or "")
            said = text_of(message.get("output", message.get("content")))
            turns.append(Turn("result", said, tool=names.get(id, ""), id=id))
        elif role in ("user", "assistant"):
            said = text_of(message.get("content"))
            if said:
                turns.append(Turn(role, said))
            for each in message.get("tool_calls") or ():
                function = each.get("function") or each
                arguments = function.get("arguments", function.get("args"))
                call(str(function["name"]), arguments, str(each.get("id") or ""))
    return tuple(turns)


def request_of(turns: Iterable[Turn]) -> str | None:
    """What the user asked for last."""
    said = [turn.text for turn in turns if turn.kind == "user"]
    return said[-1] if said else None
