"""The audit log: every decision, in a chain, without what calls say unless that was asked for."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.guard import Action, Guard, Policy, Principal, Turn
from safewright.guard.audit import open_audit, record_of
from safewright.guard.audit.chain import verify
from safewright.guard.audit.explain import explain, line
from safewright.guard.audit.log import GENESIS, chained, export
from safewright.guard.audit.replay import replay
from safewright.guard.nouns import Check, Verdict
from safewright.guard.parts import Analysis
from tests.guard.statehelp import check

SECRET = "sesame-4711"
KEYLIKE = "AKIAZ9X8C7V6B5N4M3L2"
CALL = Action(
    "post_note",
    {"to": "bob@example.org", "text": f"the word is {SECRET}", "n": 3, "more": {"deep": [f"x {SECRET}"]}},
    request=f"Tell Bob that the word is {SECRET}",
    principal=Principal("ann", "user", {"clearance": SECRET}),
    session="s1",
    history=(Turn("user", f"Tell Bob {SECRET}"),),
)


def verdict(*checks: Check, decision: Any = "deny", **others: Any) -> Verdict:
    return Verdict(decision, decision, checks, **others)


def record(action: Action, given: Verdict, log: Any = None, **others: Any) -> dict[str, Any]:
    return record_of(action, None, Analysis(**others), given, Policy.default(), None, log=log)


# what a record says


def test_a_record_has_the_fields_of_the_specification(tmp_path: Path) -> None:
    with Guard(memory=tmp_path / "m.db", audit=tmp_path / "a.db") as guard:
        guard.check(CALL)
        second = guard.check(CALL)
        found = guard.audit.get(second.audit_id)  # type: ignore[union-attr]
    assert found["id"] == second.audit_id
    assert found["principal"] == {"id": "ann", "role": "user"}
    assert (found["tool"], found["session"]) == ("post_note", "s1")
    assert found["policy"]["digest"] == second.policy
    assert found["memory"] == 1  # the version that this decision saw
    assert found["retrieved"] == [{"entry": 1, "score": 1.0, "version": 1, "stable": False}]
    assert [(each["id"], each["status"]) for each in found["checks"]] == [
        (each.id, each.status) for each in second.checks
    ]
    assert (found["decision"], found["found"], found["failure"]) == (second.decision, second.found, None)
    assert set(found["usage"]) == {"calls", "tokens_in", "tokens_out", "embedded"}
    assert found["latency_ms"] > 0
    assert found["prev_hash"] != GENESIS
    assert found["hash"] == chained(found)


def test_what_a_call_says_is_not_kept(tmp_path: Path) -> None:
    spoken = Check(
        "x.y", "integrity", "It holds.", "fail", evidence=f"mail to bob@example.org: the word is {SECRET}"
    )
    with Guard(audit=tmp_path / "a.db", memory=tmp_path / "m.db") as guard:
        guard.check(CALL)
        log: Any = guard.audit
        given = verdict(
            spoken,
            Check(
                "x.z", "integrity", "It holds.", "fail", evidence=f"{KEYLIKE} and password: hunter2 are in it"
            ),
            reasons=(f"Leave out {SECRET}" + " and bob@example.org",),
            modified={"to": "eve@example.org"},
        )
        log.append(record(CALL, given, log, answers=(f"I saw {SECRET}",)))
        bodies = json.dumps(list(log.records()))
    for said in (
        "bob@example.org",
        f"the word is {SECRET}",
        KEYLIKE,
        "hunter2",
        "eve@example.org",
        "clearance",
    ):
        assert said not in bodies, said
        assert said.encode() not in (tmp_path / "a.db").read_bytes()
    last = json.loads(bodies)[-1]
    assert last["checks"][0]["evidence"] == "mail to <to>: <text>"
    assert last["arguments"]["types"] == {
        "to": "string",
        "text": "string",
        "n": "integer",
        "more": "object",
    }
    assert last["redacted"] is True
    assert "action" not in last
    assert "answers" not in last


def test_digests_are_under_the_logs_own_key(tmp_path: Path) -> None:
    digests = []
    for name in ("a.db", "b.db"):
        log = open_audit(tmp_path / name)
        one, two = record(CALL, verdict(), log), record(CALL, verdict(), log)
        assert one["arguments"]["digest"] == two["arguments"]["digest"]
        digests.append(one["arguments"]["digest"])
        log.close()
        again = open_audit(tmp_path / name)
        assert record(CALL, verdict(), again)["arguments"]["digest"] == digests[-1]
        again.close()
    assert digests[0] != digests[1]


def test_a_raw_log_keeps_what_calls_say(tmp_path: Path) -> None:
    log = open_audit(tmp_path / "a.db", raw=True)
    log.append(record(CALL, verdict(), log, answers=("answer",)))
    (found,) = log.records()
    assert found["action"]["arguments"]["text"] == f"the word is {SECRET}"
    assert found["answers"] == ["answer"]
    log.close()
    assert open_audit(tmp_path / "a.db").raw  # a property of the file
    with pytest.raises(BadInput, match="keeps what calls say"):
        open_audit(tmp_path / "a.db", raw=False)


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        {"x": float("nan")},
        {"x": "\ud800"},
        {"x": "a\0b"},
        {3: Odd(), "y": b"bytes", "z": {1, 2}},
        {"x": LOOP},
        {"x": 10**6_000},
        {f"n{n}" * 50: n for n in range(500)},
        "no mapping",
        None,
    ],
    ids=["nan", "half a pair", "nul", "objects", "cycle", "long number", "many", "text", "none"],
)
def test_every_call_has_a_record_valid_or_not(tmp_path: Path, arguments: Any, raw: bool) -> None:
    log = open_audit(tmp_path / "a.db", raw=raw)
    with Guard(audit=log) as guard:
        found = guard.check(Action("t", arguments))
        assert not found.allowed
        assert found.audit_id, found
        assert log.get(found.audit_id) is not None
    assert verify(tmp_path / "a.db").sound


# the chain


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    log = open_audit(tmp_path / "a.db")
    for n in range(10):
        log.append({"kind": "decision", "tool": f"t{n % 2}", "found": "deny", "decision": "deny", "n": n})
    log.close()
    return tmp_path / "a.db"


def changed(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE audit SET body = replace(body, 'deny', 'allow') WHERE seq = 4", "record 4 "),
        ("UPDATE audit SET decision = 'allow' WHERE seq = 4", "record 4 "),
        ("DELETE FROM audit WHERE seq = 4", "record 5 "),
        ("DELETE FROM audit WHERE seq = 10", "records 10 to 10 "),
        ("UPDATE audit SET seq = 11 WHERE seq = 10", "record 11 "),
        ("UPDATE audit SET body = 'no json' WHERE seq = 4", "record 4 "),
        ("UPDATE audit SET hash = 'abc' WHERE seq = 4", "record 4 "),
    ],
)
def test_verify_names_what_was_changed(filled: Path, statement: str, named: str) -> None:
    assert verify(filled).sound
    changed(filled, statement)
    problems = verify(filled).problems
    assert problems
    assert named in problems[0]


def test_a_rewritten_tail_is_noticed_by_a_head_noted_before(filled: Path) -> None:
    head = verify(filled).head
    assert verify(filled, head=head).sound
    changed(filled, "DELETE FROM audit WHERE seq = 10")
    changed(filled, "UPDATE sqlite_sequence SET seq = 9")
    assert verify(filled).sound  # nothing in the file says so any more
    assert "cut off" in verify(filled, head=head).problems[0]


def test_threads_share_a_commit(tmp_path: Path) -> None:
    log = open_audit(tmp_path / "a.db", patience=60)
    ids: list[str] = []
    gate = threading.Barrier(12)

    def write() -> None:
        gate.wait()
        for _ in range(20):
            ids.append(log.append({"kind": "decision"}))

    threads = [threading.Thread(target=write) for _ in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(set(ids)) == 240
    assert log.count() == 240
    assert log.batches < 240
    found = verify(tmp_path / "a.db")
    assert (found.problems, found.records) == ((), 240)
    log.close()


def test_what_was_given_up_on_is_not_written_later(tmp_path: Path) -> None:
    log = open_audit(tmp_path / "a.db", patience=0.2)
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(OSError, match="locked"):
        log.append({"kind": "decision"})
    holder.execute("ROLLBACK")
    holder.close()
    log.append({"kind": "decision"})
    assert log.count() == 1
    log.close()


# exports


def test_an_export_is_verified_and_a_torn_last_line_is_reported(filled: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.jsonl"
    log = open_audit(filled)
    assert export(log, target) == 10
    log.close()
    whole = verify(target)
    assert (whole.sound, whole.torn, whole.records, whole.head) == (True, "", 10, verify(filled).head)
    data = target.read_bytes()
    target.write_bytes(data[:-30])
    torn = verify(target)
    assert (torn.sound, torn.records) == (True, 9)
    assert "line (10)" in torn.torn
    lines = data.splitlines(keepends=True)
    target.write_bytes(b"".join([*lines[:3], lines[3].replace(b"deny", b"allow"), *lines[4:]]))
    assert "line 4 " in verify(target).problems[0]
    target.write_bytes(b"".join(lines[:3] + lines[4:]))
    assert "line 4 " in verify(target).problems[0]
    target.write_bytes(b"".join(lines[4:]))  # a later part, whole in itself
    assert verify(target).sound
    target.write_text("hello\n")
    assert not verify(target).sound
    with pytest.raises(BadInput, match="cannot be read"):
        verify(tmp_path / "none")


# search, explain, resolve


def test_search_by_decision_tool_time_and_page(filled: Path) -> None:
    log = open_audit(filled)
    assert [each["seq"] for each in log.search(tool="t1")] == [10, 8, 6, 4, 2]
    assert log.search(decision="allow") == []
    assert [each["seq"] for each in log.search(before=4, most=2)] == [3, 2]
    assert [each["seq"] for each in log.search(after=8, oldest_first=True)] == [9, 10]
    log.close()


def test_explain_says_why(tmp_path: Path) -> None:
    log = open_audit(tmp_path / "a.db")
    given = verdict(
        Check("shell.delete", "integrity", "Nothing outside is deleted.", "fail", evidence="/etc\x1b[31m"),
        Check("tool.known", "integrity", "The tool is known.", "pass"),
    )
    stopped = log.append(record(CALL, given, log))
    text = explain(log.get(stopped) or {}, log.resolution(stopped))
    assert "deny: the call is not made, because of shell.delete" in text
    assert "seen: /etc\\x1b[31m" in text  # no escape sequence reaches the terminal
    assert "ann (user)" in text
    resolution = log.resolve(stopped, "approve", by="eve", note="she asked")
    after = explain(log.get(stopped) or {}, log.resolution(stopped))
    assert "approved by eve" in after
    assert "she asked" in after
    assert "approved by eve" in explain(log.get(resolution) or {})
    failed = verdict(failure="timeout")
    text = explain(log.get(log.append(record(CALL, failed, log))) or {})
    assert "no verdict could be reached (timeout)" in text
    assert "deny" in line(log.get(stopped) or {})
    other = log.get(log.append({"kind": "approval_used", "tool": "pay", "by": "ann"})) or {}
    assert "approval_used pay" in line(other)  # what doors add has words, too
    assert "ann" in explain(other)
    log.close()


def test_a_resolution_is_a_record_of_its_own(tmp_path: Path) -> None:
    log = open_audit(tmp_path / "a.db")
    learned = check("llm.a", "fail")
    stopped = log.append(record(CALL, verdict(learned, decision="escalate", key="k|1"), log))
    passed = log.append(record(CALL, verdict(decision="allow"), log))
    resolution = log.get(log.resolve(stopped, "deny", by="ann"))
    assert resolution is not None
    assert (resolution["about"], resolution["decision"], resolution["by"]) == (stopped, "deny", "ann")
    assert (resolution["checks"], resolution["key"]) == (["llm.a"], "k|1")
    for wrong, message in (
        ((stopped, "approve", "ann"), "resolved already"),
        ((passed, "approve", "ann"), "stopped nothing"),
        (("nope", "approve", "ann"), "holds no decision"),
        ((stopped, "maybe", "ann"), "approve or deny"),
        ((stopped, "approve", " "), "Say who"),
    ):
        with pytest.raises(BadInput, match=message):
            log.resolve(wrong[0], wrong[1], by=wrong[2])
    assert verify(tmp_path / "a.db").records == 3
    log.close()


# replay

STRICT = 'extends = "default"\n[tools.post_note]\neffect = "send"\n[roles.user]\ndenied_tools = ["post_*"]\n'


def test_recorded_calls_are_judged_again(tmp_path: Path) -> None:
    log = open_audit(tmp_path / "a.db", raw=True)
    with Guard(audit=log) as guard:
        before = guard.check(CALL)
        guard.check(Action("t", {"x": float("nan")}))
        found = replay(list(log.records()), Policy.read(STRICT))
        same = replay(list(log.records()), Policy.default())
    assert (found.judged, found.unreadable, found.redacted) == (1, 1, 0)
    assert found.moves == {f"{before.found} → deny": 1}
    assert "tool.permitted" in found.changes[0].because
    assert same.changes == ()


def test_a_models_recorded_answers_stand_for_the_model(tmp_path: Path) -> None:
    from tests.guard.scripted_model import POLICY, fused, in_turn, new, note, serving

    policy = Policy.read(POLICY)
    log = open_audit(tmp_path / "a.db", raw=True)
    with (
        serving(in_turn(fused(new(result=False)), fused(new()))) as server,
        Guard(policy, backend="hybrid", model=server.model, audit=log, deadline_s=60) as guard,
    ):
        then = [guard.check(note()).found, guard.check(note("Bye.")).found]
    log = open_audit(tmp_path / "a.db")
    assert then == ["deny", "allow"]
    same = replay(log.records(), policy)
    assert (same.judged, same.changes, same.moves) == (2, (), {"deny → deny": 1, "allow → allow": 1})
    stricter = replay(log.records(), Policy.read(POLICY + '[roles.user]\ndenied_tools = ["send_*"]\n'))
    assert [(each.before, each.after, each.because) for each in stricter.changes] == [
        ("allow", "deny", ("tool.permitted",))
    ]
    log.close()


def test_a_redacted_log_cannot_be_judged_again(tmp_path: Path) -> None:
    with Guard(audit=tmp_path / "a.db") as guard:
        guard.check(CALL)
        with pytest.raises(BadInput, match="redacted"):
            replay(list(guard.audit.records()), Policy.default())  # type: ignore[union-attr]


# the file


def test_no_audit_log(tmp_path: Path) -> None:
    open_audit(tmp_path / "a.db").close()
    changed(tmp_path / "a.db", "UPDATE meta SET value = '9' WHERE name = 'schema'")
    with pytest.raises(BadInput, match="schema 9"):
        open_audit(tmp_path / "a.db")
    (tmp_path / "t").write_text("text" * 100)
    with pytest.raises(BadInput, match="no SQLite database"):
        open_audit(tmp_path / "t")
    with pytest.raises(BadInput, match="There is no audit log"):
        open_audit(tmp_path / "none", must_exist=True)
    with pytest.raises(BadInput, match="cannot be written"):
        open_audit(tmp_path / "none" / "a.db")
    from safewright.guard.memory import open_memory

    open_memory(tmp_path / "m.db").close()
    with pytest.raises(BadInput, match="but no audit log"):
        open_audit(tmp_path / "m.db")
