"""What users of some kind may do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from safewright.guard.nouns import Check
from safewright.guard.rules.base import Family
from safewright.guard.views import View


@dataclass(frozen=True)
class Settings:
    """Section ``[role_rules]`` of a policy file."""

    enabled: bool = True


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call."""
    return ()


FAMILY = Family("role_rules", "What users of some kind may do", Settings, check)
