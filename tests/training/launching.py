"""A treatment for tests of ``--launch``: it trains by the shared loop, and can fail in several ways."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.catalog import treatment
from safewright.errors import BadInput
from safewright.training import processes
from safewright.treatments import Job, Made
from safewright.types import Check

DISTRIBUTION = "launching-0.1.dist-info"


def plugin(home: Path) -> str:
    """A PYTHONPATH on which this treatment is a third party's plugin."""
    meta = home / DISTRIBUTION
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: launching\nVersion: 0.1\n")
    (meta / "entry_points.txt").write_text("[safewright.plugins]\nlaunching = tests.training.launching\n")
    return os.pathsep.join([str(home), str(Path(__file__).parents[2])])


@dataclass(frozen=True)
class TrainsConfig:
    """Options of the test treatment."""

    steps: int = field(default=4, metadata={"help": "Optimiser steps."})
    batch: int = field(default=4, metadata={"help": "Rows of a step."})
    save_every: int = field(default=2, metadata={"help": "Steps between checkpoints.", "decides": False})
    fails: str = field(default="", metadata={"help": "How it fails.", "decides": False})
    lr: float = field(default=1e-2, metadata={"help": "Learning rate."})


@treatment(
    "fake_trains",
    version="1",
    config=TrainsConfig,
    takes=("tuned",),
    data=("forget",),
    launches=True,
)
def fake_trains(job: Job) -> Made:
    """Trains by the shared loop, on one process or several."""
    from safewright.models import load
    from safewright.training.encoding import encode, pad_token
    from safewright.training.fitting import FitOptions, fit, save_trained
    from safewright.training.pairing import Pairs, collate_pairs
    from tests.training.simple import PushAndKeep

    config = job.config
    asked = job.run.dir / "asked"
    drawn = job.run.step({"what": "drawn"}, lambda: _computed(asked))
    job.run.append("seen", {"rank": processes.rank(), "world": processes.world_size()})
    assert all(row == {"rank": 0, "world": processes.world_size()} for row in job.run.rows("seen"))
    job.run.write("note.json", {"drawn": drawn})
    print("printed by the treatment")
    if config.fails == "input":
        raise BadInput("A row is bad.", fix="Mend it.")
    if config.fails == "follower" and not processes.is_main():
        raise BadInput("Only a follower finds this.", fix="Mend it.")
    if config.fails == "waits" and processes.is_main():
        (job.run.dir / "waiting").touch()
        time.sleep(60)
    loaded: Any = load(job.models["tuned"], device=job.device, need=frozenset({"gradient"}))
    rows = encode(loaded.tokenizer, job.rows("forget"), max_length=64).examples

    def progress(what: str, done: int, total: int) -> None:
        job.progress(what, done, total)
        if config.fails == "killed" and done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    history = fit(
        loaded.model,
        Pairs(rows[:6], rows[6:]),
        collate_pairs(pad_token(loaded.tokenizer)),
        PushAndKeep(),
        FitOptions(
            batch=config.batch,
            steps=config.steps,
            lr=config.lr,
            optimiser="sgd",
            save_every=config.save_every,
        ),
        folder=job.run.own("training"),
        seed=job.seed,
        device=job.device,
        progress=progress,
    )
    kind = save_trained(loaded.model, loaded.tokenizer, job.draft)
    check = Check("drawn by the main process alone", drawn == [4, 2], str(drawn))
    return Made(kind, (check,), {"losses": history.losses, "world": processes.world_size()})


def _computed(asked: Path) -> tuple[int, int]:
    assert processes.is_main()
    asked.touch(exist_ok=False)
    asked.unlink()
    return (4, 2)
