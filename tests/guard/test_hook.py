"""The hook's door: exit code 0 only for a call that may be made, 2 for everything else."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.guard.doors.hook import options_of, socket_of, state_folder
from safewright.guard.doors.hook_daemon import Answerer, read_hook

HOOK = [sys.executable, "-c", "from safewright.guard.doors.hook import main; main()"]
CLI = [sys.executable, "-c", "from safewright.cli import main; main()", "guard", "hook"]
POLICY = """
extends = "default"
[tools.Look]
effect = "read"
[tools.Forbidden]
effect = "read"
[roles.user]
denied_tools = ["Forbidden"]
"""
LOOK = {"hook_event_name": "PreToolUse", "tool_name": "Look", "tool_input": {"at": "x"}, "session_id": "s"}
FORBIDDEN = {**LOOK, "tool_name": "Forbidden"}
UNKNOWN = {**LOOK, "tool_name": "Unheard"}


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: a socket's own has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="sw-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def place(tmp_path: Path, short: Path) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The environment and options of a hook whose state lies in a folder of its own; its daemons end with the test."""
    (tmp_path / "policy.toml").write_text(POLICY)
    environ = {**os.environ, "SAFEWRIGHT_GUARD_STATE": str(short)}
    yield environ, ["--policy", str(tmp_path / "policy.toml"), "--user", "user:ann", "--idle", "20"]
    for pid in daemons(short):
        os.kill(pid, signal.SIGKILL)


def daemons(state: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0")
            environ = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"--daemon" in line and f"SAFEWRIGHT_GUARD_STATE={state}".encode() in environ:
            found.append(int(entry.name))
    return found


def catches(pid: int, number: int) -> bool:
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigCgt" in each)
    return bool(int(line.split()[1], 16) & 1 << number - 1)


def ask(place: Any, given: Any, *more: str, command: list[str] = HOOK, **how: Any) -> Any:
    environ, options = place
    text = given if isinstance(given, bytes) else json.dumps(given).encode()
    return subprocess.run(
        [*command, *options, *more], input=text, env=environ, capture_output=True, timeout=90, **how
    )


def wait_for_daemon(place: Any) -> str:
    environ, options = place
    folder = Path(environ["SAFEWRIGHT_GUARD_STATE"]) / "safewright-guard"
    where = socket_of(options_of(options), str(folder))
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(where) == 0:
                return where
        time.sleep(0.05)
    raise AssertionError((folder / "daemon.log").read_text())


@pytest.mark.parametrize("command", [HOOK, CLI])
def test_0_lets_a_call_run_and_2_stops_it(place: Any, command: list[str]) -> None:
    allowed = ask(place, LOOK, "--no-daemon", command=command)
    assert (allowed.returncode, allowed.stdout) == (0, b""), allowed.stderr
    denied = ask(place, FORBIDDEN, "--no-daemon", command=command)
    assert denied.returncode == 2
    assert b"may not use this tool" in denied.stderr
    escalated = ask(place, UNKNOWN, "--no-daemon", command=command)
    assert escalated.returncode == 2
    assert b"A person must approve" in escalated.stderr


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"tool_name": "Look"}',
        {"hook_event_name": "Stop", "session_id": "s"},
        {**LOOK, "hook_event_name": "Whatever"},
        {**LOOK, "tool_input": "no json"},
        {**LOOK, "tool_input": ["a"]},
        {**LOOK, "tool_name": 5},
        {**LOOK, "toolName": "Another"},
        {**LOOK, "session_id": 5},
        {"tool": "Look", "arguments": {}, "surprise": 1},
        {**LOOK, "tool_input": {"text": "a\0b"}},
    ],
)
def test_what_cannot_be_read_stops_the_call(place: Any, given: Any) -> None:
    done = ask(place, given, "--no-daemon")
    assert done.returncode == 2
    assert done.stderr


def test_every_failure_of_the_guard_stops_the_call(place: Any, tmp_path: Path) -> None:
    environ, _ = place
    bad = tmp_path / "bad.toml"
    bad.write_text("on_unknown = 'allow'")
    empty: list[str] = []
    for options in (
        ["--policy", str(bad)],
        ["--policy", str(tmp_path / "none.toml")],
        ["--no-such-option"],
        ["--deadline", "0"],
        ["--backend", "llm"],
    ):
        for command in (HOOK, CLI):
            assert ask((environ, empty), LOOK, *options, "--no-daemon", command=command).returncode == 2, (
                options
            )
    for name in ("safewright.guard.engine", "safewright.guard.doors.hook_daemon", "tomllib"):
        program = (
            f"import sys; sys.modules[{name!r}] = None\nfrom safewright.guard.doors.hook import main; main()"
        )
        assert ask(place, LOOK, "--no-daemon", command=[sys.executable, "-c", program]).returncode == 2
    crash = (
        "from safewright.guard.doors import hook_daemon\nimport os, time, signal\n"
        "hook_daemon.decide_once = lambda *a: {}\n"
        "from safewright.guard.doors.hook import main; main()"
    )
    for what in ("os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(0)", "print('allow')", "1/0"):
        program = crash.replace("lambda *a: {}", f"lambda *a: {what}")
        assert ask(place, LOOK, "--no-daemon", command=[sys.executable, "-c", program]).returncode == 2, what
    hang = crash.replace("lambda *a: {}", "lambda *a: time.sleep(600)")
    done = ask(place, LOOK, "--no-daemon", "--deadline", "0.5", command=[sys.executable, "-c", hang])
    assert done.returncode == 2
    assert b"in time" in done.stderr


def test_closed_streams_and_signals_stop_the_call(place: Any) -> None:
    environ, options = place
    for closed in ("<&-", "<&- 2>&-", "</dev/null"):
        line = f'"$@" {closed}'
        done = subprocess.run(
            ["bash", "-c", line, "bash", *HOOK, *options, "--no-daemon"], env=environ, timeout=90
        )
        assert done.returncode == 2, closed
    shut = subprocess.run(
        ["bash", "-c", '"$@" 2>&- >&-', "bash", *HOOK, *options, "--no-daemon"],
        env=environ,
        timeout=90,
        input=json.dumps(FORBIDDEN).encode(),
    )
    assert shut.returncode == 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = subprocess.Popen(
            [*HOOK, *options, "--no-daemon"], env=environ, stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while not catches(process.pid, signal.SIGHUP):  # the last of those it takes care of
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == 2
    late = subprocess.Popen(
        [*HOOK, *options, "--no-daemon", "--deadline", "0.2"], env=environ, stdin=subprocess.PIPE
    )
    assert late.wait(60) == 2  # standard input that never ends


def test_a_daemon_answers_and_remembers(place: Any) -> None:
    environ, _ = place
    assert ask(place, LOOK).returncode == 0  # answered by itself; starts a daemon
    where = wait_for_daemon(place)
    folder = Path(where).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [ask(place, each).returncode for each in (LOOK, FORBIDDEN, UNKNOWN)] == [0, 2, 2]
    asked = {"hook_event_name": "UserPromptSubmit", "prompt": "look at x", "session_id": "s"}
    came = {**LOOK, "hook_event_name": "PostToolUse", "tool_response": {"text": "Rooms: 3"}}
    assert [ask(place, each).returncode for each in (asked, came, LOOK)] == [0, 0, 0]
    kept = [json.loads(line) for line in next((folder / "sessions").glob("*.jsonl")).read_text().splitlines()]
    assert [turn["kind"] for turn in kept] == ["user", "call", "result"]
    # Killed: its socket is stale, the call is answered all the same, and the history is still there.
    for pid in daemons(Path(environ["SAFEWRIGHT_GUARD_STATE"])):
        os.kill(pid, signal.SIGKILL)
    assert [ask(place, each, "--verdict").returncode for each in (FORBIDDEN, LOOK)] == [2, 0]
    wait_for_daemon(place)
    assert ask(place, {"hook_event_name": "SessionEnd", "session_id": "s"}).returncode == 0
    assert not list((folder / "sessions").glob("*.jsonl"))


def test_a_daemon_with_another_policy_does_not_answer(place: Any) -> None:
    _, options = place
    assert ask(place, LOOK).returncode == 0
    wait_for_daemon(place)
    policy = Path(options[1])
    policy.write_text(POLICY.replace('["Forbidden"]', '["Forbidden", "Look"]'))
    assert ask(place, LOOK).returncode == 2
    policy.write_text("broken =")
    assert ask(place, LOOK).returncode == 2


def test_a_hung_or_lying_daemon_stops_the_call(place: Any) -> None:
    environ, options = place
    folder = Path(environ["SAFEWRIGHT_GUARD_STATE"]) / "safewright-guard"
    folder.mkdir(mode=0o700)
    where = socket_of(options_of([*options, "--deadline", "0.5"]), str(folder))
    for said in (None, b"allow\n", b'{"code": 0, "word": "allow"}\n', b"[]\n"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(where)
            listener.listen(1)
            process = subprocess.Popen(
                [*HOOK, *options, "--deadline", "0.5"], env=environ, stdin=subprocess.PIPE
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(LOOK).encode())
            process.stdin.close()
            wire, _ = listener.accept()
            with wire:
                if said is not None:
                    wire.recv(1 << 16)
                    wire.sendall(said)
                assert process.wait(60) == 2, said
        os.unlink(where)


def test_a_policy_is_a_file_or_one_that_comes_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert options_of(["--policy", "default"])["policy"] == "default"
    assert options_of(["--policy", "./none.toml"])["policy"] == str(tmp_path / "none.toml")
    (tmp_path / "mine").write_text("")
    assert options_of(["--policy", "mine"])["policy"] == str(tmp_path / "mine")


def test_a_folder_that_others_can_write_is_not_used(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFEWRIGHT_GUARD_STATE", str(short))
    assert state_folder() == str(short / "safewright-guard")
    (short / "safewright-guard").chmod(0o770)
    assert state_folder() is None
    (short / "safewright-guard").rmdir()
    (short / "elsewhere").mkdir(mode=0o700)
    (short / "safewright-guard").symlink_to(short / "elsewhere")
    assert state_folder() is None


def test_the_shapes_of_several_agents_are_read() -> None:
    for given, tool, arguments in (
        (LOOK, "Look", {"at": "x"}),
        ({"toolName": "bash", "toolArgs": '{"command": "ls"}', "cwd": "/w"}, "bash", {"command": "ls"}),
        ({"hook_event_name": "BeforeTool", "tool_name": "a", "tool_input": {}}, "a", {}),
        (
            {"hook_event_name": "beforeShellExecution", "command": "ls", "conversation_id": "c"},
            "bash",
            {"command": "ls"},
        ),
        (
            {"hook_event_name": "beforeMCPExecution", "tool_name": "m", "tool_input": '{"b": 1}'},
            "m",
            {"b": 1},
        ),
    ):
        hook = read_hook(given)
        assert (hook.tool, hook.arguments) == (tool, arguments)
    with pytest.raises(BadInput):
        read_hook(
            {"hook_event_name": "PostToolUse", "tool_name": "a", "tool_input": {}, "tool_response": "x"}
        )


def test_a_call_is_judged_with_what_its_session_saw(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    answerer = Answerer(options_of(["--policy", str(policy), "--no-environment"]), None)
    answerer.reply({"hook_event_name": "UserPromptSubmit", "prompt": "look", "session_id": "s"}, "")
    answerer.reply({**LOOK, "hook_event_name": "PostToolUse", "tool_response": "a result"}, "")
    action = answerer.action(read_hook(LOOK))
    assert action.request == "look"
    assert [turn.kind for turn in action.history] == ["user", "call", "result"]
    assert answerer.action(read_hook({**LOOK, "session_id": "t"})).history == ()
    assert action.principal is not None
    assert action.principal.attributes == {}
    here = answerer.action(read_hook({**LOOK, "cwd": "/work/here"}, "/elsewhere"))
    assert here.principal is not None
    assert here.principal.attributes == {"cwd": "/work/here"}
    answerer.guard.close()
