"""Trained models are built once, and never half."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from safewright.lab import cache
from safewright.lab.cache import Plan, cache_folder, place, trained
from safewright.lab.tiny import Shape, tiny_model, word_tokenizer
from safewright.lab.training import Lesson, TrainConfig

WORDS = ("bodula", "fitemo", "rawine")
PLAN = Plan(
    name="test-0",
    about={"world": "test", "version": "1"},
    lessons=(Lesson("facts", ("bodula fitemo", "rawine bodula")),),
    recipe=TrainConfig(steps=3, batch=2, lr=1e-3),
    seed=0,
)


def start() -> tuple[Any, Any]:
    tokenizer = word_tokenizer(WORDS)
    return tiny_model(Shape(width=16, layers=1, heads=2, ffn=32), tokenizer, seed=0), tokenizer


def test_a_changed_training_loop_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place(PLAN, tmp_path)
    monkeypatch.setattr(cache, "_code", lambda: {"training.py": "sha256:" + "0" * 64})
    assert place(PLAN, tmp_path) != before


def test_the_second_call_does_not_train(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    folder = trained(PLAN, start, cache=tmp_path, progress=lambda name, i, n, _: told.append((name, i, n)))
    assert told == [("test-0", 1, 3), ("test-0", 2, 3), ("test-0", 3, 3)]

    def never() -> tuple[Any, Any]:
        raise AssertionError("trained again")

    assert trained(PLAN, never, cache=tmp_path) == folder == place(PLAN, tmp_path)
    facts = json.loads((folder / cache.FACTS_FILE).read_text())
    assert len(facts["losses"]) == 3
    assert facts["versions"].keys() == {"torch", "transformers", "tokenizers"}
    assert facts["code"].keys() == {"tiny.py", "training.py"}
    AutoModelForCausalLM.from_pretrained(folder)


def test_equal_plans_give_equal_folders(tmp_path: Path) -> None:
    one, two = (trained(PLAN, start, cache=tmp_path / name) for name in ("a", "b"))
    files = sorted(file.name for file in one.iterdir())
    assert files == sorted(file.name for file in two.iterdir())
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: dataclasses.replace(plan, seed=1),
        lambda plan: dataclasses.replace(plan, about={"world": "test", "version": "2"}),
        lambda plan: dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, lr=2e-3)),
        lambda plan: dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, threads=2)),
        lambda plan: dataclasses.replace(plan, lessons=(Lesson("facts", ("bodula fitemo",)),)),
        lambda plan: dataclasses.replace(plan, lessons=(dataclasses.replace(plan.lessons[0], share=0.5),)),
    ],
)
def test_whatever_decides_the_bytes_decides_the_name(change: Callable[[Plan], Plan]) -> None:
    assert place(change(PLAN)) != place(PLAN)


def test_another_library_version_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    before = place(PLAN)
    monkeypatch.setattr(cache, "_version", lambda library: "0.0")
    assert place(PLAN) != before


def test_the_environment_says_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAFEWRIGHT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "lab"
    assert cache_folder(tmp_path / "x") == tmp_path / "x"
    monkeypatch.delenv("SAFEWRIGHT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "safewright" / "lab"


def test_a_failed_training_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> tuple[Any, Any]:
        raise OSError("no such thing")

    with pytest.raises(OSError, match="no such thing"):
        trained(PLAN, broken, cache=tmp_path)
    assert not place(PLAN, tmp_path).exists()
    assert trained(PLAN, start, cache=tmp_path).exists()


KILLED = """
import sys, time
from pathlib import Path
from safewright.lab import tiny
from test_cache import PLAN, start
from safewright.lab.cache import trained

real = tiny.save
def save(model, tokenizer, folder):
    real(model, tokenizer, folder)
    (folder / "config.json").unlink()
    print("saving", flush=True)
    time.sleep(60)
tiny.save = save
trained(PLAN, start, cache=Path(sys.argv[1]))
"""


def test_a_build_killed_while_saving_leaves_no_model(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=env
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "saving\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    assert not place(PLAN, tmp_path).exists()
    folder = trained(PLAN, start, cache=tmp_path)
    assert (folder / "config.json").exists()
    AutoModelForCausalLM.from_pretrained(folder)
