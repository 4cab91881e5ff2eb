"""``@guard.protect``: a denied function does not run, and what protected functions return is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from safewright.guard import Guard, Principal, Turn
from safewright.guard.doors.python import Denied
from safewright.guard.nouns import MOST_TURNS, Check
from safewright.guard.views import View
from tests.guard.fakes import check, made, only, policy


def to_bo_only(view: View) -> Iterator[Check]:
    to = view.action.arguments.get("to")
    if to == "everybody":
        yield check("pass", narrowed={"to": "bo"})
    else:
        yield check({"bo": "pass", "eve": "fail"}.get(str(to), "unknown"), advice="Send it to bo.")


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    with only(monkeypatch, rule=to_bo_only):
        yield Guard(made(policy(), "rule"))


def test_a_denied_function_does_not_run(guard: Guard) -> None:
    sent: list[str] = []

    @guard.protect
    def send(to: str, text: str = "hello") -> str:
        """Send it."""
        sent.append(f"{to}: {text}")
        return "sent"

    assert send("bo") == "sent"
    with pytest.raises(Denied, match="Send it to bo") as caught:
        send("eve", text="secret")
    assert caught.value.verdict.decision == "deny"
    assert caught.value.action.arguments == {"to": "eve", "text": "secret"}
    with pytest.raises(Denied, match="not approved"):
        send(to="dan")
    assert send("everybody", "all") == "sent"
    assert sent == ["bo: hello", "bo: all"]
    assert (send.__name__, send.__doc__) == ("send", "Send it.")


def test_coroutine_functions(guard: Guard) -> None:
    @guard.protect
    async def send(to: str) -> str:
        return f"sent to {to}"

    assert asyncio.run(send("bo")) == "sent to bo"
    with pytest.raises(Denied):
        asyncio.run(send("eve"))


@pytest.mark.parametrize(("said", "runs"), [(True, True), (False, False), (None, False), (1, False)])
def test_escalated_calls_run_only_on_a_plain_yes(guard: Guard, said: Any, runs: bool) -> None:
    asked = []

    @guard.protect(approve=lambda action, verdict: asked.append(verdict.decision) or said)
    def send(to: str) -> str:
        return "sent"

    if runs:
        assert send("dan") == "sent"
    else:
        with pytest.raises(Denied):
            send("dan")
    assert asked == ["escalate"]
    with pytest.raises(Denied):
        send("eve")
    assert asked == ["escalate"], "a denied call is nobody's to approve"


def test_acting_gives_context_and_remembers(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    whole = guard.acheck
    monkeypatch.setattr(guard, "check", lambda action: seen.append(action) or asyncio.run(whole(action)))

    @guard.protect(tool="send")
    def mail(to: str) -> dict[str, Any]:
        return {"number": 7}

    ann = Principal("ann", "user")
    with guard.acting(request="tell bo", principal=ann, session="s", history=[Turn("user", "tell bo")]):
        mail("bo")
        mail("bo")
    mail("bo")
    first, second, third = seen
    assert (first.tool, first.request, first.principal, first.session) == ("send", "tell bo", ann, "s")
    assert [turn.kind for turn in first.history] == ["user"]
    assert [(turn.kind, turn.text) for turn in second.history[1:]] == [
        ("call", ""),
        ("result", '{"number": 7}'),
    ]
    assert third.request is None
    assert third.history == ()


def test_a_session_that_is_too_long_is_denied_not_shortened(guard: Guard) -> None:
    @guard.protect
    def send(to: str) -> str:
        return "sent"

    with guard.acting() as acting:
        send("bo")
        acting.turns.extend(Turn("user", "and again") for _ in range(MOST_TURNS))
        with pytest.raises(Denied) as caught:
            send("bo")
    assert caught.value.verdict.failure == "invalid_action"


def test_values_that_are_no_json(guard: Guard) -> None:
    class Person:
        name = "bo"

    @guard.protect
    def send(to: Any) -> str:
        return "sent"

    with pytest.raises(Denied) as caught:
        send(Person())
    assert caught.value.verdict.failure == "invalid_action"

    @guard.protect(arguments=lambda to: {"to": to.name})
    def send_person(to: Person) -> str:
        return f"sent to {to.name}"

    with pytest.raises(Denied):
        send_person(Person())  # not a tool of the policy
    named = guard.protect(send_person.__wrapped__, tool="send", arguments=lambda to: {"to": to.name})
    assert named(Person()) == "sent to bo"


def test_gathered_arguments(guard: Guard) -> None:
    @guard.protect(tool="send")
    def send(*copies: str, **more: str) -> tuple[tuple[str, ...], dict[str, str]]:
        return copies, more

    assert send("x", to="everybody") == (("x",), {"to": "bo"})
