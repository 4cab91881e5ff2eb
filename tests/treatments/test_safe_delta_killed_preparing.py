"""Prepare killed at any point: the same command goes on, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from safewright.treatments.safe_delta.prepared import Prepared
from tests import tiny
from tests.treatments import folders
from tests.treatments.killed import PRELOADED, counting, run_apart

PRELOAD = [*PRELOADED, "accelerate", "safewright.treatments.safe_delta.calibration"]
SHAPE = folders.SMALL | {"num_hidden_layers": 3}
KILLS = 11


def _work(given: Mapping[str, Any], kill_at: int | None, told: Any) -> None:
    tick, passed = counting(kill_at)
    from safewright.treatments import plan_treatment, run_stage

    plan = plan_treatment(
        "safe_delta",
        {"aligned": given["aligned"]},
        given["data"],
        stage="prepare",
        config=given["config"],
        out=given["out"],
    )
    run_stage(plan, progress=tick)
    told.put(passed())


def prepare(given: Mapping[str, Any], out: Path, kill_at: int | None = None) -> int | None:
    """Prepare in a process of its own; the points it passed, or None where it was killed."""
    return run_apart(_work, [{**given, "out": out}], kill_at, PRELOAD, 300)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model of three layers, and rows for every part of prepare."""
    home = tmp_path_factory.mktemp("killed")
    aligned = tiny.save_tiny(home / "aligned", shard="20KB", **SHAPE, num_key_value_heads=1)
    rows = folders.rows_file(home / "rows.jsonl", 12)
    return {
        "aligned": aligned,
        "data": {"calibration": rows, "finetune": rows},
        "config": {"utility": "task"},
    }


@pytest.fixture(scope="module")
def whole(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, bytes]]:
    """The points a whole prepare passes, and the files it makes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    passed = prepare(given, out)
    assert passed is not None
    return passed, content(out)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a prepared folder, its provenance apart: that says when it was made."""
    return {name: data for name, data in folders.content(folder).items() if name != "provenance.json"}


def test_10_prepare_killed_at_any_point_goes_on_to_the_same_bytes(
    given: dict[str, Any], whole: tuple[int, dict[str, bytes]], tmp_path: Path
) -> None:
    passed, wanted = whole
    assert len(wanted) == 13  # four inputs of three layers, and the facts
    points = sorted({1 + (passed - 1) * i // (KILLS - 1) for i in range(KILLS)})
    layers = set()
    for point in points:
        out = tmp_path / f"killed-{point}"
        assert prepare(given, out, point) is None
        state = tmp_path / f"killed-{point}.run" / "activations" / "state-0.json"
        if state.exists():
            layers |= set(json.loads(state.read_text())["inputs"])
        if out.exists():
            assert (out / "provenance.json").is_file()  # it was put in place whole
        prepare(given, out)
        assert content(out) == wanted, point
        assert not (tmp_path / f"killed-{point}.run" / "activations").exists()
    assert {"0", "1", "2"} <= layers  # kills came while every block was the next one


def test_10_prepare_killed_twice_goes_on(
    given: dict[str, Any], whole: tuple[int, dict[str, bytes]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for point in (whole[0] // 3, whole[0] // 4):
        assert prepare(given, out, point) is None
    again = prepare(given, out)
    assert again is not None
    assert again < whole[0]
    assert content(out) == whole[1]


@pytest.mark.parametrize("harm", ["activations", "state", "group"])
def test_10_what_a_kill_left_and_somebody_changed_is_made_again(
    given: dict[str, Any], whole: tuple[int, dict[str, bytes]], tmp_path: Path, harm: str
) -> None:
    run, point = tmp_path / "out.run", whole[0] * 2 // 3
    assert prepare(given, tmp_path / "out", point) is None
    kind = {"activations": "activations/0-*.bin", "state": "activations/state-0.json", "group": "draft/L000*"}
    files = sorted(run.glob(kind[harm]))
    assert files
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    prepare(given, tmp_path / "out")
    assert content(tmp_path / "out") == whole[1]
    assert len(Prepared(tmp_path / "out").groups) == 12


def test_answers_of_the_model_are_kept_and_it_is_loaded_for_nothing_else(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safewright.models
    from safewright.treatments.safe_delta import calibration

    loaded = []

    def counted(*given: Any, **more: Any) -> Any:
        loaded.append(given)
        return safewright.models.load(*given, **more)

    monkeypatch.setattr(calibration, "load", counted)
    folders.prepared(models["aligned"], models["rows"], tmp_path / "answered")
    assert not loaded

    monkeypatch.setattr(
        calibration, "_verdicts", lambda job, rows, said: [True] * len(said)
    )  # every answer is a refusal
    full = calibration.gather

    def stopped(*given: Any) -> Any:
        raise KeyboardInterrupt

    asked = folders.rows_file(tmp_path / "asked.jsonl", 6, answers=False)
    monkeypatch.setattr(calibration, "gather", stopped)
    with pytest.raises(KeyboardInterrupt):
        folders.prepared(models["aligned"], asked, tmp_path / "out", answer_tokens=4)
    assert len(loaded) == 1
    monkeypatch.setattr(calibration, "gather", full)
    folders.prepared(models["aligned"], asked, tmp_path / "out", answer_tokens=4)
    assert len(loaded) == 1
    assert Prepared(tmp_path / "out").facts["counts"]["asked"] == 6


@pytest.mark.parametrize(("rows", "limit", "where"), [(12, 8192, "activations"), (4, 4200, "draft")])
def test_11_a_disk_that_fills_up_while_preparing_can_be_gone_on_from(
    models: dict[str, Path], tmp_path: Path, rows: int, limit: int, where: str
) -> None:
    """A real limit: no file may grow beyond it, neither hidden states nor an H."""
    given = folders.rows_file(tmp_path / "rows.jsonl", rows)
    command = ["treat", "safe_delta", "prepare", "--out", str(tmp_path / "out")]
    command += [f"--model=aligned={models['aligned']}", f"--data=calibration={given}"]
    found = subprocess.run(
        [sys.executable, "-m", "safewright", *command],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert found.returncode == 4, found.stderr
    assert re.search(rf"No space left.*out\.run/{where}.*goes on", found.stderr, re.DOTALL)
    assert not (tmp_path / "out").exists()
    folders.prepared(models["aligned"], given, tmp_path / "out")
    assert folders.shards(tmp_path / "out")


def test_the_callback_may_prepare_beside_other_processes(
    models: dict[str, Path], tmp_path: Path, prep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under DDP every process may prepare for itself: only what --launch started works together."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("SAFEWRIGHT_LAUNCH", raising=False)
    assert "SAFEWRIGHT_LAUNCH" not in os.environ
    folders.prepared(models["aligned"], models["rows"], tmp_path / "h")
    assert folders.shards(tmp_path / "h") == folders.shards(prep)
