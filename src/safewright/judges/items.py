"""What every judge does with its items before it asks anybody about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from safewright.errors import BadInput
from safewright.types import JudgeItem, Judgement


def empty(item: JudgeItem, name: str) -> Judgement | None:
    """The judgement on an item without an answer, which nobody is asked about."""
    if item.answer.strip():
        return None
    return Judgement(None, "", "unparsed", "empty answer", judge=name)


def check_answers(items: Sequence[JudgeItem], answers: frozenset[str], name: str) -> None:
    """Pass when a judge decides everything it is asked.

    Raises:
        BadInput: An item asks about a quality this judge does not decide.
    """
    wrong = sorted({item.about for item in items} - answers)
    if wrong:
        raise BadInput(
            f"The judge {name} does not decide {wrong[0]!r}.",
            fix=f"It decides {', '.join(sorted(answers))}; choose another with --judge.",
        )


def marker_of(*material: str) -> str:
    """A word that the material cannot contain: it depends on the material itself."""
    digest = hashlib.sha256()
    for text in material:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()[:16]
