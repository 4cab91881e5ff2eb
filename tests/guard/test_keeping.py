"""What is kept of a long history: all of it, within a bound in characters."""

from __future__ import annotations

import pytest

from safewright.guard import Action, Turn, keeping, scanning, taint
from safewright.guard.keeping import LEAST, kept
from safewright.guard.parsing.values import Value


def test_a_long_history_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many texts it has: a cache of a fixed number would read them all again on every call."""
    read: list[str] = []
    whole = scanning._spans
    monkeypatch.setattr(scanning, "_spans", lambda text: read.append(text) or whole(text))
    indexed: list[str] = []
    addresses = taint.values_in
    monkeypatch.setattr(taint, "values_in", lambda text: indexed.append(text) or addresses(text))
    history = tuple(
        Turn("result", f"a long history, mail {n} from a{n}@example.com", "read_mail") for n in range(1_500)
    )
    action = Action("send", {"to": "bo@example.com"}, history=history)
    value = Value("email", "bo@example.com", "to", normal="bo@example.com")
    for _ in range(3):
        found = taint.trace(action)
        assert taint.source_of(value, action, found).origin == "nowhere"
    assert (len(read), len(indexed)) == (1_500, 1_500)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST_KEPT", 10 * (LEAST + 100))
    read: list[str] = []

    @kept
    def reading(text: str, way: str = "") -> int:
        read.append(text)
        return len(text)

    for n in range(30):
        assert reading(f"{n:100}", "a") == 100
        assert reading.size <= keeping.MOST_KEPT
    assert reading(f"{29:100}", "a") == 100
    assert len(read) == 30, "the latest is still there"
    assert reading(f"{29:100}", "b") == 100
    assert reading(f"{0:100}", "a") == 100
    assert len(read) == 32, "another way of reading is another, and the oldest is gone"
    assert reading("x" * 10_000) == 10_000
    assert reading.size <= keeping.MOST_KEPT
