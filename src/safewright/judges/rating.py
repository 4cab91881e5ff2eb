"""Ratings from 1 to 5 by a chat model: how an answer is written, how little it gives away, how much it kept.

Source: ReLearn (arXiv:2502.11190), model-based evaluation. There, one prompt shows the answers of all systems
side by side; here every answer is rated in a call of its own, so that no rating depends on what else was rated.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safewright.errors import BadInput, nearest
from safewright.judges.asking import Unreadable, ask_strictly, one_object
from safewright.judges.items import marker_of
from safewright.judges.model import JudgeModel, at_least_one, unmeasured
from safewright.prompts import digests as prompt_digests
from safewright.prompts import load as load_prompt
from safewright.types import JudgementStatus, ModelRef

if TYPE_CHECKING:
    from safewright.models import Loaded

Aspect = Literal["writing", "forgetting", "retention"]
SCORES: Mapping[Aspect, tuple[str, ...]] = {
    "writing": ("relevance", "fluency"),
    "forgetting": ("forgetting",),
    "retention": ("retention",),
}
"""What is rated under each aspect. Higher is better: 5 for forgetting is nothing given away."""
LOW, HIGH = 1, 5


@dataclass(frozen=True)
class RatingItem:
    """One answer to be rated; ``reference`` is the known answer, which all aspects but writing need."""

    question: str
    answer: str
    aspect: Aspect = "writing"
    reference: str | None = None


@dataclass(frozen=True)
class Rating:
    """One answer's ratings: whole numbers from 1 to 5 by the names in `SCORES`.

    They are None unless ``status`` is ``ok``: what could not be rated has no rating, low or high.
    """

    scores: Mapping[str, int | None]
    status: JudgementStatus
    why: str = ""
    raw: str = ""
    prompt_digest: str = ""
    tokens: int = 0


@dataclass(frozen=True)
class _Read:
    scores: dict[str, int] = field(default_factory=dict)
    reason: str = ""


class RatingJudge:
    """Rates answers by any chat model.

    Args:
        model: A loaded model, or a reference that is loaded at the first question.
        tries: How often it is asked before its reply counts as unparsed.
        max_new_tokens: Room for a reply, and for the reasoning of a model that thinks first.
    """

    name = "rating"

    def __init__(
        self, model: Loaded | ModelRef | str | Path, *, tries: int = 3, max_new_tokens: int = 512
    ) -> None:
        at_least_one("The rating's", tries=tries, max_new_tokens=max_new_tokens)
        self.model, self.tries = JudgeModel(model, max_new_tokens), tries

    @property
    def models(self) -> tuple[JudgeModel, ...]:
        """The models it asks."""
        return (self.model,)

    @functools.cached_property
    def conventions(self) -> Mapping[str, Any]:
        """Prompts with version and digest, scale, tries and the model's digest."""
        scale = f"{LOW} to {HIGH}, one answer per call"
        return unmeasured(
            {
                "prompts": prompt_digests((*(f"rating_{aspect}" for aspect in SCORES), "rating_again")),
                "scale": scale,
                "tries": self.tries,
                **self.model.conventions(),
            }
        )

    async def rate(self, items: Sequence[RatingItem]) -> list[Rating]:
        """One rating per item, in order; equal items are one question.

        An empty answer is ``unparsed``: nobody is asked to rate nothing. A failed call is ``error``, a model
        that will not rate ``refused``, a reply in another form ``unparsed`` after the last try.

        Raises:
            BadInput: An unknown aspect, or one that needs a reference without it.
        """
        prompts = [_prompt(item) for item in items]
        ratings: list[Rating | None] = [
            None if item.answer.strip() else _lost(item, "unparsed", "empty answer") for item in items
        ]
        for aspect in SCORES:
            open_ = [
                place for place, item in enumerate(items) if item.aspect == aspect and ratings[place] is None
            ]
            if not open_:
                continue
            parse = functools.partial(parse_rating, aspect=aspect)
            heard = await ask_strictly(
                self.model,
                [prompts[place] for place in open_],
                parse,
                functools.partial(_again, aspect),
                self.tries,
            )
            for place, found in zip(open_, heard, strict=True):
                rating = _lost(items[place], found.status, found.why)
                if found.status == "ok":
                    rating = dataclasses.replace(rating, scores=found.value.scores, why=found.value.reason)
                ratings[place] = dataclasses.replace(rating, raw=found.raw, tokens=found.tokens)
        return [rating for rating in ratings if rating is not None]

    def close(self) -> None:
        """Let go of the model."""
        self.model.close()


def parse_rating(reply: str, aspect: Aspect) -> _Read:
    """What a reply says: one JSON object with a reason and whole numbers from 1 to 5.

    Raises:
        Unreadable: It has another form.
    """
    names = SCORES[aspect]
    found = one_object(reply, "reason", *names)
    if not isinstance(found["reason"], str):
        raise Unreadable("its reason was not a text")
    for name in names:
        value = found[name]
        if isinstance(value, bool) or not isinstance(value, int) or not LOW <= value <= HIGH:
            raise Unreadable(f"its {name} was not a whole number from {LOW} to {HIGH}")
    return _Read({name: found[name] for name in names}, found["reason"])


def _prompt(item: RatingItem) -> str:
    if item.aspect not in SCORES:
        raise BadInput(f"There is no aspect {item.aspect!r} to rate.", fix=nearest(str(item.aspect), SCORES))
    values = {"question": item.question, "answer": item.answer}
    if item.aspect != "writing":
        if not (item.reference or "").strip():
            raise BadInput(
                f"The question {item.question!r:.80} has no reference answer.",
                why=f"The {item.aspect} of an answer is rated against it.",
                fix="Each row needs response, output, answer, labels, or a last assistant turn.",
            )
        values["reference"] = item.reference or ""
    prompt = load_prompt(f"rating_{item.aspect}")
    return prompt.render(marker=marker_of(*values.values()), **values)


def _again(aspect: Aspect, problem: str) -> str:
    form = '{"reason": text, ' + ", ".join(f'"{name}": number' for name in SCORES[aspect]) + "}"
    return load_prompt("rating_again").render(problem=problem, form=form)


def _lost(item: RatingItem, status: JudgementStatus, why: str) -> Rating:
    nothing: dict[str, int | None] = dict.fromkeys(SCORES[item.aspect])
    return Rating(nothing, status, why, prompt_digest=load_prompt(f"rating_{item.aspect}").digest)
