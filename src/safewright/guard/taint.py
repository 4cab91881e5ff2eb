"""Which of the history's results look like somebody else's instructions, and where a value was first seen.

Nothing is kept between calls: everything is recomputed from the history, which is what every door has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from safewright.guard.keeping import kept
from safewright.guard.nouns import Action, Turn
from safewright.guard.parsing.values import ADDRESSES, Value, plain, values_in
from safewright.guard.scanning import Span, scan

Origin = Literal["request", "clean", "flagged", "own", "nowhere"]
"""Where a value comes from: the user; a result that looks innocent; only results that do not; the agent's own earlier
calls; or nobody knows."""


@dataclass(frozen=True)
class Found:
    """A span of a result in the history: which turn, and where in its text."""

    turn: int
    span: Span


@dataclass(frozen=True)
class Taint:
    """What was found in a history.

    Args:
        tainted: Whether any result holds instruction-like text.
        spans: Those stretches, in order.
        results: Indices into the history of the results that hold them.
    """

    tainted: bool = False
    spans: tuple[Found, ...] = ()
    results: frozenset[int] = frozenset()

    def names(self, value: Value) -> bool:
        """Whether an instruction-like stretch itself names a value."""
        return any(mentions(found.span.text, value) for found in self.spans)


def trace(action: Action) -> Taint:
    """The taint of a call, recomputed from its history."""
    spans = tuple(
        Found(index, span)
        for index, turn in enumerate(action.history)
        if turn.kind == "result"
        for span in scan(turn.text, turn.tool).spans
    )
    return Taint(bool(spans), spans, frozenset(found.turn for found in spans))


@dataclass(frozen=True)
class Source:
    """Where a value was first seen: its origin, and the index of the turn that showed it."""

    origin: Origin
    turn: int = -1


def requested(action: Action) -> tuple[str, ...]:
    """What the user said: the request, and the user's turns of the history."""
    said = [turn.text for turn in action.history if turn.kind == "user"]
    return tuple(dict.fromkeys([*([action.request] if action.request is not None else []), *said]))


def call_of(action: Action, result: int) -> Turn | None:
    """The call that a result of the history answers."""
    answer = action.history[result]
    for turn in reversed(action.history[:result]):
        if turn.kind == "call" and (turn.id == answer.id if answer.id else turn.tool == answer.tool):
            return turn
    return None


def source_of(
    value: Value, action: Action, taint: Taint, changes: Callable[[str], bool] = lambda tool: True
) -> Source:
    """Where a value of a call comes from.

    Only the first sighting counts: what the agent itself wrote into the world in an earlier call does not become clean
    because a tool returns it, nor does what an instruction named before. A result that merely repeats its own call's
    arguments is no source.

    Args:
        value: Of the call.
        action: The call, with its history.
        taint: Of that history.
        changes: Whether a tool, by name, changes the world; calls of others plant nothing.
    """
    if any(mentions(text, value) for text in requested(action)):
        return Source("request")
    own, asked = Source("nowhere"), False
    for index, turn in enumerate(action.history):
        if turn.kind == "call":
            asked = _in_arguments(turn, value)
            if asked and changes(turn.tool):
                return Source("own", index)
            if asked:
                own = Source("own", index)
        elif turn.kind == "result" and mentions(turn.text, value):
            if index in taint.results:
                return Source("flagged", index)
            if not asked:
                return Source("clean", index)
    return own


def _in_arguments(turn: Turn, value: Value) -> bool:
    return mentions(_said(turn.arguments), value)


def _said(arguments: Mapping[str, object]) -> str:
    try:
        return json.dumps(arguments, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return ""


def mentions(text: str, value: Value) -> bool:
    """Whether a text names a value: as one of its own addresses, or word for word."""
    normals, words = _indexed(text)
    normal = value.normal or plain(value.text)
    if not normal:
        return False
    if value.kind in ADDRESSES and normal in normals:
        return True
    if value.kind in ("phone", "account"):
        return False
    place = words.find(normal)
    while place >= 0:
        before, after = words[place - 1 : place], words[place + len(normal) : place + len(normal) + 1]
        if not (before.isalnum() and normal[0].isalnum()) and not (after.isalnum() and normal[-1].isalnum()):
            return True
        place = words.find(normal, place + 1)
    return False


@kept
def _indexed(text: str) -> tuple[frozenset[str], str]:
    """The addresses in a text, and its words as they are compared."""
    return frozenset(value.normal for value in values_in(text)), plain(text)


def stands_alone(text: str, value: Value) -> bool:
    """Whether a result holds a value as a whole field or list entry, rather than somewhere in prose."""
    return (value.normal or plain(value.text)) in _fields(text)


_ENTRY = re.compile(r"\s{0,40}(?:-\s{1,4})?(?:[\w .-]{1,60}:\s)?")


@kept
def _fields(text: str) -> frozenset[str]:
    """The scalar values of a structured result: JSON, or lines of the form ``key: value`` and ``- value``."""
    found: set[str] = set()
    if text.lstrip()[:1] in ("{", "["):
        try:
            stack: list[object] = [json.loads(text)]
        except (ValueError, RecursionError):
            stack = []
        while stack:
            each = stack.pop()
            if isinstance(each, Mapping):
                stack.extend(each.values())
                found.update(plain(str(key)) for key in each)
            elif isinstance(each, list):
                stack.extend(each)
            elif each is not None:
                found.add(plain(str(each)))
        if found:
            return frozenset(found)
    for line in text.splitlines():
        entry = _ENTRY.match(line)
        head = entry.group() if entry else ""
        if not head.strip():
            continue
        found.add(plain(line[len(head) :].strip().strip("\"'")))
    return frozenset(found - {""})
