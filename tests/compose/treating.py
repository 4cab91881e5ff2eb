"""A treatment for matrices in tests (it makes an adapter, and fails where it is told to), and processes that are
killed while a matrix runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.models.references import local_folder
from safewright.runs import write_bytes
from safewright.treatments import Job, Made
from safewright.types import Check
from tests.contract.fakes import Sure
from tests.treatments import folders
from tests.treatments.killed import counting, run_apart


@dataclass(frozen=True)
class MadeUpConfig:
    """Options of the made-up treatments."""

    seed: int = field(default=2, metadata={"help": "Of the step."})
    passes: bool = field(default=True, metadata={"help": "Whether its check passes."})


BROKEN: list[BaseException] = []
"""What the treatment raises, while there is something: a fault that may be mended."""


def made_up_adapter(job: Job) -> Made:
    """A random LoRA adapter on the model it is given."""
    if BROKEN:
        raise BROKEN[0]
    base = local_folder(job.models["tuned"])
    made = job.run.own("made")
    if not (made / "adapter_model.safetensors").is_file():
        job.run.append("made-up", {"made": True})
        folders.adapter(base, made, seed=job.config.seed)
    for file in sorted(made.iterdir()):
        write_bytes(job.draft / file.name, file.read_bytes())
    return Made("adapter", (Check("as asked", job.config.passes, "it was asked for"),))


@contextmanager
def entered() -> Iterator[None]:
    """The made-up treatment in the catalog, which other tests must find as it is."""
    catalog.entries()
    enter: Any = catalog.treatment(
        "made_up", version="1", config=MadeUpConfig, takes=("tuned",), data=("forget",), gives=("adapter",)
    )
    enter(made_up_adapter)
    try:
        yield
    finally:
        catalog._entries.pop("made_up")


def little(home: Path, **more: Any) -> dict[str, Any]:
    """The arguments of the smallest matrix: one treatment, one measure, two rows."""
    asked = given(home, treatments=["made_up"], models={}, orders="none", limit=2, measures=["utility"])
    for part in ("data", "options", "judges"):
        del asked[part]["harmful_rate"]
    return {**asked, **more}


def given(home: Path, **more: Any) -> dict[str, Any]:
    """The arguments of a matrix over small models; ``home`` is filled where it is empty."""
    from tests import tiny

    if not (home / "aligned").exists():
        aligned = tiny.save_tiny(home / "aligned", **{**folders.SMALL, "num_key_value_heads": 1})
        folders.tuned(aligned, home / "tuned", size=0.2)
        for role in ("harm", "utility", "forget"):
            folders.rows_file(home / f"{role}.jsonl", 6)
    return {
        "model": home / "tuned",
        "treatments": ["uniform_scale", "made_up"],
        "measures": ["harmful_rate", "utility"],
        "models": {"uniform_scale": {"aligned": home / "aligned"}},
        "data": {
            "made_up": {"forget": home / "forget.jsonl"},
            "harmful_rate": home / "harm.jsonl",
            "utility": {"utility": home / "utility.jsonl"},
        },
        "options": {name: {"max_new_tokens": 4} for name in ("harmful_rate", "utility")},
        "judges": {"harmful_rate": Sure()},
        **more,
    }


def _work(asked: Mapping[str, Any], out: Path, kill_at: int | None, told: Any) -> None:
    from safewright.compose.matrix import matrix

    gc.freeze()  # what was imported before the fork
    tick, passed = counting(kill_at)
    with entered():
        matrix(**asked, out=out, progress=tick)
    told.put(passed())


def in_process(asked: Mapping[str, Any], out: Path, kill_at: int | None = None) -> int | None:
    """A matrix in a process of its own; the points it passed, or None where it was killed."""
    preload = ["torch", "transformers", "peft", "safewright.compose.matrix"]
    return run_apart(_work, [dict(asked), out], kill_at, preload, 100)
