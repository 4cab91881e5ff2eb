"""What tests of memory and audit share: keys, checks, lessons."""

from __future__ import annotations

from typing import Any

from safewright.guard.nouns import Check, CheckStatus
from safewright.guard.parts import Found, Key, Lesson


def key(text: str, effect: Any = "write", privilege: Any = "user", criteria: str = "c1") -> Key:
    return Key(text, f"a call: {text.replace('|', ', ')}", effect, privilege, criteria)


def check(
    name: str,
    status: CheckStatus = "pass",
    statement: str = "",
    origin: Any = "new",
    category: str = "integrity",
) -> Check:
    return Check(name, category, statement or f"Nothing but {name} is changed.", status, "llm", origin)


def lesson(
    at: Key,
    *checks: Check,
    session: str = "s",
    found: Found | None = None,
    tainted: bool = False,
    arguments: dict[str, Any] | None = None,
) -> Lesson:
    return Lesson(at, found, checks, "allow", session, tainted, arguments or {})
