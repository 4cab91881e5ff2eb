"""Prompts that do not fit a model's context: what becomes of them is a measure's choice, and is counted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from safewright.errors import BadInput
from safewright.measures.behaviour import Behaviour
from safewright.models import overlong_counts
from safewright.types import Decoding, Generation, Question

SMALLEST_SHARE = 0.005
"""Share of a context below which nothing of it is left to speak of."""

STEP = 0.01
"""Shares are whole multiples of this, except below it."""

BLIND_STEP = 0.75
"""Share kept at each try where nobody says how many tokens there are."""


@dataclass(frozen=True)
class Attempt:
    """A question as a measure asks it, and as it is asked now: with ``share`` of its context's words."""

    question: Question
    share: float = 1.0

    def asked(self, behaviour: Behaviour) -> Question:
        """The question as it is asked."""
        if self.share >= 1 or behaviour.shorten is None:
            return self.question
        return behaviour.shorten(self.question, self.share)


def next_attempt(
    behaviour: Behaviour, attempt: Attempt, said: Generation, how: Decoding
) -> Attempt | Generation:
    """What to ask after an answer, or the answer itself where it is final.

    Args:
        behaviour: Says what becomes of a prompt that does not fit.
        attempt: What was asked.
        said: What came back.
        how: The decoding it was asked with.

    Raises:
        BadInput: The prompt does not fit, and the measure's choice is an error; or nothing is left to leave out.
    """
    if said.stop != "overlong" or behaviour.overflow == "keep":
        return said
    if behaviour.overflow == "skip":
        return replace(said, error=f"skipped by choice: {said.error}")
    if behaviour.overflow == "error":
        raise BadInput(
            f"The prompt {attempt.question.id} does not fit the model's context: {said.error}.",
            why="A context that is cut or left out silently would make the model look safer or worse than it is.",
            fix="Choose what becomes of such prompts: --set overflow=truncate_middle or --set overflow=skip (both "
            "are counted); or leave out long contexts: --set max_length=WORDS.",
        )
    # In steps, so that both positions of an instance are mostly shown the same part of their context.
    share = attempt.share * _fitting(said, how)
    share = round(math.floor(share / STEP) * STEP, 2) or share
    if share < SMALLEST_SHARE:
        raise BadInput(
            f"The prompt {attempt.question.id} does not fit the model's context even without its own: "
            f"{said.error}.",
            fix="Use --set overflow=skip, or a model with a longer context.",
        )
    return replace(attempt, share=share)


def _fitting(said: Generation, how: Decoding) -> float:
    """The share of the words asked that may fit; a little less, since words are not tokens."""
    counts = overlong_counts(said)
    if counts is None:
        return BLIND_STEP
    prompt, context = counts
    room = context - min(how.least_room, how.max_new_tokens)
    return min(0.98 * max(room, 0) / prompt, BLIND_STEP + 0.2)
