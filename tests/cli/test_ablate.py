"""``safewright treat srg ablate``: one command from records to a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright import catalog
from safewright.cli.ablating import split_options
from safewright.cli.main import run
from safewright.compose.ablation import load_ablation
from safewright.errors import BadInput
from safewright.report import ablation_console, ablation_markdown, render_ablation, table_of
from safewright.report.ablation import lines_of, parts_of, scale_figures
from tests.compose import ablating


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ablating.home_of(tmp_path_factory.mktemp("ablate"))


def command(home: Path, out: Path, *more: str) -> list[str]:
    sets = [f"{key}={value}" for key, value in ablating.QUICK.items()]
    sets += ["arms=rt,srg", "scales=0.5", "attack_success.attack=none,answer_prefill"]
    sets += ["attack_success.max_new_tokens=4", "utility.max_new_tokens=3"]
    return [
        "treat", "srg", "ablate", "--model", f"student={home}/student",
        "--data", f"reasoned={home}/reasoned.jsonl", "--data", f"harm={home}/harm.jsonl",
        "--data", f"utility={home}/utility.jsonl", *(part for each in sets for part in ("--set", each)),
        "--limit", "4", "--max-unscored", "1", "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    out = home / "out"
    # Four records each; made-up words are refusals and harm to no keyword: what cannot be judged is unscored.
    assert run(command(home, out)) in (0, 11)
    return out


def test_one_command_makes_the_table(whole: Path) -> None:
    found = json.loads((whole / "table.json").read_text())
    assert [arm["arm"] for arm in found["arms"]] == ["untreated", "rt", "srg", "rt_50pct", "srg_50pct"]
    rows = [arm["rows"] for arm in found["arms"]]
    assert rows[:3] == [None, 4, 4]
    assert rows[3] == rows[4] < 4
    assert [arm["group"] for arm in found["arms"]] == ["", "Arms", "Arms", "Data scale", "Data scale"]
    assert (found["treatment"], found["reference"], found["failures"]) == ("srg", "srg", [])
    readings = {(each["measure"], each["reading"]): each for each in found["arms"][2]["readings"]}
    prefilled = readings["attack_success", "asr[answer_prefill]"]
    assert prefilled["part"] == "Attack success: not refused"
    assert prefilled["n"] + prefilled["unscored"] == 4
    assert ("utility", "exact_match") in readings
    assert any(part == "Tokens" for part in {each["part"] for each in readings.values()})
    scored = [each for each in readings.values() if each["against_untreated"]]
    assert scored
    for each in scored:
        assert 0 <= each["against_untreated"]["p"] <= each["against_untreated"]["p_holm"] <= 1
        assert each["against_reference"] is None  # srg is the reference


def test_the_page_and_the_markdown_say_the_same(whole: Path) -> None:
    page, markdown = (whole / "report.html").read_text(), (whole / "table.md").read_text()
    for words in (
        "Attack success: not refused",
        "Usefulness",
        "Tokens",
        "Data scale",
        "untreated",
        "srg_50pct",
    ):
        assert words in page
        assert words in markdown
    assert "Every other arm against srg" in page
    assert "compared/arms/srg/attack_success/report.html" in page
    assert (whole / "compared/arms/srg/attack_success/report.html").is_file()
    assert "how srg made it" in page
    assert "also fewer steps" in page
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[:3]} == {tables[0].count("|")}
    assert "<script" not in page


def test_it_is_drawn_again_from_its_folder(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "table.md").read_text()
    (whole / "table.md").unlink()
    assert run(["report", str(whole)]) == 0
    assert "page: " in capsys.readouterr().out
    assert (whole / "table.md").read_text() == before
    assert run(["report", str(whole), "--markdown"]) == 0
    assert capsys.readouterr().out == before


def test_scales_are_drawn_as_curves(whole: Path) -> None:
    found = load_ablation(whole)
    figures = scale_figures(found)
    assert all("by rows" in figure.caption for figure in figures)
    parts = {part.title: part for part in parts_of(found)}
    column = parts["Attack success: not refused"].columns[0]
    scored = [
        cell
        for line in lines_of(found)
        if (cell := parts["Attack success: not refused"].cells.get((line.name, column.measure, column.name)))
        and cell.reading.value is not None
    ]
    assert bool(figures) == (len(scored) == 5)
    assert ablation_console(found)
    assert render_ablation(found)
    assert ablation_markdown(found).startswith("# Arms of srg")
    assert table_of(found)["arms"][0]["about"] == "the student as it was"


def test_a_dry_run_tells_the_cost_and_makes_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(home, tmp_path / "out", "--dry-run", "--json")) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["arms"]["arms"] == 5
    assert found["arms"]["disk_bytes"] > 0
    assert found["arms"]["measures"]["attack_success (answer_prefill)"]["calls"] == 5 * 4
    assert "5 arms" in shown.err
    assert not (tmp_path / "out").exists()


def test_records_that_are_not_there_are_priced(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablating.write(tmp_path / "helpful.jsonl", [{"id": "h", "prompt": "ran rav tip", "answer": "mus"}])
    asked = [
        "treat", "srg", "ablate", "--model", f"student={home}/student", "--model", f"teacher={home}/student",
        "--data", f"harmful={home}/harm.jsonl", "--data", f"helpful={tmp_path}/helpful.jsonl",
        "--data", f"utility={home}/utility.jsonl", "--set", "arms=srg", "--set", "teachers=self",
        "--set", "price_in=1", "--set", "price_out=1", "--set", "max_tokens=16",
        "--out", str(tmp_path / "out"), "--dry-run",
    ]  # fmt: skip
    assert run(asked) == 0
    shown = capsys.readouterr().err
    assert "records given: " in shown
    assert "records self: " in shown
    assert "calls" in shown
    assert "cost about" in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "arm=rt"], "no option 'arm'"),
        (["--set", "target=rt"], "the arms of ablate decide it"),
        (["--set", "attack_success.attacks=all"], "attack_success has no 'attacks'"),
        (["--set", "harmful_rate.max_new_tokens=4"], "no method 'harmful_rate'"),
        (["--data", "forget=x.jsonl"], "'forget', which no method here has"),
        (["--data", "reasoned=x.jsonl"], "reasoned"),
        (["--judge", "keywrd"], "no judge 'keywrd'"),
        (["--launch", "cpu:2"], "does not run on several processes"),
        (["--max-unscored", "2"], r"must lie in \[0, 1\]"),
    ],
)
def test_bad_input(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    import re

    assert run(command(home, tmp_path / "out", *more)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_bad_input_of_other_stages(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "treat",
        "srg",
        "--model",
        f"student={home}/student",
        "--data",
        f"reasoned={home}/reasoned.jsonl",
    ]
    for more in (["--judge", "keyword"], ["--model-role", "judge=x"], ["--batch-size", "2"]):
        assert run([*asked, "--out", str(tmp_path / "out"), *more]) == 2
        assert "srg measures nothing" in capsys.readouterr().err
    assert run([*asked[:2], "ablate", *asked[2:]]) == 2
    assert "needs a folder to write" in capsys.readouterr().err


def test_options_are_sorted_by_whose_they_are(tmp_path: Path) -> None:
    entry: Any = catalog.find("srg", "treatment")
    file = tmp_path / "options.toml"
    file.write_text('lr = 1e-3\narms = "rt"\n[utility]\nmax_new_tokens = 4\n')
    found = split_options(entry, "ablate", ["scales=0.1", "utility.metric=exact", "epochs=1"], file)
    assert found == (
        {"arms": "rt", "scales": "0.1"},
        {"lr": 1e-3, "epochs": "1"},
        [],
        {"utility": {"max_new_tokens": 4, "metric": "exact"}},
    )
    file.write_text("[utilities]\nx = 1\n")
    with pytest.raises(BadInput, match="table 'utilities'"):
        split_options(entry, "ablate", [], file)
