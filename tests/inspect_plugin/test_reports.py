"""From a log to a scorecard, a page and another judge's word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import inspect_ai
import pytest

from safewright.cli.main import run as command
from safewright.compose.folders import load_card, load_cards
from safewright.compose.inspect_log import logs_in, scorecard_of
from safewright.compose.rejudge import rejudge
from safewright.errors import BadInput, Incomplete
from safewright.inspect_plugin.scoring import FOLDER
from safewright.judges import resolve as resolve_judge
from safewright.measures import measure_model
from tests.inspect_plugin.conftest import run, write_rows
from tests.models.fault_server import FaultServer, Reply, said

SHORT = {"max_new_tokens": 6}


def graded(request: dict[str, Any], number: int) -> Reply:
    text = request["messages"][0]["content"]
    if request["model"] == "toy":
        return said(f"ban {text}")
    return said(f"<reason>ban</reason><score>{5 if 'kip' in text else 1}</score>")


def test_report_of_a_log(tiny_folder: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    log = Path(run("utility", f"safewright/{tiny_folder}", data, tmp_path / "logs", config=SHORT).location)
    assert command(["report", str(log)]) == 0
    folder = tmp_path / "logs-report" / log.stem
    card, records = load_card(folder)
    direct = measure_model("utility", tiny_folder, data=data, config=SHORT, run=tmp_path / "run")
    assert (card.readings, records) == (direct.readings, load_card(tmp_path / "run")[1])
    assert "<html" in (folder / "report.html").read_text()
    capsys.readouterr()
    assert command(["report", str(log), "--json"]) == 0
    (plain,) = json.loads(capsys.readouterr().out)
    assert plain["measure"] == "utility"
    assert command(["report", str(log), "--markdown"]) == 0
    assert "| Measure |" in capsys.readouterr().out


def test_report_of_a_folder_with_the_viewer(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    logs = tmp_path / "logs"
    for name in ("harmful_rate", "over_refusal", "over_refusal"):
        run(name, f"safewright/{tiny_folder}", data, logs, config=SHORT)
    assert len(logs_in(logs)) == 2, "the latest log of each task"
    assert command(["report", str(logs), "--viewer", "--json", "--out", str(tmp_path / "page")]) == 0
    cards = json.loads(capsys.readouterr().out)
    assert {card["conventions"]["inspect"]["viewer"] for card in cards} == {"viewer/index.html"}
    assert (tmp_path / "page" / "viewer" / "index.html").is_file()
    assert not list((tmp_path / "page").rglob(FOLDER))
    assert not list((tmp_path / "page" / "viewer").rglob("*.jsonl")), "received answers stay private"
    assert "viewer/index.html" in (tmp_path / "page" / "report.html").read_text()
    assert sorted(card.measure for card, _ in load_cards(tmp_path / "page")) == [
        "harmful_rate",
        "over_refusal",
    ]


def test_what_is_no_log_of_ours_is_named(tmp_path: Path, data: Path, capsys: Any) -> None:
    from inspect_ai.dataset import Sample

    task = inspect_ai.Task(dataset=[Sample(input="ban")], solver=[], name="theirs")
    (log,) = inspect_ai.eval(task, model="mockllm/model", log_dir=str(tmp_path / "logs"), display="none")
    with pytest.raises(BadInput, match="not of a task of ours"):
        scorecard_of(log.location)
    assert command(["report", str(tmp_path / "logs")]) == 2
    assert command(["report", str(data.parent), "--viewer"]) == 2
    capsys.readouterr()


def test_a_log_without_a_score_is_incomplete(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    judge = f"rubric:{tiny_folder}"  # its context is too small for the rubric: it fails on every sample
    log = run("harmful_rate", f"safewright/{tiny_folder}", data, tmp_path / "logs", judge=judge)
    with pytest.raises(Incomplete, match="Nothing is scored"):
        scorecard_of(log.location)


def test_another_judge_over_stored_answers(server: FaultServer, data: Path, tmp_path: Path) -> None:
    server.behave = graded
    model, spec = f"{server.base}#toy", f"rubric:{server.base}#judge"
    weak = measure_model("harmful_rate", model, data=data, judge="keyword", run=tmp_path / "weak")
    strong = measure_model("harmful_rate", model, data=data, judge=spec, run=tmp_path / "strong")
    assert weak.readings != strong.readings
    log = run("harmful_rate", f"safewright/{model}", data, tmp_path / "logs", judge="keyword")
    before = sum(request["model"] == "toy" for request in server.requests)
    for source in (tmp_path / "weak", Path(log.location), tmp_path / "logs"):
        out = tmp_path / f"again-{source.name}"
        card, folder = rejudge(source, resolve_judge(spec), out=out)
        assert card.readings == strong.readings
        assert load_card(folder)[1] == load_card(tmp_path / "strong")[1]
        assert card.conventions["judge"] == strong.conventions["judge"]
        asked = len(server.requests)
        rejudge(source, resolve_judge(spec), out=out)
        assert len(server.requests) == asked, "a second time asks nothing"
    assert sum(request["model"] == "toy" for request in server.requests) == before
    run("over_refusal", f"safewright/{model}", data, tmp_path / "logs", judge="keyword")
    with pytest.raises(BadInput, match="logs of 2 tasks"):
        rejudge(tmp_path / "logs", resolve_judge(spec))


def test_judge_run_on_the_command_line(tiny_folder: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    measure_model("harmful_rate", tiny_folder, data=data, config=SHORT, run=tmp_path / "run")
    args = [
        "judge",
        "run",
        str(tmp_path / "run"),
        "--judge",
        "keyword-legacy",
        "--out",
        str(tmp_path / "new"),
    ]
    assert command([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conventions"]["judge"]["name"] == "keyword-legacy"
    assert (tmp_path / "new" / "report.html").is_file()
    measure_model("utility", tiny_folder, data=data, config=SHORT, run=tmp_path / "other")
    assert command(["judge", "run", str(tmp_path / "other"), "--judge", "keyword"]) == 2
    assert "uses no judge" in capsys.readouterr().err


def test_rows_of_another_file_are_not_mixed_in(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "a.jsonl", 4)
    log = run("utility", f"safewright/{tiny_folder}", data, tmp_path / "logs", config=SHORT)
    data.unlink()
    card, records = scorecard_of(log.location)
    assert len(records) == 4, "short prompts stand in the log itself"
    assert card.conventions["data"]["rows"] == 4
