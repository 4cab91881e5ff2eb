"""Which of the history's results look like somebody else's instructions, and what came with them."""

from __future__ import annotations

from dataclasses import dataclass

from safewright.guard.nouns import Action


@dataclass(frozen=True)
class Taint:
    """What was found in a history."""

    tainted: bool = False


def trace(action: Action) -> Taint:
    """The taint of a call, recomputed from its history."""
    return Taint()
