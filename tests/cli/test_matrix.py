"""``safewright matrix``: which value is for which method, what is shown, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.assigning import assign
from safewright.cli.main import run
from safewright.errors import BadInput, NumericalFailure
from tests.compose import treating

PLACES = {
    "safe_delta": ["calibration", "harmful"],
    "relearn": ["forget", "retain"],
    "harmful_rate": ["harm"],
    "forgetting": ["forget", "retain"],
    "lens": [],
}


@pytest.fixture(scope="module", autouse=True)
def _entered() -> Iterator[None]:
    with treating.entered():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    treating.given(folder)
    return folder


def command(home: Path, out: Path, *more: str) -> list[str]:
    return [
        "matrix", str(home / "tuned"), "--treatments", "uniform_scale,made_up",
        "--measures", "harmful_rate,utility", "--model", f"aligned={home}/aligned",
        "--data", f"forget={home}/forget.jsonl", "--data", f"harmful_rate={home}/harm.jsonl",
        "--data", f"utility.utility={home}/utility.jsonl", "--set", "harmful_rate.max_new_tokens=4",
        "--set", "metric=exact", "--set", "utility.max_new_tokens=4", "--limit", "2", "--orders", "none",
        "--out", str(out), *more,
    ]  # fmt: skip


def test_a_value_goes_to_the_method_it_names_or_alone_fits() -> None:
    found = assign(
        ["relearn.forget=a", "forgetting.forget=b=c", "calibration=d", "harmful_rate=e"], "--data", PLACES
    )
    assert found == {
        "relearn": {"forget": "a"},
        "forgetting": {"forget": "b=c"},
        "safe_delta": {"calibration": "d"},
        "harmful_rate": {"harm": "e"},
    }
    both = assign(["forget=x"], "--data", PLACES, shared=("forget",))
    assert both == {"relearn": {"forget": "x"}, "forgetting": {"forget": "x"}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rows.jsonl", "is not METHOD.NAME=VALUE"),
        ("forget=x", "fits several methods.*relearn.forget, forgetting.forget"),
        ("forgetting=x", "forgetting has several.*forgetting.forget, forgetting.retain"),
        ("relern.forget=x", "no method 'relern'.*'relearn'"),
        ("relearn.forgot=x", "relearn has no 'forgot'.*'forget'"),
        ("calibrations=x", "'calibrations', which no method here has.*'calibration'"),
        ("lens=x", "lens takes none"),
    ],
)
def test_a_value_for_nobody_names_the_nearest(value: str, message: str) -> None:
    with pytest.raises(BadInput, match=f"(?s){message}"):
        assign([value], "--data", PLACES)
    with pytest.raises(BadInput, match=r"gives safe_delta\.harmful twice"):
        assign(["harmful=x", "safe_delta.harmful=y"], "--data", PLACES)


def test_the_whole_way(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Random words are judged by nobody: the matrix is whole, and says that it is not to be believed.
    assert run(command(home, tmp_path / "out", "--json")) == 11
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert [arm["arm"] for arm in found["matrix"]["arms"]] == ["none", "uniform_scale", "made_up"]
    assert "3 arms" in shown.err
    assert "2 of 2 records unscored" in shown.err
    out = tmp_path / "out"
    page = (out / "report.html").read_text()
    for link in ("arms/none/utility/report.html", "arms/made_up/harmful_rate/report.html"):
        assert f'href="{link}"' in page
        assert (out / link).is_file()
    plan = json.loads((out / "plan.json").read_text())
    assert plan["command"].startswith("safewright")
    assert plan["matrix"]["measures"]["utility"]["measure"]["config"]["metric"] == "exact"
    # Drawn again from the folder; the bound on what is unscored may be raised knowingly.
    (out / "report.html").unlink()
    assert run(["report", str(out)]) == 0
    assert "untreated" in capsys.readouterr().out
    assert (out / "report.html").is_file()
    assert run(command(home, out, "--max-unscored", "1")) == 0
    assert "page: " in capsys.readouterr().out


def test_a_dry_run_makes_nothing(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(home, tmp_path / "out", "--dry-run", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["arms"], found["measures"]["utility"]["calls"]) == (3, 6)
    assert not (tmp_path / "out").exists()


def test_a_failed_arm_gives_its_own_code(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    treating.BROKEN.append(NumericalFailure("The loss is nan at step 3."))
    try:
        assert run(command(home, tmp_path / "out")) == 3
    finally:
        treating.BROKEN.clear()
    shown = capsys.readouterr()
    assert "1 of 3 arms are not whole (made_up)" in shown.err
    assert "made_up: made_up failed: The loss is nan" in " ".join(shown.out.split())
    assert "made_up failed: The loss is nan at step 3." in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--judge", "keyword", "--judge", "harmful_rat=keyword"], "no measure 'harmful_rat' here.*'harmful_rate'"),
        (["--judge", "keywords"], "no judge 'keywords'.*'keyword'"),
        (["--judge", "harmful_rate=keyword", "--judge", "harmful_rate=keyword"], "judge of harmful_rate twice"),
        (["--judge", "harmful_rate=keyword", "--judge", "agents"], "no measure here asks"),
        (["--orders", "pair"], "--orders is 'pair'"),
        (["--model", "tuned=x"], "--model tuned=x: MODEL is the tuned one"),
        (["--model", "aligne=x"], "'aligne', which no method here has.*'aligned'"),
        (["--set", "max_new_tokens=3"], "fits several methods.*harmful_rate.max_new_tokens"),
        (["--set", "made_up.sed=1"], "made_up has no 'sed'.*'seed'"),
        (["--model-role", "judge=x"], "'judge', which no method here has"),
        (["--treatments", "a=made_up,a=uniform_scale"], "names 'a' twice"),
        (["--treatments", "made_up,,uniform_scale"], "--treatments is"),
        (["--treatments", "=made_up"], "'' cannot be the label"),
        (["--treatments", "utility=made_up"], "'utility' cannot be the label"),
        (["--judge", "harmful_rate="], "harmful_rate= names no judge"),
        (["--data", "x"], "not METHOD.NAME=VALUE.*--data uniform_scale|--data made_up.forget=VALUE"),
        (["--max-unscored", "2"], "--max-unscored is 2"),
    ],
)  # fmt: skip
def test_slips_of_the_command_are_exit_2(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    import re

    assert run(command(home, tmp_path / "out", *more)) == 2
    assert re.search(f"(?s){message}", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_tables_of_a_file_are_options_of_methods(home: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "options.toml"
    file.write_text("[utility]\nmax_new_tokens = 3\n[made_up]\nseed = 5\n")
    assert run(command(home, tmp_path / "out", "--dry-run", "--config", str(file))) == 0
    file.write_text("[utilty]\nmax_new_tokens = 3\n")
    assert run(command(home, tmp_path / "out", "--dry-run", "--config", str(file))) == 2
    assert "Did you mean 'utility'?" in capsys.readouterr().err
    for text in ("utility = 3\n", "[[utility]]\nmetric = 'exact'\n"):
        file.write_text(text)
        assert run(command(home, tmp_path / "out", "--dry-run", "--config", str(file))) == 2
        assert "Write it once: [utility]" in capsys.readouterr().err


def test_the_town_prints_a_command_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    from safewright.cli import matrix
    from safewright.lab import town

    monkeypatch.setattr(
        town, "build_town", lambda made, arm, **_: tmp_path / "cache" / arm
    )  # nothing is trained
    assert run(["lab", "town", "--out", str(tmp_path / "town")]) == 0
    said = capsys.readouterr().out
    words = shlex.split(said.partition("next: ")[2])
    given: dict[str, list[str]] = {}
    for option, value in zip(words[3::2], words[4::2], strict=True):
        given.setdefault(option, []).append(value)
    found = matrix.given_to(
        {name: name for name in given["--treatments"][0].split(",")},
        given["--measures"][0].split(","),
        given["--model"], given["--data"], [], given["--model-role"], given["--set"], None,
    )  # fmt: skip
    assert set(found["models"]) == {"safe_delta", "forgetting"}
    files = [file for roles in found["data"].values() for file in roles.values()]
    assert len(files) == 9
    assert all(Path(file).is_file() for file in files)
    assert (tmp_path / "town" / "tuned").is_symlink()
