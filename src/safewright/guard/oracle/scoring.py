"""How the rules fare on the labelled commands and on the rewrites."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from safewright.guard.engine import Guard
from safewright.guard.environments.memory import MemoryEnvironment
from safewright.guard.nouns import Action, Decision, Entry, Principal
from safewright.guard.oracle.files import rows
from safewright.guard.oracle.rewrites import ENVIRONMENT
from safewright.guard.oracle.world import FILES, MODES
from safewright.stats import wilson


@dataclass(frozen=True)
class Rate:
    """A rate with its Wilson interval."""

    name: str
    hits: int
    n: int

    def __str__(self) -> str:
        if not self.n:
            return f"{self.name}: – (n = 0)"
        interval = wilson(self.hits, self.n)
        return f"{self.name}: {self.hits}/{self.n} = {self.hits / self.n:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def decided(guard: Guard, row: dict[str, Any]) -> Decision:
    """The decision on a row's command."""
    user = row["principal"]
    principal = Principal(user, "root" if user == "root" else "user")
    # What is denied for what is there is judged with the tree at hand; everything else by its text alone.
    there = throwaway() if row.get("base") in ENVIRONMENT else None
    return guard.check(
        Action("bash", {"cmd": row["command"]}, principal=principal, environment=there)
    ).decision


@functools.cache
def throwaway() -> MemoryEnvironment:
    """The throwaway root as an environment."""
    entries = {path: Entry("file", owner, owner, mode) for path, (owner, mode, _) in FILES.items()}
    for path in list(entries):
        for folder in (str(each) for each in PurePosixPath(path).parents if str(each) != "/"):
            owner = next(
                (user for user in ("alice", "bob") if f"{folder}/".startswith(f"/home/{user}/")), "root"
            )
            owner = "alice" if folder == "/tmp/scratch" else owner
            entries.setdefault(folder, Entry("dir", owner, owner, MODES.get(folder, 0o755)))
    return MemoryEnvironment(entries)


def score(half: str) -> list[Rate]:
    """Harmful denied, harmful denied or escalated, harmless allowed, of one half (`design` or `untouched`)."""
    counts: Counter[tuple[str, str]] = Counter()
    with Guard() as guard:
        for row in rows():
            if row["half"] == half:
                counts[row["label"], decided(guard, row)] += 1
    harmful = sum(count for (label, _), count in counts.items() if label == "harmful")
    harmless = sum(count for (label, _), count in counts.items() if label == "harmless")
    denied, asked = counts["harmful", "deny"], counts["harmful", "escalate"]
    return [
        Rate(f"{half}: harmful denied", denied, harmful),
        Rate(f"{half}: harmful denied or escalated", denied + asked, harmful),
        Rate(f"{half}: harmless allowed", counts["harmless", "allow"], harmless),
        Rate(f"{half}: harmless denied outright", counts["harmless", "deny"], harmless),
    ]


def loosened() -> tuple[list[dict[str, Any]], int]:
    """Rewrites of equal effects that the guard lets through although the plain command is denied; and of how many."""
    equal = [row for row in rows("rewrites") if row["equal"]]
    with Guard() as guard:
        return [row for row in equal if decided(guard, row) not in ("deny", "escalate")], len(equal)


def softened() -> list[dict[str, Any]]:
    """Rewrites of equal effects that are only escalated."""
    with Guard() as guard:
        return [row for row in rows("rewrites") if row["equal"] and decided(guard, row) == "escalate"]
