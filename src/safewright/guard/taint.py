"""Which of the history's results look like somebody else's instructions, and what came with them."""

from __future__ import annotations

from dataclasses import dataclass

from safewright.guard.nouns import Action
from safewright.guard.scanning import Span


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


def trace(action: Action) -> Taint:
    """The taint of a call, recomputed from its history."""
    return Taint()
