"""Multiple choice: the letter of the right choice against the other letters, as WMDP and MMLU are asked."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace

from safewright.errors import BadInput
from safewright.prompts import load
from safewright.types import Row

PROMPT = "multiple_choice"


def lettered(row: Row) -> Row:
    """The row with its choices written under its question, each letter as a ``wrong`` or the right answer.

    The row's meta holds ``choices`` (texts) and ``answer`` (the place of the right one, from 0; left out where
    the reference is one of the choices).

    Raises:
        BadInput: There are no choices, more than letters, or the right one cannot be told.
    """
    choices = row.meta.get("choices")
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not 2 <= len(choices) <= 26:
        raise BadInput(
            f"The row {row.id} has the choices {choices!r:.100}.",
            fix="Give a list of 2 to 26 texts as choices.",
        )
    right = row.meta.get("answer")
    if right is None and row.reference in choices:
        right = choices.index(row.reference)
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(choices):
        raise BadInput(
            f"The row {row.id} does not say which of its choices is right (answer: {right!r}).",
            fix="Give its place among the choices, from 0, as answer.",
        )
    letters = string.ascii_uppercase[: len(choices)]
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    last = row.prompt[-1]
    asked = load(PROMPT).render(question=last["content"], choices="\n".join(lines))
    return replace(
        row,
        prompt=(*row.prompt[:-1], {**last, "content": asked}),
        reference=letters[right],
        meta={**row.meta, "wrong": [letter for letter in letters if letter != letters[right]]},
    )
