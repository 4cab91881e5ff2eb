"""The same loop through the real engine: `Guard` with its faithful preset and its memory file, and the lab's players.

It takes one action at a time and a file, so the table is made by the fast loop; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safewright.guard import Action, Guard, Policy, Verdict
from safewright.guard.memory import open_memory
from safewright.guard.nouns import Check, Usage
from safewright.guard.parts import Analysis, Found, Key
from safewright.guard.views import View
from safewright.lab.guarding import GuardingWorld, Item
from safewright.replications.agrail.loop import Players, Ruling

TOOL = "act"
CATEGORY = "integrity"
POLICY = f"""
name = "lab"
extends = "default"
[tools.{TOOL}]
effect = "write"
"""


class LabAnalyst:
    """A `guard.parts.Analyst` whose model is the lab's: the key is the item's, the lists are the players'."""

    def __init__(self, world: GuardingWorld, items: Sequence[Item], players: Players) -> None:
        self._world, self._items, self._players = world, items, players
        self._place = {word: at for at, word in enumerate(world.checks)}

    async def abstract(self, view: View, seconds: float) -> tuple[Key, Usage]:
        """The type that the item's key names."""
        name = self._world.kinds[self._item(view).key].name
        return Key(name, name, "write", view.privilege, "lab"), Usage()

    async def analyse(
        self, view: View, key: Key, found: Sequence[Found], pinned: Sequence[Check], seconds: float
    ) -> Analysis:
        """The analyser's list, each check put before the executor; memory counts where it is of this key."""
        item, world = self._item(view), self._world
        belongs = bool(found) and found[0].key.text == key.text
        shown = [self._place[each.name] for each in found[0].checks] if belongs else []
        listed = self._players.analyse([(item.verb, item.object, shown)])[0]
        said = self._players.execute([(item.verb, item.object, c, item.bits[c]) for c in listed])
        checks = tuple(
            Check(
                world.checks[check],
                CATEGORY,
                f"{world.checks[check]} holds",
                "deleted" if not each.kept else "pass" if each.holds else "fail",
                "llm",
                "memory" if check in shown else "new",
            )
            for check, each in zip(listed, said, strict=True)
        )
        return Analysis(checks, belongs=belongs, usage=Usage(calls=1 + len(listed)))

    def close(self) -> None:
        """Nothing is held."""

    def _item(self, view: View) -> Item:
        place: int = view.action.arguments["place"]
        return self._items[place]


def run_engine(world: GuardingWorld, items: Sequence[Item], players: Players, memory: Path) -> list[Verdict]:
    """The engine's verdicts on a stream, with a memory file that learns from it."""
    guard = Guard(
        Policy.read(POLICY),
        backend="llm",
        preset="faithful",
        model=LabAnalyst(world, items, players),
        memory=open_memory(memory, preset="faithful"),
        deadline_s=60.0,
    )
    with guard:
        return [
            guard.check(
                Action(TOOL, {"place": at, "verb": item.verb, "object": item.object}, session=f"item {at}")
            )
            for at, item in enumerate(items)
        ]


def ruling_of(world: GuardingWorld, verdict: Verdict) -> Ruling:
    """A verdict as the fast loop puts it."""
    place = {word: at for at, word in enumerate(world.checks)}
    own = [check for check in verdict.checks if check.origin != "pinned"]
    kept = tuple(place[check.id] for check in own if check.status != "deleted")
    return Ruling(
        kept,
        tuple(place[check.id] for check in own if check.status == "deleted"),
        verdict.decision != "allow",
    )
