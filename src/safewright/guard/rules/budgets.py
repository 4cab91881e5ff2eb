"""Budgets of a session: calls, writes, messages, recipients and money, counted from its history on every call."""

from __future__ import annotations

import fnmatch
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from safewright.errors import BadInput
from safewright.guard.keys import effect_of, effect_of_script
from safewright.guard.nouns import Action, Check, Effect, Turn
from safewright.guard.rules.base import Family, Rule
from safewright.guard.views import View

CALLS = Rule("budgets.calls", "availability", "The session makes no more calls than it may.")
WRITES = Rule("budgets.writes", "integrity", "The session changes no more than it may.")
SENDS = Rule("budgets.sends", "confidentiality", "The session sends no more messages than it may.")
RECIPIENTS = Rule("budgets.recipients", "confidentiality", "The session reaches no more people than it may.")
MONEY = Rule("budgets.money", "integrity", "The session moves no more money than it may.")
TOOL = Rule("budgets.tool", "availability", "The tool is called no more often than it may be.")

WRITING: tuple[Effect, ...] = ("write", "delete", "execute", "admin")
REACHING: tuple[Effect, ...] = ("send", "pay")
ADVICE = "This session has used up what it may do of this. Ask the user before doing more."


@dataclass(frozen=True)
class ToolBudget:
    """``[[budgets.tool]]``: how often tools of a pattern may be called in a session."""

    pattern: str
    calls: int


@dataclass(frozen=True)
class Settings:
    """Section ``[budgets]`` of a policy file. What is left out has no bound.

    Args:
        calls: Calls of a session, this one among them, as all the numbers below.
        writes: Calls that write, delete, run or administer.
        sends: Calls that send or pay.
        recipients: Different recipients of a session.
        recipients_per_call: Recipients of one call.
        money: The sum of the amounts of a session's payments.
        money_per_call: The amount of one.
        allowed: Patterns of recipients that may always be reached; they are not counted.
        tool: Budgets of single tools.
    """

    enabled: bool = True
    calls: int | None = None
    writes: int | None = None
    sends: int | None = None
    recipients: int | None = None
    recipients_per_call: int | None = None
    money: float | None = None
    money_per_call: float | None = None
    allowed: tuple[str, ...] = ()
    tool: tuple[ToolBudget, ...] = field(default=())

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Settings:
        """The settings in a section.

        Raises:
            BadInput: A key is unknown, a value of another type, or a budget below 0.
        """
        from safewright.guard.policy import fill

        given = dict(values)
        tools = given.pop("tool", [])
        if not isinstance(tools, (list, tuple)) or not all(isinstance(each, Mapping) for each in tools):
            raise BadInput("[budgets]: tool is no list of tables.", fix="[[budgets.tool]]")
        budgets = tuple(fill(ToolBudget, each, "[[budgets.tool]]") for each in tools)
        plain = fill(cls, given, "[budgets]")
        numbers = {name: getattr(plain, name) for name in NUMBERS} | {
            each.pattern: each.calls for each in budgets
        }
        for name, value in numbers.items():
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise BadInput(
                    f"[budgets]: {name} is {value}.", fix="A number from 0 up; leave it out for no bound."
                )
        return cast(Settings, replace(plain, tool=budgets))


NUMBERS = ("calls", "writes", "sends", "recipients", "recipients_per_call", "money", "money_per_call")


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call. A call that was denied counts, too, where the history holds it: nobody notes what became
    of it. The other calls of the same turn count before this one."""
    earlier = [turn for turn in view.action.history if turn.kind == "call"]
    earlier += [turn for turn in view.action.siblings if turn.kind == "call"]
    if settings.calls is not None:
        yield _counted(CALLS, len(earlier) + 1, settings.calls)
    for budget in settings.tool:
        if fnmatch.fnmatchcase(view.action.tool, budget.pattern):
            same = [turn for turn in earlier if fnmatch.fnmatchcase(turn.tool, budget.pattern)]
            yield _counted(TOOL, len(same) + 1, budget.calls, budget.pattern)
    effect = effect_of(view)
    if settings.writes is not None and effect in WRITING:
        yield _counted(WRITES, 1 + _of_effect(view, earlier, WRITING), settings.writes)
    if settings.sends is not None and effect in REACHING:
        yield _counted(SENDS, 1 + _of_effect(view, earlier, REACHING), settings.sends)
    if effect in REACHING:
        yield from _recipients(view, earlier, settings)
    if effect == "pay":
        yield from _money(view, earlier, settings)


def _counted(rule: Rule, count: int, most: int, what: str = "") -> Check:
    over = count > most
    return rule.says("fail" if over else "pass", f"{what} {count} of {most}".strip(), ADVICE if over else "")


def _of_effect(view: View, earlier: Sequence[Turn], effects: tuple[Effect, ...]) -> int:
    return sum(_effect(view, turn) in effects for turn in earlier)


def _effect(view: View, turn: Turn) -> Effect:
    """The effect of an earlier call; a long session's texts are not parsed again on every call."""
    then = _then(view, turn)
    if then.spec is None or then.spec.kind not in ("shell", "sql"):
        return effect_of(then)
    return _of_text(then.spec.kind, then.text, then.spec.dialect)


@functools.lru_cache(maxsize=4096)
def _of_text(kind: str, text: str | None, dialect: str) -> Effect:
    if kind == "sql":
        from safewright.guard.parsing.sql import parse_sql

        return parse_sql(text, dialect).effect
    from safewright.guard.parsing.shell import parse_shell

    return effect_of_script(parse_shell(text))


def _then(view: View, turn: Turn) -> View:
    """An earlier call as it would be seen now."""
    return View(Action(turn.tool or "?", turn.arguments, principal=view.action.principal), view.policy)


# Recipients


def _recipients(view: View, earlier: Sequence[Turn], settings: Settings) -> Iterator[Check]:
    if settings.recipients is None and settings.recipients_per_call is None:
        return
    named = _named(view)
    if not named:
        return  # a shell's text names whom it reaches in ways of its own
    before = {
        who
        for turn in earlier
        if _effect(view, turn) in REACHING
        for _, people in _named(_then(view, turn))
        for who in people
        if not _allowed(who, settings)
    }
    people = list(dict.fromkeys(who for _, listed in named for who in listed))
    counted = [who for who in people if not _allowed(who, settings)]
    new = [who for who in counted if who not in before]
    over_session = settings.recipients is not None and len(before) + len(new) > settings.recipients
    over_call = settings.recipients_per_call is not None and len(counted) > settings.recipients_per_call
    said = f"{len(before) + len(new)} in the session, {len(counted)} in the call"
    if not over_session and not over_call:
        yield RECIPIENTS.says("pass", said)
        return
    # Whom to leave out is not the guard's to choose: it keeps those whom the policy always allows, and those whom the
    # user named, or nobody.
    request = (view.action.request or "").lower()
    kept = {who for who in people if _allowed(who, settings) or (who and _within(who, request))}
    fresh = [who for who in kept if not _allowed(who, settings) and who not in before]
    old = [who for who in kept if not _allowed(who, settings) and who in before]
    fits = (settings.recipients is None or len(before) + len(fresh) <= settings.recipients) and (
        settings.recipients_per_call is None or len(fresh) + len(old) <= settings.recipients_per_call
    )
    narrowed = _narrowed(view.action.arguments, named, kept) if kept and fits else None
    if narrowed is None:
        yield RECIPIENTS.says("fail", said, ADVICE)
        return
    left = len(people) - len(kept)
    yield RECIPIENTS.says(
        "pass",
        f"{said}; {left} left out",
        "Only the recipients that the user named, or that may always be reached, are kept.",
        narrowed=narrowed,
    )


def _within(who: str, request: str) -> bool:
    """Whether a request names somebody, not as a part of another name."""
    start = request.find(who)
    while start >= 0:
        end = start + len(who)
        before, after = request[start - 1 : start], request[end : end + 1]
        rest = request[end : end + 2]
        inside = (after.isalnum() or after in ("@", "_", "-")) or (after == "." and rest[1:].isalnum())
        if not (before.isalnum() or (before and before in "@._-+")) and not inside:
            return True
        start = request.find(who, start + 1)
    return False


def _named(view: View) -> list[tuple[str, list[str]]]:
    """Whom a call reaches, by argument: those the policy calls identities, else those called like recipients."""
    spec = view.spec
    names = spec.identities if spec is not None and spec.identities is not None else None
    found = []
    for name, value in view.action.arguments.items():
        if name in names if names is not None else name.lower() in ROLES:
            people = _people(value)
            if people:
                found.append((name, people))
    return found


ROLES = frozenset(
    (
        "recipient", "recipients", "to", "cc", "bcc", "user", "users", "participants", "attendees", "channel",
        "channels", "email", "emails", "user_email", "account", "iban", "payee", "receiver", "receivers", "members",
    )
)  # fmt: skip
"""Arguments that name people, where the policy says nothing of a tool's."""


def _people(value: Any) -> list[str]:
    if isinstance(value, str):
        return [each.strip().lower() for each in re.split(r"[,;\n]", value) if each.strip()]
    if isinstance(value, (list, tuple)):
        return [who for each in value for who in _people(each)]
    if isinstance(value, Mapping):
        return [who for each in value.values() for who in _people(each)]
    return []


def _allowed(who: str, settings: Settings) -> bool:
    return any(fnmatch.fnmatchcase(who, pattern.lower()) for pattern in settings.allowed)


def _narrowed(
    arguments: Mapping[str, Any], named: Sequence[tuple[str, list[str]]], kept: set[str]
) -> dict[str, Any] | None:
    """Arguments with some recipients only; None where one would be left without any, or is no list."""
    changed: dict[str, Any] = {}
    for name, people in named:
        if all(who in kept for who in people):
            continue
        value = arguments[name]
        if isinstance(value, str):
            parts = [each.strip() for each in re.split(r"[,;\n]", value) if each.strip()]
            rest: Any = ", ".join(each for each in parts if each.lower() in kept)
        elif isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
            rest = [each for each in value if each.strip().lower() in kept]
        else:
            return None
        if not rest and name.lower() not in ("cc", "bcc"):
            return None
        changed[name] = rest
    return changed or None


# Money


def _money(view: View, earlier: Sequence[Turn], settings: Settings) -> Iterator[Check]:
    if settings.money is None and settings.money_per_call is None:
        return
    own = _amount(view)
    if own is None:
        advice = "Give the amount as a plain number."
        yield MONEY.says("unknown", "the amount cannot be read", advice)
        return
    if settings.money_per_call is not None and own > settings.money_per_call:
        yield MONEY.says("fail", f"{own:g} of {settings.money_per_call:g} for one call", ADVICE)
        return
    if settings.money is None:
        yield MONEY.says("pass", f"{own:g}")
        return
    total = own
    for turn in earlier:
        if _effect(view, turn) != "pay":
            continue
        amount = _amount(_then(view, turn))
        if amount is None:
            yield MONEY.says("unknown", f"an earlier amount of {turn.tool} cannot be read", ADVICE)
            return
        total += amount
    over = total > settings.money
    yield MONEY.says("fail" if over else "pass", f"{total:g} of {settings.money:g}", ADVICE if over else "")


def _amount(view: View) -> float | None:
    """What a call moves: the sum of its amounts; a negative one gives nothing back."""
    names = view.spec.amounts if view.spec is not None else ()
    values = [view.action.arguments[name] for name in names if name in view.action.arguments]
    if not names:
        values = [
            value
            for name, value in view.action.arguments.items()
            if name.lower() in ("amount", "sum", "value", "total", "price")
        ]
    if not values:
        return None
    numbers = [_number(value) for value in values]
    return None if None in numbers else sum(abs(number or 0.0) for number in numbers)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if abs(value) < 1e15 else None
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,15}(?:\.\d{1,6})?", value.strip()):
        return float(value.strip())
    return None


FAMILY = Family(
    "budgets", "Budgets of a session", Settings, check, (CALLS, WRITES, SENDS, RECIPIENTS, MONEY, TOOL)
)
