"""Replications: a paper's claims, stated in a file before it is run, and what the seeds say about them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, nearest
from safewright.runs import Run
from safewright.stats import Claim, Verdict


@dataclass(frozen=True)
class Study:
    """A replication at work: what it may use, and where it remembers.

    ``widths`` are sizes of the lab's models, the first of them the one the claims are about. ``options`` are the
    replication's own, by name; ``data`` is the folder of real data it was given, None where there is none.
    """

    run: Run
    folder: Path
    seeds: Sequence[int]
    widths: Sequence[int]
    progress: Any
    options: Mapping[str, str] = field(default_factory=dict)
    data: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What a replication found: ``rows`` of its table, verdicts on its claims, and slopes along size."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    verdicts: tuple[Verdict, ...]
    slopes: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replication:
    """One system's replication: module attributes ``CLAIMS``, ``VERSION``, ``PAPER`` and ``study(Study)``.

    A module may also have ``OPTIONS`` (names with their help), ``DATA`` (the environment's name for a folder of
    real data, which ``--data`` names otherwise), and ``check(options)``, which raises before anything runs.
    """

    name: str
    version: str
    paper: str
    summary: str
    claims: tuple[Claim, ...]
    study: Any
    options: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None
    check: Any = None


def value_of(quantity: str, found: Mapping[str, float]) -> float:
    """A quantity of a claim, which may be the difference ``a - b`` of two."""
    first, _, second = quantity.partition(" - ")
    return found[first] - (found[second] if second else 0.0)


def names() -> list[str]:
    """The systems that can be replicated."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Replication:
    """The replication of a system.

    Raises:
        BadInput: There is none, with the nearest name.
    """
    if name not in names():
        raise BadInput(f"There is no replication of {name!r}.", fix=nearest(name, names()))
    module = importlib.import_module(f"{__name__}.{name}")
    summary = (module.__doc__ or "").strip().splitlines()[0]
    return Replication(
        name,
        module.VERSION,
        module.PAPER,
        summary,
        tuple(module.CLAIMS),
        module.study,
        getattr(module, "OPTIONS", {}),
        getattr(module, "DATA", None),
        getattr(module, "check", None),
    )
