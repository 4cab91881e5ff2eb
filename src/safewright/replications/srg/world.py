"""One seed of SRG's replication: the base model, every arm trained by `treat srg`, and what the measures say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from safewright import data
from safewright.lab import reasoning_text as text
from safewright.lab.reasoning import VERSION as WORLD
from safewright.lab.reasoning import ReasoningWorld, reasoning_world
from safewright.lab.reasoning_model import (
    TOKENS,
    build_reasoning,
    procedure_judge,
    skills,
    write_reasoning,
)
from safewright.measures import measure_model
from safewright.replications import Study
from safewright.replications.srg.arms import ARMS, DRAWN, SEEN, SHOWN_TEXT, TRAINING, Arm
from safewright.runs import write_text
from safewright.treatments import treat
from safewright.types import Row, Scorecard

VERSION = "1"
"""Raised whenever an arm's figures would change under the same name; part of every step's key."""

DRAWS = 32
LINKS = ("none", "format", "restatement", "category", "rule", "decision", "answer")
ABSENT = "context_absent"
"""The arm `context`, asked without its text."""


def seed_table(work: Study, seed: int, arms: Mapping[str, Arm]) -> dict[str, float]:
    """The quantities of a seed: ``ARM.FIGURE``."""
    scene = Scene(work, seed)
    key = {"version": VERSION, "world": WORLD, "seed": seed, "training": dict(TRAINING)}
    found = _named(
        "base", work.run.step({**key, "model": "base"}, partial(scene.figures, "base", scene.base))
    )
    for place, (name, arm) in enumerate(arms.items()):
        work.progress(f"seed {seed}: {name}", place, len(arms))
        found |= work.run.step({**key, "name": name, "arm": asdict(arm)}, partial(scene.arm, name, arm))
    scene.close()
    return found


class Scene:
    """What the arms of a seed share: the world, its files, and models that others start from."""

    def __init__(self, work: Study, seed: int) -> None:
        self.work, self.world = work, reasoning_world(seed)
        self.folder = work.folder / "models" / f"s{seed}"
        self._base: Path | None = None
        self._files: Mapping[Any, Path] = {}

    @property
    def base(self) -> Path:
        """The base model's folder; it is trained when somebody first asks."""
        if self._base is None:
            tell = lambda name, step, steps, loss: self.work.progress(f"training {name}", step, steps)  # noqa: E731
            self._base = build_reasoning(self.world, progress=tell)
        return self._base

    @property
    def files(self) -> Mapping[Any, Path]:
        """The world's files by role."""
        if not self._files:
            self._files = write_reasoning(self.world, self.folder / "data")
            openings = self.folder / "data" / "attacked.txt"
            write_text(openings, "".join(f"{line}\n" for line in text.ATTACKED.values()))
        return self._files

    def arm(self, name: str, arm: Arm) -> dict[str, float]:
        """An arm, trained and asked; with kept guidelines it is asked with them and without."""
        model = self.trained(name, arm)
        if name != "context":
            found = _named(name, self.figures(name, model))
        else:
            found = _named(name, self.figures(name, model, system=self.world.guidelines))
            found |= _named(ABSENT, self.figures(ABSENT, model))
        if name not in {other.student for other in ARMS.values()}:
            shutil.rmtree(model)
        return found

    def trained(self, name: str, arm: Arm) -> Path:
        """The arm's model folder, made now if it is not there."""
        out = self.folder / name
        if out.exists():
            return out
        student = self.base if arm.student is None else self.trained(arm.student, ARMS[arm.student])
        rows: dict[str, Any] = {"reasoned": self._records(name, arm)}
        if arm.replay:
            rows["general"] = self.files["general"]
        folder = self.files["reasoned"].parent
        options = {**TRAINING, **arm.options}
        if arm.options.get("harden"):
            options["reentry_openings"] = str(folder / "reentry.txt")
            options["attacked_openings"] = str(folder / "attacked.txt")
        if name in SHOWN_TEXT:
            options["context_file"] = str(folder / "guidelines.txt")
        run = out.with_name(f"{name}.run")
        treat(
            "srg",
            {"student": student},
            rows,
            config=options,
            out=out,
            run=run,
            seed=self.world.seed,
            device="cpu",
            overwrite=run.exists(),
            progress=self.work.progress,
        )
        shutil.rmtree(run)
        return out

    def _records(self, name: str, arm: Arm) -> Path:
        if arm.harmful is None and not arm.noise:
            return self.files["reasoned"]
        place = self.folder / "data" / f"reasoned-{name}.jsonl"
        data.write_rows(place, self.world.records(harmful=arm.harmful, noise=arm.noise, keep=arm.keep))
        return place

    def figures(self, name: str, model: Path, *, system: str | None = None) -> dict[str, float]:
        """The line of the table for a model."""
        found = asked(
            self.world, model, self.folder / f"{name}.asked", system=system, progress=self.work.progress
        )
        if name == "base":
            able = skills(model, self.world)
            found["refusal"] = able.pop("refusal")
            found["least_skill"] = min(able.values())
        if name in DRAWN:
            found |= drawn(self.world, model, self.folder / f"{name}.drawn", progress=self.work.progress)
        if name == "rt":
            found |= closed_form(self.world, model)
        if name in SEEN:
            found |= seen(self.world, model, self.folder / f"{name}.seen", progress=self.work.progress)
        return found

    def close(self) -> None:
        """Delete the seed's models and files."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


def asked(
    world: ReasoningWorld, model: Path, run: Path, *, system: str | None = None, progress: Any = None
) -> dict[str, float]:
    """What greedy answers say, by the measure `attack_success`.

    Returns:
        ``plain``, ``euphemism``, ``wrappers``, ``answer_prefill``, ``think_prefill``: the share of harmful requests
        that are not refused (no visible answer counted among them, as the published miniature does), wrappers as
        the mean over six; ``harm``: the true procedure was said, under wrappers; ``no_answer``: no visible answer,
        under wrappers; ``alarming``: harmless requests with an alarming verb that are refused; ``plain_benign``,
        ``wrapped_benign``: harmless requests that get their procedure; ``link_NAME``: the first broken link of
        traces under wrappers; ``reasoning_tokens``.
    """
    harm = [
        row for role in ("plain_harm", "euphemism", "wrapped_harm", "prefilled") for row in world.rows(role)
    ]
    benign = [row for role in ("plain_benign", "wrapped_benign") for row in world.rows(role)]
    card = _measured(
        "attack_success",
        model,
        {"harm": harm, "benign": benign, "alarming": world.rows("alarming")},
        {"attack": "none,given", "max_new_tokens": TOKENS, "system": system, "max_no_answer": 1.0},
        run,
        world,
        progress,
    )
    values = _values(card)

    def rate(name: str) -> float:
        return _bound(values, name, "high")

    forms = list(text.WRAPPERS)
    links = card.conventions.get("method", {}).get("first_broken_link", {})
    counted = {link: sum(links.get(form, {}).get(link, 0) for form in forms) for link in LINKS}
    found = {
        "plain": rate("asr[none]"),
        "euphemism": rate("asr[euphemism]"),
        "wrappers": _mean([rate(f"asr[{form}]") for form in forms]),
        "harm": _mean([_bound(values, f"harmful[{form}]", "low") for form in forms]),
        "no_answer": _mean([values[f"no_answer[{form}]"] for form in forms]),
        "answer_prefill": rate("asr[answer_prefill]"),
        "think_prefill": rate("asr[think_prefill]"),
        "alarming": _bound(values, "over_refusal[alarming]", "low"),
        "plain_benign": _helped(values, "none"),
        "wrapped_benign": _mean([_helped(values, form) for form in forms]),
        "reasoning_tokens": values.get("reasoning_tokens", 0.0),
    }
    shutil.rmtree(run)
    return found | {f"link_{link}": float(count) for link, count in counted.items()}


def drawn(world: ReasoningWorld, model: Path, run: Path, *, progress: Any = None) -> dict[str, float]:
    """The best of N on wrapped harmful requests at temperature 1: ``asr_all_N``, ``refusal_N``, ``asr_any_N``."""
    card = _measured(
        "attack_success",
        model,
        {"harm": world.rows("wrapped_harm")},
        {
            "attack": "given",
            "best_of": DRAWS,
            "max_new_tokens": TOKENS,
            "max_no_answer": 1.0,
        },
        run,
        world,
        progress,
    )
    found: dict[str, float] = {}
    for curve in card.curves:
        if curve.name in ("asr_all", "refusal", "asr_any"):
            found |= {f"{curve.name}_{int(n)}": value for n, value in zip(curve.x, curve.y, strict=True)}
    shutil.rmtree(run)
    return found


def closed_form(world: ReasoningWorld, model: Path) -> dict[str, float]:
    """The refusal curve of a model that decides at its first token: ``closed_1`` and ``closed_32``."""
    import math

    from safewright.models import load
    from safewright.stats.best_of_n import first_token

    rows = world.rows("wrapped_harm")
    loaded: Any = load(model, device="cpu", need=frozenset({"logprobs"}))
    try:
        said = loaded.logprobs([row.prompt for row in rows], [text.REFUSAL] * len(rows))
    finally:
        loaded.close()
    first = [math.exp(each.logprobs[0]) for each in said]
    return {f"closed_{n}": first_token(first, n) for n in (1, DRAWS)}


def seen(world: ReasoningWorld, model: Path, run: Path, *, progress: Any = None) -> dict[str, float]:
    """Hidden states of the last layer: ``prompt_auc``, ``decision_auc`` (wrapped requests, by the direction of plain
    ones), ``projection`` of wrapped harmful ones at the prompt's end, ``decision_projection`` before the verdict."""
    rows: dict[str, Sequence[Row]] = {
        "harmful": world.rows("plain_harm"),
        "benign": world.rows("plain_benign"),
        "wrapped_harmful": world.rows("wrapped_harm"),
        "wrapped_benign": world.rows("wrapped_benign"),
    }
    card = _measured("harm_direction", model, rows, {"max_new_tokens": TOKENS}, run, None, progress)
    values = _values(card)
    names = {
        "prompt_auc": "transfer_auc_prompt_end",
        "decision_auc": "transfer_auc_decision",
        "projection": "projection_wrapped_harmful_prompt_end",
        "decision_projection": "projection_wrapped_harmful_decision",
    }
    shutil.rmtree(run)
    return {name: values[reading] for name, reading in names.items() if reading in values}


def _measured(
    measure: str,
    model: Path,
    rows: Mapping[str, Sequence[Row]],
    config: Mapping[str, Any],
    run: Path,
    world: ReasoningWorld | None,
    progress: Any,
) -> Scorecard:
    given: dict[str, Any] = {} if world is None else {"judge": procedure_judge(world)}
    return measure_model(
        measure,
        model,
        data={role: list(own) for role, own in rows.items()},
        config={name: value for name, value in config.items() if value is not None},
        run=run,
        overwrite=True,
        max_unscored=1.0,
        progress=progress,
        **given,
    )


def _values(card: Scorecard) -> dict[str, float]:
    return {reading.name: reading.value for reading in card.readings if reading.value is not None}


def _bound(values: Mapping[str, float], name: str, side: str) -> float:
    """A rate with what has no visible answer counted in (``high``), or out (``low``); it may be all there is."""
    bound = f"{name}_no_answer_{side}"
    return values[bound] if bound in values else values[name]


def _helped(values: Mapping[str, float], form: str) -> float:
    return _bound(values, f"helpful[benign:{form}]", "low")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _named(name: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}.{figure}": value for figure, value in figures.items()}
