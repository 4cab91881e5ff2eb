"""What a rule family is: a section of the policy file, and a function from a call to checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safewright.guard.nouns import Check, CheckStatus, Method

if TYPE_CHECKING:
    from safewright.guard.views import View

CATEGORIES: Mapping[str, str] = {
    "confidentiality": "Only those who may see data see it.",
    "integrity": "Data and systems stay correct and complete, except through authorised change.",
    "availability": "Systems and data stay usable when they are needed.",
    "alignment": "The action serves what the user asked for, and nobody else's instruction.",
    "role": "The action is one that this user may make.",
}
"""What a check may be about: the paper's three universal criteria, action alignment, and role-based checking."""


@dataclass(frozen=True)
class Rule:
    """One check that a family can make: its id (``family.name``), category, and what must hold."""

    id: str
    category: str
    statement: str

    def says(
        self,
        status: CheckStatus,
        evidence: str = "",
        advice: str = "",
        *,
        method: Method = "rule",
        narrowed: Mapping[str, Any] | None = None,
    ) -> Check:
        """This check with what was found."""
        return Check(
            self.id, self.category, self.statement, status, method, "pinned", evidence, advice, narrowed
        )


@dataclass(frozen=True)
class Family:
    """A family of rules.

    Args:
        name: Its section of the policy file, and the first half of its checks' ids.
        title: What it is about, for humans.
        settings: A frozen dataclass with a default for every field: the section's keys. A class method
            ``read(values) -> settings``, where it has one, reads the section; it raises `BadInput`.
        check: The checks that apply to a call: ``check(view, settings)``. Nothing where the family has nothing to say
            of it. What cannot be decided is an `unknown` check, never silence.
        rules: All it can say.
    """

    name: str
    title: str
    settings: type
    check: Callable[[View, Any], Iterable[Check]]
    rules: tuple[Rule, ...] = field(default=())
