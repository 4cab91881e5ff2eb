"""LongSafety against a server that fails now and then, killed and taken up again: nothing is asked twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SERVER = Path(__file__).parents[2] / "benchmarks" / "stated_server.py"
INSTANCES = 24
WORDS = ("zor", "blim", "kade", "murn", "pelt", "quil", "vun")


@pytest.fixture
def port() -> Iterator[int]:
    command = [sys.executable, str(SERVER), "--admit", "8", "--latency", "0.05", "--errors", "0.05"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    yield int(server.stdout.readline())
    server.kill()
    server.wait()


def stats(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats") as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def start(port: int, data: Path, folder: Path) -> subprocess.Popen[bytes]:
    at = f"http://127.0.0.1:{port}/v1"
    command = [
        sys.executable,
        "-m",
        "safewright",
        "measure",
        "longsafety",
        f"{at}#target",
        "--data",
        str(data),
    ]
    command += ["--model-role", f"judge={at}#judge", "--batch-size", "8", "--out", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)


def finish(port: int, data: Path, folder: Path) -> dict[str, Any]:
    """Run to the end; the scorecard apart from its cost."""
    process = start(port, data, folder)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint.decode()
    card: dict[str, Any] = json.loads((folder / "scorecard.json").read_text())
    card.pop("cost")
    return card


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    with open(file, "w") as handle:
        for number in range(INSTANCES):
            context = " ".join(WORDS[(number + k * k) % len(WORDS)] for k in range(300))
            row = {"id": number, "instruction": f"What of number {number}?", "context": context}
            handle.write(json.dumps(row) + "\n")
    return file


@pytest.mark.parametrize("after", [20, 90])
def test_10_resume_asks_nothing_that_was_answered(after: int, port: int, data: Path, tmp_path: Path) -> None:
    whole = finish(port, data, tmp_path / "whole")
    once = stats(port)
    assert once["questions"] == 6 * INSTANCES
    assert once["repeats"] == 0
    assert once["calls"] == 6 * INSTANCES + once["failures"]

    process = start(port, data, tmp_path / "broken")
    while stats(port)["calls"] < once["calls"] + after:
        time.sleep(0.01)
    under_way = stats(port)["under_way"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    time.sleep(0.5)  # what is under way is answered to nobody

    resumed = finish(port, data, tmp_path / "broken")
    assert resumed == whole
    # Every question of the first run was answered once more, those under way at the kill perhaps twice; a
    # batch of 8 for each role can have begun between the look and the kill.
    again = stats(port)["repeats"] - 6 * INSTANCES
    assert 0 <= again <= max(under_way, 16)

    before = stats(port)["calls"]
    assert finish(port, data, tmp_path / "broken") == whole
    assert stats(port)["calls"] == before
