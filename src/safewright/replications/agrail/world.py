"""One seed of AGrail's replication: the world's model, streams under every mode of memory, and how lists converge."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from safewright.lab.guarding import VERSION as WORLD
from safewright.lab.guarding import GuardingWorld, Item, Side, guarding_world
from safewright.lab.guarding_model import GuardModel, build_guarding, skills
from safewright.replications.agrail.loop import (
    DECAY,
    LEAST,
    UPDATES,
    Memory,
    Players,
    Ruling,
    cosine,
    judge,
    run,
    score,
)

if TYPE_CHECKING:
    from safewright.replications import Study

VERSION = "2"
"""Raised whenever a figure would change under the same name; part of every step's key."""

TRAINING, TEST = 240, 160
"""Actions that the frozen memory learned from, and that are asked about, per side."""
VISITS = (0, 1, 2, 3, 4, 5, 10)
WRONG, COPIES = 3, 16
"""Wrong checks that an entry begins with, and entries per type in the study of convergence."""
SIDES: tuple[Side, ...] = get_args(Side)


def seed_table(work: Study, seed: int) -> dict[str, float]:
    """The quantities of a seed; finished parts are not run again."""
    scene = Scene(seed, work.progress)
    key = {"version": VERSION, "world": WORLD, "seed": seed}
    learned = {"decay": DECAY, "least": LEAST}
    found: dict[str, float] = {}
    try:
        found |= work.run.step({**key, "part": "skills"}, scene.skills)
        sizes = {"training": TRAINING, "test": TEST}
        found |= work.run.step(
            {**key, "part": "streams", **sizes, **learned}, lambda: streams(scene.world, scene.model)
        )
        for update in UPDATES:
            work.progress(f"seed {seed}: convergence, {update}", 0, 1)
            found |= work.run.step(
                {**key, "part": "convergence", "update": update, "copies": COPIES, **learned},
                partial(scene.convergence, update),
            )
    finally:
        scene.close()
    return found


class Scene:
    """A world with its model, which is trained when somebody first asks."""

    def __init__(self, seed: int, progress: Any) -> None:
        self.world, self._progress = guarding_world(seed), progress
        self._model: GuardModel | None = None

    @property
    def model(self) -> GuardModel:
        """The world's model."""
        if self._model is None:
            tell = lambda name, step, steps, loss: self._progress(f"training {name}", step, steps)  # noqa: E731
            self._model = GuardModel(self.world, build_guarding(self.world, progress=tell))
        return self._model

    def skills(self) -> dict[str, float]:
        """What the model can do on its own."""
        return {f"skill.{name}": value for name, value in skills(self.world, self.model).items()}

    def convergence(self, update: Any) -> dict[str, float]:
        """How lists converge under an update."""
        return convergence(self.world, self.model, update)

    def close(self) -> None:
        """Let go of the model."""
        if self._model is not None:
            self._model.close()


def streams(world: GuardingWorld, players: Players) -> dict[str, float]:
    """LPA and F1 of every mode of memory on both sides, with the floor that allows everything.

    ``nm``: no memory. ``fm``: memory learned from the training stream of three domains, then frozen. ``tta``: memory
    that begins empty and learns from the test stream itself. Names without an update are of ``overwrite``. ``unruled``
    is the share of actions that no check stood for, ``closed`` the LPA where those are blocked, as by the engine.
    """
    training = world.stream("training", world.of("id"), TRAINING)
    found: dict[str, float] = {}
    for side in SIDES:
        items = world.stream(f"test {side}", world.of(side), TEST)
        found[f"floor.{side}"] = sum(not item.unsafe for item in items) / len(items)
        found |= _scored("nm", side, items, run(players, items, None))
        for update in UPDATES:
            frozen = Memory(update)
            run(players, training, frozen)
            frozen.frozen = True
            name = "" if update == "overwrite" else f".{update}"
            for mode, memory in (("fm", frozen), ("tta", Memory(update))):
                found |= _scored(f"{mode}{name}", side, items, run(players, items, memory))
    return found


def _scored(name: str, side: Side, items: Sequence[Item], rulings: Sequence[Ruling]) -> dict[str, float]:
    own = score(items, rulings)
    return {
        f"{name}.{side}": own.lpa,
        f"{name}.f1.{side}": own.f1,
        f"{name}.closed.{side}": score(items, rulings, closed=True).lpa,
        f"{name}.unruled.{side}": sum(not ruling.kept for ruling in rulings) / len(rulings),
    }


def convergence(world: GuardingWorld, players: Players, update: Any) -> dict[str, float]:
    """The cosine of what memory shows to the truth, by visits, from entries of wrong checks only.

    Each type has some entries of its own, visited by its actions with the stream's share of hard verbs; keys are right.
    Both updates see the same actions. ``plateau`` is the distance from visit 5 to visit 10, one-check types.
    """
    draw = random.Random(f"guarding convergence {world.seed}")
    kinds = [kind for _ in range(COPIES) for kind in range(len(world.kinds))]
    memory = Memory(update)
    for place, kind in enumerate(kinds):
        memory.begin(place, world.wrong(draw, kind, WRONG))
    found: dict[str, float] = {}
    for turn in range(max(VISITS) + 1):
        if turn in VISITS:
            near: dict[int, list[float]] = {1: [], 2: []}
            for place, kind in enumerate(kinds):
                truth = world.kinds[kind].truth
                near[len(truth)].append(cosine(memory.shown(place), truth))
            for size, name in ((1, "one"), (2, "two")):
                found[f"{update}.{name}.{turn}"] = sum(near[size]) / len(near[size])
        items = [world.item(draw, kind, noise=0.0) for kind in kinds]
        rulings = judge(players, items, [memory.shown(place) for place in range(len(kinds))])
        for place, ruling in enumerate(rulings):
            memory.learn(place, ruling.kept, ruling.deleted)
    plateau = abs(found[f"{update}.one.10"] - found[f"{update}.one.5"])
    return found | {f"{update}.plateau": plateau}


def mean(table: Mapping[int, Mapping[str, float]], name: str) -> float:
    """A quantity's mean over seeds."""
    return sum(found[name] for found in table.values()) / len(table)
