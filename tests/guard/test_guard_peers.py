"""The comparison with other guards: how a peer is asked, and that what it fails at is counted by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from benchmarks import guard_peers as peers

from safewright.guard.nouns import Action, Turn

PROGRAM = """
import json, sys, time
told = json.loads(sys.stdin.readline())
print("a greeting that is no answer")
print(json.dumps({"ready": "1.0"}), flush=True)
for line in sys.stdin:
    trace = json.loads(line)["trace"]
    name = trace[-1]["tool_calls"][0]["function"]["name"]
    if name == "crash":
        sys.exit("the peer's own words")
    if name == "hang":
        time.sleep(600)
    if name == "flood":
        print("x" * 10_000_000, file=sys.stderr)
    said = {"crash": "", "quiet": "gave up"}.get(name) or ("deny" if name in told["effects"] else "allow")
    print(json.dumps({"a": said, "b": "allow"}), flush=True)
"""
TOLD = {"effects": ["send"], "outside": []}


@contextmanager
def peer(code: str = PROGRAM, **more: Any) -> Iterator[peers.Peer]:
    made = peers.Peer(sys.executable, code, TOLD, ("a", "b"), **more)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def action(tool: str, *history: Turn) -> Action:
    return Action(tool, {"to": "x"}, "do it", history=(Turn("user", "do it"), *history))


READ = (Turn("call", tool="read", arguments={"n": 1}), Turn("result", "some text", "read"))


def test_a_history_becomes_messages() -> None:
    trace = peers.trace_of(action("send", *READ))
    assert [each["role"] for each in trace] == ["user", "assistant", "tool", "assistant"]
    assert trace[2] == {
        "role": "tool",
        "tool_call_id": trace[1]["tool_calls"][0]["id"],
        "content": "some text",
    }
    assert trace[3]["tool_calls"][0]["function"] == {"name": "send", "arguments": {"to": "x"}}
    assert peers.names_of(trace) == [["user"], ["assistant", "read"], ["tool"], ["assistant", "send"]]
    assert peers.outputs_of(trace) == ["some text"]


def test_a_peer_answers_in_each_of_its_ways_and_is_asked_once() -> None:
    tally = peers.Tally()
    with peer() as made:
        first = peers.arm("Peer", "a", made, tally)
        second = peers.arm("Peer", "b", made, peers.Tally())
        assert made.version == "1.0"
        assert [first.decide(action(name)) for name in ("send", "read", "send")] == ["deny", "allow", "deny"]
        assert second.decide(action("send")) == "allow"
        assert len(made.known) == 2
        assert made.met == 2
    assert (tally.calls, tally.failed_calls, tally.replays) == (3, 0, 3)


def test_what_it_fails_at_is_not_made_and_is_counted_by_itself() -> None:
    tally = peers.Tally()
    with peer(seconds=3.0) as made:
        arm = peers.arm("Peer", "a", made, tally)
        assert arm.decide(action("quiet")) == "deny"  # the first call of a replay
        assert arm.decide(action("crash", *READ)) == "deny"  # the second
        assert "own words" in made.trouble
        assert arm.decide(action("read")) == "allow"  # another replay, after a new start
        assert arm.decide(action("hang", *READ)) == "deny"
        assert arm.decide(action("read", *READ)) == "allow"
        assert made.starts == 3
    assert (tally.calls, tally.failed_calls, tally.replays, tally.failed_replays) == (5, 3, 2, 2)
    table = peers.failures({"Peer: a": tally, "Other": peers.Tally()})
    assert "| Peer: a | 5 | 3 | 100.0 [34.2, 100.0] of 2 |" in table
    assert "| Other | 0 | 0 | – |" in table


def test_a_peer_that_complains_at_length_still_answers() -> None:
    with peer() as made:
        assert made.ask(peers.trace_of(action("flood")))["a"] == "allow"


def test_a_peer_that_keeps_ending_is_given_up() -> None:
    with peer() as made:
        for number in range(peers.MOST_STARTS + 2):
            said = made.ask(peers.trace_of(action("crash", *READ * number)))
            assert said == {"a": peers.FAILED, "b": peers.FAILED}
        assert made.starts == peers.MOST_STARTS


def test_alike_traces_are_asked_about_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SPOT", 2)
    with peer(key=lambda trace: trace[0]) as made:  # a wrong key: it leaves out the tool
        assert made.ask(peers.trace_of(action("send")))["a"] == "deny"
        made.ask(peers.trace_of(action("read")))
        with pytest.raises(ValueError, match="taken to be alike"):
            made.ask(peers.trace_of(action("read")))


@pytest.mark.parametrize(
    ("python", "code", "why"),
    [
        ("/no/such/python", PROGRAM, "No such file"),
        (sys.executable, "import no_such_package", "no_such_package"),
        (sys.executable, "import sys; sys.stdin.readline()", "not ready"),
    ],
)
def test_a_peer_that_does_not_start_is_not_run(python: str, code: str, why: str) -> None:
    with pytest.raises(peers.NotRun, match=why):
        peers.Peer(python, code, TOLD, ("a", "b")).start()


def test_a_peer_without_an_interpreter_is_said_not_to_be_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("agentdojo")
    arguments = ["guard_peers.py", "--suite", "banking", "--attack", "bare", "--limit", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert peers.main() == 0
    out = capsys.readouterr().out
    assert "* invariant-ai: **not run** (no interpreter" in out
    assert "* LlamaFirewall: **not run** (no interpreter" in out
    assert "| strict |" in out
