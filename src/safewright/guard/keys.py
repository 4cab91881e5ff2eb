"""The deterministic key of a call: what kind of action it is, without its files, users, amounts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safewright.guard.nouns import Effect
from safewright.guard.parts import Key
from safewright.guard.views import View
from safewright.runs import digest_json

if TYPE_CHECKING:
    from safewright.guard.parsing.shell import Script
    from safewright.guard.parsing.sql import Query

ORDER: tuple[Effect, ...] = ("read", "fetch", "write", "send", "pay", "execute", "delete", "admin")
"""Effects from the lightest to the gravest: a text of several parts has the gravest of theirs."""
OF_SHELL: Mapping[str, Effect] = {
    "read": "read", "fetch": "fetch", "send": "send", "delete": "delete",
    "write": "write", "append": "write", "create": "write", "move": "write", "link": "write", "chmod": "write",
    "lock": "write", "encrypt": "write", "log": "admin", "chown": "admin", "mount": "admin", "kill": "admin",
    "trace": "admin", "priority": "admin", "account": "admin", "password": "admin", "become": "admin",
    "cron": "admin", "service": "admin", "power": "admin", "kernel": "admin", "firewall": "admin", "package": "admin",
    "exhaust": "execute", "execute": "execute", "unknown": "execute",
}  # fmt: skip
"""What a shell command's effect is in the terms of tools."""
MOST_VERBS = 12
"""More verbs than these are not named one by one."""

_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("number", re.compile(r"[+-]?\d{1,3}(?:[ ,']?\d{3}){0,6}(?:\.\d{1,12})?\Z|[+-]?\d{1,24}(?:\.\d{1,12})?\Z")),
    ("date", re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?\Z")),
    ("time", re.compile(r"\d{1,2}:\d\d(?::\d\d)?\Z")),
    ("email", re.compile(r"[^\s@<>]{1,64}@[^\s@<>]{1,255}\Z")),
    ("url", re.compile(r"(?:[a-z][a-z0-9+.-]{1,20}://|www\.)\S{1,4000}\Z", re.IGNORECASE)),
    ("account", re.compile(r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){2,9}\Z")),
    ("phone", re.compile(r"\+\d[\d ()/-]{5,24}\Z")),
    ("path", re.compile(r"(?:~|\.{1,2})?/\S{0,4000}\Z|[A-Za-z]:\\\S{0,4000}\Z")),
)  # fmt: skip


def key_of(view: View) -> Key:
    """The key of a call: tool, verbs, object classes, privilege, side effect and the sorted types of its arguments."""
    effect = effect_of(view)
    if view.script is not None:
        what, said = _shell(view.script)
    elif view.query is not None:
        what, said = _sql(view.query)
    else:
        types = sorted(f"{name}:{type_of(value)}" for name, value in view.action.arguments.items())
        what = f"{view.action.tool}|{' '.join(types)}"
        said = f"call {view.action.tool.replace('_', ' ')}" + (f" with {', '.join(types)}" if types else "")
    as_whom = {"least": "as nobody in particular", "user": "as a user", "privileged": "as administrator"}
    return Key(
        f"{what}|{effect}|{view.privilege}",
        f"{said}, {as_whom[view.privilege]}",
        effect,
        view.privilege,
        digest_json(dict(view.policy.criteria)),
    )


def effect_of(view: View) -> Effect:
    """What a call does to the world: from its text for shell and SQL, else as the policy declares."""
    if view.script is not None:
        return effect_of_script(view.script)
    if view.query is not None:
        return view.query.effect
    return view.spec.effect if view.spec is not None else "execute"


def effect_of_script(script: Script) -> Effect:
    """The gravest effect of a shell script; what cannot be read or told is run all the same."""
    found = [OF_SHELL.get(effect.kind, "execute") for effect in script.effects]
    if script.unparsed or script.unresolved:
        found.append("execute")
    return max(found, key=ORDER.index, default="read" if script.commands else "execute")


def type_of(value: Any) -> str:
    """What kind of value an argument holds, whatever the value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        text = value.strip()
        return next((name for name, pattern in _KINDS if pattern.match(text)), "text")
    if isinstance(value, (list, tuple)):
        return f"list[{'/'.join(sorted({type_of(each) for each in value}))}]"
    return "object"


def _shell(script: Script) -> tuple[str, str]:
    """Each verb once, in the order it first occurs, with what it does to which classes of things."""
    if script.unparsed:
        return "shell|unparsed", "run a shell text that cannot be read"
    found: dict[tuple[str, bool], set[str]] = {}
    for command in script.commands:
        classes = {
            f"{effect.kind}{'*' if effect.recursive else ''} {effect.object_class}"
            for effect in command.effects
        }
        rooted = command.privileged or any(effect.privileged for effect in command.effects)
        found.setdefault((command.verb or "?", rooted), set()).update(classes)
    parts = [
        f"{'sudo ' if rooted else ''}{verb}({', '.join(sorted(classes))})"
        for (verb, rooted), classes in list(found.items())[:MOST_VERBS]
    ]
    if len(found) > MOST_VERBS:
        parts.append("more")
    if script.unresolved:
        parts.append("unresolved")
    verbs = ", ".join(f"{'sudo ' if rooted else ''}{verb}" for verb, rooted in list(found)[:MOST_VERBS])
    things = sorted({effect.object_class for effect in script.effects})
    return f"shell|{' '.join(parts)}", f"run {verbs or 'nothing'}" + (
        f" on {', '.join(things)}" if things else ""
    )


def _sql(query: Query) -> tuple[str, str]:
    if query.unparsed:
        return "sql|unparsed", "run an SQL text that cannot be read"
    parts = []
    for each in query.statements:
        marks = [
            "all columns" if any(use.column == "*" for use in each.uses) else "",
            "several tables" if len(each.tables) > 1 else "",
            "every row" if each.unbounded else "",
        ]
        parts.append(f"{each.verb}({', '.join(mark for mark in marks if mark)})")
    kept = list(dict.fromkeys(parts))
    return f"sql|{' '.join(kept)}", f"run SQL: {', '.join(dict.fromkeys(query.verbs))}"
