"""What splitting a step's rows changes (nothing but last bits), and what the shared loop costs over a bare one.

    python benchmarks/training_splits.py

Runs from a checkout: objective, rule and rows are those of the tests. About a minute on two cores.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from tests import tiny  # noqa: E402
from tests.training import simple  # noqa: E402

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def gap(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference between weights."""
    return max(float((one[name].detach() - other[name].detach()).abs().max()) for name in one)


def splits(home: Path) -> None:
    """Largest weight differences after 9 steps of 8 rows, against one process without accumulation."""
    import torch

    folder = tiny.save_tiny(home / "model", **SMALL)
    for rule in (False, True):
        for optimiser in ("sgd", "adamw"):
            options = {
                "steps": 9,
                "batch": 8,
                "optimiser": optimiser,
                "lr": 1e-2 if optimiser == "sgd" else 1e-3,
            }
            job = {"model": str(folder), "rule": rule, "options": options}
            first = simple.train(job)[0].state_dict()
            told = []
            for accumulation in (2, 4):
                model = simple.train({**job, "options": {**options, "accumulation": accumulation}})[0]
                told.append(f"{accumulation} micro-batches {gap(first, model.state_dict()):.1e}")
            two = {**job, "options": {**options, "accumulation": 2}}
            found = simple.two_processes({"two": two}, home / f"{optimiser}{rule}.json")
            assert found is not None
            weights = torch.load(home / f"{optimiser}{rule}.two.pt", weights_only=True)["model"]
            told.append(f"2 processes of 2 micro-batches {gap(first, weights):.1e}")
            print(f"{'gradient rule' if rule else 'plain':<14}{optimiser:<6} {', '.join(told)}", flush=True)
    plain = simple.train({"model": str(folder)})[0].state_dict()
    for more in ({"width": 64}, {"side": "left", "width": 64}):
        model = simple.train({"model": str(folder), **more})[0]
        print(f"padding {more}: {gap(plain, model.state_dict()):.1e}")


def overhead(home: Path, steps: int = 100) -> None:
    """Milliseconds of a step: the loop, and the same passes with a bare optimiser."""
    import torch

    from safewright.training.fitting import FitOptions, fit
    from safewright.training.pairing import collate_pairs

    folder = tiny.save_tiny(home / "wide", hidden_size=96, intermediate_size=256, num_hidden_layers=3)
    pairs, objective, collate = simple.pairs(64, 64), simple.PushAndKeep(), collate_pairs(0)
    loop, bare = [], []
    for _ in range(5):
        model = simple.model_of(folder)
        options = FitOptions(batch=16, steps=steps, lr=1e-4)
        start = time.perf_counter()
        fit(model, pairs, collate, objective, options)
        loop.append((time.perf_counter() - start) / steps)
        model = simple.model_of(folder).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        start = time.perf_counter()
        for step in range(steps):
            batch = collate([pairs.item(*divmod(step * 16 + i, len(pairs))) for i in range(16)])
            counts = objective.counts(batch)
            losses = [objective.part(None, model, batch, part) for part in objective.parts]
            torch.stack([total / counts[by] for total, by, *_ in losses]).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
        bare.append((time.perf_counter() - start) / steps)
    ours, theirs = sorted(loop)[2] * 1e3, sorted(bare)[2] * 1e3
    print(
        f"step of 16 pairs, width 96, 3 layers: loop {ours:.1f} ms, bare {theirs:.1f} ms ({ours / theirs:.2f} x)"
    )


def main() -> None:
    import torch

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        splits(Path(home))
        overhead(Path(home))


if __name__ == "__main__":
    main()
