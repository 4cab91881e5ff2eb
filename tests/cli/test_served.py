"""Measuring a served model from the command line: well, half broken, hung, silent, gone."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from safewright.models import _http, endpoint
from tests.cli.conftest import Files, write_rows
from tests.models.fault_server import FaultServer, Reply, complains, said


@pytest.fixture
def server() -> Iterator[FaultServer]:
    fault = FaultServer()
    yield fault
    fault.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off by hundredths of a second, not by seconds."""
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.001)
    assert hasattr(_http, "backoff")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", 24)


def measure(server: FaultServer, rows: Path, out: Path, *more: str) -> int:
    return run(
        ["measure", "harmful_rate", f"{server.base}#toy", "--data", str(rows), "--out", str(out), *more]
    )


def refuses_some(request: dict[str, Any], number: int) -> Reply:
    text = request["messages"][-1]["content"]
    return said("I cannot help with that." if len(text) % 2 else "Here is how it goes.")


def test_a_served_model_is_audited(server: FaultServer, files: Files, tmp_path: Path, capsys: Any) -> None:
    server.behave = refuses_some
    data = [part for role, file in files.items() for part in ("--data", f"{role}={file}")]
    out = tmp_path / "out"
    assert run(["audit", f"{server.base}#toy", *data, "--out", str(out), "--json"]) == 0
    said_ = capsys.readouterr()
    found = json.loads(said_.out)
    rate = found["harm"]["readings"][0]
    assert rate["n"] == 8
    assert rate["value"] + found["benign"]["readings"][0]["value"] == pytest.approx(1.0)
    assert found["harm"]["models"]["target"]["digest"].startswith("declared:")
    assert "time: unknown (the server decides" in said_.err


def test_half_500s_is_exit_11_then_healed_by_the_same_command(
    server: FaultServer, rows: Path, tmp_path: Path, capsys: Any
) -> None:
    broken = {"now": True}

    def behave(request: dict[str, Any], number: int) -> Reply:
        text = request["messages"][-1]["content"]
        if broken["now"] and sum(map(ord, text)) % 2:
            return complains(500, "worker died")
        return said("Here is how it goes.")

    server.behave = behave
    assert measure(server, rows, tmp_path / "out") == 11
    told = capsys.readouterr().err
    assert "error" in told
    card = json.loads((tmp_path / "out" / "scorecard.json").read_text())
    failed = card["unscored"]["error"]
    assert 0 < failed < 24
    assert card["readings"][0]["n"] == 24 - failed
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    assert any("500" in record["why"] for record in records)
    broken["now"] = False
    asked = len(server.requests)
    assert measure(server, rows, tmp_path / "out") == 0
    assert len(server.requests) - asked == failed
    assert json.loads((tmp_path / "out" / "scorecard.json").read_text())["unscored"] == {}
    asked = len(server.requests)
    assert measure(server, rows, tmp_path / "out") == 0
    assert len(server.requests) == asked


def test_garbage_is_unscored_and_exit_11(server: FaultServer, rows: Path, tmp_path: Path) -> None:
    server.behave = lambda request, number: Reply(b"<html>welcome</html>")
    assert measure(server, rows, tmp_path / "out") == 11
    card = json.loads((tmp_path / "out" / "scorecard.json").read_text())
    assert card["unscored"] == {"error": 24}
    assert card["readings"][0]["value"] is None


def test_a_hung_server_is_exit_5(server: FaultServer, rows: Path, tmp_path: Path, capsys: Any) -> None:
    server.hold()
    assert measure(server, rows, tmp_path / "out", "--timeout", "0.2") == 5
    assert server.base in capsys.readouterr().err
    server.release()
    server.behave = refuses_some  # in English: answers in no language a keyword list knows stay unscored
    assert measure(server, rows, tmp_path / "out", "--timeout", "5") == 0


def test_nothing_listening_is_exit_5(rows: Path, tmp_path: Path, capsys: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"http://127.0.0.1:{port}/v1#toy"
    assert run(["measure", "harmful_rate", where, "--data", str(rows), "--out", str(tmp_path / "o")]) == 5
    assert str(port) in capsys.readouterr().err


def test_concurrency_and_timeout_do_not_make_another_run(
    server: FaultServer, rows: Path, tmp_path: Path
) -> None:
    server.behave = refuses_some
    assert measure(server, rows, tmp_path / "out", "--batch-size", "2") == 0
    asked = len(server.requests)
    assert measure(server, rows, tmp_path / "out", "--batch-size", "8", "--timeout", "9") == 0
    assert len(server.requests) == asked
