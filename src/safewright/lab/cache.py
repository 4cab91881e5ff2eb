"""Trained lab models, built once: the folder's name carries the digest of all that made it."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.resources
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, need_extra
from safewright.lab import tiny
from safewright.lab.tiny import Shape
from safewright.lab.training import Lesson, TrainConfig
from safewright.runs import digest_bytes, digest_json, single_flight, write_json

LIBRARIES = ("torch", "transformers", "tokenizers")
CODE = ("tiny.py", "training.py")
FACTS_FILE = "lab.json"
"""Lies beside the weights: what the model is, and the loss of every step of its training."""

Progress = Callable[[str, int, int, float], None]
"""Called after every training step with (model name, step, steps, loss in nats)."""


@dataclass(frozen=True)
class Plan:
    """All that decides a trained model's bytes.

    Args:
        name: What the model is called, for example ``refusal-dirty-0``; becomes part of its folder name.
        about: Everything else: world, version, arm, shape, vocabulary, parent.
        lessons: What it is taught.
        recipe: How.
        seed: Of the initial weights and of the draws.
    """

    name: str
    about: Mapping[str, Any]
    lessons: tuple[Lesson, ...]
    recipe: TrainConfig
    seed: int

    def digest(self) -> str:
        """``sha256:…`` over the plan, and over the libraries and our own modules that carry it out."""
        return digest_json({**self.facts(), "lessons": self.lessons})

    def facts(self) -> dict[str, Any]:
        """The plan as plain JSON, the rows of the lessons by their digest only."""
        return {
            "name": self.name,
            "about": dict(self.about),
            "lessons": [
                {"name": x.name, "rows": len(x.rows), "share": x.share, "digest": digest_json(x.rows)}
                for x in self.lessons
            ],
            "recipe": dataclasses.asdict(self.recipe),
            "seed": self.seed,
            # Kernels differ between kinds of processor, and with them the last bits of a sum.
            "machine": platform.machine(),
            "versions": {library: _version(library) for library in LIBRARIES},
            "code": _code(),
        }


def cache_folder(cache: Path | None = None) -> Path:
    """Where lab models are kept: ``cache``, else ``$SAFEWRIGHT_CACHE/lab``, else ``~/.cache/safewright/lab``."""
    if cache is not None:
        return cache
    root = os.environ.get("SAFEWRIGHT_CACHE")
    return Path(root).expanduser() / "lab" if root else Path.home() / ".cache" / "safewright" / "lab"


def place(plan: Plan, cache: Path | None = None) -> Path:
    """Where the model of a plan is, or will be."""
    return cache_folder(cache) / f"{plan.name}-{plan.digest().removeprefix('sha256:')[:16]}"


def trained(
    plan: Plan,
    start: Callable[[], tuple[Any, Any]],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of the plan's trained model; trained now if nobody did before.

    Args:
        start: Gives the model to train and its tokenizer; called only when training is needed.

    Raises:
        Missing: torch or transformers is not installed.
    """

    def build(folder: Path) -> None:
        from safewright.lab import training

        model, tokenizer = start()
        tell = None if progress is None else (lambda *at: progress(plan.name, *at))
        losses = training.train(model, tokenizer, plan.lessons, plan.recipe, seed=plan.seed, progress=tell)
        tiny.save(model, tokenizer, folder)
        write_json(folder / FACTS_FILE, {**plan.facts(), "losses": losses})

    return single_flight(place(plan, cache), build)


def starting(
    tokenizer: Callable[[], Any], shape: Shape, *, seed: int, parent: Path | None = None
) -> Callable[[], tuple[Any, Any]]:
    """What `trained` starts from: a fresh model, or ``parent``'s where one is given, and a tokenizer made then."""

    def start() -> tuple[Any, Any]:
        made = tokenizer()
        return (tiny.tiny_model(shape, made, seed=seed) if parent is None else tiny.load_model(parent)), made

    return start


def about(folder: Path, world: str, version: str) -> Mapping[str, Any]:
    """What a plan said of a lab model, read from the facts beside its weights.

    Raises:
        BadInput: The folder is not a model of this version of this world.
    """
    file = folder / FACTS_FILE
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))["about"] if file.exists() else {}
    if found.get("world") != world or found.get("version") != version:
        raise BadInput(
            f"{folder} is not a model of the {world} world, version {version}.",
            fix="Give the world it was trained in as well.",
        )
    return found


@functools.cache
def _code() -> dict[str, str]:
    """The digests of our own modules that make a model: templates, starting weights and the training loop."""
    folder = importlib.resources.files("safewright.lab")
    return {name: digest_bytes((folder / name).read_bytes()) for name in CODE}


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError as error:
        raise need_extra(library, "models") from error
