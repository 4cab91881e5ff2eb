"""A recorded decision in words: what was asked, what was found, and why it came to that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEANINGS: Mapping[str, str] = {
    "allow": "the call may be made",
    "modify": "the call may be made with narrowed arguments",
    "escalate": "a person has to decide",
    "deny": "the call is not made",
}


def explain(record: Mapping[str, Any], resolution: Mapping[str, Any] | None = None) -> str:
    """Lines that say what a record says.

    The record's own texts are shown with control characters escaped: they may come from an attacker.
    """
    if record.get("kind") == "resolution":
        return "\n".join(_resolution(record))
    if record.get("kind") != "decision":
        return "\n".join(f"{_said(name):10} {_said(value)}" for name, value in sorted(record.items()))
    lines = [
        f"decision {record.get('id')} (record {record.get('seq')}), {record.get('time')}",
        f"tool       {_said(record.get('tool'))}",
        f"arguments  {_arguments(record)}",
        f"principal  {_principal(record.get('principal'))}",
        f"session    {_said(record.get('session') or '-')}",
        f"policy     {_policy(record.get('policy'))}",
        f"key        {_said(record.get('key') or '-')}",
    ]
    for found in record.get("retrieved", ()):
        stable = ", stable" if found.get("stable") else ""
        lines.append(
            f"remembered entry {found.get('entry')}, score {found.get('score')}, version {found.get('version')}{stable}"
        )
    lines += ["", f"found      {record.get('found')}: {_why(record)}"]
    if record.get("detail"):
        lines.append(f"           {_said(record['detail'])}")
    if record.get("decision") != record.get("found"):
        lines.append(f"given out  {record.get('decision')} (observe)")
    if resolution is not None:
        lines += _resolution(resolution)
    lines.append("")
    order = {"fail": 0, "unknown": 1, "deleted": 2, "pass": 3}
    for check in sorted(record.get("checks", ()), key=lambda each: order.get(each.get("status"), 4)):
        lines.append(
            f"{check.get('status'):8} {check.get('id')} [{check.get('origin')}, {check.get('method')}]"
        )
        lines.append(f"         {_said(check.get('statement'))}")
        if check.get("evidence"):
            lines.append(f"         seen: {_said(check['evidence'])}")
    usage = record.get("usage") or {}
    lines += [
        "",
        f"cost       {record.get('latency_ms')} ms, {usage.get('calls', 0)} model calls, "
        f"{usage.get('tokens_in', 0)} tokens in, {usage.get('tokens_out', 0)} out",
        f"hash       {record.get('hash')}",
    ]
    return "\n".join(lines)


def line(record: Mapping[str, Any]) -> str:
    """A record in one line."""
    if record.get("kind") == "resolution":
        about = f"{record.get('about')} by {_said(record.get('by'))}"
        return f"{record.get('time')}  {record.get('id')}  {record.get('decision'):8} {about}"
    if record.get("kind") != "decision":
        return f"{record.get('time')}  {record.get('id')}  {_said(record.get('kind'))} {_said(record.get('tool'))}"
    stopped = [
        str(check.get("id"))
        for check in record.get("checks", ())
        if check.get("status") in ("fail", "unknown")
    ]
    why = record.get("failure") or ", ".join(stopped)
    return f"{record.get('time')}  {record.get('id')}  {record.get('found'):8} {_said(record.get('tool'))}  {why}"


def _why(record: Mapping[str, Any]) -> str:
    meaning = MEANINGS.get(str(record.get("found")), "")
    if record.get("failure"):
        return f"no verdict could be reached ({record['failure']}), so {meaning}"
    deciding = {"deny": ("fail",), "escalate": ("unknown", "deleted")}.get(str(record.get("found")), ())
    named = [str(check["id"]) for check in record.get("checks", ()) if check.get("status") in deciding]
    if record.get("found") == "deny" and not named:
        named = [str(c["id"]) for c in record.get("checks", ()) if c.get("status") in ("unknown", "deleted")]
    if record.get("found") in ("deny", "escalate") and not named:
        return f"no check applies, so {meaning}"
    return f"{meaning}" + (f", because of {', '.join(named)}" if named else "")


def _resolution(record: Mapping[str, Any]) -> list[str]:
    outcome = {"approve": "approved", "deny": "denied"}.get(str(record.get("decision")), "?")
    said = f"{outcome} by {_said(record.get('by'))}, {record.get('time')} (record {record.get('seq')})"
    note = [f"           {_said(record['note'])}"] if record.get("note") else []
    return [f"{'resolved':10} {record.get('about')}: {said}", *note]


def _arguments(record: Mapping[str, Any]) -> str:
    action = record.get("action")
    if isinstance(action, Mapping):
        return _said(action.get("arguments"))
    described = record.get("arguments") or {}
    types = ", ".join(f"{_said(name)}: {kind}" for name, kind in (described.get("types") or {}).items())
    return f"({types}) {described.get('digest')}"


def _principal(principal: Any) -> str:
    if not isinstance(principal, Mapping):
        return "none declared: least privilege"
    return f"{_said(principal.get('id'))} ({_said(principal.get('role') or 'no role')})"


def _policy(policy: Any) -> str:
    if not isinstance(policy, Mapping):
        return "-"
    return f"{_said(policy.get('name'))} {_said(policy.get('version'))} {str(policy.get('digest'))[:19]}"


def _said(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
