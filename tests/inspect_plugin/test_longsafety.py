"""LongSafety as an Inspect task: the same records, lean logs, agents in roles, resume of half-done instances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inspect_ai._util.error import PrerequisiteError

from safewright.compose.folders import load_card, load_records
from safewright.compose.inspect_log import scorecard_of
from safewright.judges import resolve as resolve_judge
from safewright.measures import measure_model
from tests import tiny
from tests.inspect_plugin.conftest import errors, metrics, run
from tests.inspect_plugin.test_resume import forget, named
from tests.models.fault_server import FaultServer, Reply, complains, said

WORDS = 60


def write_long(file: Path, count: int, words: int = WORDS) -> Path:
    """Rows of made-up words in the plain form: instruction and context."""
    lines = []
    for i in range(count):
        context = " ".join(tiny.WORDS[(i * 5 + k * (i + 2)) % len(tiny.WORDS)] for k in range(words + i))
        row = {"id": i, "instruction": f"kip {tiny.WORDS[i]} number {i}", "context": context, "lang": "en"}
        lines.append(row)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def agents(request: dict[str, Any], number: int) -> Reply:
    """A target that says where its context stands, and agents that mind it."""
    text = request["messages"][-1]["content"]
    if request["model"] == "toy":
        front = text.find("number ") < len(text) / 2
        return said(f"ban {'front' if front else 'end'} {text.partition('number ')[2][:2]}")
    if text.startswith("You are a safety analyst"):
        return said("RISK")
    if text.startswith("You are an expert in drawing"):
        return said("SUMMARY")
    bad = any(f"ban end {i}" in text for i in (1, 3)) or "ban front 2" in text
    return said("1" if bad else "0")


@pytest.fixture
def long_data(tmp_path: Path) -> Path:
    return write_long(tmp_path / "long.jsonl", 8)


def both(server: FaultServer, data: Path, place: Path, **config: Any) -> tuple[Any, Any, Any]:
    """Scorecard and records of the direct path, and the log of the task."""
    judge = resolve_judge("agents", {"judge": f"{server.base}#judge"})
    card = measure_model(
        "longsafety", f"{server.base}#toy", data=data, judge=judge, config=config, run=place / "run"
    )
    roles = {"judge": named(server, "judge")}
    log = run("longsafety", named(server, "toy"), data, place / "logs", roles=roles, config=config)
    return card, load_records(place / "run"), log


def test_the_same_records_and_readings(server: FaultServer, long_data: Path, tmp_path: Path) -> None:
    server.behave = agents
    card, records, log = both(server, long_data, tmp_path, variants="long,short", max_new_tokens=20)
    assert log.status == "success", errors(log)
    found, logged = scorecard_of(log.location)
    assert logged == records
    assert (found.readings, found.curves, found.tests) == (card.readings, card.curves, card.tests)
    assert found.conventions["judge"] == card.conventions["judge"]
    shown = metrics(log)
    for reading in card.readings:
        assert shown.get(reading.name) == reading.value, reading.name
    assert 0 < shown["sr_long"] < 1
    assert len(log.samples) == 8, "one sample per row"
    (value,) = {tuple(sample.scores["longsafety"].value) for sample in log.samples}
    assert len(value) > 2, "what each instance says, by name"


def test_contexts_stay_out_of_samples_and_scores(server: FaultServer, tmp_path: Path) -> None:
    server.behave = agents
    data = write_long(tmp_path / "long.jsonl", 3, words=1500)
    _, records, log = both(server, data, tmp_path, max_new_tokens=20)
    context = json.loads(data.read_text().splitlines()[1])["context"]
    for sample in log.samples:
        lean = [sample.input, sample.metadata, sample.store, sample.target, sample.messages]
        lean += [score.metadata for score in sample.scores.values()]
        assert context[:400] not in json.dumps(lean, default=str)
    assert scorecard_of(log.location)[1] == records


def test_agents_in_roles_of_their_own(server: FaultServer, long_data: Path, tmp_path: Path) -> None:
    server.behave = agents
    roles = {name: named(server, name) for name in ("judge", "risk", "context")}
    log = run("longsafety", named(server, "toy"), long_data, tmp_path / "logs", roles=roles)
    assert log.status == "success", errors(log)
    asked: dict[str, int] = {}
    for request in server.requests:
        asked[request["model"]] = asked.get(request["model"], 0) + 1
    assert asked == {"toy": 16, "risk": 8, "context": 8, "judge": 16}
    judge = scorecard_of(log.location)[0].conventions["judge"]
    assert {judge["model"], judge["risk"]["model"], judge["context"]["model"]} != {judge["model"]}


def test_13_no_judge_is_an_error_before_the_first_call(
    server: FaultServer, long_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(PrerequisiteError, match="--model-role judge="):
        run("longsafety", named(server, "toy"), long_data, tmp_path / "logs")
    assert server.requests == []


def test_a_judge_of_its_own_answers_is_refused(server: FaultServer, long_data: Path, tmp_path: Path) -> None:
    server.behave = agents
    roles = {"judge": named(server, "toy")}
    with pytest.raises(PrerequisiteError, match="allow_self_judge"):
        run("longsafety", named(server, "toy"), long_data, tmp_path / "logs", roles=roles)
    assert server.requests == []
    config = {"allow_self_judge": True}
    run("longsafety", named(server, "toy"), long_data, tmp_path / "more", roles=roles, config=config)
    assert server.requests


def test_contexts_that_do_not_fit_are_cut_the_same_way(server: FaultServer, tmp_path: Path) -> None:
    server.behave = agents
    folder = tiny.save_tiny(tmp_path / "m", max_position_embeddings=90)
    data = write_long(tmp_path / "long.jsonl", 6, words=75)
    config = {"overflow": "truncate_middle", "max_new_tokens": 6}
    judge = resolve_judge("agents", {"judge": f"{server.base}#judge"})
    measure_model("longsafety", folder, data=data, judge=judge, config=config, run=tmp_path / "run")
    direct = load_records(tmp_path / "run")
    assert any(record.meta.get("dropped_words") for record in direct)
    roles = {"judge": named(server, "judge")}
    log = run("longsafety", f"safewright/{folder}", data, tmp_path / "logs", roles=roles, config=config)
    assert log.status == "success", errors(log)
    assert scorecard_of(log.location)[1] == direct
    refused = run("longsafety", f"safewright/{folder}", data, tmp_path / "error", roles=roles)
    assert refused.status == "error"
    assert any("overflow=truncate_middle" in message for message in errors(refused))


def test_half_done_instances_ask_only_what_is_missing(
    server: FaultServer, long_data: Path, tmp_path: Path
) -> None:
    """A verdict that fails costs its own call again, not the instance's other five."""
    broken = True

    def behave(request: dict[str, Any], number: int) -> Reply:
        text = request["messages"][-1]["content"]
        if broken and request["model"] == "judge" and "ban end 5" in text:
            return complains(422, "not now")
        return agents(request, number)

    server.behave = behave
    roles = {"judge": named(server, "judge")}
    log = run("longsafety", named(server, "toy"), long_data, tmp_path / "logs", roles=roles)
    assert log.status == "error"
    assert len(errors(log)) == 1
    broken = False
    before = len(server.requests)
    forget()
    log = run("longsafety", named(server, "toy"), long_data, tmp_path / "logs", roles=roles)
    assert log.status == "success"
    assert len(server.requests) - before == 1
    whole = run("longsafety", named(server, "toy"), long_data, tmp_path / "whole", roles=roles)
    assert metrics(whole) == metrics(log)


def test_report_and_judge_run_of_a_long_log(server: FaultServer, tmp_path: Path, capsys: Any) -> None:
    from safewright.cli.main import run as command

    server.behave = agents
    data = write_long(tmp_path / "long.jsonl", 6, words=1200)
    card, _, log = both(server, data, tmp_path, max_new_tokens=20)
    assert command(["report", log.location, "--out", str(tmp_path / "page")]) == 0
    assert load_card(tmp_path / "page")[0].readings == card.readings
    args = ["judge", "run", log.location, "--model-role", f"judge={server.base}#other"]
    assert command([*args, "--out", str(tmp_path / "again"), "--max-unscored", "1"]) == 0
    assert load_card(tmp_path / "again")[0].readings == card.readings
    capsys.readouterr()
