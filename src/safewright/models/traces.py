"""A reasoning trace as it is written for training: one block, then the answer; anything else is an error.

`safewright.models.chat.split_reasoning` reads what a model wrote, and makes something of anything. What a model
is to learn from is read here, and is never mended.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from safewright.models.chat import THINK

Kind = Literal[
    "no_open", "no_close", "two_blocks", "text_before", "empty_answer", "empty_reasoning", "nested"
]

SAID: Mapping[str, str] = {
    "no_open": "no block is opened",
    "no_close": "the block is never closed",
    "two_blocks": "there is more than one block",
    "text_before": "there is text before the block",
    "empty_answer": "nothing follows the block",
    "empty_reasoning": "the block is empty",
    "nested": "a block is opened inside a block",
}


class FormatError(ValueError):
    """A text is no trace; ``kind`` says why."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(f"{kind}: {SAID[kind]}")
        self.kind: Kind = kind


@dataclass(frozen=True)
class Trace:
    """The reasoning between the markers, and the answer behind them, without the white space around."""

    reasoning: str
    answer: str


def split_trace(text: str, markers: Mapping[str, str] = THINK) -> Trace:
    """The trace that a text is: an opening marker, reasoning, one closing marker, an answer.

    White space around the parts is layout. A marker counts wherever it stands, in code as well.

    Args:
        text: Of any kind.
        markers: ``{"open": text, "close": text}``, two different ones.

    Raises:
        FormatError: The text is not exactly that.
        ValueError: The markers are empty, or the same.
    """
    found = list(_pattern(markers).finditer(text))
    opens = [each.group() == markers["open"] for each in found]
    if not found or not opens[0]:
        raise FormatError("no_open")
    if text[: found[0].start()].strip():
        raise FormatError("text_before")
    if all(opens):
        raise FormatError("no_close")
    if opens[1]:
        raise FormatError("nested")
    if len(found) > 2:
        raise FormatError("two_blocks")
    reasoning, answer = text[found[0].end() : found[1].start()].strip(), text[found[1].end() :].strip()
    if not reasoning:
        raise FormatError("empty_reasoning")
    if not answer:
        raise FormatError("empty_answer")
    return Trace(reasoning, answer)


def join_trace(reasoning: str, answer: str, markers: Mapping[str, str] = THINK) -> str:
    """The text of a trace. Markers stand on lines of their own, an empty line before the answer: the layout of the
    reasoning models in use, of which word-level tokenizers see spaces.

    Raises:
        FormatError: `split_trace` would not read the same parts.
    """
    text = f"{markers['open']}\n{reasoning.strip()}\n{markers['close']}\n\n{answer.strip()}"
    split_trace(text, markers)
    return text


def holds_marker(text: str, markers: Mapping[str, str] = THINK) -> bool:
    """Whether a marker stands anywhere in a text."""
    return bool(_pattern(markers).search(text))


def _pattern(markers: Mapping[str, str]) -> re.Pattern[str]:
    """Finds markers; where one begins with the other, the longer one."""
    start, end = markers["open"], markers["close"]
    if not start.strip() or not end.strip() or start == end:
        raise ValueError(f"the markers of a reasoning block are {start!r} and {end!r}: two different texts")
    return re.compile("|".join(re.escape(each) for each in sorted((start, end), key=len, reverse=True)))
