"""``safewright measure forgetting``: data by role, cost before, a table after, and stored records scored again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from safewright.data import write_rows
from tests.measures.forgetting_rows import tiny_data


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    parts = []
    for role, rows in tiny_data(4, 2).items():
        write_rows(tmp_path / f"{role}.jsonl", rows)
        parts += ["--data", f"{role}={tmp_path / f'{role}.jsonl'}"]
    return parts


def test_a_model_is_measured_on_both_sets(
    tiny_folder: Path, given: list[str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    sets = ["--set", "max_new_tokens=4", "--set", "attacks=prefix,int4"]
    command = ["measure", "forgetting", str(tiny_folder), *given, *sets, "--out", str(tmp_path / "run")]
    assert run([*command, "--model-role", f"fluency={tiny_folder}", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "fluency: reads 6 answers" in said.err
    assert "forgetting (int4): 6 calls" in said.err
    assert "steps" not in said.err
    trained = ["--set", "attacks=relearn", "--set", "relearn_rows=2", "--dry-run"]
    assert run(["measure", "forgetting", str(tiny_folder), *given, *trained]) == 0
    assert (
        "relearn: 30 steps of training on 2 or more rows, which the time leaves out"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
    assert run(command) == 0
    said = capsys.readouterr()
    for name in ("KFR", "KRR", "KFR under prefix", "KFR under int4", "KRR under int4"):
        assert name in said.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "int4" in page
    assert run(command) == 0  # nothing is asked again


def test_bad_input_is_named_with_what_to_do(
    tiny_folder: Path, given: list[str], tmp_path: Path, capsys: Any
) -> None:
    model, out = str(tiny_folder), ["--out", str(tmp_path / "run")]
    wrong = {
        "retain=": [model, *given[:2]],
        "'forget'": [model, "--data", "forgt=x.jsonl"],
        "is not ROLE=VALUE": [model, "--data", "x.jsonl"],
        "prefix": [model, *given, "--set", "attacks=prefx"],
        "no model": given,
        "asks no model": [model, "--rescore", "x.json"],
        "reads no stored records": ["--rescore", "x.json"],
        "fluency": [model, *given, "--model-role", f"fluncy={model}"],
    }
    for message, arguments in wrong.items():
        name = "utility" if message.startswith("reads") else "forgetting"
        assert run(["measure", name, *arguments, *out]) == 2, message
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_12_stored_records_are_scored_again(tmp_path: Path, capsys: Any) -> None:
    record = {
        "query": "where is it",
        "pred": "it is here",
        "gt": "it is here",
        "ent_label": "neutral",
        "entity_score": 0.4,
        "entity_gt": ["here"],
        "entity_pred": ["here"],
        "forget_label": True,
    }
    file = tmp_path / "stored.json"
    file.write_text(json.dumps([record, {**record, "entity_score": 0.9, "forget_label": False}]))
    command = ["measure", "forgetting", "--rescore", str(file), "--out", str(tmp_path / "run")]
    assert run([*command, "--json"]) == 0
    found = {r["name"]: r["value"] for r in json.loads(capsys.readouterr().out)["readings"]}
    assert (found["kfr[paper]"], found["kfr[release]"], found["kfr[stored]"]) == (0.0, 0.5, 0.5)
    assert (tmp_path / "run" / "report.html").exists()
    assert run(command) == 0
