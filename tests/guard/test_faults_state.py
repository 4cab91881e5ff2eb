"""Faults for real: many writers, killed writers, full disks, damaged files, flipped bytes."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safewright.guard import Action, Guard
from safewright.guard.audit import open_audit
from safewright.guard.audit.chain import verify
from safewright.guard.memory import open_memory
from safewright.guard.memory.exchange import verify as verify_memory
from tests.guard.statehelp import check, key, lesson

ROOT = Path(__file__).parents[2]
CALL = Action("look_up", {"q": "x"}, request="look up x")


def run(code: str, *arguments: Any, count: int = 1) -> list[subprocess.Popen[str]]:
    """Processes of their own that run some code; `sys.argv[1]` is which of them it is."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(number), *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def finished(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said
        assert "locked" not in said


def test_09_eight_processes_lose_no_update(tmp_path: Path) -> None:
    code = """
        import sys
        from safewright.guard.memory import open_memory
        from tests.guard.statehelp import check, key, lesson
        me, path = sys.argv[1:]
        memory = open_memory(path)
        for n in range(200):
            at = key(f"tool|{n % 5}")
            found = memory.retrieve(at)
            memory.learn(lesson(at, check("a"), session=f"{me}/{n}", found=found[0] if found else None))
    """
    finished(run(code, tmp_path / "m.db", count=8))
    memory = open_memory(tmp_path / "m.db")
    rows = memory.entries()
    assert len(rows) == 5
    assert sum(row.hits for row in rows) == 1_600
    assert sum(item.pos for row in rows for item in row.items.values()) == 1_600
    assert all(row.version == row.hits for row in rows)
    assert memory.version == 1_600
    assert verify_memory(memory) == []
    memory.close()


def test_09_eight_processes_write_one_chain(tmp_path: Path) -> None:
    code = """
        import sys, threading
        from safewright.guard.audit import open_audit
        me, path = sys.argv[1:]
        log = open_audit(path, patience=60)
        def write():
            for n in range(10):
                assert log.append({"kind": "decision", "tool": me, "found": "allow"})
        threads = [threading.Thread(target=write) for _ in range(3)]
        [each.start() for each in threads]
        [each.join() for each in threads]
    """
    finished(run(code, tmp_path / "a.db", count=8))
    found = verify(tmp_path / "a.db")
    assert (found.problems, found.records) == ((), 240)


def test_09_killed_in_mid_write(tmp_path: Path) -> None:
    code = """
        import sys
        from safewright.guard.audit import open_audit
        from safewright.guard.memory import open_memory
        from tests.guard.statehelp import check, key, lesson
        _, folder = sys.argv[1:]
        log, memory = open_audit(f"{folder}/a.db"), open_memory(f"{folder}/m.db")
        n = 0
        while True:
            n += 1
            print(log.append({"kind": "decision", "tool": "t", "n": n, "padding": "x" * 3_000}), flush=True)
            memory.learn(lesson(key(f"tool|{n % 7}"), check("a"), check(f"c{n % 9}"), session=str(n)))
    """
    told: list[str] = []
    for wait in (0.0, 0.011, 0.023):
        (process,) = run(code, tmp_path)
        assert process.stdout is not None
        for _ in range(20):
            told.append(process.stdout.readline().strip())
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        told += [line for line in rest.splitlines() if len(line) == 16]
    found = verify(tmp_path / "a.db")
    assert found.problems == ()
    log = open_audit(tmp_path / "a.db")
    ids = [record["id"] for record in log.records()]
    assert set(told) <= set(ids)  # what was acknowledged is there
    assert found.records == len(ids) <= len(told) + 3
    log.close()
    memory = open_memory(tmp_path / "m.db")
    assert memory.database.integrity() == []
    assert verify_memory(memory) == []
    memory.learn(lesson(key("after"), check("a")))
    memory.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(memory: Any) -> None:
    for n in range(100):
        memory.learn(lesson(key(f"new {n}"), check("a"), session=str(n)))


def test_disk_full_denies_and_keeps_what_was_written(small_disk: Path) -> None:
    with Guard(memory=small_disk / "m.db", audit=small_disk / "a.db") as guard:
        memory: Any = guard.memory
        memory.learn(lesson(key("kept"), check("a")))
        first = guard.check(CALL)
        assert first.failure is None
        filler = small_disk / "filler"
        with open(filler, "wb", buffering=0) as handle:
            try:
                while True:
                    handle.write(b"x" * 4_096)
            except OSError:
                pass
        verdicts = [guard.check(CALL) for _ in range(3)]
        assert {(each.decision, each.failure) for each in verdicts} == {("deny", "audit_unavailable")}
        with pytest.raises(OSError, match="full"):
            fill(memory)
        assert memory.retrieve(key("kept"))[0].checks[0].name == "a"
        filler.unlink()
        after = guard.check(CALL)
        assert (after.decision, after.failure) == (first.decision, None)
        assert after.audit_id
    assert verify(small_disk / "a.db").problems == ()
    memory = open_memory(small_disk / "m.db")
    assert verify_memory(memory) == []
    memory.close()


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """Where nothing can be mounted, this says the same."""
    code = f"""
        import resource, signal, sys
        from safewright.guard import Action, Guard
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _, folder = sys.argv[1:]
        call = Action("look_up", {{"q": "x"}}, request="look up x")
        with Guard(memory=f"{{folder}}/m.db", audit=f"{{folder}}/a.db") as guard:
            assert guard.check(call).failure is None
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, {resource.RLIM_INFINITY}))
            failures = set()
            for n in range(300):
                verdict = guard.check(call)
                failures.add((verdict.decision == "deny", verdict.failure))
                if verdict.failure:
                    break
            assert (True, "audit_unavailable") in failures, failures
    """
    finished(run(code, tmp_path))
    assert verify(tmp_path / "a.db").problems == ()
    memory = open_memory(tmp_path / "m.db")
    assert verify_memory(memory) == []
    memory.close()


def damaged(path: Path, begin: int, end: int) -> None:
    data = bytearray(path.read_bytes())
    data[begin:end] = os.urandom(len(data[begin:end]))
    path.write_bytes(bytes(data))


def checkpointed(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def test_a_damaged_memory_denies(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with Guard(memory=path) as guard:
        for n in range(50):
            assert guard.check(Action(f"tool_{n}", {"q": "x"})).failure is None
    checkpointed(path)
    damaged(path, 100, path.stat().st_size)  # all but the first page's header
    with Guard(memory=path, audit=tmp_path / "a.db") as guard:
        verdict = guard.check(CALL)
        assert (verdict.decision, verdict.failure) == ("deny", "memory_unavailable")
        assert verdict.audit_id
        assert getattr(guard.memory, "trouble", "")
        assert guard.memory.health()  # type: ignore[union-attr]


def test_a_damaged_audit_log_denies(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Guard(audit=path) as guard:
        for _ in range(20):
            assert guard.check(CALL).failure is None
    checkpointed(path)
    damaged(path, 100, path.stat().st_size)
    with Guard(audit=path) as guard:
        verdict = guard.check(CALL)
        assert (verdict.decision, verdict.failure) == ("deny", "audit_unavailable")
        assert guard.audit.health()  # type: ignore[union-attr]
    assert not verify(path).sound


def test_a_memory_damaged_while_it_is_used_denies(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with Guard(memory=path) as guard:
        for n in range(50):
            guard.check(Action(f"tool_{n}", {"q": "x"}))
    checkpointed(path)
    damaged(path, 4_096, path.stat().st_size)  # all pages but the first
    with Guard(memory=path) as guard:
        decisions = {guard.check(Action(f"tool_{n}", {"q": "x"})).failure for n in range(3)}
        assert decisions == {"memory_unavailable"}


def test_a_locked_database_denies_within_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = open_audit(path, patience=0.3)
    with Guard(audit=log, deadline_s=2) as guard:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        verdict = guard.check(CALL)
        assert (verdict.decision, verdict.failure) == ("deny", "audit_unavailable")
        holder.execute("ROLLBACK")
        holder.close()
        assert guard.check(CALL).failure is None


def test_a_writer_waits_for_others(tmp_path: Path) -> None:
    memory = open_memory(tmp_path / "m.db", patience=20)
    holder = sqlite3.connect(tmp_path / "m.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(0.5, lambda: holder.execute("ROLLBACK")).start()
    memory.learn(lesson(key("x"), check("a")))
    assert memory.retrieve(key("x"))
    memory.close()


@pytest.mark.parametrize("at", [3, 17, 29])
def test_09_a_flipped_byte_names_the_record(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.db"
    log = open_audit(path)
    ids = [log.append({"kind": "decision", "tool": f"tool-{n}", "mark": f"mark-{n:03}!"}) for n in range(30)]
    log.close()
    checkpointed(path)
    data = bytearray(path.read_bytes())
    where = bytes(data).index(b"mark-%03d!" % at) + 6
    data[where] ^= 1
    path.write_bytes(bytes(data))
    problems = verify(path).problems
    assert len(problems) == 1
    assert f"record {at + 1} " in problems[0]
    assert ids[at] in problems[0]


def test_any_flipped_byte_of_a_record_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    log = open_audit(path)
    for n in range(3):
        log.append({"kind": "decision", "tool": "t", "session": "s", "n": n})
    log.close()
    checkpointed(path)
    clean = path.read_bytes()
    first = clean.index(b'{"id"')
    for where in range(first, first + 200, 7):
        data = bytearray(clean)
        data[where] ^= 0x80
        path.write_bytes(bytes(data))
        assert not verify(path).sound, where
    path.write_bytes(clean)
    assert verify(path).sound
