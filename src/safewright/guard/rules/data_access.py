"""Who may read which tables and columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from safewright.guard.nouns import Check
from safewright.guard.rules.base import Family
from safewright.guard.views import View


@dataclass(frozen=True)
class Settings:
    """Section ``[data_access]`` of a policy file."""

    enabled: bool = True


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call."""
    return ()


FAMILY = Family("data_access", "Who may read which tables and columns", Settings, check)
