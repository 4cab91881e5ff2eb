"""Role rules: what a user must be for a class of actions (a licence for a car, an age for a hotel)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from safewright.errors import BadInput, nearest
from safewright.guard.nouns import Check, CheckStatus
from safewright.guard.rules.base import Family, Rule
from safewright.guard.views import View

Where = Literal["request", "action", "either"]
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]

_CONDITION = re.compile(r"\s*([A-Za-z_][\w.\-]{0,80})\s*(==|!=|<=|>=|<|>|not in\b|in\b)\s*(\S.{0,500})\Z")
_WORD = re.compile(r"[^\W_]+")
_NAME = re.compile(r"[a-z0-9][a-z0-9_\-]{0,60}\Z")


@dataclass(frozen=True)
class Condition:
    """``NAME OPERATOR VALUE``, of an attribute of the principal."""

    name: str
    operator: Operator
    value: Any

    def holds(self, attributes: Mapping[str, Any]) -> bool | None:
        """Whether it holds; None where the attribute is missing or of another kind than the value."""
        if self.name not in attributes:
            return None
        found = attributes[self.name]
        if self.operator in ("in", "not in"):
            alike = [_same(found, each) for each in self.value]
            if True not in alike and None in alike:
                return None
            return (True in alike) == (self.operator == "in")
        if self.operator in ("==", "!="):
            same = _same(found, self.value)
            return None if same is None else same == (self.operator == "==")
        number = _number(found)
        if number is None:
            return None
        held: bool = {
            "<": number < self.value,
            "<=": number <= self.value,
            ">": number > self.value,
            ">=": number >= self.value,
        }[self.operator]
        return held


@dataclass(frozen=True)
class RoleRule:
    """``[[role_rules.rule]]``: a class of actions, and what a user must be for them.

    Args:
        id: The check is called ``role_rules.ID``.
        statement: What must hold, for audit.
        require: Conditions that must all hold: ``age >= 18``, ``dr_license == true``, ``country in ["DE", "FR"]``; one
            of several is written with ``or`` between them.
        tools: Patterns of tools it is about.
        words: Groups of words or phrases: of each group, one must occur.
        without: Words or phrases of which none may occur.
        where: Where the words are looked for: the user's request, the call's arguments, or either.
        roles: Whom it is about; everybody where empty.
        advice: Shown to the agent where it does not hold.
    """

    id: str
    require: tuple[tuple[Condition, ...], ...]
    statement: str = ""
    tools: tuple[str, ...] = ("*",)
    words: tuple[tuple[str, ...], ...] = ()
    without: tuple[str, ...] = ()
    where: Where = "either"
    roles: tuple[str, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class Settings:
    """Section ``[role_rules]`` of a policy file."""

    enabled: bool = True
    rule: tuple[RoleRule, ...] = field(default=())

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Settings:
        """The settings in a section.

        Raises:
            BadInput: A key is unknown, a value of another type, or a condition no condition.
        """
        given = dict(values)
        rules = given.pop("rule", [])
        enabled = given.pop("enabled", True)
        for name in given:
            raise BadInput(f"[role_rules] has no key {name!r}.", fix=nearest(name, ("enabled", "rule")))
        if not isinstance(enabled, bool):
            raise BadInput(f"[role_rules]: enabled is {enabled!r}.", fix="true or false.")
        if not isinstance(rules, (list, tuple)):
            raise BadInput("[role_rules]: rule is no list of tables.", fix="[[role_rules.rule]]")
        read = tuple(_rule(each, index) for index, each in enumerate(rules, start=1))
        ids = [rule.id for rule in read]
        for name in ids:
            if ids.count(name) > 1:
                raise BadInput(f"[role_rules] has two rules called {name!r}.")
        return cls(enabled, read)


def condition(text: str) -> Condition:
    """The condition in a text.

    Raises:
        BadInput: It is none.
    """
    found = _CONDITION.match(text)
    fix = 'For example: age >= 18, dr_license == true, country in ["DE", "FR"].'
    if found is None:
        raise BadInput(f"{text!r} is no condition.", fix=fix)
    name, operator, said = found.group(1), found.group(2), found.group(3).strip()
    value = _literal(said)
    if operator in ("in", "not in"):
        if not isinstance(value, tuple) or not value:
            raise BadInput(f"{text!r}: after {operator} stands no list.", fix=fix)
    elif isinstance(value, tuple):
        raise BadInput(f"{text!r}: {operator} takes one value.", fix=fix)
    elif operator in ("<", "<=", ">", ">=") and (isinstance(value, (bool, str)) or value is None):
        raise BadInput(f"{text!r}: {operator} takes a number.", fix=fix)
    return Condition(name, operator, value)  # type: ignore[arg-type]


def _literal(text: str) -> Any:
    import json

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if _NAME.match(text.lower()) is None:
            raise BadInput(
                f"{text!r} is no value.", fix='A number, true, false, "a text" or a list.'
            ) from None
        return text
    if isinstance(value, list):
        if not all(isinstance(each, (str, int, float, bool)) for each in value):
            raise BadInput(f"{text!r} is no list of plain values.")
        return tuple(value)
    if value is None or isinstance(value, dict) or (isinstance(value, float) and value != value):
        raise BadInput(f"{text!r} is no plain value.", fix='A number, true, false, "a text" or a list.')
    return value


def _same(found: Any, value: Any) -> bool | None:
    """Whether an attribute is a value; None where the two are of different kinds."""
    if isinstance(found, bool) or isinstance(value, bool):
        return found == value if isinstance(found, bool) and isinstance(value, bool) else None
    if isinstance(value, (int, float)):
        number = _number(found)
        return None if number is None else number == value
    return found.strip().lower() == value.strip().lower() if isinstance(found, str) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if value == value else None


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call."""
    if not settings.rule:
        return
    texts: dict[Where, str | None] = {}
    for rule in settings.rule:
        yield from _checked(view, rule, texts)


def _checked(view: View, rule: RoleRule, texts: dict[Where, str | None]) -> Iterator[Check]:
    action = view.action
    if not any(fnmatch.fnmatchcase(action.tool, pattern) for pattern in rule.tools):
        return
    principal = action.principal
    if rule.roles and principal is not None and principal.role not in rule.roles:
        return
    applies = _applies(view, rule, texts)
    if applies is False:
        return
    says = Rule(f"role_rules.{rule.id}", "role", rule.statement or f"The user may do this ({rule.id}).")
    if applies is None:
        yield says.says("unknown", "the user's request is not known", "Say what the user asked for.")
        return
    attributes = {} if principal is None else {"role": principal.role, **principal.attributes}
    status: CheckStatus = "pass"
    evidence = []
    for choices in rule.require:
        held = [each.holds(attributes) for each in choices]
        if True in held:
            continue
        names = " or ".join(dict.fromkeys(each.name for each in choices))
        evidence.append(f"{names}: {'not known' if None in held else 'does not hold'}")
        if None not in held:
            status = "fail"
        elif status == "pass":
            status = "unknown"
    advice = "" if status == "pass" else rule.advice or "This user may not do this; do not do it for them."
    yield says.says(status, "; ".join(evidence), advice)


def _applies(view: View, rule: RoleRule, texts: dict[Where, str | None]) -> bool | None:
    """Whether a rule is about a call; None where that depends on a request that is not known."""
    if not rule.words and not rule.without:
        return True
    text = texts.setdefault(rule.where, _text(view, rule.where))
    if text is None:
        return None
    if any(f" {_plain(phrase)} " in text for phrase in rule.without):
        return False
    if all(any(f" {_plain(phrase)} " in text for phrase in group) for group in rule.words):
        return True
    return None if rule.where != "action" and view.action.request is None else False


def _text(view: View, where: Where) -> str | None:
    parts: list[str] = []
    if where in ("request", "either") and view.action.request is not None:
        parts.append(view.action.request)
    if where in ("action", "either"):
        parts += [view.action.tool.replace("_", " "), *_strings(view.action.arguments)]
    if where == "request" and view.action.request is None:
        return None
    return f" {_plain(' | '.join(parts))} "


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield str(name).replace("_", " ")
            yield from _strings(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each)


def _rule(value: Any, index: int) -> RoleRule:
    where = f"[[role_rules.rule]] {index}"
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} is no table.")
    known = ("id", "statement", "require", "tools", "words", "without", "where", "roles", "advice")
    for name in value:
        if name not in known:
            raise BadInput(f"{where} has no key {name!r}.", fix=nearest(name, known))
    name = value.get("id", "")
    if not isinstance(name, str) or _NAME.match(name) is None:
        raise BadInput(f"{where}: id is {name!r}.", fix="Lower-case letters, figures, - and _.")
    require = _texts(value.get("require", []), f"{where}: require")
    if not require:
        raise BadInput(f"{where} requires nothing.", fix='require = ["age >= 18"]')
    groups = value.get("words", [])
    if not isinstance(groups, (list, tuple)):
        raise BadInput(f"{where}: words is no list.", fix='words = [["rent", "buy"], ["car", "truck"]]')
    place = value.get("where", "either")
    if place not in ("request", "action", "either"):
        raise BadInput(f"{where}: where is {place!r}.", fix="request, action or either.")
    for each in ("statement", "advice"):
        if not isinstance(value.get(each, ""), str):
            raise BadInput(f"{where}: {each} is no text.")
    return RoleRule(
        name,
        tuple(tuple(condition(part) for part in _choices(text)) for text in require),
        value.get("statement", ""),
        _texts(value.get("tools", ["*"]), f"{where}: tools") or ("*",),
        tuple(_texts([group] if isinstance(group, str) else group, f"{where}: words") for group in groups),
        _texts(value.get("without", []), f"{where}: without"),
        place,
        _texts(value.get("roles", []), f"{where}: roles"),
        value.get("advice", ""),
    )


def _choices(text: str) -> list[str]:
    """The parts between `or`, those in quotes left alone."""
    parts, quoted, start = [], False, 0
    for index, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif not quoted and text.startswith(" or ", index):
            parts.append(text[start:index])
            start = index + 4
    return [*parts, text[start:]]


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(each, str) and each.strip() for each in value
    ):
        raise BadInput(f"{where} is no list of texts.")
    return tuple(value)


FAMILY = Family("role_rules", "What a user must be for an action", Settings, check)
