"""Run folders: whole writes, torn tails, one owner, one plan."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safewright.errors import BadInput, Incomplete
from safewright.runs import (
    Run,
    digest_bytes,
    digest_json,
    from_json,
    open_run,
    run_sync,
    single_flight,
    to_json,
    write_json,
)
from safewright.types import Interval, Reading, Recipe

PLAN = {"seed": 0, "data": "sha256:1"}


def test_json_round_trip_of_dataclasses() -> None:
    reading = Reading("rate", 0.25, 8, 1, Interval(0.1, 0.5), better="lower")
    assert from_json(Reading, to_json(reading)) == reading


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.booleans(), st.none())))
def test_digest_ignores_key_order(mapping: dict[str, object]) -> None:
    reversed_ = dict(reversed(list(mapping.items())))
    assert digest_json(mapping) == digest_json(reversed_)


def test_digest_of_known_bytes() -> None:
    assert digest_bytes(b"abc").endswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_not_a_number_becomes_null_never_a_number() -> None:
    assert to_json([float("nan"), float("inf"), 1.5]) == [None, None, 1.5]


@pytest.mark.parametrize(
    ("plain", "word"),
    [
        ({"prepare": None, "visable": {}}, "visable"),
        ({"prepare": 3}, "prepare"),
        ([], "Recipe"),
    ],
)
def test_strict_reading_names_the_field(plain: object, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        from_json(Recipe, plain)


def test_missing_field_is_named() -> None:
    with pytest.raises(BadInput, match="high"):
        from_json(Interval, {"low": 0.1})


def test_write_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    @dataclass
    class Odd:
        thing: object = field(default_factory=object)

    target = tmp_path / "card.json"
    write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        write_json(target, Odd())
    assert json.loads(target.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["card.json"]


def test_journal_survives_a_torn_last_line(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", PLAN) as run:
        run.append("answers", {"id": 1})
        run.append("answers", {"id": 2})
    file = tmp_path / "run" / "journal" / "answers.jsonl"
    file.write_bytes(file.read_bytes() + b'{"id": 3, "text": "cut of')
    with open_run(tmp_path / "run", PLAN) as run:
        assert [row["id"] for row in run.rows("answers")] == [1, 2]
        run.append("answers", {"id": 3})
        assert [row["id"] for row in run.rows("answers")] == [1, 2, 3]


def test_threads_write_one_journal(tmp_path: Path) -> None:
    """Models of one judge answer at the same time, the first rows of a journal among their answers."""
    for attempt in range(20):
        with open_run(tmp_path / str(attempt), PLAN) as run:
            ready = threading.Barrier(4)

            def write(who: int, run: Run = run, ready: threading.Barrier = ready) -> None:
                ready.wait()
                for number in range(10):
                    run.append("calls", {"who": who, "number": number, "text": "x" * 50})

            threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len({(row["who"], row["number"]) for row in run.rows("calls")}) == 40


def test_damage_inside_a_journal_is_an_error_not_a_skip(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", PLAN) as run:
        run.append("answers", {"id": 1})
    file = tmp_path / "run" / "journal" / "answers.jsonl"
    file.write_bytes(b"garbage\n" + file.read_bytes())
    with open_run(tmp_path / "run", PLAN) as run, pytest.raises(BadInput, match="line 1"):
        run.rows("answers")


def test_another_plan_is_refused_and_named(tmp_path: Path) -> None:
    open_run(tmp_path / "run", PLAN).close()
    with pytest.raises(BadInput, match="seed") as refused:
        open_run(tmp_path / "run", {**PLAN, "seed": 1})
    assert refused.value.exit_code == 2


def test_the_differing_options_are_named_with_both_values(tmp_path: Path) -> None:
    def plan(tokens: int, judge: Any, **more: int) -> dict[str, Any]:
        return {"measure": {"name": "m", "config": {"max_new_tokens": tokens, **more}}, "judge": judge}

    with open_run(tmp_path / "run", plan(16, {"name": "keyword"})):
        pass
    wanted = (
        r"another plan: judge, measure differ \(judge\.name: keyword there, rubric here; "
        r"measure\.config\.max_new_tokens: 16 there, 32 here; measure\.config\.k: none there, 1 here; and 1 more\)"
    )
    with pytest.raises(BadInput, match=wanted):
        open_run(tmp_path / "run", plan(32, {"name": "rubric"}, k=1, z=2))
    with pytest.raises(BadInput, match=r"another plan: judge differ \(judge: .*there, none here\)"):
        open_run(tmp_path / "run", plan(16, None))


def test_notes_do_not_make_another_plan(tmp_path: Path) -> None:
    open_run(tmp_path / "run", {**PLAN, "command": "a"}).close()
    with open_run(tmp_path / "run", {**PLAN, "command": "b"}) as run:
        assert run.dir.name == "run"


def test_overwrite_deletes_a_run_but_never_another_folder(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", PLAN) as run:
        run.append("answers", {"id": 1})
    with open_run(tmp_path / "run", {**PLAN, "seed": 1}, overwrite=True) as run:
        assert run.rows("answers") == []
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(BadInput, match="no run"):
        open_run(tmp_path / "home", PLAN, overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "do not lose me"


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", PLAN), pytest.raises(BadInput, match="in use"):
        open_run(tmp_path / "run", PLAN)
    with open_run(tmp_path / "run", PLAN) as again:
        assert again.rows("answers") == []


def test_resume_false_wants_an_empty_folder(tmp_path: Path) -> None:
    open_run(tmp_path / "run", PLAN).close()
    with pytest.raises(BadInput, match="already"):
        open_run(tmp_path / "run", PLAN, resume=False)


def test_step_is_keyed_by_content(tmp_path: Path) -> None:
    calls: list[str] = []

    def work(name: str) -> dict[str, str]:
        calls.append(name)
        return {"made": name}

    with open_run(tmp_path / "run", PLAN) as run:
        assert run.step({"weights": "a"}, lambda: work("a")) == {"made": "a"}
        assert run.step({"weights": "a"}, lambda: work("never")) == {"made": "a"}
        assert run.step({"weights": "b"}, lambda: work("b")) == {"made": "b"}
    assert calls == ["a", "b"]


KILLED = """
import os, sys, time
from safewright.runs import open_run
with open_run(sys.argv[1], {"seed": 0}) as run:
    start = len(run.rows("answers"))
    for i in range(start, 400):
        run.append("answers", {"id": i, "text": "x" * 200})
        if i == start + 40:
            print("ready", flush=True)
        time.sleep(0.001)
    run.write("result.json", run.rows("answers"))
"""


def test_kill_nine_anywhere_and_resume_gives_the_same_bytes(tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
        )

    whole = start(tmp_path / "whole")
    assert whole.wait(60) == 0
    broken = tmp_path / "broken"
    for _ in range(3):
        process = start(broken)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    assert start(broken).wait(60) == 0
    assert (broken / "result.json").read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()


FULL = """
import resource, sys
from safewright.runs import open_run
from safewright.errors import Incomplete
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with open_run(sys.argv[1], {"seed": 0}) as run:
    try:
        for i in range(1000):
            run.append("answers", {"id": i, "text": "x" * 100})
    except Incomplete as error:
        print(error.exit_code.value, error.what)
"""


def test_full_disk_is_incomplete_and_keeps_whole_rows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 No space left")
    with open_run(tmp_path / "run", {"seed": 0}) as run:
        kept = [row["id"] for row in run.rows("answers")]
        assert kept == list(range(len(kept)))
        assert len(kept) > 10
        run.append("answers", {"id": len(kept)})
        assert len(run.rows("answers")) == len(kept) + 1


def test_disk_full_is_raised_as_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with open_run(tmp_path / "run", PLAN) as run:
        run.append("answers", {"id": 1})
        with monkeypatch.context() as patch:
            patch.setattr("safewright.runs.run.os.write", full)
            with pytest.raises(Incomplete, match="No space left"):
                run.append("answers", {"id": 2})
        assert [row["id"] for row in run.rows("answers")] == [1]


BUILD = """
import sys, time
from pathlib import Path
from typing import Any
from safewright.runs import single_flight
def build(folder):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    (folder / "part").write_text("1")
    if sys.argv[3] == "hang":
        print("hanging", flush=True)
        time.sleep(60)
    time.sleep(0.3)
    (folder / "whole").write_text("2")
single_flight(Path(sys.argv[1]), build)
"""


def test_single_flight_builds_once_for_many(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", BUILD, str(tmp_path / "c" / "entry"), str(tmp_path / "log"), "fast"]
    processes = [subprocess.Popen(arguments) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert (tmp_path / "c" / "entry" / "whole").read_text() == "2"


def test_single_flight_killed_build_leaves_nothing(tmp_path: Path) -> None:
    entry = tmp_path / "c" / "entry"
    arguments = [sys.executable, "-c", BUILD, str(entry), str(tmp_path / "log")]
    process = subprocess.Popen([*arguments, "hang"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "hanging"
    process.kill()
    process.wait(60)
    assert not entry.exists()
    assert subprocess.run([*arguments, "fast"], timeout=60).returncode == 0
    assert sorted(file.name for file in entry.iterdir()) == ["part", "whole"]


def test_single_flight_failing_build_is_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        single_flight(tmp_path / "entry", fail)
    made = single_flight(tmp_path / "entry", lambda folder: (folder / "x").touch())
    assert (made / "x").exists()


def test_run_sync_works_inside_a_running_loop() -> None:
    async def inner() -> int:
        await asyncio.sleep(0)
        return 7

    async def outer() -> int:
        return run_sync(inner())

    assert run_sync(inner()) == 7
    assert asyncio.run(outer()) == 7


def test_events_carry_a_time(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", PLAN) as run:
        run.event("began", rows=3)
        (event,) = run.rows("events")
    assert event["kind"] == "began"
    assert event["rows"] == 3
    assert abs(event["at"] - time.time()) < 60
