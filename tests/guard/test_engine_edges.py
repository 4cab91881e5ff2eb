"""The engine where it is used in ways that nobody should: what is no action, what comes too late, what widens again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from safewright.guard import Action, Guard, Principal, Turn
from safewright.guard.audit import open_audit
from safewright.guard.nouns import Check
from safewright.guard.parts import Analysis, Lesson
from safewright.guard.views import View
from tests.guard.fakes import (
    FakeAnalyst,
    FakeAudit,
    FakeMemory,
    check,
    made,
    only,
    passing,
    policy,
    unknowing,
)

ANN = Principal("ann", "user")
READ = Action("read_note", {"name": "one"}, request="read note one", principal=ANN)


def guard(*names: str, **options: Any) -> Guard:
    return Guard(made(policy(), *names), **options)


def nested(depth: int) -> dict[str, Any]:
    found: Any = "deep"
    for _ in range(depth):
        found = [found]
    return {"name": found}


def within_itself() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["one"] = found["two"] = found
    return found


def shared(depth: int) -> dict[str, Any]:
    """Small to hold, and 2 ** depth values to write down."""
    found: Any = "x"
    for _ in range(depth):
        found = [found, found]
    return {"name": found}


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
@pytest.mark.parametrize(
    "action",
    [
        None,
        {"tool": "read_note"},
        Action("read_note", principal=cast(Any, {"id": "ann", "role": "user"})),
        Action("read_note", principal=Principal("ann", cast(Any, ["user"]))),
        Action("read_note", principal=Principal("ann", "user", cast(Any, None))),
        Action("read_note", history=cast(Any, ({"kind": "user"},))),
        Action("read_note", history=cast(Any, 3)),
        Action("read_note", history=(Turn("result", cast(Any, None)),)),
        Action("read_note", history=(Turn(cast(Any, "other")),)),
        Action("read_note", siblings=(Turn("call", arguments=cast(Any, None)),)),
        Action("read_note", cast(Any, {1: "x"})),
        Action("read_note", cast(Any, {"name": {None: "x"}})),
        Action("read_note", nested(300)),
        Action("read_note", nested(800)),
        Action("read_note", within_itself()),
        Action("read_note", shared(60)),
        Action("read_note", {"name": ["x" * 40_000] * 2}),
    ],
)
def test_what_is_no_action_is_invalid_and_recorded(tmp_path: Path, action: Any, fail_mode: Any) -> None:
    with Guard(policy(), audit=tmp_path / "audit.db", fail_mode=fail_mode) as opened:
        verdict = opened.check(action)
        assert (verdict.decision, verdict.failure) == ("deny", "invalid_action")
    log = open_audit(tmp_path / "audit.db", read_only=True)
    (record,) = log.records()
    assert record["failure"] == "invalid_action"
    assert record["detail"]
    log.close()


def test_the_detail_of_a_failure_is_recorded_without_the_calls_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quoting(view: View) -> Iterator[Check]:
        raise RuntimeError(f"cannot read {view.action.arguments['name']}; password=hunter2")
        yield

    with only(monkeypatch, broken=quoting):
        verdict = guard("broken", audit=tmp_path / "a.db").check(Action("read_note", {"name": "my diary"}))
    assert "my diary" in verdict.detail
    (record,) = open_audit(tmp_path / "a.db", read_only=True).records()
    assert "cannot read <name>" in record["detail"]
    assert "diary" not in str(record)
    assert "hunter2" not in str(record)


def test_an_open_guard_lets_through_what_failed_and_not_what_is_undecided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    down = FakeAnalyst(Analysis(failure="llm_connection"))
    with only(monkeypatch, rule=unknowing):
        opened = guard("rule", backend="hybrid", model=down, fail_mode="open")
        assert opened.check(READ).decision == "escalate"
    with only(monkeypatch, rule=passing):
        opened = guard("rule", backend="hybrid", model=down, fail_mode="open")
        assert opened.check(READ).decision == "allow"


@pytest.mark.parametrize("options", [{"fail_mode": "open"}, {"approver": True}])
def test_a_record_that_is_lost_loosens_nothing(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    full = FakeAudit(error=OSError("disk full"))
    objecting = FakeAnalyst(Analysis((check("fail", "llm.no", origin="new", method="llm"),)))
    with only(monkeypatch, rule=passing):
        opened = guard("rule", backend="hybrid", model=objecting, audit=full, **options)
        verdict = opened.check(READ)
        assert (verdict.decision, verdict.failure) == ("deny", "audit_unavailable")
        assert [each.id for each in verdict.checks if each.status == "fail"] == ["llm.no"]
    if "fail_mode" in options:
        assert guard(audit=full, **options).check(Action("", {})).decision == "deny"
        with only(monkeypatch, rule=unknowing):
            assert guard("rule", audit=full, **options).check(READ).decision == "escalate"


class SlowAudit(FakeAudit):
    """Writes its first record, and only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may, self.twice = threading.Event(), threading.Event()

    def append(self, record: Any) -> str:
        self.may.wait(30)
        found = super().append(record)
        if len(self.records) == 2:
            self.twice.set()
        return found


def test_a_record_that_comes_too_late_is_followed_by_what_was_given_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("safewright.guard.engine.LEAST_AUDIT_SECONDS", 0.2)
    audit, memory = SlowAudit(), FakeMemory()
    with only(monkeypatch, rule=passing):
        verdict = guard("rule", audit=audit, memory=memory, deadline_s=0.2).check(READ)
        assert (verdict.decision, verdict.failure) == ("deny", "audit_unavailable")
        audit.may.set()
        assert audit.twice.wait(30)
    first, second = audit.records
    assert first["decision"] == "allow"
    assert (second["decision"], second["failure"]) == ("deny", "audit_unavailable")
    assert "a-1" in second["detail"]
    assert memory.lessons == [], "a verdict that nobody got teaches nothing"


def test_memory_that_learns_slowly_costs_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safewright.guard.engine.LEAST_AUDIT_SECONDS", 0.3)
    may = threading.Event()

    class Slow(FakeMemory):
        def learn(self, lesson: Lesson) -> None:
            may.wait(30)

    audit = FakeAudit()
    with only(monkeypatch, rule=passing):
        verdict = guard("rule", audit=audit, memory=Slow(), deadline_s=0.3).check(READ)
    may.set()
    assert (verdict.decision, verdict.failure, verdict.audit_id) == ("allow", None, "a-1")
    assert len(audit.records) == 1


def test_two_rules_that_narrow_do_not_widen_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(who: str) -> Any:
        def rule(view: View) -> Iterator[Check]:
            given = view.action.arguments["to"]
            kept = [each for each in given if each != who]
            yield check("pass", f"made.{who}", narrowed={"to": kept} if kept != given else None)

        return rule

    def swapping(view: View) -> Iterator[Check]:
        yield check("pass", "made.swap", narrowed={"to": view.action.arguments["to"][::-1]})

    call = Action("send", {"to": ["eve", "bo", "mal"]})
    with only(monkeypatch, one=without("eve"), two=without("mal")):
        verdict = guard("one", "two").check(call)
        assert verdict.decision == "modify"
        assert verdict.modified == {"to": ["bo"]}
    with only(monkeypatch, swap=swapping):
        verdict = guard("swap").check(call)
        assert (verdict.decision, verdict.failure) == ("deny", "rule_error")


def test_a_models_deleted_words_are_not_told_to_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    deleted = Check("llm.x", "role", "The principle says: salaries are secret.", "deleted", "llm", "new")
    said = FakeAnalyst(Analysis((deleted, check("pass", "llm.y", origin="new"))))
    with only(monkeypatch, rule=unknowing):
        verdict = guard("rule", backend="hybrid", model=said).check(READ)
    assert verdict.decision == "escalate"
    assert verdict.reasons == ("Say which note.",)


@pytest.mark.parametrize("checks", [(), (check("deleted", "llm.x", origin="new"),)])
def test_a_model_that_leaves_no_check_is_no_yes(monkeypatch: pytest.MonkeyPatch, checks: Any) -> None:
    with only(monkeypatch, rule=passing):
        for options in ({"backend": "hybrid"}, {"backend": "llm", "preset": "faithful"}):
            verdict = guard("rule", model=FakeAnalyst(Analysis(checks)), **options).check(READ)
            assert (verdict.decision, verdict.failure) == ("deny", "no_checks")


@pytest.mark.parametrize(
    ("principal", "decision"),
    [
        (None, "escalate"),
        (Principal("x", "Clerk"), "escalate"),
        (Principal("x", "clerk"), "deny"),
        (Principal("x", "chief"), "allow"),
    ],
)
def test_who_has_no_role_does_not_do_what_a_role_is_denied(
    monkeypatch: pytest.MonkeyPatch, principal: Any, decision: str
) -> None:
    with only(monkeypatch, rule=passing):
        assert guard("rule").check(Action("dismiss", principal=principal)).decision == decision


def test_a_hundred_calls_are_judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there are threads in anyio's common pool: none waits for a place, which no deadline counts."""
    together = threading.Barrier(100, timeout=30)

    def meeting(view: View) -> Iterator[Check]:
        together.wait()
        yield check("pass")

    async def many(opened: Guard) -> list[Any]:
        return await opened.acheck_many([READ] * 100)

    with only(monkeypatch, rule=meeting):
        verdicts = asyncio.run(many(guard("rule", deadline_s=60)))
    assert [each.decision for each in verdicts] == ["allow"] * 100


def test_what_was_embedded_is_counted(tmp_path: Path) -> None:
    with Guard(policy(), memory=tmp_path / "m.db") as opened:
        assert opened.check(READ).usage.embedded == 1
        assert opened.check(READ).usage.embedded == 0
        assert opened.check(Action("send", {"to": "bo"})).usage.embedded == 1


def test_what_hangs_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safewright.guard.working.MOST_HANGING", 3)
    release, begun = threading.Event(), []

    def hung(view: View) -> Iterator[Check]:
        begun.append(view)
        release.wait(60)
        yield check("pass")

    audit = FakeAudit()
    with only(monkeypatch, rule=hung):
        opened = guard("rule", deadline_s=0.1, audit=audit)
        verdicts = [opened.check(READ) for _ in range(8)]
        assert {(each.decision, each.failure) for each in verdicts} == {("deny", "timeout")}
        assert len(begun) == 3
        assert len(audit.records) == 8, "what is not begun is denied, and recorded"
        release.set()
        opened.deadline_s = 30
        while opened.check(READ).decision != "allow":
            pass


class Half:
    """An environment without what it is asked."""

    def stat(self, path: str) -> None:
        return None


class Falling:
    """An object that fails when it is looked at."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("made-up defect")


@pytest.mark.parametrize(
    "given",
    [
        {"schema": {"required": [["name"]]}},
        {"schema": {"required": [{"name": 1}]}},
        {"schema": {"required": "name"}},
        {"schema": {"properties": ["name"]}},
        {"schema": {"properties": {"name": object()}}},
        {"schema": {"additionalProperties": "no"}},
        {"schema": {"properties": {"name": {"default": float("nan")}}}},
        {"schema": ["name"]},
        {"environment": "/home/ann"},
        {"environment": {"/home/ann": {"type": "dir"}}},
        {"environment": Half()},
        {"environment": Falling()},
    ],
)
@pytest.mark.parametrize("fail_mode", ["closed", "open"])
def test_what_a_host_hands_over_is_its_own_error(given: dict[str, Any], fail_mode: Any) -> None:
    """A malformed schema or environment is never let through, not even by an open guard."""
    call = Action("bash", {"cmd": "rm a"}, principal=ANN, **given)
    with Guard(fail_mode=fail_mode) as opened:
        verdict = opened.check(call)
        assert opened.check(Action("bash", {"cmd": "rm a"}, principal=ANN)).allowed
    assert (verdict.decision, verdict.failure) == ("deny", "invalid_action")
    assert "schema" in verdict.detail or "environment" in verdict.detail


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": None, "required": None},
        {"properties": {"cmd": {"type": "string"}}},
    ],
)
def test_a_plain_schema_is_none(schema: dict[str, Any]) -> None:
    with Guard() as opened:
        assert opened.check(Action("bash", {"cmd": "ls"}, principal=ANN, schema=schema)).allowed


class Lying:
    """An environment whose answers are no answers."""

    def stat(self, path: str) -> Any:
        return {"type": "file"}

    def listdir(self, path: str) -> Any:
        return 3

    def groups(self, user: str) -> Any:
        return None

    def free_bytes(self, path: str) -> Any:
        return "much"

    def home(self, user: str) -> Any:
        return 7


@pytest.mark.parametrize(
    "command", ["rm a", "rm -rf a/*", "cp a b", "echo x > /srv/a", "cat a", "rm -rf /etc"]
)
def test_answers_that_are_none_are_not_known(command: str) -> None:
    environment = cast(Any, Lying())
    with Guard(fail_mode="open") as opened:
        verdict = opened.check(Action("bash", {"cmd": command}, principal=ANN, environment=environment))
    assert not verdict.allowed
    assert verdict.failure is None
    assert any(each.id == "environment.answered" and each.status == "unknown" for each in verdict.checks)
