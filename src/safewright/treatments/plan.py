"""A treatment with everything it needs gathered and checked, before anything runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.data import LoadedData, load_data
from safewright.data.loaded import check_limit
from safewright.errors import BadInput, nearest
from safewright.models import resolve
from safewright.runs import digest_file, to_json, versions
from safewright.runs.atomic import checked_path
from safewright.runs.run import plan_digest
from safewright.types import ModelRef

VERSIONS = ("safewright", "torch", "transformers", "peft", "safetensors")


@dataclass(frozen=True)
class TreatPlan:
    """A treatment (or one stage of it) with its models resolved and its rows loaded, before anything runs."""

    entry: catalog.Entry
    stage: str | None
    options: Any
    models: Mapping[str, ModelRef]
    data: Mapping[str, LoadedData]
    out: Path | None
    seed: int
    device: str
    threads: int
    processes: int = 1

    @property
    def writes(self) -> bool:
        """Whether it makes a new folder."""
        return self.stage is None or self.entry.stages[self.stage].writes

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the bytes of the result, in plain JSON."""
        options = {
            name: getattr(self.options, name)
            for name, option in self.entry.options().items()
            if option.metadata.get("decides", True)
        }
        files = inputs(self.options)
        several = {"processes": self.processes} if self.processes > 1 else {}
        plain: dict[str, Any] = to_json(
            {
                "treatment": {
                    "name": self.entry.name,
                    "version": self.entry.version,
                    "stage": self.stage,
                    "config": {**options, **{name: digest_file(file) for name, file in files.items()}},
                },
                "models": {
                    role: dataclasses.replace(ref, where="", base=None) for role, ref in self.models.items()
                },
                "data": {
                    role: {"digest": held.digest, "rows": len(held.rows)} for role, held in self.data.items()
                },
                "seed": self.seed,
                # Sums are split by thread and process: the bytes are promised for these numbers on this machine.
                "engine": {"device": self.device, "threads": self.threads, **several},
                "versions": versions(VERSIONS),
            }
        )
        return plain

    def estimate(self, workers: int = 1) -> dict[str, float]:
        """Disk, memory and time it will take, in ``disk_bytes``, ``memory_bytes`` and ``seconds``."""
        if self.entry.estimate is None or not self.writes:
            return {}
        return self.entry.estimate(self.models, self.data, self.options, workers)

    @property
    def run_folder(self) -> Path:
        """Where the run is kept when nothing else is said: beside the result, or in --out where there is none."""
        if self.out is None:
            name = "-".join(part for part in (self.entry.name, self.stage) if part)
            return Path("runs") / f"{name}-{plan_digest(self.identity)[7:19]}"
        if not self.writes:
            return self.out
        out = self.out if self.out.name not in ("", "..") else Path(os.path.abspath(self.out))
        return out.parent / f"{out.name}.run"


def plan_treatment(
    name: str,
    models: Mapping[str, str | Path | ModelRef],
    data: Mapping[str, Any] | None = None,
    *,
    stage: str | None = None,
    config: Mapping[str, Any] | Any | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    threads: int = 1,
    processes: int = 1,
) -> TreatPlan:
    """A treatment ready to run; see `treat` for the arguments, `catalog.Stage` for stages.

    Raises:
        BadInput: An unknown treatment, stage, option or role; a needed one is missing; rows do not fit.
        Missing: A model, data or a package is not there.
    """
    entry = catalog.find(name, "treatment")
    if stage is not None and stage not in entry.stages:
        raise BadInput(f"{name} has no stage {stage!r}.", fix=nearest(stage, entry.stages))
    if stage is not None and entry.stages[stage].measures:
        raise BadInput(
            f"The stage {stage} of {name} compares: it trains several models, and measures each.",
            why="A treatment makes one model.",
            fix="Use safewright.compose.ablation.plan_ablation and run_ablation.",
        )
    options = config if isinstance(config, entry.config) else catalog.read_options(entry, config or {})
    if threads < 1:
        raise BadInput(f"threads is {threads}.", fix="It must be at least 1.")
    check_limit(limit)
    _known_roles(name, "model", "--model ROLE=MODEL", models, entry.roles)
    _known_roles(name, "rows", "--data ROLE=FILE", data or {}, (*entry.data, *entry.optional_data))
    needed = entry.takes if stage is None else entry.stages[stage].takes
    for role in needed:
        if role not in models:
            raise BadInput(f"{name} needs the {role} model.", fix=f"Give it: --model {role}=FOLDER")
    if stage is None:
        for role in entry.data:
            if role not in (data or {}):
                raise BadInput(f"{name} needs rows for {role!r}.", fix=f"Give them: --data {role}=rows.jsonl")
    if out is None and (stage is None or entry.stages[stage].writes):
        raise BadInput(f"{name} needs a folder to write.", fix="Name one: --out DIR")
    refs = {role: m if isinstance(m, ModelRef) else resolve(m) for role, m in models.items()}
    rows = {role: load_data(given, role, limit=limit, seed=seed) for role, given in (data or {}).items()}
    return TreatPlan(
        entry,
        stage,
        options,
        refs,
        rows,
        None if out is None else checked_path(out),
        seed,
        _device(device),
        threads,
        processes,
    )


def inputs(options: Any) -> dict[str, Path]:
    """The files among a treatment's options whose content decides the result."""
    return dict(options.inputs()) if hasattr(options, "inputs") else {}


def _known_roles(name: str, what: str, how: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for role in given:
        if role not in known:
            raise BadInput(f"{name} takes no {what} in the role {role!r} ({how}).", fix=nearest(role, known))


def _device(device: str) -> str:
    if device != "auto":
        from safewright.models.opening import check_device

        return check_device(device)
    from safewright.models.hf import default_device

    return default_device()
