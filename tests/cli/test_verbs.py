"""The other verbs: list, show, compare, report, data, doctor, and how failures leave the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.cli import console, doctor
from safewright.cli.main import run
from tests.cli.conftest import write_rows


def test_list_names_everything(capsys: Any) -> None:
    assert run(["list", "--json"]) == 0
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert {"harmful_rate", "over_refusal", "utility", "keyword", "llama-guard", "jbb", "gsm8k"} <= set(found)
    assert found["harmful_rate"]["kind"] == "measure"
    assert found["jbb"]["version"] == "unpinned"
    assert run(["list"]) == 0
    assert "over_refusal" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["utility", "keyword", "gsm8k"])
def test_show_tells_what_a_thing_takes(name: str, capsys: Any) -> None:
    assert run(["show", name, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == name
    if name == "utility":
        assert {option["name"] for option in facts["options"]} >= {"metric", "max_new_tokens"}
        assert all(option["help"] for option in facts["options"])
    assert run(["show", name]) == 0
    assert name in capsys.readouterr().out


def test_show_tells_the_options_of_a_stage(capsys: Any) -> None:
    assert run(["show", "srg"]) == 0
    shown = capsys.readouterr().out
    assert "options of ablate (--set KEY=VALUE):\n  arms = " in shown
    assert "ablate: Train every arm" in shown


def test_show_of_nothing_names_the_nearest(capsys: Any) -> None:
    assert run(["show", "utilty"]) == 2
    assert "utility" in capsys.readouterr().err


def test_unknown_verb_names_the_nearest(capsys: Any) -> None:
    assert run(["aduit"]) == 2
    assert "audit" in capsys.readouterr().err


def audited(model: Path, folder: Path, rows: Path, tokens: int) -> None:
    asked = ["measure", "over_refusal", str(model), "--data", str(rows), "--out", str(folder)]
    assert run([*asked, "--max-unscored", "1", "--set", f"max_new_tokens={tokens}"]) == 0


def test_compare_and_report(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    audited(tiny_folder, tmp_path / "a", rows, 4)
    audited(tiny_folder, tmp_path / "b", rows, 5)
    capsys.readouterr()
    arguments = [str(tmp_path / "a"), str(tmp_path / "b"), "--json", "--html", str(tmp_path / "c.html")]
    assert run(["compare", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    (delta,) = [d for d in found["deltas"] if d["score"] == "refused"]
    assert delta["difference"] == delta["b"] - delta["a"]
    assert delta["p_holm"] >= delta["p"]
    assert "<html" in (tmp_path / "c.html").read_text()
    assert run(["compare", *arguments[:2]]) == 0
    assert "refused" in capsys.readouterr().out.lower()
    page = tmp_path / "a" / "report.html"
    page.unlink()
    assert run(["report", str(tmp_path / "a")]) == 0
    assert page.exists()
    assert run(["report", str(tmp_path / "a"), "--markdown"]) == 0
    assert "|" in capsys.readouterr().out
    assert run(["compare", str(tmp_path / "a"), str(tmp_path / "nowhere")]) == 2


def test_data_check_reads_as_a_measure_would(tmp_path: Path, capsys: Any) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 8)
    assert run(["data", "check", str(rows), "--reference", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["with reference"] == 8
    assert run(["data", "check", str(rows), "--against", str(rows)]) == 2
    assert "rows.jsonl" in capsys.readouterr().err


def test_data_fetch_without_network_is_exit_5(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(["data", "fetch", "jbb"]) == 5
    assert "safewright data fetch jbb" in capsys.readouterr().err
    assert run(["data", "fetch", "jbbb"]) == 2


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "peft" else real(name))
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "missing peft: pip install 'safewright[models]'" in said
    assert "can run on served models" in said


def test_a_missing_extra_names_its_install_line(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import sys

    rows = write_rows(tmp_path / "rows.jsonl", 4)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert (
        run(["measure", "over_refusal", str(tiny_folder), "--data", str(rows), "--out", str(tmp_path / "o")])
        == 5
    )
    assert "pip install 'safewright[models]'" in capsys.readouterr().err


def test_our_own_errors_are_shown_whole_with_exit_70(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(doctor, "gather", broken)
    assert run(["doctor"]) == 70
    said = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in said
    assert "Please report it" in said


def test_ctrl_c_is_exit_4(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def stopped() -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "gather", stopped)
    assert run(["doctor"]) == 4
    assert "same command again" in capsys.readouterr().err


def test_progress_lines_tell_rate_and_time_left(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 20.0, 21.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    lines = console._Lines()
    lines("asking target", 0, 100)
    lines("asking target", 40, 100)
    lines("asking target", 41, 100)
    assert capsys.readouterr().err == "asking target: 40/100 (2.0/s, 30 s left)\n"


def test_every_verb_has_help_and_json(capsys: Any) -> None:
    for verb in ("list", "show", "audit", "measure", "compare", "report", "doctor"):
        assert run([verb, "--help"]) == 0
        assert "--json" in capsys.readouterr().out, verb
