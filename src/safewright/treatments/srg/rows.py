"""From a record to what an arm learns: the same prompt for every target, another completion."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from safewright.errors import BadInput, nearest
from safewright.models.chat import THINK
from safewright.models.traces import FormatError, join_trace
from safewright.treatments.srg.records import Reasoned
from safewright.types import Message

Target = Literal["srg", "rt", "noguide", "label", "filler", "posthoc", "answer_then_check"]
TARGETS: tuple[Target, ...] = ("srg", "rt", "noguide", "label", "filler", "posthoc", "answer_then_check")

FILLER = "."
"""The word that fills a block of the same length, without content."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


@dataclass(frozen=True)
class Built:
    """What is trained of a record.

    ``prompt`` is the conversation up to the answer. ``given`` is the beginning of an answer that somebody else
    wrote: read, never learned; empty where there is none. ``completion`` is what is learned behind it.
    """

    prompt: tuple[Message, ...]
    given: str
    completion: str


def build_rows(
    record: Reasoned,
    target: str,
    *,
    context: str | None = None,
    opening: str | None = None,
    opened: bool = False,
    markers: Mapping[str, str] = THINK,
    count: Callable[[str], int] | None = None,
    filler: str = FILLER,
) -> Built:
    """The row of a record for one target. Nothing of it depends on a tokenizer, except through ``count``.

    | target | learned |
    |---|---|
    | rt | the refusal, or the answer |
    | srg | reasoning, then the answer |
    | noguide | what is asked and the verdict, then the answer |
    | label | the verdict, then the answer |
    | filler | as many words without content, then the answer |
    | posthoc | the answer, then the reasoning |
    | answer_then_check | a draft of the answer and the reasoning, then the answer |

    A general record is its answer for every target.

    Args:
        record: With what its target needs. Where it has no ``restated`` or ``verdict``, the first and the last
            sentence of its reasoning take their place.
        target: One of `TARGETS`.
        context: A text kept in the system turn of the prompt; None distils it away.
        opening: How somebody else began the turn; ``<think>`` and ``</think>`` in it stand for the markers.
        opened: Whether the chat template opens the block itself, at the end of the prompt.
        markers: Of the block.
        count: Length of a text; words where None.
        filler: The word of ``filler``.

    Raises:
        BadInput: An unknown target, or a record without what it needs.
    """
    if target not in TARGETS:
        raise BadInput(f"target is {target!r}.", fix=nearest(str(target), TARGETS))
    prompt = _prompt(record, context)
    start, end = markers["open"], markers["close"]
    block = None if record.type == "general" else _block(record, target, count or _words, filler)
    answer = record.refusal or record.answer if target == "rt" else record.answer
    try:
        if block is None:
            whole = answer
        elif target == "posthoc":
            join_trace(block, answer, markers)  # the same demands on the parts, in either order
            whole = f"{answer}\n\n{start}\n{block}\n{end}"
        else:
            whole = join_trace(block, answer, markers)
    except FormatError as error:
        raise BadInput(
            f"The row {record.id} is no trace ({error}).",
            fix="Give `reasoning` and `answer` without markers, both with words in them.",
        ) from error
    first = block is not None and target != "posthoc"
    if opening is not None:
        given = opening.replace(THINK["open"], start).replace(THINK["close"], end).strip()
        inside = given.rfind(start) > given.rfind(end)
        if inside and first:
            whole = whole.removeprefix(start).lstrip("\n")
        elif inside:
            whole = f"{end}\n\n{whole}"
        return Built(prompt, given, f"\n{whole}")
    if opened and first:
        whole = whole.removeprefix(start).lstrip("\n")
    elif opened:
        whole = f"\n{end}\n\n{whole}"  # the block was opened by the template: closed, empty
    return Built(prompt, "", whole)


def _prompt(record: Reasoned, context: str | None) -> tuple[Message, ...]:
    """The record's conversation, under a text that is kept in the system turn."""
    if context is None or record.type == "general":
        return record.messages
    own = [turn["content"] for turn in record.messages if turn["role"] == "system"]
    others = tuple(turn for turn in record.messages if turn["role"] != "system")
    return ({"role": "system", "content": "\n\n".join([context.strip(), *own])}, *others)


def _block(record: Reasoned, target: str, count: Callable[[str], int], filler: str) -> str | None:
    """What stands in the block; None where there is none."""
    if target == "rt":
        return None
    if not record.reasoning:
        raise BadInput(
            f"The row {record.id} ({record.type}) has no reasoning, and target={target} needs it.",
            fix="Give it as `reasoning`, make the rows (treat srg synthesize), or use the type general.",
        )
    sentences = [part.strip() for part in _SENTENCE.split(record.reasoning) if part and part.strip()]
    verdict = record.verdict or sentences[-1]
    if target == "noguide":
        restated = record.restated or sentences[0]
        return restated if restated == verdict else f"{restated} {verdict}"
    if target == "label":
        return verdict
    if target == "filler":
        return _filled(filler, count(record.reasoning), count)
    if target == "answer_then_check":
        return f"{_draft(record)}\n{record.reasoning}"
    return record.reasoning


def _draft(record: Reasoned) -> str:
    if record.draft:
        return record.draft
    if record.harmful:
        raise BadInput(
            f"The row {record.id} has no draft of its answer.",
            why="answer_then_check lets the model plan an answer first, and examine it.",
            fix="Give it as `draft`: one sentence of what an answer would hold, without the harmful detail.",
        )
    return next(part.strip() for part in _SENTENCE.split(record.answer) if part and part.strip())


def _filled(word: str, length: int, count: Callable[[str], int]) -> str:
    """A word again and again: the shortest such text of at least so much length."""
    low, high = 1, 1
    while count(" ".join([word] * high)) < length and high < 1_000_000:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if count(" ".join([word] * middle)) >= length else (middle + 1, high)
    return " ".join([word] * low)


def _words(text: str) -> int:
    return len(text.split())
