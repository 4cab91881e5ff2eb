"""``safewright measure attack_success``: a user's session, from the options to the table and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from safewright.data import write_rows
from safewright.data.wrapping import ATTACKS
from tests import tiny
from tests.measures.attack_rows import records_of


@pytest.fixture(scope="module")
def reasoning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose recipe says how its reasoning is marked."""
    folder = tiny.save_tiny(
        tmp_path_factory.mktemp("model") / "m", more=("[[", "]]"), max_position_embeddings=512
    )
    recipe = {"visible": {"open": "[[", "close": "]]"}}
    (folder / "safewright_recipe.json").write_text(json.dumps(recipe))
    return folder


@pytest.fixture
def harm(tmp_path: Path) -> Path:
    write_rows(tmp_path / "harm.jsonl", tiny.rows(4))
    return tmp_path / "harm.jsonl"


def test_a_users_session(
    reasoning: Path, harm: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    out = tmp_path / "run"
    command = ["measure", "attack_success", str(reasoning), "--data", f"harm={harm}", "--set", "attack=all"]
    command += ["--set", "max_new_tokens=4", "--out", str(out), "--max-unscored", "1"]
    assert run([*command, "--dry-run"]) == 0
    assert "attack_success (think_prefill): 4 calls" in capsys.readouterr().err
    assert run(command) == 0
    said = capsys.readouterr()
    for attack in (*ATTACKS, "answer_prefill", "think_prefill"):
        assert f"ASR under {attack.replace('_', ' ')}" in said.out
    assert "ASR with no attack" in said.out
    records = records_of(out)
    assert len(records) == 4 * (len(ATTACKS) + 3)
    begun = {r["meta"]["attack"]: r["meta"]["opening"] for r in records if "opening" in r["meta"]}
    assert begun["think_prefill"] == "<think> </think>"
    page = (out / "report.html").read_text()
    assert "think" in page
    assert run(command) == 0  # nothing is asked again


def test_the_emptied_block_reaches_the_model_in_its_own_markers(reasoning: Path, harm: Path) -> None:
    from safewright.measures import plan_measure
    from safewright.measures.deriving import sent
    from safewright.models import load
    from safewright.models.chat import render

    plan = plan_measure(
        "attack_success", reasoning, data={"harm": str(harm)}, config={"attack": "think_prefill"}
    )
    (question, *_) = plan.questions
    model = load(reasoning)
    chat = sent(question.chat, model.ref, plan.behaviour.derived["think_prefill"])
    assert render(model.tokenizer, chat).endswith("assistant : [[ ]]")
    model.close()


def test_show_and_bad_input(reasoning: Path, harm: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(["show", "attack_success"]) == 0
    said = capsys.readouterr().out
    assert "best_of" in said
    assert "translator" in said
    command = [
        "measure",
        "attack_success",
        str(reasoning),
        "--data",
        f"harm={harm}",
        "--out",
        str(tmp_path / "r"),
    ]
    for option, named in {
        "attack=rolplay": "roleplay",
        "best_of=-1": "best_of",
        "shown=question": "goal",
        "attack=lowresource": "translations",
    }.items():
        assert run([*command, "--set", option]) == 2
        assert named in capsys.readouterr().err
    assert run([*command, "--data", "bening=x.jsonl"]) == 2
    assert "benign" in capsys.readouterr().err
