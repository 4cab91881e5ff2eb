"""Histories of sessions: never shortened, shared between processes through files, and full rather than forgetful."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.guard.doors.sessions import Sessions


def test_a_history_is_in_order_and_knows_the_last_request() -> None:
    sessions = Sessions()
    sessions.asked("s", "look")
    sessions.called("s", "look", {"at": "a"}, "saw a", "1")
    sessions.called("s", "look", {"at": "b"}, None, "2")
    sessions.returned("s", "look", "saw b", "2")
    sessions.asked("s", "look again")
    assert [turn.kind for turn in sessions.history("s")] == [
        "user",
        "call",
        "result",
        "call",
        "result",
        "user",
    ]
    assert sessions.request("s") == "look again"
    assert sessions.history("t") == ()
    sessions.forget("s")
    assert sessions.history("s") == ()


def test_what_outgrows_its_bounds_is_full_not_shortened() -> None:
    for bounds in ({"most_turns": 3}, {"most_bytes": 250}):
        sessions = Sessions(**bounds)  # type: ignore[arg-type]
        sessions.called("s", "look", {}, "x" * 50)
        assert len(sessions.history("s")) == 2
        sessions.called("s", "look", {}, "x" * 50)
        asks: Any = ((sessions.history, "s"), (sessions.request, "s"), (sessions.asked, "s", "x"))
        for ask, *given in asks:
            with pytest.raises(BadInput, match="too long"):
                ask(*given)
        assert sessions.history("another") == ()
    crowded = Sessions(most_sessions=2)
    for name in "ab":
        crowded.asked(name, "x")
    with pytest.raises(BadInput, match="sessions are open"):
        crowded.history("c")
    crowded.forget("a")
    assert crowded.history("c") == ()


def test_a_session_nobody_used_for_long_makes_room() -> None:
    crowded = Sessions(most_sessions=1, kept_s=0.0)
    crowded.asked("a", "x")
    assert crowded.history("b") == ()
    assert len(crowded) == 1


def test_files_are_private_and_shared_by_processes(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    one, other = Sessions(folder), Sessions(folder)
    one.asked("s", "look\nat it \u2028 \ud800")  # line breaks, and half a character
    assert [turn.text for turn in other.history("s")] == ["look\nat it \u2028 \ud800"]
    other.returned("s", "look", "saw")
    assert len(one.history("s")) == 2
    file = next(folder.glob("*.jsonl"))
    assert file.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    program = (
        "import sys; from pathlib import Path; from safewright.guard.doors.sessions import Sessions\n"
        "sessions = Sessions(Path(sys.argv[1]))\n"
        "for number in range(50): sessions.returned('s', 'look', sys.argv[2] * 2000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(folder), letter]) for letter in "abcd"]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    texts = [turn.text for turn in one.history("s")[2:]]
    assert sorted(texts) == sorted(letter * 2000 for letter in "abcd" for _ in range(50))


def test_a_damaged_shortened_or_deleted_history_is_an_error(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    sessions.asked("s", "look")
    file = next(tmp_path.glob("*.jsonl"))
    whole = file.read_bytes()
    for text, fresh in (
        (whole + b'{"kind": "us', True),
        (b"nonsense\n", True),
        (whole[:-5], False),
        (None, False),
    ):
        if text is None:
            file.unlink()
        else:
            file.write_bytes(text)
        with pytest.raises(BadInput):
            (Sessions(tmp_path) if fresh else sessions).history("s")
        file.write_bytes(whole)
