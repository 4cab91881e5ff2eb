"""Wrong options, folders that are damaged or somebody else's: their own words, exit 2, nothing on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from safewright.cli.options import by_role, method_options
from safewright.errors import BadInput
from safewright.measures import measure_model
from safewright.types import Generation
from tests import tiny
from tests.cli.conftest import write_rows
from tests.contract.fakes import Speaking, Sure


def says(text: str) -> Generation:
    return Generation("Here it is.", "", "Here it is.", True, "stop", 3)


def measured(folder: Path) -> Path:
    measure_model("over_refusal", Speaking(says), data=tiny.rows(6), judge=Sure(), run=folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "harmm=rows.jsonl"], ["unknown role 'harmm'", "'harm'"]),
        (["--data", "utility=rows.jsonl"], ["unknown role 'utility'", "harm"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", str(2**64)], ["--seed"]),
        (["--seed", "1e3"], ["--seed"]),
        (["--limit", "0"], ["--limit"]),
        (["--limit", "-3"], ["--limit"]),
        (["--max-unscored", "nan"], ["--max-unscored"]),
        (["--timeout", "nan"], ["--timeout"]),
        (["--timeout", "-1"], ["--timeout"]),
        (["--batch-size", "-1"], ["--batch-size"]),
        (["--device", "gpu"], ["gpu"]),
        (["--set", "temperature=nan"], ["temperature"]),
        (["--set", "temperature=inf"], ["temperature"]),
        (["--set", "temperature=-1"], ["temperature"]),
        (["--set", "top_p=nan"], ["top_p"]),
        (["--set", "top_p=0"], ["top_p"]),
        (["--set", "max_new_tokens=1000000000000"], ["max_new_tokens"]),
        (["--set", "max_new_tokens=1.5"], ["max_new_tokens", "whole number"]),
        (["--set", f"max_new_tokens={'9' * 5000}"], ["max_new_tokens"]),
        (["--set", "samples=99999999"], ["samples"]),
        (["--set", "=3"], ["KEY=VALUE"]),
        (["--set", "samples=1", "--set", "samples=2"], ["twice"]),
        (["--model-role", "reference=x"], ["--model-role"]),
    ],
)
def test_wrong_options_of_measure_exit_2(
    arguments: list[str], words: list[str], tiny_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 4)
    base = ["measure", "harmful_rate", str(tiny_folder), "--json", "--out", str(tmp_path / "out")]
    data = [] if arguments[0] == "--data" else ["--data", str(rows)]
    code = run([*base, *data, *arguments])
    said = capsys.readouterr()
    assert code == 2, said.err
    assert all(word in said.err for word in words), said.err
    assert said.out == ""
    assert arguments[0] == "--device" or not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("toml", "word"),
    [
        ("[max_new_tokens]\nx = 3\n", "max_new_tokens"),
        ("[utlity]\nmetric = 'rouge'\n", "utlity"),
        ("temperature = nan\n", "temperature"),
        ("temperature = 1979-05-27\n", "temperature"),
        ("max_new_tokens = [1]\n", "max_new_tokens"),
        ("max_new_tokens = true\n", "max_new_tokens"),
        ("samples = 1e3\n", "samples"),
        ("system = 3\n", "system"),
        ("x = " + "[" * 5000, "TOML"),
        ("x = \n", "TOML"),
    ],
)
def test_wrong_config_files_exit_2(
    toml: str, word: str, tiny_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 4)
    (tmp_path / "c.toml").write_text(toml)
    roles = [part for role in ("harm", "benign", "utility") for part in ("--data", f"{role}={rows}")]
    code = run(
        ["audit", str(tiny_folder), *roles, "--config", str(tmp_path / "c.toml"), "--dry-run", "--json"]
    )
    said = capsys.readouterr()
    assert code == 2, said.err
    assert word in said.err
    assert said.out == ""


def test_a_table_of_the_config_file_is_for_one_measure(
    tiny_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 4)
    (tmp_path / "c.toml").write_text("max_new_tokens = 5\n[utility]\nmax_new_tokens = 7\n")
    roles = [part for role in ("harm", "benign", "utility") for part in ("--data", f"{role}={rows}")]
    config = ["--config", str(tmp_path / "c.toml"), "--dry-run", "--json"]
    assert run(["audit", str(tiny_folder), *roles, *config]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["harmful_rate"]["new_tokens"] == 4 * 5
    assert found["utility"]["new_tokens"] == 4 * 7


def test_a_value_alone_belongs_to_the_only_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.jsonl").write_text("{}")
    assert by_role(["rows.jsonl"], "--data", ["harm"]) == {"harm": "rows.jsonl"}
    assert by_role(["harm=rows.jsonl"], "--data", ["harm"]) == {"harm": "rows.jsonl"}
    assert by_role(["a=b.jsonl"], "--data", ["harm"]) == {"harm": "a=b.jsonl"}
    assert by_role(["./x=y.jsonl"], "--data", ["harm"]) == {"harm": "./x=y.jsonl"}
    with pytest.raises(BadInput, match=r"unknown role 'ham'.*'harm'"):
        by_role(["ham=rows.jsonl"], "--data", ["harm"])
    with pytest.raises(BadInput, match="Leave out --data"):
        by_role(["rows.jsonl"], "--data", [])
    with pytest.raises(BadInput, match="cannot be read"):
        method_options([], tmp_path)


def _under_a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file" / "run"


@pytest.mark.parametrize("place", [_under_a_file, lambda _: "/proc/nowhere/run", lambda f: f / ("x" * 300)])
def test_unwritable_places_exit_2(place: Any, tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 4)
    base = ["measure", "harmful_rate", str(tiny_folder), "--data", str(rows), "--json"]
    assert run([*base, "--out", str(place(tmp_path))]) == 2
    said = capsys.readouterr()
    assert "--out" in said.err
    assert said.out == ""
    a, b = measured(tmp_path / "a"), measured(tmp_path / "b")
    assert run(["compare", str(a), str(b), "--json", "--html", str(place(tmp_path)) + "/c.html"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", ["[]", "3", '"x"', "null", "{", '{"command": ["x"]}', '{"command": 3}'])
def test_report_and_compare_beside_a_strange_plan(content: str, tmp_path: Path, capsys: Any) -> None:
    folder = measured(tmp_path / "a")
    (folder / "plan.json").write_text(content)
    whole = content != "{"
    assert run(["report", str(folder)]) == (0 if whole else 2)
    assert run(["compare", str(folder), str(folder)]) == (0 if whole else 2)
    said = capsys.readouterr()
    assert whole or "plan.json" in said.err


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("scorecard.json", "[]"),
        ("scorecard.json", "{"),
        ("scorecard.json", '{"measure": 1}'),
        ("records.jsonl", "{}\n"),
        ("records.jsonl", "[]\n"),
        ("records.jsonl", ""),
        ("records.jsonl", None),
        ("journal/answers.jsonl", "{}\n"),
        ("journal/answers.jsonl", '{"key": 3, "generation": {}}\n'),
        ("journal/answers.jsonl", '{"key": ["target", "r000", 0], "generation": {}}\n'),
        ("journal/scores.jsonl", "3\n"),
        ("plan.json", "[]"),
        ("plan.json", '{"mine": 1}'),
    ],
)
def test_damaged_folders_are_exit_2_with_nothing_on_stdout(
    file: str, content: str | None, tmp_path: Path, capsys: Any
) -> None:
    folder, other = measured(tmp_path / "a"), measured(tmp_path / "b")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    if file in ("scorecard.json", "records.jsonl"):
        for verb in (["report", str(folder)], ["compare", str(folder), str(other)]):
            assert run([*verb, "--json"]) == 2
            said = capsys.readouterr()
            assert file in said.err
            assert said.out == ""
        measured(folder)  # the same call mends it
        assert run(["compare", str(folder), str(other), "--json"]) == 0
    else:
        with pytest.raises(BadInput, match=Path(file).stem):
            measured(folder)


def test_a_number_too_large_is_damage(tmp_path: Path, capsys: Any) -> None:
    folder = measured(tmp_path / "a")
    text = (folder / "scorecard.json").read_text()
    for number in ("1e999", "1" + "0" * 400):
        (folder / "scorecard.json").write_text(text.replace('"seconds": ', f'"seconds": {number}, "x": ', 1))
        assert run(["report", str(folder), "--json"]) == 2
        assert "scorecard.json" in capsys.readouterr().err


def test_somebody_elses_plan_does_not_make_a_folder_unfinished(tmp_path: Path, capsys: Any) -> None:
    measured(tmp_path / "project" / "runs" / "a")
    (tmp_path / "project" / "other").mkdir()
    (tmp_path / "project" / "other" / "plan.json").write_text('{"mine": 1}')
    assert run(["report", str(tmp_path / "project"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["measure"] == "over_refusal"


@pytest.mark.parametrize("level", ["0", "1", "nan", "-1"])
def test_levels_outside_are_exit_2(level: str, tmp_path: Path, capsys: Any) -> None:
    folder = measured(tmp_path / "a")
    assert run(["compare", str(folder), str(folder), "--level", level, "--json"]) == 2
    assert capsys.readouterr().out == ""
    assert run(["compare", str(folder), str(folder), "--seed", "-1"]) == 2
