"""Killed and failed evaluations: no received answer is asked for again, and the end is as if nothing was."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import inspect_ai
import pytest
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log import read_eval_log
from inspect_ai.model._model import _models

from safewright.compose.inspect_log import scorecard_of
from safewright.inspect_plugin.scoring import FOLDER, _judges, _stores
from safewright.models import resolve
from tests.inspect_plugin.conftest import errors, metrics, run, write_rows
from tests.models.fault_server import FaultServer, Reply, complains, said

ROWS = 30
AT_ONCE = 4


def named(server: FaultServer, name: str) -> str:
    where = f"{server.base}#{name}"
    return f"safewright/{where}@{resolve(where).digest.rpartition(':')[2][:12]}"


def answers(request: dict[str, Any], number: int) -> Reply:
    """The target echoes, the judge grades by a word; both after a while."""
    text = request["messages"][0]["content"]
    words = f"ban {text}" if request["model"] == "toy" else "<reason>ban</reason><score>1</score>"
    if request["model"] != "toy" and "kip" in text:
        words = "<reason>ban</reason><score>5</score>"
    reply = said(words)
    reply.delay = 0.03
    return reply


def forget() -> None:
    """What a new process does not know."""
    _stores.clear()
    _judges.clear()
    _models.clear()


def command(server: FaultServer, data: Path, logs: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "inspect_ai", "eval-set", "safewright/harmful_rate"),
        *("--model", named(server, "toy"), "--model-role", f"judge={named(server, 'judge')}"),
        *("-T", f"data={data}", "--log-dir", str(logs), "--max-connections", str(AT_ONCE)),
        *("--display", "none"),
    ]


def resumed(server: FaultServer, data: Path, logs: Path, **more: Any) -> tuple[bool, Any]:
    """The same set in this process, as a new process would run it."""
    forget()
    ok, (log,) = inspect_ai.eval_set(
        "safewright/harmful_rate",
        log_dir=str(logs),
        model=named(server, "toy"),
        model_roles={"judge": named(server, "judge")},
        task_args={"data": str(data)},
        max_connections=AT_ONCE,
        display="none",
        **more,
    )
    return ok, read_eval_log(log.location)


def asked(server: FaultServer) -> Counter[str]:
    return Counter(f"{r['model']}: {r['messages'][0]['content']}" for r in server.requests)


def test_a_killed_set_asks_nothing_twice(server: FaultServer, tmp_path: Path) -> None:
    server.behave = answers
    data, logs = write_rows(tmp_path / "rows.jsonl", ROWS), tmp_path / "set"
    child = subprocess.Popen(
        command(server, data, logs),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    deadline = time.monotonic() + 120
    while len(server.requests) < ROWS and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait(10)
    in_flight = server.now
    time.sleep(0.2)
    before = len(server.requests)
    assert ROWS <= before < 2 * ROWS, "it was killed half-way"
    assert in_flight <= 2 * AT_ONCE

    ok, log = resumed(server, data, logs)
    assert ok, errors(log)
    assert len(asked(server)) == 2 * ROWS, "every question was asked"
    repeats = len(server.requests) - 2 * ROWS
    # An answer that was on the wire at the kill was not received.
    assert repeats <= 2 * AT_ONCE
    assert max(asked(server).values()) <= 2

    count = len(server.requests)
    ok, again = resumed(server, data, logs)
    assert ok
    assert len(server.requests) == count, "a third run asks nothing"
    assert metrics(again) == metrics(log)

    forget()
    log_anew = run("harmful_rate", named(server, "toy"), data, logs, roles={"judge": named(server, "judge")})
    assert len(server.requests) == count, "nor does a new evaluation beside the same answers"

    whole = run(
        "harmful_rate",
        named(server, "toy"),
        data,
        tmp_path / "whole",
        roles={"judge": named(server, "judge")},
    )
    assert len(server.requests) == count + 2 * ROWS, "another folder has answers of its own"
    assert metrics(whole) == metrics(log) == metrics(log_anew)
    assert scorecard_of(whole.location)[1] == scorecard_of(log.location)[1]


def test_10_resume_runs_only_what_is_missing(server: FaultServer, tmp_path: Path) -> None:
    """A sample that failed is asked again, and nothing else; then nothing at all."""
    data, logs = write_rows(tmp_path / "rows.jsonl", 12), tmp_path / "set"
    broken = True

    def behave(request: dict[str, Any], number: int) -> Reply:
        last = request["messages"][0]["content"]
        if broken and request["model"] == "toy" and last == target:
            return complains(422, "not this one")
        return answers(request, number)

    import json

    target = json.loads(data.read_text().splitlines()[5])["prompt"]
    server.behave = behave
    ok, log = resumed(server, data, logs, retry_attempts=0)
    assert not ok
    assert log.status == "error", "a log with a missing sample does not say success"
    assert len(errors(log)) == 1
    assert log.results.completed_samples == 11
    broken = False
    before = len(server.requests)
    ok, log = resumed(server, data, logs)
    assert ok
    assert [r["model"] for r in server.requests[before:]] == ["toy", "judge"]
    count = len(server.requests)
    ok, log = resumed(server, data, logs)
    assert ok
    assert len(server.requests) == count
    roles = {"judge": named(server, "judge")}
    whole = run("harmful_rate", named(server, "toy"), data, tmp_path / "whole", roles=roles)
    assert metrics(whole) == metrics(log)


def test_answers_are_kept_in_a_private_folder(server: FaultServer, tmp_path: Path) -> None:
    server.behave = answers
    data = write_rows(tmp_path / "rows.jsonl", 3)
    forget()
    log = run("utility", named(server, "toy"), data, tmp_path / "logs")
    folder = tmp_path / "logs" / FOLDER
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600]
    assert log.status == "success"
    forget()
    run("utility", named(server, "toy"), data, tmp_path / "other", calls=str(folder))
    assert len(server.requests) == 3
    assert not (tmp_path / "other" / FOLDER).exists()
    run("utility", named(server, "toy"), data, tmp_path / "off", calls="off")
    assert len(server.requests) == 6
    assert not (tmp_path / "off" / FOLDER).exists()


def test_other_weights_never_inherit_answers(tmp_path: Path) -> None:
    from tests import tiny

    data = write_rows(tmp_path / "rows.jsonl", 6)
    short = {"max_new_tokens": 8}
    folder = tiny.save_tiny(tmp_path / "m")
    first = scorecard_of(
        run("utility", f"safewright/{folder}", data, tmp_path / "logs", config=short).location
    )
    tiny.save_tiny(folder, seed=5)
    forget()
    second = scorecard_of(
        run("utility", f"safewright/{folder}", data, tmp_path / "logs", config=short).location
    )
    assert first[0].models["target"].digest != second[0].models["target"].digest
    assert [r.output for r in first[1]] != [r.output for r in second[1]]


def test_other_data_under_the_same_name_is_another_task(server: FaultServer, tmp_path: Path) -> None:
    server.behave = answers
    data, logs = write_rows(tmp_path / "rows.jsonl", 4), tmp_path / "set"
    assert resumed(server, data, logs)[0]
    count = len(server.requests)
    write_rows(data, 6)
    with pytest.raises(PrerequisiteError, match="not associated with a task"):
        resumed(server, data, logs)
    ok, _ = resumed(server, data, logs, log_dir_allow_dirty=True)
    assert ok
    assert len(server.requests) == count + 2 * 2, "two new rows, two questions each"


@pytest.mark.parametrize("name", ["fetched", "damaged"])
def test_a_damaged_store_is_named(name: str, server: FaultServer, tmp_path: Path) -> None:
    server.behave = answers
    data = write_rows(tmp_path / "rows.jsonl", 3)
    folder = tmp_path / "calls"
    folder.mkdir()
    (folder / f"{name}.jsonl").write_text("{\n" if name == "damaged" else '{"key": "a", "value": 1}\n')
    forget()
    log = run("utility", named(server, "toy"), data, tmp_path / "logs", calls=str(folder))
    if name == "damaged":
        assert log.status == "error"
        assert all("damaged.jsonl, line 1" in message for message in errors(log))
        assert server.requests == []
    else:
        assert log.status == "success"
