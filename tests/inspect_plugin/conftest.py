"""What the tests of the Inspect side share: data files, a server, and evaluations that write nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.models.fault_server import FaultServer

inspect_ai = pytest.importorskip("inspect_ai")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, no telemetry, no trace file in the user's home, nothing on the screen."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    monkeypatch.setenv("INSPECT_TRACE_FILE", str(tmp_path / "trace.log"))
    monkeypatch.delenv("INSPECT_TELEMETRY", raising=False)
    monkeypatch.delenv("INSPECT_LOG_DIR", raising=False)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    running = FaultServer()
    yield running
    running.close()


def write_rows(file: Path, count: int, *, length: int = 3) -> Path:
    """A data file of made-up rows with references."""
    rows = tiny.rows(count, length=length)
    lines = [
        {"id": row.id, "prompt": row.prompt[0]["content"], "response": row.reference, "lang": "en"}
        for row in rows
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", 12)


def run(task: str, model: Any, data: Path, logs: Path, *, roles: Any = None, **args: Any) -> Any:
    """The log of one of our tasks; local models stay in this process, which is quicker to begin with."""
    more = {name: args.pop(name) for name in ("epochs", "limit", "max_tokens", "temperature") if name in args}
    (log,) = inspect_ai.eval(
        f"safewright/{task}",
        model=model,
        model_roles=roles,
        task_args={"data": str(data), **args},
        log_dir=str(logs),
        display="none",
        model_args={"process": False},
        **more,
    )
    return log


def metrics(log: Any) -> dict[str, float]:
    """All metrics of a log's only score, by name."""
    (score,) = log.results.scores
    return {name: value.value for name, value in score.metrics.items()}


def errors(log: Any) -> list[str]:
    """The messages of the samples that erred."""
    return [sample.error.message for sample in log.samples or [] if sample.error]
