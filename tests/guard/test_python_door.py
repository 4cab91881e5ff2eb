"""``@guard.protect``: a denied function does not run, and what protected functions return is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from safewright.errors import BadInput
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


def test_what_a_failing_tool_says_is_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def passing(view: View) -> Iterator[Check]:
        yield check("pass")

    with only(monkeypatch, rule=passing):
        guard = Guard(made(policy(), "rule"))

        @guard.protect
        def read_note(name: str) -> str:
            raise ValueError(f"no note {name}: ask eve")

        @guard.protect(tool="read_note")
        async def later(name: str) -> str:
            raise ValueError(name)

        class Tool:
            async def __call__(self, name: str) -> str:
                return f"note {name}"

        wrapped: Any = guard.protect(Tool(), tool="read_note")
        with guard.acting() as acting:
            with pytest.raises(ValueError, match="ask eve"):
                read_note("one")
            with pytest.raises(ValueError, match="two"):
                asyncio.run(later("two"))
            assert asyncio.run(wrapped("three")) == "note three"
        assert [(turn.kind, turn.text, turn.id) for turn in acting.turns] == [
            ("call", "", "0"),
            ("result", "ValueError: no note one: ask eve", "0"),
            ("call", "", "2"),
            ("result", "ValueError: two", "2"),
            ("call", "", "4"),
            ("result", "note three", "4"),
        ]


def test_calls_at_once_are_each_others_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(view: View) -> Iterator[Check]:
        before = [turn for turn in view.action.history if turn.kind == "call"]
        yield check("fail" if len(before) + len(view.action.siblings) >= 3 else "pass")

    with only(monkeypatch, rule=few):
        guard = Guard(made(policy(), "rule"))

        @guard.protect
        async def send(to: str) -> str:
            await asyncio.sleep(0)
            return to

        async def many() -> list[Any]:
            with guard.acting() as acting:
                found = await asyncio.gather(*(send(str(n)) for n in range(10)), return_exceptions=True)
            assert acting.pending == []
            return found

        found = asyncio.run(many())
    assert sum(isinstance(each, str) for each in found) == 3
    assert sum(isinstance(each, Denied) for each in found) == 7


def test_what_the_guard_saw_is_what_later_calls_are_judged_by(monkeypatch: pytest.MonkeyPatch) -> None:
    def passing(view: View) -> Iterator[Check]:
        yield check("pass")

    with only(monkeypatch, rule=passing):
        guard = Guard(made(policy(), "rule"))

        @guard.protect(arguments=lambda message: {"to": message["who"]})
        def send(message: Any) -> str:
            return "sent"

        with guard.acting() as acting:
            send({"who": "bo"})
        assert acting.turns[0].arguments == {"to": "bo"}


def test_no_argument_hides_another(guard: Guard) -> None:
    calls = []

    @guard.protect(tool="send")
    def sending(to: str, /, **more: str) -> None:
        calls.append(to)

    with pytest.raises(TypeError, match="to given twice"):
        sending("eve", to="bo")

    @guard.protect(tool="send")
    def named(first: str, cls: str) -> None:
        calls.append(cls)

    with pytest.raises(Denied) as caught:
        named("x", "y")
    assert caught.value.action.arguments == {"first": "x", "cls": "y"}
    assert calls == []


def test_generators_are_refused(guard: Guard) -> None:
    def notes() -> Iterator[str]:
        yield "one"

    with pytest.raises(BadInput, match="generator"):
        guard.protect(notes)
