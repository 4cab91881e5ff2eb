"""The one driver of every treatment: check, plan, make in a draft, prove, and put in place at once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.data import LoadedData, load_data
from safewright.data.loaded import check_limit
from safewright.errors import BadInput, nearest
from safewright.models import resolve
from safewright.runs import Run, digest_file, digest_json, from_json, open_run, to_json, versions, write_json
from safewright.runs.atomic import checked_path, sync_folder
from safewright.runs.run import plan_digest
from safewright.treatments.job import Job, Made, Progress
from safewright.types import Cost, ModelRef, TreatmentResult

PROVENANCE = "provenance.json"
"""Lies beside a treated model's weights: what it was made from, how, and what was found."""

DRAFT = "draft"
REPLACED = "replaced"
RESULT = "result.json"
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
        files = self.options.inputs() if hasattr(self.options, "inputs") else {}
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
                # Sums are split by thread: the bytes are promised for this number on this machine.
                "engine": {"device": self.device, "threads": self.threads},
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
        """Where the run is kept when nothing else is said: beside the result."""
        if self.out is None or not self.writes:
            name = "-".join(part for part in (self.entry.name, self.stage) if part)
            return Path("runs") / f"{name}-{plan_digest(self.identity)[7:19]}"
        return self.out.parent / f"{self.out.name}.run"


def treat(
    name: str,
    models: Mapping[str, str | Path | ModelRef],
    data: Mapping[str, Any] | None = None,
    *,
    config: Mapping[str, Any] | Any | None = None,
    out: str | Path,
    **given: Any,
) -> TreatmentResult:
    """Make a better model.

    The folder ``out`` appears at once when it is whole: a plain Hugging Face folder or PEFT adapter with
    ``provenance.json`` beside its weights. What a kill must not lose is kept in ``OUT.run``; the same call
    goes on from there and ends with the same bytes.

    Args:
        name: A treatment of the catalog.
        models: Models by role: folders, adapters or hub ids.
        data: Rows by role: files, presets, loaded data or rows.
        config: Options of the treatment: a mapping, or its configuration dataclass.
        out: The folder to be made.
        seed: Of everything drawn.
        limit: At most so many rows per role.
        device: ``auto`` (CUDA where present, else CPU) or a torch device.
        threads: Compute threads of each process; part of the plan.
        run: Folder of the run; ``OUT.run`` where None.
        overwrite: Start anew where ``out`` or the run's folder holds another result.
        workers: Processes that write matrices.
        notes: Facts for plan.json that decide nothing.
        progress: Called as work goes on.

    Raises:
        BadInput: An unknown treatment, option or role; models or rows that do not fit; ``out`` holds
            something else.
        Missing: A model, data or a package is not there.
        NumericalFailure: Non-finite weights, or arithmetic that cannot be done.
        Incomplete: The disk is full; the same call goes on.
    """
    running = {key: given.pop(key) for key in RUNNING if key in given}
    return run_treatment(plan_treatment(name, models, data, config=config, out=out, **given), **running)


RUNNING = ("run", "overwrite", "workers", "notes", "progress")
"""Arguments of `run_treatment` and `run_stage`; the others of `treat` go to `plan_treatment`."""


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
) -> TreatPlan:
    """A treatment ready to run; see `treat` for the arguments, `catalog.Stage` for stages.

    Raises:
        BadInput: An unknown treatment, stage, option or role; a needed one is missing; rows do not fit.
        Missing: A model, data or a package is not there.
    """
    entry = catalog.find(name, "treatment")
    if stage is not None and stage not in entry.stages:
        raise BadInput(f"{name} has no stage {stage!r}.", fix=nearest(stage, entry.stages))
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
    )


def run_treatment(
    plan: TreatPlan,
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    workers: int = 1,
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TreatmentResult:
    """The result of a planned treatment; see `treat`."""
    started = time.monotonic()
    out = plan.out
    assert out is not None
    folder = Path(run) if run is not None else plan.run_folder
    replace = _require_free(out, plan, overwrite)
    with _begun(folder, plan, notes, overwrite) as opened:
        if replace:
            _remove(out, opened)
        if not _stands(out, plan):
            job = _job(plan, out, opened, workers, progress)
            with _compute_threads(plan.threads):
                _make(plan, job, started)
        found = json.loads((out / PROVENANCE).read_text("utf-8"))
        result = from_json(
            TreatmentResult,
            {
                "model": to_json(resolve(out)),
                "parents": [parent["digest"] for parent in found["parents"].values()],
                "kind": found["kind"],
                "history": str(out / PROVENANCE),
                "checks": found["checks"],
                "cost": to_json(Cost(seconds=round(time.monotonic() - started, 3))),
            },
        )
        opened.write(RESULT, result)
    return result


def run_stage(
    plan: TreatPlan,
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    workers: int = 1,
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What a planned stage found, in plain JSON; a stage that writes puts its folder in place at once."""
    assert plan.stage is not None
    stage = plan.entry.stages[plan.stage]
    folder = Path(run) if run is not None else plan.run_folder
    replace = False
    if stage.writes:
        assert plan.out is not None
        replace = _require_free(plan.out, plan, overwrite)
    with _begun(folder, plan, notes, overwrite) as opened:
        out = plan.out or opened.dir
        if replace:
            _remove(out, opened)
        if stage.writes and _stands(out, plan):
            return dict(json.loads((out / PROVENANCE).read_text("utf-8"))["found"])
        job = _job(plan, out, opened, workers, progress)
        with _compute_threads(plan.threads):
            found: dict[str, Any] = to_json(stage.function(job))
        if stage.writes:
            _put(job.draft, out, {**_about(plan), "found": found}, opened.dir)
        else:
            opened.write(RESULT, found)
    return found


@contextmanager
def _begun(folder: Path, plan: TreatPlan, notes: Mapping[str, Any] | None, overwrite: bool) -> Iterator[Run]:
    """The run of a plan. One that was begun here and ends at unusable input leaves nothing behind: a corrected
    command must not find the folder taken by the plan that could not be."""
    fresh = overwrite or not (folder / "plan.json").exists()
    with open_run(folder, {**plan.identity, **(notes or {})}, overwrite=overwrite) as opened:
        try:
            yield opened
        except BadInput:
            if fresh:
                opened.discard()
            raise


def _make(plan: TreatPlan, job: Job, started: float) -> None:
    made: Made = plan.entry.function(job)
    provenance = {
        **_about(plan),
        "kind": made.kind,
        "checks": made.checks,
        "report": made.report or {},
    }
    job.run.event("made", seconds=round(time.monotonic() - started, 3))
    _put(job.draft, job.out, provenance, job.run.dir)


def _about(plan: TreatPlan) -> dict[str, Any]:
    """What a provenance file says about any treatment."""
    return {
        "plan": plan_digest(plan.identity),
        "treatment": plan.identity["treatment"],
        "parents": {
            role: {"digest": ref.digest, "where": ref.where, "kind": ref.kind, "base": ref.base}
            for role, ref in plan.models.items()
        },
        "data": {role: held.describe() for role, held in plan.data.items()},
        "seed": plan.seed,
        "engine": plan.identity["engine"],
        "versions": plan.identity["versions"],
    }


def _put(draft: Path, out: Path, provenance: Mapping[str, Any], run: Path) -> None:
    """Move a whole draft to its place: readers see nothing, or all of it."""
    files = {name: digest_file(draft / name) for name in _files(draft)}
    write_json(draft / PROVENANCE, {**provenance, "files": files})
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    try:
        os.replace(draft, out)
    except OSError:
        # Another file system: copy beside, then rename there.
        beside = out.parent / f".{out.name}.part"
        if beside.exists():
            shutil.rmtree(beside)
        shutil.copytree(draft, beside)
        os.replace(beside, out)
        shutil.rmtree(draft)
    sync_folder(out.parent)


def _stands(out: Path, plan: TreatPlan) -> bool:
    """Whether ``out`` already holds the result of this very plan."""
    found = _provenance(out)
    return found is not None and found["plan"] == plan_digest(plan.identity)


def _provenance(out: Path) -> dict[str, Any] | None:
    """What a treatment wrote about its result in ``out``; None where no treatment made it."""
    file = out / PROVENANCE
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError:
        return None
    ours = isinstance(found, dict) and {"plan", "treatment", "parents", "files"} <= found.keys()
    return found if ours else None


def _require_free(out: Path, plan: TreatPlan, overwrite: bool) -> bool:
    """Pass when ``out`` is not there, is empty, is this plan's own result, or an old one that may go.

    Returns:
        Whether an old result stands there and is to be replaced.

    Raises:
        BadInput: It holds something else, or more than a result.
    """
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file.", fix="Name a folder with --out.")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    found = _provenance(out)
    if found is None:
        raise BadInput(
            f"{out} is not empty, and no treatment made what it holds.",
            why="It would be mixed with the result, or lost.",
            fix="Choose another folder with --out.",
        )
    if not overwrite:
        if _stands(out, plan):
            return False
        raise BadInput(
            f"{out} holds the result of another plan.",
            why="It would be lost.",
            fix="Use --overwrite, or choose another folder with --out.",
        )
    foreign = [name for name in _files(out) if name not in found["files"]]
    if foreign:
        raise BadInput(
            f"{out} holds {foreign[0]}, which no treatment made.",
            why="Overwriting would delete it.",
            fix="Move it elsewhere, or choose another folder with --out.",
        )
    return True


def _remove(out: Path, run: Any) -> None:
    """Delete an old result: all of it, or, after a kill, none."""
    old = run.own(REPLACED)
    if old.exists():
        shutil.rmtree(old)
    try:
        os.replace(out, old)
    except OSError:
        old = out  # another file system
    shutil.rmtree(old)


def _files(folder: Path) -> list[str]:
    """The files of a result by their names in it, apart from its provenance."""
    found = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if name != PROVENANCE)


@contextmanager
def _compute_threads(count: int) -> Iterator[None]:
    """Sums are split by thread: a plan's number holds for all that is computed under it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _job(plan: TreatPlan, out: Path, opened: Any, workers: int, progress: Progress | None) -> Job:
    if workers < 1:
        raise BadInput(f"--workers is {workers}.", fix="It must be at least 1.")
    draft = opened.own(DRAFT)
    for torn in draft.glob(".*.part"):
        torn.unlink()  # what a kill left of a file that was being written
    return Job(
        models=plan.models,
        data=plan.data,
        config=plan.options,
        out=out,
        draft=draft,
        run=opened,
        seed=plan.seed,
        device=plan.device,
        threads=plan.threads,
        workers=workers,
        progress=progress or _silent,
    )


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


def _silent(what: str, done: int, total: int) -> None:
    return None


def result_digest(folder: Path) -> str:
    """The digest of every file of a result, for tests and comparisons of bytes."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return digest_json({str(file.relative_to(folder)): digest_file(file) for file in files})
