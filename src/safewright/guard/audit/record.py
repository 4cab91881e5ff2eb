"""What a decision's record says: enough to explain it, and by default nothing that the call itself said."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from safewright.guard.nouns import Action, Check, Usage, Verdict
from safewright.guard.parts import Analysis

if TYPE_CHECKING:
    from safewright.guard.parts import Case, Memory
    from safewright.guard.policy import Policy

MOST_NAMES = 100
LONGEST_NAME = 200
LONGEST_TEXT = 2_000
DEEPEST = 60
MOST_BITS = 10_000
MOST_VALUES = 200_000
"""Values of one call that are written down; a call that holds more, or itself, is no valid call."""

_KEYLIKE = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
_ASSIGNED = re.compile(r"(?i)\b(pass(?:word|wd)?|secret|token|api[_-]?key)(\s*[:=]\s*)\S{1,500}")


def record_of(
    action: Action,
    case: Case | None,
    analysis: Analysis,
    verdict: Verdict,
    policy: Policy,
    memory: Memory | None,
    *,
    log: Any = None,
) -> dict[str, Any]:
    """The record of a decision, as JSON values. Whatever the action holds, valid or not, it has a record.

    Redacted, unless ``log.raw``: of arguments and request it keeps a digest (under the log's own key), their names and
    types; what checks say of them is kept with the argument's name in place of its value, and with whatever looks
    like a secret taken out.
    """
    if not isinstance(action, Action):  # what was asked is no action at all
        action = Action(f"({type(action).__name__})")
    raw = bool(getattr(log, "raw", False))
    hide = (lambda text: text) if raw else _Hidden(action)
    record: dict[str, Any] = {
        "kind": "decision",
        "time": datetime.now(UTC).isoformat(timespec="microseconds"),
        "session": _short(action.session),
        "principal": _principal(action),
        "agent": _short(action.agent),
        "tool": _short(action.tool),
        "arguments": _described(action.arguments, getattr(log, "key", b"")),
        "request": None if action.request is None else digest(action.request, getattr(log, "key", b"")),
        "policy": {"name": policy.name, "version": policy.version, "digest": policy.digest},
        "key": _short(verdict.key, LONGEST_TEXT),
        "memory": _memory_version(memory, verdict),
        "retrieved": [
            {
                "entry": found.entry,
                "score": round(found.score, 6),
                "version": found.version,
                "stable": found.stable,
            }
            for found in (case.found if case else ())
        ],
        "checks": [_check(check, hide) for check in verdict.checks],
        "decision": verdict.decision,
        "found": verdict.found,
        "failure": verdict.failure,
        "detail": _short(hide(verdict.detail), LONGEST_TEXT),
        "reasons": [_short(hide(text), LONGEST_TEXT) for text in verdict.reasons],
        "modified": None
        if verdict.modified is None
        else _described(verdict.modified, getattr(log, "key", b"")),
        "usage": _usage(verdict.usage),
        "latency_ms": round(verdict.latency_ms, 3),
        "redacted": not raw,
    }
    if raw:
        from safewright.guard.nouns import action_json

        try:
            plain_action = action_json(action)
        except (TypeError, AttributeError, RecursionError):
            plain_action = {"tool": action.tool, "arguments": action.arguments, "request": action.request}
        record["action"] = plain_action
        record["environment"] = type(action.environment).__name__ if action.environment is not None else None
        record["answers"] = list(analysis.answers)
        record["modified_arguments"] = verdict.modified
    found = plain(record)
    return found if isinstance(found, dict) else {}


def plain(value: Any, depth: int = 0, room: list[int] | None = None) -> Any:
    """JSON values that any value comes to: never an error, the same text for the same value."""
    room = room if room is not None else [MOST_VALUES]
    room[0] -= 1
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, int):
        # Python refuses to print very long ones; a call that holds one is no valid call.
        return int(value) if value.bit_length() < MOST_BITS else f"int:{value:#x}"[:LONGEST_TEXT]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth >= DEEPEST or room[0] < 0:
        return f"({type(value).__name__})"
    if isinstance(value, Mapping):
        pairs = itertools.islice(value.items(), room[0])
        return {str(plain(_name(name))): plain(each, depth + 1, room) for name, each in pairs}
    if isinstance(value, (list, tuple)):
        return [plain(each, depth + 1, room) for each in value[: room[0]]]
    return f"({type(value).__name__})"


def canonical(value: Any) -> str:
    """The one JSON text of plain values."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, key: bytes = b"") -> str:
    """A digest of any value. Under a key nobody can guess what a short value was, from an export alone."""
    return "hmac:" + hmac.new(key, canonical(plain(value)).encode(), hashlib.sha256).hexdigest()


def _described(arguments: Any, key: bytes) -> dict[str, Any]:
    """Arguments without their values."""
    if not isinstance(arguments, Mapping):
        return {"digest": digest(arguments, key), "types": {}, "not": type(arguments).__name__}
    names = list(arguments)[:MOST_NAMES]
    types = {_short(str(_name(name))): _type(arguments[name]) for name in names}
    return {"digest": digest(arguments, key), "types": types, "more": max(0, len(arguments) - MOST_NAMES)}


def _name(name: Any) -> str:
    return name if isinstance(name, str) else f"({type(name).__name__})"


def _type(value: Any) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (str, "string"), (int, "integer"), (float, "number")):
        if isinstance(value, kind):
            return name
    if isinstance(value, Mapping):
        return "object"
    return "array" if isinstance(value, (list, tuple)) else type(value).__name__


def _principal(action: Action) -> dict[str, Any] | None:
    principal = action.principal
    if principal is None:
        return None
    return {"id": _short(getattr(principal, "id", "")), "role": _short(getattr(principal, "role", ""))}


def _check(check: Check, hide: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": check.id,
        "category": check.category,
        "statement": _short(hide(check.statement), LONGEST_TEXT),
        "status": check.status,
        "method": check.method,
        "origin": check.origin,
        "evidence": _short(hide(check.evidence), LONGEST_TEXT),
    }
    if check.narrowed is not None:
        found["narrowed"] = sorted(str(_name(name)) for name in check.narrowed)
    return found


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "calls": usage.calls,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "embedded": usage.embedded,
    }


def _memory_version(memory: Memory | None, verdict: Verdict) -> int | None:
    if memory is None or verdict.failure == "memory_unavailable":
        return None
    try:
        return memory.version
    except Exception:  # noqa: BLE001 - a memory that fails now must not cost the decision its record
        return None


def _short(text: Any, longest: int = LONGEST_NAME) -> str:
    said: str = text if isinstance(text, str) else f"({type(text).__name__})"
    return said if len(said) <= longest else said[: longest - 1] + "…"


class _Hidden:
    """Takes a call's own values out of a text."""

    def __init__(self, action: Action) -> None:
        self.values: list[tuple[str, str]] = []
        if isinstance(action.request, str):
            self._add("request", action.request)
        if isinstance(action.arguments, Mapping):
            for name, value in list(action.arguments.items())[:MOST_NAMES]:
                self._collect(_short(str(_name(name)), 80), value)
        # The longest first, so that a value within another does not tear it.
        self.values.sort(key=lambda pair: -len(pair[0]))

    def __call__(self, text: str) -> str:
        if not isinstance(text, str):
            return f"({type(text).__name__})"
        for value, name in self.values:
            if value in text:
                text = text.replace(value, f"<{name}>")
        text = _ASSIGNED.sub(lambda found: f"{found[1]}{found[2]}<secret>", text)
        return _KEYLIKE.sub(_keylike, text)

    def _collect(self, name: str, value: Any, depth: int = 0) -> None:
        if isinstance(value, str):
            self._add(name, value)
        elif isinstance(value, (list, tuple)) and depth < 8:
            for index, each in enumerate(value[:MOST_NAMES]):
                self._collect(f"{name}[{index}]", each, depth + 1)
        elif isinstance(value, Mapping) and depth < 8:
            for key, each in list(value.items())[:MOST_NAMES]:
                self._collect(f"{name}.{_short(str(_name(key)), 80)}", each, depth + 1)

    def _add(self, name: str, value: str) -> None:
        for form in {value, value.strip(), repr(value)[1:-1]}:
            if len(form) >= 4 and len(self.values) < 1_000:
                self.values.append((form, name))


def _keylike(found: re.Match[str]) -> str:
    text = str(found[0])
    mixed = any(char.isdigit() for char in text) and any(char.isalpha() for char in text)
    return "<secret>" if mixed else text


def request_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The action that a record keeps; None where it was redacted."""
    found = record.get("action")
    return found if isinstance(found, Mapping) else None


def failing(record: Mapping[str, Any]) -> Sequence[str]:
    """The ids of the checks that stopped a call, memory's and the model's only."""
    return [
        str(check["id"])
        for check in record.get("checks", ())
        if check.get("status") in ("fail", "unknown") and check.get("origin") != "pinned"
    ]
