"""Whether the request implies such a call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from safewright.guard.nouns import Check
from safewright.guard.rules.base import Family
from safewright.guard.views import View


@dataclass(frozen=True)
class Settings:
    """Section ``[intent]`` of a policy file."""

    enabled: bool = True


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call."""
    return ()


FAMILY = Family("intent", "Whether the request implies such a call", Settings, check)
