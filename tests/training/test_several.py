"""Trainings in processes of their own: two give what one gives, and a killed one goes on to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.training.fitting import last_whole
from tests import tiny
from tests.training import simple
from tests.training.test_loop import SMALL, apart

STEPS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("several") / "model", **SMALL)


@pytest.fixture(scope="module")
def two(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Trainings on two processes: some whole, one killed at step 3 of 5 and gone on with."""
    home = tmp_path_factory.mktemp("two")
    options = {"steps": STEPS, "batch": 8, "accumulation": 2}
    plain = {"model": str(folder), "options": options}
    again = {"optimiser": "adamw", "steps": 5, "save_every": 2}
    dropping = {"model": str(folder), "dropout": 0.2, "options": again}
    broken = {**dropping, "folder": str(home / "kept")}
    assert simple.two_processes({"killed": {**broken, "kill_at": 3}}, home / "killed.json") is None
    checkpoint = home / "kept" / "checkpoint-2"
    assert json.loads((checkpoint / "whole.json").read_text()) == {"processes": 2, "step": 2}
    assert (checkpoint / "rng_state_1.pth").is_file()
    with pytest.raises(BadInput, match="made by 2 processes, and there are 1 now"):
        simple.train(broken)
    jobs = {
        "resumed": broken,
        "whole": {**dropping, "folder": str(home / "whole")},
        "plain": plain,
        "rule": {**plain, "rule": True},
    }
    found = simple.two_processes(jobs, home / "jobs.json")
    assert found is not None
    return {**found, "home": home}


@pytest.mark.parametrize("name", ["plain", "rule"])
def test_two_processes_give_the_trajectory_of_one(folder: Path, two: dict[str, Any], name: str) -> None:
    """Batch 8 in one go, and on two processes in two micro-batches of two rows each; SGD, 9 steps, six passes.

    Weights within 1e-6, losses within 1e-4 and per-part gradients within 1e-5: what float32 sums in another
    order leave. The retained rows that meet a forget row are the same ones, or nothing would be equal.
    """
    import torch

    rule = name == "rule"
    one = simple.train({"model": str(folder), "rule": rule, "options": {"steps": STEPS, "batch": 8}})
    assert two[name]["world"] == 2
    assert two[name]["steps"] == STEPS
    assert apart(two[name]["losses"], one[1].losses) < 1e-4
    found = torch.load(two["home"] / f"jobs.{name}.pt", weights_only=True)
    gaps = [float((found["model"][key] - value).abs().max()) for key, value in one[0].state_dict().items()]
    assert max(gaps) < 1e-6
    assert len(found["seen"]) == (STEPS if rule else 0)
    for mine, first in zip(found["seen"], one[3].seen if rule else [], strict=True):
        for part in ("forget", "retain"):
            gaps = [float((a - b).abs().max()) for a, b in zip(mine[part], first[part], strict=True)]
            assert max(gaps) < 1e-5


def test_two_processes_killed_go_on_to_the_same_bytes(two: dict[str, Any]) -> None:
    """The main process died, the other with it: both go on from one checkpoint, each with its random state."""
    assert two["resumed"]["digest"] == two["whole"]["digest"]
    assert two["resumed"]["losses"] == two["whole"]["losses"]
    assert two["resumed"]["digest"] != two["plain"]["digest"]


def test_a_training_killed_in_the_middle_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """kill -9 at step 5 of 6, checkpoints every 2 steps, dropout on (so random state counts), AdamW, LoRA."""
    options = {"optimiser": "adamw", "steps": 6, "accumulation": 2, "save_every": 2}
    job: dict[str, Any] = {"model": str(folder), "lora": 2, "dropout": 0.2, "options": options}
    broken = {**job, "folder": str(tmp_path / "kept")}
    assert simple.in_process({**broken, "kill_at": 5}, tmp_path / "x.pt") is None
    kept = sorted(path.name for path in (tmp_path / "kept").glob("checkpoint-*"))
    assert kept == ["checkpoint-4"]  # older ones go once a newer one is whole
    torn = tmp_path / "kept" / "checkpoint-5"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{}")
    resumed = simple.in_process(broken, tmp_path / "x.pt")
    assert not torn.exists()
    whole = simple.in_process({**job, "folder": str(tmp_path / "whole")}, tmp_path / "x.pt")
    assert resumed is not None
    assert whole is not None
    assert resumed["digest"] == whole["digest"]
    assert resumed["losses"] == whole["losses"]
    assert [line["step"] for line in resumed["losses"]] == list(range(1, 7))
    assert resumed["steps"] == whole["steps"] == 6  # the objective's own state went on, too


def test_a_checkpoint_without_its_mark_is_no_checkpoint(tmp_path: Path) -> None:
    for step, text in ((2, "{}"), (10, "{"), (9, "{}")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "whole.json").write_text(text)
    (tmp_path / "checkpoint-11").mkdir()
    assert last_whole(tmp_path, "whole.json") == str(tmp_path / "checkpoint-9")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-9"]
    assert last_whole(tmp_path / "none") is None
