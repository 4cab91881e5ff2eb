"""The engine: whatever fails on the way, a verdict comes out, and it is never looser for it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from safewright.errors import BadInput, Missing
from safewright.guard import Action, Guard, Principal
from safewright.guard.nouns import Check, Usage
from safewright.guard.parts import Analysis
from safewright.guard.views import View
from tests.guard.fakes import (
    FakeAnalyst,
    FakeAudit,
    FakeMemory,
    breaking,
    check,
    failing,
    made,
    only,
    passing,
    policy,
    unknowing,
)

READ = Action("read_note", {"name": "one"}, request="read note one", principal=Principal("ann", "user"))


def hanging(view: View) -> Iterator[Check]:
    time.sleep(30)
    yield check("pass")


def guard(*names: str, **options: Any) -> Guard:
    return Guard(made(policy(), *names), **options)


def test_a_rule_that_fails_denies_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with only(monkeypatch, rule=failing):
        verdict = guard("rule").check(READ)
    assert (verdict.decision, verdict.found, verdict.failure) == ("deny", "deny", None)
    assert verdict.reasons == ("Read something else.",)
    assert not verdict.allowed


@pytest.mark.parametrize("on_unknown", ["escalate", "deny"])
def test_what_is_unknown_is_not_let_through(monkeypatch: pytest.MonkeyPatch, on_unknown: Any) -> None:
    with only(monkeypatch, rule=unknowing):
        verdict = guard("rule", on_unknown=on_unknown).check(READ)
    assert verdict.decision == on_unknown
    assert verdict.reasons == ("Say which note.",)


def test_an_undeclared_tool_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with only(monkeypatch, rule=passing):
        verdict = guard("rule").check(Action("fly", {}))
    assert verdict.decision == "escalate"
    assert [each.id for each in verdict.checks if each.status == "unknown"] == ["tool.known"]


def test_a_role_may_be_denied_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    action = Action("dismiss", {"to": "bo"}, principal=Principal("cy", "clerk"))
    with only(monkeypatch, rule=passing):
        verdict = guard("rule").check(action)
    assert [each.id for each in verdict.checks if each.status == "fail"] == ["tool.permitted"]


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"properties": {"name": {}}, "required": ["name"]}, False),
        ({"properties": {"name": {}}, "required": ["name", "page"]}, True),
        ({"properties": {"page": {}}, "additionalProperties": False}, True),
    ],
)
def test_arguments_must_fit_the_schema(
    monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], wrong: bool
) -> None:
    with only(monkeypatch, rule=passing):
        verdict = guard("rule").check(Action("read_note", {"name": "one"}, schema=schema))
    assert verdict.decision == ("deny" if wrong else "allow")


def test_a_family_that_breaks_denies_and_silences_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with only(monkeypatch, broken=breaking, rule=failing):
        opened = guard("broken", "rule", fail_mode="open")
        verdict = opened.check(READ)
    assert verdict.failure == "rule_error"
    assert "made-up defect" in verdict.detail
    assert verdict.decision == "deny", "another rule had failed: even an open guard holds to that"
    with only(monkeypatch, broken=breaking, rule=passing):
        assert guard("broken", "rule").check(READ).decision == "deny"
        opened = guard("broken", "rule", fail_mode="open")
        assert opened.check(READ).decision == "allow"
        assert opened.check(READ).failure == "rule_error"
        assert guard("broken", "rule", approver=True).check(READ).decision == "escalate"


def test_a_rule_that_hangs_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    with only(monkeypatch, slow=hanging):
        slow = guard("slow", deadline_s=0.2)
        began = time.monotonic()
        assert slow.check(READ).failure == "timeout"
        assert asyncio.run(slow.acheck(READ)).failure == "timeout"
        assert time.monotonic() - began < 20
        assert slow._workers.abandoned == 2
    with only(monkeypatch, rule=passing):
        slow.policy = made(policy(), "rule")
        assert slow.check(READ).decision == "allow", "the next call gets another thread"


def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with only(monkeypatch, rule=passing):
        opened = guard("rule")
        assert opened.check(READ).decision == "allow"
        child = os.fork()
        if child == 0:
            os._exit(0 if opened.check(READ).decision == "allow" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_acheck_works_under_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    trio = pytest.importorskip("trio")
    with only(monkeypatch, rule=passing):
        assert trio.run(guard("rule").acheck, READ).decision == "allow"


def test_check_works_inside_a_running_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def inside() -> str:
        return guard("rule").check(READ).decision

    with only(monkeypatch, rule=failing):
        assert asyncio.run(inside()) == "deny"


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "a\0b"},
        {"name": "x" * 70_000},
        {"name": float("nan")},
        {"name": b"bytes"},
        {"name": "\ud800"},
        {1: {2}},
        ["no", "object"],
    ],
)
def test_what_cannot_be_read_is_an_invalid_action(arguments: Any) -> None:
    audit = FakeAudit()
    verdict = Guard(policy(), audit=audit).check(Action("read_note", arguments))
    assert (verdict.decision, verdict.failure) == ("deny", "invalid_action")
    assert len(audit.records) == 1


def test_an_open_guard_lets_no_invalid_action_through() -> None:
    assert Guard(policy(), fail_mode="open").check(Action("", {})).decision == "deny"


def test_observing_lets_everything_through_and_says_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = FakeAudit()
    with only(monkeypatch, rule=failing):
        verdict = guard("rule", mode="observe", audit=audit).check(READ)
    assert (verdict.decision, verdict.found) == ("allow", "deny")
    assert len(audit.records) == 1


def narrowing(view: View) -> Iterator[Check]:
    given = view.action.arguments["to"]
    if len(given) > 1:
        yield check("pass", narrowed={"to": given[:1]})
    else:
        yield check("pass")


def suspicious(view: View) -> Iterator[Check]:
    yield check("fail" if view.action.arguments["to"] == ["eve"] else "pass", "made.suspicious")


@pytest.mark.parametrize(
    ("to", "decision"), [(["bo", "cy"], "modify"), (["bo"], "allow"), (["eve", "bo"], "deny")]
)
def test_narrowed_calls_are_examined_again(
    monkeypatch: pytest.MonkeyPatch, to: list[str], decision: str
) -> None:
    with only(monkeypatch, narrow=narrowing, suspect=suspicious):
        verdict = guard("narrow", "suspect").check(Action("send", {"to": to, "text": "hello"}))
    assert verdict.decision == decision
    if decision == "modify":
        assert verdict.modified == {"to": ["bo"], "text": "hello"}
    else:
        assert verdict.modified is None


def test_the_record_is_written_before_the_verdict_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = FakeAudit()
    with only(monkeypatch, rule=passing):
        verdict = guard("rule", audit=audit).check(READ)
    assert verdict.audit_id == "a-1"
    assert len(audit.records) == 1


@pytest.mark.parametrize("audit", [FakeAudit(error=OSError("disk full")), FakeAudit(seconds=30)])
def test_what_cannot_be_written_down_is_denied(monkeypatch: pytest.MonkeyPatch, audit: FakeAudit) -> None:
    monkeypatch.setattr("safewright.guard.engine.LEAST_AUDIT_SECONDS", 0.3)
    with only(monkeypatch, rule=passing):
        verdict = guard("rule", audit=audit, deadline_s=0.3).check(READ)
    assert (verdict.decision, verdict.failure) == ("deny", "audit_unavailable")


def test_a_memory_that_breaks_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    with only(monkeypatch, rule=passing):
        verdict = guard("rule", memory=FakeMemory(error=OSError("locked"))).check(READ)
        assert (verdict.decision, verdict.failure) == ("deny", "memory_unavailable")
    with only(monkeypatch, rule=failing):
        opened = guard("rule", memory=FakeMemory(error=OSError("locked")), fail_mode="open")
        assert opened.check(READ).decision == "deny"


def test_memory_learns_from_valid_verdicts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = FakeMemory()
    with only(monkeypatch, rule=passing):
        guard("rule", memory=memory).check(READ)
        assert len(memory.lessons) == 1
    with only(monkeypatch, broken=breaking):
        guard("broken", memory=memory).check(READ)
    assert len(memory.lessons) == 1
    memory.learning = OSError("disk full")
    with only(monkeypatch, rule=passing):
        opened = guard("rule", memory=memory)
        assert opened.check(READ).decision == "allow"
        assert opened.unlearned == 1


def test_a_rule_denial_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    analyst = FakeAnalyst(Analysis((check("pass", origin="new"),)))
    with only(monkeypatch, rule=failing):
        assert guard("rule", backend="hybrid", model=analyst).check(READ).decision == "deny"
        assert analyst.asked == 0
        assert guard("rule", backend="llm", model=analyst).check(READ).decision == "deny"
        assert analyst.asked == 1
    analyst.asked = 0
    with only(monkeypatch, rule=passing):
        assert guard("rule", backend="hybrid", model=analyst).check(READ).decision == "allow"
    assert analyst.asked == 1


@pytest.mark.parametrize(
    ("analysis", "failure"),
    [
        (Analysis(failure="llm_timeout", usage=Usage(1, 10, 0)), "llm_timeout"),
        (Analysis((check("pass", origin="new"),), failure="llm_unparsed"), "llm_unparsed"),
        (RuntimeError("made-up"), "internal"),
    ],
)
def test_a_model_that_fails_is_never_a_yes(
    monkeypatch: pytest.MonkeyPatch, analysis: Any, failure: str
) -> None:
    with only(monkeypatch, rule=passing):
        verdict = guard("rule", backend="hybrid", model=FakeAnalyst(analysis)).check(READ)
    assert (verdict.decision, verdict.failure) == ("deny", failure)


def test_a_model_that_hangs_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with only(monkeypatch, rule=passing):
        verdict = guard("rule", backend="llm", model=FakeAnalyst(seconds=30), deadline_s=0.3).check(READ)
    assert verdict.failure in ("timeout", "llm_timeout")
    assert verdict.decision == "deny"


def test_many_calls_are_judged_side_by_side_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(4, timeout=20)

    def meeting(view: View) -> Iterator[Check]:
        barrier.wait()
        yield check("fail" if view.action.arguments["name"] == "2" else "pass")

    actions = [Action("read_note", {"name": str(number)}) for number in range(4)]
    with only(monkeypatch, rule=meeting):
        verdicts = guard("rule").check_many(actions)
    assert [verdict.decision for verdict in verdicts] == ["allow", "allow", "deny", "allow"]


@pytest.mark.parametrize("package", ["tree_sitter_bash", "sqlglot"])
def test_a_missing_parser_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else whole(name))
    with pytest.raises(Missing, match=r"pip install 'safewright\[guard\]'"):
        Guard()
    Guard(policy())


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "magic"},
        {"backend": "llm"},
        {"model": "http://127.0.0.1:1/v1#m"},
        {"deadline_s": 0},
        {"deadline_s": float("nan")},
        {"fail_mode": "ajar"},
        {"preset": "faithful"},
        {"on_unknown": "allow"},
        {"mode": "sleep"},
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Guard(policy(), **options)
