"""How one judged call changes what is remembered of its kind: pure functions on items, no database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from safewright.guard.memory.evidence import STRIKES, settled
from safewright.guard.memory.statements import LONGEST_NAME, quotes, refused
from safewright.guard.nouns import Check
from safewright.guard.parts import Remembered, State

MOST_ITEMS = 64
"""Checks that an entry holds besides its tombstones; more are not taken in."""
MOST_HELD = 16
"""Checks from tainted sessions, besides those: they take no place from others."""
MOST_ROWS = 256
WITNESS = 8
"""Bytes by which a session is told from others; its name is not kept."""
MOST_WITNESSES = 32

TAINTED, MODEL, OPERATOR = "tainted", "llm", "operator"
Name = tuple[str, str]
"""Category and name: what makes a check the same check."""


@dataclass(frozen=True)
class Item:
    """A check in memory.

    ``seen`` and ``struck`` hold the latest sessions that confirmed it, and those that struck it out since; ``pending``
    is another wording that ``pending_by`` proposed. One that only tainted sessions brought forth has the origin
    `tainted`: it is kept, but shown to nobody.
    """

    category: str
    name: str
    statement: str
    state: State = "quarantined"
    pos: int = 0
    neg: int = 0
    origin: str = MODEL
    seen: bytes = b""
    struck: bytes = b""
    pending: str = ""
    pending_by: bytes = b""

    @property
    def shown(self) -> bool:
        """Whether retrieval returns it."""
        return self.state != "tombstoned" and self.origin != TAINTED

    def remembered(self) -> Remembered:
        """It, as the engine's parts see it."""
        return Remembered(
            self.category, self.name, self.statement, self.state, self.pos, self.neg, self.origin
        )


@dataclass(frozen=True)
class Taught:
    """The items after a lesson, what happened to which of them, and how many checks were not taken in."""

    items: Mapping[Name, Item]
    events: tuple[tuple[str, str], ...] = ()
    turned_away: tuple[str, ...] = ()

    @property
    def edited(self) -> bool:
        """Whether the list of checks is another than before (evidence alone is no edit)."""
        return any(kind not in ("active", "held") for kind, _ in self.events)


def merged(
    items: Mapping[Name, Item],
    checks: Sequence[Check],
    who: bytes,
    *,
    tainted: bool = False,
    values: Iterable[str] = (),
) -> Taught:
    """Items after a call was judged, in the hardened way.

    What is new is added at once. What stood gains a confirmation, one per session. What was struck out goes only when
    a second session strikes it out with no confirmation in between; another wording of a check that stands replaces
    it only when a second session proposes the same. A tainted session adds what nobody is shown, and changes nothing
    else. Silence about a check says nothing.
    """
    after = dict(items)
    events: list[tuple[str, str]] = []
    turned_away: list[str] = []
    values = tuple(values)
    standing = {(check.category, check.id) for check in _own(checks) if check.status != "deleted"}
    for check in _own(checks):
        name = (check.category, check.id)
        old = after.get(name)
        if check.status == "deleted":
            if name in standing:
                continue  # a duplicate was struck out; the check itself stands
            if old is not None and old.state != "tombstoned" and not tainted and old.origin != TAINTED:
                after[name] = _struck(old, who, events)
            continue
        why = _unfit(check, values)
        if why:
            turned_away.append(f"{check.id[:LONGEST_NAME]}: {why}")
        elif old is None:
            held = sum(item.origin == TAINTED for item in after.values())
            live = sum(item.state != "tombstoned" for item in after.values()) - held
            rows = len(after) - held
            if (held >= MOST_HELD) if tainted else (live >= MOST_ITEMS or rows >= MOST_ROWS):
                turned_away.append(f"{check.id}: the entry is full")
                continue
            after[name] = _new(check, who, tainted)
            events.append(("held" if tainted else "added", check.id))
        elif not tainted:
            after[name] = _stood(old, check, who, events)
    return Taught(after, tuple(events), tuple(turned_away))


def overwritten(items: Mapping[Name, Item], checks: Sequence[Check]) -> Taught:
    """Items after a call was judged, as the paper does it: those that were not struck out replace the list."""
    after: dict[Name, Item] = {}
    turned_away: list[str] = []
    for check in _own(checks):
        if check.status == "deleted":
            continue
        why = _unfit(check, ())
        if why or len(after) >= MOST_ITEMS:
            turned_away.append(f"{check.id[:LONGEST_NAME]}: {why or 'the entry is full'}")
            continue
        name = (check.category, check.id)
        old = items.get(name)
        pos = 1 + (old.pos if old is not None and old.statement == check.statement else 0)
        state: State = "active" if settled(pos, 0) else "quarantined"
        after[name] = Item(check.category, check.id, check.statement, state, pos)
    events = [("added", name[1]) for name in after if name not in items]
    events += [("removed", name[1]) for name in items if name not in after]
    events += [
        ("reworded", name[1])
        for name, item in after.items()
        if name in items and items[name].statement != item.statement
    ]
    return Taught(after, tuple(events), tuple(turned_away))


def overruled(item: Item) -> Item:
    """An item after a human overrode a block that it caused: what counted for it then counts against it."""
    pos, neg = max(0, item.pos - 1), item.neg + 1
    state: State = item.state if item.state != "active" or settled(pos, neg) else "quarantined"
    return replace(item, pos=pos, neg=neg, state=state)


def _own(checks: Sequence[Check]) -> list[Check]:
    """The checks that are memory's to hold: pinned rules are the policy's."""
    return [check for check in checks if check.origin != "pinned"]


def _unfit(check: Check, values: tuple[str, ...]) -> str:
    """Why a check may not be remembered; empty where it may."""
    for text, longest in ((check.category, LONGEST_NAME), (check.id, LONGEST_NAME)):
        if why := refused(text, longest):
            return why
    if why := refused(check.statement):
        return why
    if quotes(f"{check.id}\n{check.statement}", values):
        return "it quotes the call's arguments"
    return ""


def _new(check: Check, who: bytes, tainted: bool) -> Item:
    if tainted:
        return Item(check.category, check.id, check.statement, origin=TAINTED)
    judged = check.status in ("pass", "fail")
    return Item(check.category, check.id, check.statement, pos=int(judged), seen=who if judged else b"")


def _stood(old: Item, check: Check, who: bytes, events: list[tuple[str, str]]) -> Item:
    """An item that a call's list held once more."""
    if old.state == "tombstoned":
        if old.origin == OPERATOR:
            return old  # a model does not undo what a person decided
        events.append(("revived", old.name))
        return replace(_new(check, who, False), neg=old.neg)
    if old.origin == TAINTED:
        events.append(("added", old.name))
        return _new(check, who, False)
    if check.statement != old.statement:
        return _reworded(old, check.statement, who, events)
    if check.status not in ("pass", "fail") or _holds(old.seen, who):
        return old
    pos = old.pos + 1
    state: State = "active" if settled(pos, old.neg) else old.state
    if state != old.state:
        events.append(("active", old.name))
    return replace(old, pos=pos, state=state, seen=_with(old.seen, who), struck=b"")


def _reworded(old: Item, statement: str, who: bytes, events: list[tuple[str, str]]) -> Item:
    if old.pending != statement:
        return replace(old, pending=statement, pending_by=who)
    if _holds(old.pending_by, who):
        return old
    events.append(("reworded", old.name))
    return Item(
        old.category, old.name, statement, pos=STRIKES, origin=old.origin, seen=_with(old.pending_by, who)
    )


def _struck(old: Item, who: bytes, events: list[tuple[str, str]]) -> Item:
    if _holds(old.struck, who):
        return old
    struck, neg = _with(old.struck, who), old.neg + 1
    if len(struck) // WITNESS >= STRIKES:
        events.append(("tombstoned", old.name))
        return replace(old, neg=neg, state="tombstoned", struck=b"", seen=b"", pending="", pending_by=b"")
    state: State = old.state
    if state == "active" and not settled(old.pos, neg):
        state = "quarantined"
        events.append(("unsettled", old.name))
    return replace(old, neg=neg, state=state, struck=struck)


def _holds(sessions: bytes, who: bytes) -> bool:
    return any(sessions[at : at + WITNESS] == who for at in range(0, len(sessions), WITNESS))


def _with(sessions: bytes, who: bytes) -> bytes:
    return (sessions + who)[-WITNESS * MOST_WITNESSES :]
