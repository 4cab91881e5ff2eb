"""The command a newcomer runs first: it works, it resumes, and every wrong input has its own words."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from tests import tiny
from tests.cli.conftest import Files, write_rows

SHORT = ["--set", "max_new_tokens=6", "--max-unscored", "1"]


def roles(files: Files) -> list[str]:
    return [part for role, file in files.items() for part in ("--data", f"{role}={file}")]


def test_audit_of_a_saved_folder(
    tiny_folder: Path, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["audit", str(tiny_folder), "--quick", *roles(files), *SHORT, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "memory: about" in said.err
    assert "time: about" in said.err
    for measure in ("harmful_rate", "over_refusal", "utility"):
        card = json.loads((out / measure / "scorecard.json").read_text())
        assert card["measure"] == measure
        assert len((out / measure / "records.jsonl").read_text().splitlines()) == 8
    page = (out / "report.html").read_text()
    assert "weak" in page.lower()
    assert str(out / "report.html") in said.out
    plan = json.loads((out / "plan.json").read_text())
    assert plan["audit"]["harm"]["models"]["target"]["digest"].startswith("sha256:")


def test_json_and_measure_give_the_same_numbers(
    tiny_folder: Path, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["audit", str(tiny_folder), *roles(files), *SHORT, "--out", str(tmp_path / "a"), "--json"])
    audit = json.loads(capsys.readouterr().out)
    arguments = [
        "measure",
        "over_refusal",
        str(tiny_folder),
        "--data",
        str(files["benign"]),
        *SHORT,
        "--json",
    ]
    assert run([*arguments, "--out", str(tmp_path / "b")]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["readings"] == audit["benign"]["readings"]


def test_adapter_is_audited(
    tiny_folder: Path, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    model.save_pretrained(tmp_path / "adapter")
    out = tmp_path / "out"
    assert run(["audit", str(tmp_path / "adapter"), *roles(files), *SHORT, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["harm"]["models"]["target"]["kind"] == "adapter"


def test_dry_run_prints_and_runs_nothing(
    tiny_folder: Path, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["audit", str(tiny_folder), *roles(files), "--dry-run", "--json", "--out", str(out)]
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["harmful_rate"]["calls"] == 8
    assert found["harmful_rate"]["new_tokens"] == 8 * 256
    assert found["harmful_rate"]["memory_bytes"] > 0
    assert not out.exists()


def test_rows_above_the_bound_exit_11_with_results_written(
    tiny_folder: Path, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files["harm"].write_text(
        files["harm"].read_text() + json.dumps({"prompt": " ".join(tiny.WORDS * 5), "lang": "en"}) + "\n"
    )
    out = tmp_path / "out"
    code = run(["audit", str(tiny_folder), *roles(files), "--set", "max_new_tokens=6", "--out", str(out)])
    said = capsys.readouterr().err
    assert code == 11
    assert "harmful_rate: " in said
    assert "overlong" in said
    assert (out / "report.html").exists()
    assert json.loads((out / "harmful_rate" / "scorecard.json").read_text())["unscored"]["overlong"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quikc"], ["--quikc", "--quick"]),
        (["--set", "max_new_token=4"], ["max_new_token", "max_new_tokens"]),
        (["--set", "utlity.metric=rouge"], ["utlity", "utility"]),
        (["--set", "max_new_tokens"], ["KEY=VALUE"]),
        (["--set", "max_new_tokens=many"], ["many", "whole number"]),
        (["--set", "samples=3"], ["greedy", "temperature"]),
        (["--judge", "keywrod"], ["keywrod", "keyword"]),
        (["--judge", "utility=keyword"], ["utility", "needs no judge"]),
        (["--limit", "0"], ["--limit"]),
        (["--limit", "few"], ["--limit"]),
        (["--data", "harmm=x.jsonl"], ["harmm", "harm"]),
        (["--data", "harm=jbbb"], ["jbbb", "jbb"]),
        (["--data", "harm=gsm8k"], ["gsm8k", "utility"]),
        (["--data", "harm=nowhere.jsonl"], ["nowhere.jsonl"]),
        (["--max-unscored", "2"], ["--max-unscored", "[0, 1]"]),
        (["--engine", "vlm"], ["vlm"]),
        (["--dtype", "float23"], ["float23", "float32"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--config", "nowhere.toml"], ["nowhere.toml"]),
    ],
)
def test_wrong_options_exit_2_and_say_what_is_right(
    arguments: list[str],
    words: list[str],
    tiny_folder: Path,
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = dict(files)
    if arguments[0] == "--data":
        given.pop("harm")
    code = run(["audit", str(tiny_folder), *roles(given), *arguments, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert code == 2, said
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["holds no rows"]),
        (b'{"prompt": "ban"}\n{"promt": "dep"}\n', ["line 2", "promt"]),
        (b'{"prompt": "ban"}\n{"prompt": \n', ["line 2"]),
        (b'{"prompt": "ban"}\n{"prompt": "\xff\xfe"}\n', ["UTF-8", "line 2"]),
    ],
)
def test_wrong_data_exits_2_with_the_line(
    content: bytes, words: list[str], tiny_folder: Path, files: Files, tmp_path: Path, capsys: Any
) -> None:
    files["harm"].write_bytes(content)
    assert run(["audit", str(tiny_folder), *roles(files), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert str(files["harm"]) in said
    assert all(word in said for word in words), said


def test_wrong_models_exit_2(tiny_folder: Path, files: Files, tmp_path: Path, capsys: Any) -> None:
    sharded = tiny.save_tiny(tmp_path / "sharded", shard="20KB")
    gone = sorted(sharded.glob("model-*.safetensors"))[1]
    gone.unlink()
    (tmp_path / "empty").mkdir()
    for model, word in (
        (sharded, gone.name),
        (tmp_path / "empty", "not a model folder"),
        (tmp_path / "nowhere", "no folder"),
    ):
        assert run(["audit", str(model), *roles(files), "--out", str(tmp_path / "out")]) == 2
        assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_presets_without_network_exit_5_naming_roles_and_ways(
    tiny_folder: Path, files: Files, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = ["audit", str(tiny_folder), "--quick", "--out", str(tmp_path / "out")]
    assert run([*arguments, "--data", f"utility={files['utility']}"]) == 5
    said = capsys.readouterr().err
    for word in (
        "harm",
        "benign",
        "safewright data fetch jbb",
        "safewright data fetch xstest",
        "--data harm=",
    ):
        assert word in said
    assert "gsm8k" not in said
    assert not (tmp_path / "out").exists()


def test_another_run_in_the_folder_is_refused(
    tiny_folder: Path, files: Files, tmp_path: Path, capsys: Any
) -> None:
    base = ["audit", str(tiny_folder), *roles(files), "--max-unscored", "1", "--out", str(tmp_path / "out")]
    assert run([*base, "--set", "max_new_tokens=3"]) == 0
    assert run([*base, "--set", "max_new_tokens=4"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run([*base, "--set", "max_new_tokens=4", "--overwrite"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    assert run([*base[:-1], str(tmp_path / "mine"), "--overwrite"]) == 2
    assert (tmp_path / "mine" / "notes.txt").exists()


Start = Callable[..., subprocess.Popen[str]]


def content(folder: Path) -> list[Any]:
    """What a run concluded, byte for byte, apart from cost."""
    found: list[Any] = []
    for file in sorted(folder.rglob("scorecard.json")):
        card = json.loads(file.read_text())
        card.pop("cost")
        found += [card, (file.parent / "records.jsonl").read_bytes()]
    return found


def wait_for_answers(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    journal = folder / "harmful_rate" / "journal" / "answers.jsonl"
    limit = time.monotonic() + 90
    while time.monotonic() < limit:
        if journal.exists() and journal.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("no answers in 90 s")


@pytest.fixture(scope="module")
def slow(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of an audit that takes some seconds."""
    folder = tmp_path_factory.mktemp("slow")
    files = {role: write_rows(folder / f"slow-{role}.jsonl", 60) for role in ("harm", "benign", "utility")}
    return ["audit", str(tiny_folder), *roles(files), *SHORT, "--batch-size", "2"]


@pytest.fixture(scope="module")
def undisturbed(slow: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What that audit concludes when nothing stops it."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run([*slow, "--out", str(out)]) == 0
    return content(out)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_given_again_concludes_the_same(
    blow: signal.Signals, slow: list[str], undisturbed: list[Any], tmp_path: Path, start: Start
) -> None:
    broken = tmp_path / "broken"
    process = start(*slow, "--out", broken)
    wait_for_answers(broken, 12, process)
    os.kill(process.pid, blow)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if blow == signal.SIGKILL else 4), said
    if blow != signal.SIGKILL:
        assert "same command again" in said
    kept = (broken / "harmful_rate" / "journal" / "answers.jsonl").read_bytes().count(b"\n")
    assert 12 <= kept < 60
    again = start(*slow, "--out", broken)
    assert again.wait(120) == 0
    assert content(broken) == undisturbed
    assert len(undisturbed) == 6


def test_disk_full_exits_4_and_resumes(slow: list[str], undisturbed: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    done = subprocess.run(
        [sys.executable, "-m", "safewright", *slow, "--out", str(out)],
        capture_output=True,
        text=True,
        preexec_fn=small,
        timeout=120,
    )
    assert done.returncode == 4, done.stderr
    assert "No space left" in done.stderr
    assert "same command again" in done.stderr
    assert run([*slow, "--out", str(out)]) == 0
    assert content(out) == undisturbed
