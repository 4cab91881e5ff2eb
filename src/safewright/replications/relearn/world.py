"""One seed of ReLearn's replication: the world's models, every arm at every learning rate, and what they say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from safewright.errors import NumericalFailure
from safewright.lab import PeopleWorld, build_people, evaluate_people, people_world, write_people
from safewright.lab.people import VERSION as WORLD
from safewright.replications import Study
from safewright.replications.relearn.arms import BATCH, RATES, REFERENCES, STEPS, WARMUP, Arm
from safewright.treatments import treat

VERSION = "1"
"""Raised whenever an arm's figures would change under the same name; part of every step's key."""

RATIOS = ("ls_f", "ls_r", "bi_f")


def seed_table(work: Study, seed: int, arms: Mapping[str, Arm]) -> dict[str, float]:
    """The quantities of a seed: ``ARM.FIGURE``, and ``ARM.FIGURE_ratio`` to the vanilla model."""
    world = people_world(seed)
    folder = work.folder / "models" / f"s{seed}"
    tell = lambda name, step, steps, loss: work.progress(f"training {name}", step, steps)  # noqa: E731
    built: dict[str, Path] = {}

    def model(arm: Any) -> Path:
        if arm not in built:
            built[arm] = build_people(world, arm, progress=tell)
        return built[arm]

    def asked(place: Path) -> dict[str, float]:
        return evaluate_people(place, world, fluency=model("fluency"))

    def reference(name: str) -> dict[str, float]:
        return asked(model(name))

    key = {"version": VERSION, "world": WORLD, "seed": seed}
    found: dict[str, float] = {}
    for name in REFERENCES:
        said = work.run.step({**key, "model": name}, partial(reference, name))
        found |= {f"{name}.{figure}": value for figure, value in said.items()}
    files = write_people(world, folder / "data")
    for place, (name, arm) in enumerate(arms.items()):
        work.progress(f"seed {seed}: {name}", place, len(arms))
        made = {**key, "arm": asdict(arm), "steps": STEPS, "batch": BATCH, "warmup": WARMUP}
        choices = {
            rate: work.run.step(
                {**made, "lr": rate},
                partial(_at, work, world, files, model, folder / name, arm, rate, asked),
            )
            for rate in RATES
        }
        # Of equals the larger rate: the wording that chooses was learned, and what is firmer there reaches further.
        rate = max(RATES, key=lambda rate: (choices[rate]["choice"], rate))
        found |= {f"{name}.{figure}": value for figure, value in choices[rate].items()} | {f"{name}.lr": rate}
    return found | ratios(found)


def _at(
    work: Study,
    world: PeopleWorld,
    files: Mapping[Any, Path],
    model: Any,
    out: Path,
    arm: Arm,
    rate: float,
    asked: Any,
) -> dict[str, float]:
    """One arm at one learning rate, asked; its folder is deleted afterwards."""
    data = {"forget": files[arm.forget]}
    if arm.keeps:
        data["retain"] = files["retain"]
    options: dict[str, Any] = {"lora_rank": 0, "steps": STEPS, "batch": BATCH, "warmup": WARMUP, "lr": rate}
    if arm.learns:
        data["generic"] = files["generic"]
        options["generic_short"] = "repeat"
    run = out.with_name(f"{out.name}.run")
    treat(
        "relearn",
        {"tuned": model("vanilla")},
        data,
        config={**options, "method": arm.method, **arm.options},
        out=out,
        run=run,
        seed=world.seed,
        device="cpu",
        overwrite=out.exists() or run.exists(),
        progress=work.progress,
    )
    said: dict[str, float] = asked(out)
    shutil.rmtree(out)
    shutil.rmtree(run)
    return said


def ratios(found: Mapping[str, float]) -> dict[str, float]:
    """Figures of language as shares of the vanilla model's, and of plain ReLearn's.

    Raises:
        NumericalFailure: One of these two says nothing that has a language.
    """
    made: dict[str, float] = {}
    for figure in RATIOS:
        for base, ending in (("vanilla", "ratio"), ("relearn", "beside_relearn")):
            whole = found[f"{base}.{figure}"]
            if not whole > 0:
                raise NumericalFailure(f"{figure} of {base} is {whole}.", fix="Look at its answers.")
            made |= {
                f"{name}_{ending}": value / whole
                for name, value in found.items()
                if name.rpartition(".")[2] == figure
            }
    return made
