"""Where in a trace the verdict begins: what a model has read just before it decides."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from safewright.types import Generation

VERDICT = re.compile(
    r"\b(?:refus\w*|declin\w*|compl(?:y|ies|ying|iance)|answer\w*|help\w*|assist\w*|provid\w*|fulfil\w*|allow\w*"
    r"|permit\w*|reject\w*|safe|unsafe|harmless|harmful|not|no|never|cannot|\w+n['’]t)\b"
    r"|拒绝|不|无法|回答|提供|帮助|满足|协助",
    re.IGNORECASE,
)
"""The first word of a decision, or of its negation."""

_END = re.compile(r"(?:(?<=[.!?])(?=\s)|(?<=[。！？]))|\n+")


@dataclass(frozen=True)
class Before:
    """The beginning of a model's raw words up to its verdict; ``text`` is None where there is none, and ``why``.

    ``cut``: before the ``verdict``'s first word, or before the last ``sentence`` where that holds no such word.
    """

    text: str | None
    cut: str = ""
    why: str = ""


def before_verdict(said: Generation, opening: str, closing: str) -> Before:
    """What a model wrote before the verdict of its reasoning.

    The verdict is in the last sentence (or line) of the block: from the first word of `VERDICT` on.

    Args:
        said: What it generated.
        opening: The marker that begins reasoning.
        closing: The marker that ends it.
    """
    if said.stop in ("error", "overlong"):
        return Before(None, why=said.error or said.stop)
    if not said.closed:
        return Before(None, why="the reasoning was never closed")
    if not said.reasoning.strip():
        return Before(None, why="there is no reasoning")
    head, found, _ = said.raw.partition(closing)
    visible, opened, inner = head.rpartition(opening)
    if not found:
        return Before(None, why="the reasoning was never closed")
    if opened and visible.strip():
        return Before(None, why="the answer came before the reasoning")
    if not inner.strip():
        return Before(None, why="the first block of reasoning is empty")
    start = len(head) - len(inner)
    at, cut = _verdict(inner)
    text = said.raw[: start + at].rstrip()
    return Before(text, cut) if text else Before(None, why="the verdict is the first word")


def _verdict(inner: str) -> tuple[int, str]:
    """The place in a block where its verdict begins, and what that is."""
    ends = [0, *(mark.end() for mark in _END.finditer(inner)), len(inner)]
    places = [(a, b) for a, b in itertools.pairwise(ends) if inner[a:b].strip(" \t\r\n.!?。！？")]
    first, last = places[-1] if places else (0, len(inner))
    word = VERDICT.search(inner, first, last)
    return (word.start(), "verdict") if word else (first, "sentence")
