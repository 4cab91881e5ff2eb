"""Plain fine-tuning by TRL: two processes give what one gives, a killed training goes on to the same bytes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import NumericalFailure
from safewright.training.fitting import FitOptions, with_lora
from safewright.training.sft import passes, rising, train_sft
from tests import tiny
from tests.training import simple
from tests.training.test_loop import SMALL, apart

STEPS = 6


def fitted(job: dict[str, Any], watch: Any = None) -> tuple[Any, Any]:
    """The model of a job after its training, and what was seen."""
    import torch

    torch.set_num_threads(1)
    model = simple.model_of(Path(job["model"]), job.get("dropout", 0.0))
    if job.get("lora"):
        model = with_lora(model, job["lora"], 2 * job["lora"], 0.1)
    options = FitOptions(**{"batch": 8, "steps": STEPS, "lr": 1e-2, **job["options"]})
    rows = simple.examples(11, "x")

    def progress(what: str, done: int, total: int) -> None:
        if done == job.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    return train_sft(
        model,
        simple.words(),
        rows,
        options,
        order=passes(len(rows), (options.steps or 0) * options.batch, 3)
        if job.get("ordered", True)
        else None,
        held=simple.examples(job["held"], "h") if "held" in job else (),
        folder=Path(job["folder"]) if "folder" in job else None,
        seed=3,
        progress=watch or progress,
    )


def told(job: dict[str, Any], file: Path) -> dict[str, Any]:
    """What a job's training was like; its weights go to ``file``."""
    import torch
    import torch.distributed as group

    model, history = fitted(job)
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(model.state_dict(), file)
    world = group.get_world_size() if group.is_initialized() else 1
    digest = simple.digest(model)
    return {"world": world, "losses": history.losses, "held": history.held, "digest": digest}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("sft") / "model", **SMALL)


def test_12_two_processes_give_the_loss_curve_of_one(folder: Path, tmp_path: Path) -> None:
    """Four rows on each of two processes, and on one process with twice the accumulation: rows of different
    lengths, so a mean of means would differ. Losses within 1e-4, weights too; then a kill of both and the same
    bytes after it."""
    import torch

    job: dict[str, Any] = {"model": str(folder), "held": 3, "options": {"optimiser": "sgd"}}
    job["folder"] = str(tmp_path / "plain")
    kept: dict[str, Any] = {"model": str(folder), "dropout": 0.2, "options": {"save_every": 2}}
    broken = {**kept, "folder": str(tmp_path / "kept")}
    assert simple.two_processes({"killed": {**broken, "kill_at": 5}}, tmp_path / "k.json", told) is None
    assert (tmp_path / "kept" / "checkpoint-4" / "rng_state_1.pth").is_file()
    jobs = {"plain": job, "resumed": broken, "whole": {**kept, "folder": str(tmp_path / "whole")}}
    two = simple.two_processes(jobs, tmp_path / "two.json", told)
    assert two is not None
    assert two["plain"]["world"] == 2
    assert two["resumed"]["losses"] == two["whole"]["losses"]
    assert two["resumed"]["digest"] == two["whole"]["digest"]

    one = {**job, "folder": str(tmp_path / "one"), "options": {"optimiser": "sgd", "accumulation": 2}}
    model, history = fitted(one)
    assert history.steps == len(two["plain"]["losses"]) == STEPS
    assert apart(two["plain"]["losses"], history.losses) < 1e-4
    assert [line["step"] for line in history.held] == [2, 4, 6]
    assert apart(two["plain"]["held"], history.held) < 1e-4
    assert abs(history.values()[-1] - history.values()[0]) > 1e-2  # there is something to be equal
    found = torch.load(tmp_path / "two.plain.pt", weights_only=True)
    gaps = [float((found[name] - value).abs().max()) for name, value in model.state_dict().items()]
    assert max(gaps) < 1e-5


def test_12_a_killed_training_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """kill -9 at step 5 of 6 with a checkpoint every 2, an adapter with dropout, so random state counts."""
    job: dict[str, Any] = {"model": str(folder), "lora": 2, "options": {"save_every": 2, "accumulation": 2}}
    broken = {**job, "folder": str(tmp_path / "kept")}
    assert simple.in_process({**broken, "kill_at": 5}, tmp_path / "x.pt", told) is None
    assert [path.name for path in (tmp_path / "kept").glob("checkpoint-*")] == ["checkpoint-4"]
    resumed = told(broken, tmp_path / "x.pt")
    whole = told({**job, "folder": str(tmp_path / "whole")}, tmp_path / "x.pt")
    assert resumed["digest"] == whole["digest"]
    assert resumed["losses"] == whole["losses"]
    assert [line["step"] for line in whole["losses"]] == list(range(1, STEPS + 1))


def test_the_loss_is_the_mean_over_learned_tokens(folder: Path) -> None:
    """Of the first step, computed by hand from the rows of its batch."""
    import torch

    _, history = fitted({"model": str(folder), "options": {"accumulation": 4}})
    model, rows = simple.model_of(folder), simple.examples(11, "x")
    total, count = 0.0, 0
    for place in passes(11, 8, 3):
        ids = torch.tensor([list(rows[place].ids)])
        with torch.inference_mode():
            logs = torch.log_softmax(model(ids).logits[0, :-1], -1)
        for spot in range(rows[place].start, len(rows[place].ids)):
            total -= float(logs[spot - 1, ids[0, spot]])
            count += 1
    assert history.values()[0] == pytest.approx(total / count, abs=1e-5)


def test_a_last_step_to_no_numbers_is_found(folder: Path) -> None:
    with pytest.raises(NumericalFailure, match=r"(loss is|holds numbers that are none)"):
        fitted(
            {"model": str(folder), "options": {"lr": 1e3, "optimiser": "sgd", "clip": 0.0, "steps": STEPS}}
        )


def test_held_out_rows_end_a_training_that_only_learns_by_heart(folder: Path, tmp_path: Path) -> None:
    """At a learning rate that is too high the NLL of other rows rises: training ends after two rises, and what is
    kept are the weights of the least one, also after a kill."""
    import torch

    job: dict[str, Any] = {"model": str(folder), "held": 3, "lora": 2}
    job["options"] = {"save_every": 1, "steps": 40, "lr": 0.3, "schedule": "constant"}
    model, history = fitted({**job, "folder": str(tmp_path / "whole")})
    told = [line["nll"] for line in history.held]
    assert rising(told)
    assert not any(rising(told[:end]) for end in range(len(told)))
    assert [line["step"] for line in history.held] == [4 * (n + 1) for n in range(len(told))]
    assert history.steps == history.held[-1]["step"] == history.losses[-1]["step"] < 40
    assert told.index(min(told)) < len(told) - 2
    by_row = []
    for row in simple.examples(3, "h"):
        ids = torch.tensor([list(row.ids)])
        with torch.inference_mode():
            logs = torch.log_softmax(model(ids).logits[0, :-1], -1)
        by_row.append([-float(logs[spot - 1, ids[0, spot]]) for spot in range(row.start, len(row.ids))])
    assert min(told) == pytest.approx(sum(sum(nll) / len(nll) for nll in by_row) / 3, abs=1e-4)

    def stop(what: str, done: int, total: int) -> None:
        if done == history.steps - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted({**job, "folder": str(tmp_path / "kept")}, stop)
    for place in ("kept", "whole"):  # before the last look, and with all of it behind
        again, seen = fitted({**job, "folder": str(tmp_path / place)})
        assert seen == history
        assert simple.digest(again) == simple.digest(model)


def test_rising_means_twice_in_a_row() -> None:
    assert rising([3.0, 1.0, 2.0, 3.0])
    assert not rising([1.0, 2.0])
    assert not rising([1.0, 2.0, 2.0])
    assert not rising([1.0, 3.0, 2.0, 3.0])


def test_passes_show_every_row_equally_often() -> None:
    order = passes(7, 30, 1)
    assert len(order) == 30
    assert passes(7, 12, 1) == order[:12]
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert order[:7] != order[7:14]
    assert set(Counter(order).values()) <= {4, 5}
    assert passes(7, 30, 2) != order
