"""The rule analyst: families of deterministic checks, each a file, each a section of the policy file."""

from __future__ import annotations

import functools
import importlib

from safewright.guard.rules.base import CATEGORIES, Family, Rule

__all__ = ["CATEGORIES", "NAMES", "Family", "Rule", "families"]

NAMES = (
    "shell",
    "environment",
    "data_access",
    "role_rules",
    "provenance",
    "intent",
    "exfiltration",
    "forms",
    "budgets",
)
"""The families, in the order they are asked."""


@functools.cache
def families() -> dict[str, Family]:
    """Every family, by name; loaded when first asked for."""
    found = [importlib.import_module(f"safewright.guard.rules.{name}").FAMILY for name in NAMES]
    return {family.name: family for family in found}
