"""What the policy, the schema and the tool itself say of a tool, before any family is asked."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from safewright.guard.nouns import Check
from safewright.guard.rules.base import Rule
from safewright.guard.views import View

KNOWN = Rule("tool.known", "integrity", "The policy says what this tool does.")
PERMITTED = Rule("tool.permitted", "role", "The principal's role may call this tool.")
SHAPED = Rule("tool.shaped", "integrity", "The arguments fit the tool's schema.")
UNCHANGED = Rule("tool.unchanged", "integrity", "The tool describes itself as when it was first seen.")
HINTED = Rule("tool.hinted", "integrity", "The tool does not claim to do more than the policy says it does.")


def tool_checks(view: View) -> list[Check]:
    """What the policy says of the tool itself, and whether the arguments are its own."""
    name = view.action.tool
    checks = []
    if view.spec is None:
        checks.append(
            KNOWN.says("unknown", name, "This tool is not known to the policy; ask for it to be added.")
        )
    else:
        checks.append(KNOWN.says("pass", view.spec.pattern))
    role = view.policy.roles.get(view.action.principal.role) if view.action.principal else None
    if role is not None and role.denied_tools:
        denied = [pattern for pattern in role.denied_tools if fnmatch.fnmatchcase(name, pattern)]
        advice = "This user may not use this tool." if denied else ""
        checks.append(PERMITTED.says("fail" if denied else "pass", ", ".join(denied), advice))
    elif role is None:
        # Least privilege: what is denied to some role is not let through to who has none.
        roles = [
            each.name
            for each in view.policy.roles.values()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in each.denied_tools)
        ]
        if roles:
            said = "It is not known that this user may use this tool."
            checks.append(PERMITTED.says("unknown", f"denied to {', '.join(roles)}", said))
    if view.action.schema is not None:
        wrong = _misfits(view.action.arguments, view.action.schema)
        advice = "Call the tool with the arguments its schema names." if wrong else ""
        checks.append(SHAPED.says("fail" if wrong else "pass", wrong, advice))
    return checks + _hinted(view)


def _hinted(view: View) -> list[Check]:
    """What the tool says of itself, where that tightens: hints never loosen."""
    hints, spec = view.action.hints, view.spec
    checks = []
    if hints.get("changed"):
        said = "This tool's description changed since it was first seen; a person must accept it."
        checks.append(UNCHANGED.says("unknown", view.action.tool, said))
    tame = spec is not None and spec.kind not in ("shell", "sql") and spec.effect in ("read", "fetch")
    if tame and hints.get("destructiveHint") is True and hints.get("readOnlyHint") is not True:
        said = "This tool says of itself that it may destroy data; a person must approve the call."
        checks.append(HINTED.says("unknown", view.action.tool, said))
    return checks


def _misfits(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """How arguments differ from an object schema at its top level: names that are missing, or not allowed."""
    properties = schema.get("properties")
    named = set(properties) if isinstance(properties, Mapping) else set()
    required = schema.get("required")
    missing = (
        [name for name in required if name not in arguments] if isinstance(required, (list, tuple)) else []
    )
    extra = (
        [name for name in arguments if name not in named]
        if schema.get("additionalProperties") is False
        else []
    )
    said = [f"missing {name}" for name in missing] + [f"unknown {name}" for name in extra]
    return "; ".join(said)
