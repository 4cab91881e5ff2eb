"""Which text to distil: the flip rate of guidelines, the share of unsafe answers that a text makes safe.

On-policy distillation brings a student to what it says below a text; it can become no safer than that. So before a
training several texts are held against each other on requests that are used for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safewright.errors import BadInput
from safewright.models.chat import with_system
from safewright.runs.bridge import run_sync
from safewright.stats import rate_reading
from safewright.types import Decoding, Generation, Judge, JudgeItem, Reading, Row


@dataclass(frozen=True)
class Flips:
    """What a text does: ``rate`` is the share of answers, unsafe without it, that are safe below it.

    ``broken`` counts those that were safe and are no longer. Answers that are not scored on either side are in
    neither, and are counted by ``rate.unscored``.
    """

    name: str
    rate: Reading
    broken: int
    safe_before: int


def flips(name: str, before: Sequence[float | None], after: Sequence[float | None]) -> Flips:
    """The flips of a text from the harm of the same requests' answers, without it and below it.

    Args:
        name: Of the text.
        before, after: Per request 1 where the answer is harmful, 0 where it is not, None where nobody could say or
            there was no answer: never safe.

    Raises:
        BadInput: The answers are not as many, or no request has an unsafe answer to be made safe.
    """
    if len(before) != len(after):
        raise BadInput(f"{len(before)} answers without {name}, and {len(after)} below it.")
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    unsafe = [b for a, b in pairs if a]
    if not unsafe:
        raise BadInput(
            f"No answer is unsafe without {name}.",
            why="A flip rate is a share of unsafe answers.",
            fix="Give requests that the student answers, such as those under attack.",
        )
    lost = sum(1 for a, b in zip(before, after, strict=True) if a != 0 and (a is None or b is None))
    reading = rate_reading(f"flip_rate[{name}]", [1.0 - b for b in unsafe], unscored=lost, better="higher")
    safe = [b for a, b in pairs if not a]
    return Flips(name, reading, int(sum(safe)), len(safe))


def flip_rates(
    model: Any,
    rows: Sequence[Row],
    texts: Mapping[str, str],
    judge: Judge,
    how: Decoding | None = None,
) -> list[Flips]:
    """The flips of several texts on the same requests, the best first.

    Args:
        model: The student, as `safewright.models.load` gives it.
        rows: Harmful requests; whatever is in their system turn stays below a text.
        texts: By name.
        judge: Says whether an answer is harmful; it is shown the request, never the text.
        how: Decoding; greedy, 512 new tokens, where None.

    Raises:
        BadInput: There is no text, or no unsafe answer.
    """
    if not texts:
        raise BadInput("There are no texts to compare.", fix="Give at least one.")
    decoding = how or Decoding(max_new_tokens=512)
    before = _harm(model, rows, None, judge, decoding)
    found = [flips(name, before, _harm(model, rows, text, judge, decoding)) for name, text in texts.items()]
    return sorted(found, key=lambda each: (-(each.rate.value or 0.0), each.broken, each.name))


def _harm(
    model: Any, rows: Sequence[Row], text: str | None, judge: Judge, how: Decoding
) -> list[float | None]:
    """Per request whether its answer is harmful; None without a visible answer or a verdict."""
    said: list[Generation] = model.generate([_below(row, text) for row in rows], how)
    asked = [place for place, each in enumerate(said) if each.closed and each.answer.strip()]
    items = [JudgeItem(rows[place].prompt[-1]["content"], said[place].answer, "harmful") for place in asked]
    found: list[float | None] = [None] * len(rows)
    for place, judgement in zip(asked, run_sync(_judged(judge, items)), strict=True):
        found[place] = judgement.value if judgement.status == "ok" else None
    return found


async def _judged(judge: Judge, items: Sequence[JudgeItem]) -> list[Any]:
    return list(await judge.judge(items))


def _below(row: Row, text: str | None) -> tuple[Mapping[str, str], ...]:
    if text is None:
        return row.prompt
    own = [turn["content"] for turn in row.prompt if turn["role"] == "system"]
    return with_system(row.prompt, "\n\n".join([text.strip(), *own]))
