"""Stages whose rows a served model writes, in runs of their own: what they are given, and how they are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safewright.data import load_data
from safewright.models import resolve
from safewright.runs.progress import silent
from safewright.treatments.job import Job
from safewright.types import ModelRef
from tests.models.fault_server import FaultServer, Reply


def served(server: FaultServer) -> ModelRef:
    return resolve(f"{server.base}#toy")


def job_of(
    run: Any, files: Mapping[str, Path], models: Mapping[str, ModelRef], options: Any, seed: int = 0
) -> Job:
    """A job on one thread that writes into its run."""
    job = Job(
        models=models,
        data={role: load_data(file, role) for role, file in files.items()},
        config=options,
        out=None,
        draft=run.own("draft"),
        run=run,
        seed=seed,
        device="cpu",
        threads=1,
        workers=1,
        progress=silent,
    )
    job.draft.mkdir(exist_ok=True)
    return job


def bytes_of(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """What a run has written."""
    return {name: (folder / "draft" / name).read_bytes() for name in names}


def killed_after(
    received: int,
    work: Callable[[Path, dict[str, Path], str], None],
    folder: Path,
    files: dict[str, Path],
    server: FaultServer,
) -> int:
    """Kill ``work(folder, files, base)`` once ``received`` replies are in its journal; how many are.

    The server keeps silent after as many requests: what is under way at the kill is never received.
    """
    answer = server.behave

    def slow(request: dict[str, Any], number: int) -> Reply:
        if number > received:
            time.sleep(20)
        return answer(request, number)

    server.behave = slow
    process = multiprocessing.get_context("spawn").Process(target=work, args=(folder, files, server.base))
    process.start()
    journal = folder / "journal" / "calls.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (
        journal.exists() and journal.read_bytes().count(b"\n") >= received
    ):
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    server.behave = answer
    return journal.read_bytes().count(b"\n")
