"""From a model's judgements to checks; facts that it delegates are looked up by the guard's own rules and probes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safewright.guard.nouns import Check, CheckStatus, Method
from safewright.guard.parts import Found, Remembered
from safewright.guard.rules import families

if TYPE_CHECKING:
    from safewright.guard.policy import Policy
    from safewright.guard.views import View

PREFIX = "llm."
"""Begins the id of every check that a model proposed, so that none can pass for a rule."""
LONGEST_ID = 72

ADVICE: Mapping[str, str] = {
    "confidentiality": "The call may show or send data to somebody who may not see it. Ask only for what the task "
    "needs, of those it concerns.",
    "integrity": "The call may change or remove something it should not. Narrow it to what the task names.",
    "availability": "The call may make a system or data unusable. Narrow it, or choose a gentler way.",
    "alignment": "The call does not plainly serve what the user asked for. Do only what the request needs.",
    "role": "This user may not make this call. Ask somebody who may.",
}
"""What the agent is told of a model's objection. The model's own words may repeat policy or secrets."""
OTHERWISE = "The call may break a rule of the operator. Narrow it to what the task needs."

_RANK: Mapping[CheckStatus, int] = {"pass": 0, "deleted": 1, "unknown": 1, "fail": 2}


@dataclass(frozen=True)
class Item:
    """A check to be judged: its id in the question, and what it says."""

    ref: str
    id: str
    category: str
    statement: str
    remembered: bool
    settled: bool = False

    def shown(self) -> dict[str, Any]:
        """It, as the model sees it."""
        return {
            "id": self.ref,
            "category": self.category,
            "name": self.id,
            "statement": self.statement,
        }


@dataclass(frozen=True)
class Looked:
    """What a tool found: the tightest of its checks."""

    status: CheckStatus
    method: Method
    evidence: str


def id_of(name: str) -> str:
    """The id of a proposed check. A remembered name stays what it is."""
    if name.startswith(PREFIX):
        name = name[len(PREFIX) :]
    words = re.sub(r"[^\w]+", "-", name.casefold()).strip("-_")
    return PREFIX + (words[:LONGEST_ID].rstrip("-_") or "check")


def remembered_items(checks: Iterable[Remembered], categories: Iterable[str], ref: str) -> list[Item]:
    """The checks of an entry that are shown: no tombstones, and nothing of a category that is not the policy's."""
    known = set(categories)
    shown = [each for each in checks if each.state != "tombstoned" and each.category in known]
    return [
        Item(f"{ref}{n}", each.name, each.category, each.statement, True, each.state == "active")
        for n, each in enumerate(shown, 1)
    ]


def proposed_items(proposals: Iterable[Any], found: Found | None, ref: str) -> list[Item]:
    """Proposed checks; those of a remembered name are that check. Of two with one name, the second gets a number."""
    before = {(each.category, each.name) for each in found.checks} if found is not None else set()
    items: list[Item] = []
    taken: set[tuple[str, str]] = set()
    for n, each in enumerate(proposals, 1):
        # A name that memory holds is kept to the letter, whoever wrote it there.
        own = each.name if (each.category, each.name) in before else id_of(each.name)
        name, count = own, 1
        while (each.category, name) in taken:
            count += 1
            name = f"{own}-{count}"
        taken.add((each.category, name))
        items.append(Item(f"{ref}{n}", name, each.category, each.statement, (each.category, name) in before))
    return items


def matched(items: Sequence[Item], judgements: Sequence[Any]) -> str:
    """What is wrong with the judgements of some checks; empty where each was judged exactly once."""
    given = [each.check for each in judgements]
    if len(set(given)) != len(given):
        return "a check is answered twice"
    if set(given) - {item.ref for item in items}:
        return "an answer has the id of no check"
    missing = [item.ref for item in items if item.ref not in set(given)]
    return f"these checks are not answered: {', '.join(missing)}" if missing else ""


def check_of(item: Item, judged: Any, looked: Mapping[str, Looked]) -> Check:
    """A check with what came of it."""
    status: CheckStatus
    method: Method = "llm"
    evidence = judged.thinking
    if getattr(judged, "delete", False):
        status = "deleted"
    elif judged.tool is not None:
        found = looked.get(judged.tool)
        status, method = (found.status, found.method) if found else ("unknown", "rule")
        evidence = f"{judged.tool}: {found.evidence if found else 'has nothing to say of this call'}"
    else:
        status = "pass" if judged.result is True else "fail"
    return Check(
        id=item.id,
        category=item.category,
        statement=item.statement,
        status=status,
        method=method,
        origin="memory" if item.remembered else "new",
        evidence=evidence[:500],
        advice=ADVICE.get(item.category, OTHERWISE) if status in ("fail", "unknown") else "",
    )


def tools_of(policy: Policy) -> dict[str, str]:
    """What checks can be delegated to, with what each is for: the rule families that the policy has switched on."""
    return {
        name: family.title
        for name, family in families().items()
        if getattr(policy.settings[name], "enabled", True)
    }


def look_up(view: View, tools: Iterable[str], pinned: Sequence[Check]) -> dict[str, Looked]:
    """What each tool finds, once each; a tool without an entry has nothing to say of this call.

    Where the rules have already run (``pinned``), their findings are taken.
    """
    found: dict[str, Looked] = {}
    for name in dict.fromkeys(tools):
        checks = [check for check in pinned if check.id.startswith(f"{name}.")]
        if not checks:
            checks = list(families()[name].check(view, view.policy.settings[name]))
        if checks:
            worst = max(checks, key=lambda check: _RANK[check.status])
            status: CheckStatus = "unknown" if worst.status == "deleted" else worst.status
            found[name] = Looked(status, worst.method, f"{worst.id} {worst.status} {worst.evidence}".strip())
    return found
