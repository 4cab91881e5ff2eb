"""The one driver of every treatment: check, plan, make in a draft, prove, and put in place at once."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from safewright.errors import BadInput
from safewright.models import resolve
from safewright.models.references import as_path
from safewright.models.threads import compute_threads
from safewright.runs import Run, digest_file, from_json, open_run, to_json
from safewright.runs.atomic import disk_errors
from safewright.runs.folder import PLAN, examine, foreign
from safewright.runs.progress import Progress, silent
from safewright.runs.run import plan_digest
from safewright.training import processes
from safewright.treatments import taking
from safewright.treatments.job import Job, Made
from safewright.treatments.placing import PROVENANCE, let_go, put, put_back, require_free, stands
from safewright.treatments.plan import TreatPlan, inputs, plan_treatment
from safewright.types import Cost, ModelRef, TreatmentResult

DRAFT = "draft"
RESULT = "result.json"
FOLDERS = ("hf", "adapter")
"""Kinds of models that are files, whose digests can be taken again."""

Result = TypeVar("Result")


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
        overwrite: Replace the result that ``out`` or the run's folder holds, once the new one is whole.
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


def run_treatment(
    plan: TreatPlan,
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    workers: int = 1,
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TreatmentResult:
    """The result of a planned treatment, or of a stage that makes a model; see `treat`."""
    started = time.monotonic()
    out = plan.out
    assert out is not None
    processes.require_launched()

    def work(job: Job) -> dict[str, Any]:
        made = _made(plan, job)
        job.run.event("made", seconds=round(time.monotonic() - started, 3))
        return {"kind": made.kind, "checks": made.checks, "report": made.report or {}}

    def result(found: Mapping[str, Any]) -> TreatmentResult:
        return from_json(
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

    folder = Path(run) if run is not None else plan.run_folder
    return _put_in_place(plan, out, folder, work, result, overwrite, workers, notes, progress)


def check_free(plan: TreatPlan, *, overwrite: bool = False) -> None:
    """Pass when the result of a plan may be put in its place, and a run be begun, as far as can be told now.

    Raises:
        BadInput: Something stands in the way.
    """
    assert plan.out is not None
    with disk_errors(plan.out):
        require_free(plan.out, plan, overwrite)
        examine(plan.run_folder, overwrite=overwrite and not _unfinished(plan.run_folder, plan))


def follow_treatment(plan: TreatPlan, *, workers: int = 1) -> None:
    """Take part in a planned treatment whose run another process owns: compute with it, and write nothing.

    Raises:
        SystemExit: The main process has ended; there may have been nothing to do.
    """
    places = processes.messages().hear()
    job = Job(
        models=plan.models,
        data=plan.data,
        config=plan.options,
        out=plan.out,
        draft=Path(places["draft"]),
        run=cast(Run, processes.FollowingRun(Path(places["run"]), plan.identity)),
        seed=plan.seed,
        device=plan.device,
        threads=plan.threads,
        workers=workers,
        progress=silent,
    )
    processes.settle(plan.device)
    with compute_threads(plan.threads):
        _made(plan, job)
    processes.messages().hear()  # the main process still writes: nothing of the group may go before it ends


def _made(plan: TreatPlan, job: Job) -> Made:
    made: Made = (plan.entry if plan.stage is None else plan.entry.stages[plan.stage]).function(job)
    return made


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

    def work(job: Job) -> dict[str, Any]:
        return {"found": stage.function(job)}

    if run is None and not stage.writes and not stage.takes:
        # It reads one folder and is done: no model is in its plan, and nothing of it is worth keeping.
        with tempfile.TemporaryDirectory(prefix="safewright-") as kept:
            return run_stage(plan, run=kept, workers=workers, notes=notes, progress=progress)
    folder = Path(run) if run is not None else plan.run_folder
    if stage.writes:
        assert plan.out is not None
        return _put_in_place(
            plan,
            plan.out,
            folder,
            work,
            lambda provenance: dict(provenance["found"]),
            overwrite,
            workers,
            notes,
            progress,
        )
    _check_workers(workers)
    with _begun(folder, plan, notes, overwrite, anew=overwrite) as opened:
        found: dict[str, Any] = _worked(plan, _job(plan, opened, workers, progress), work)["found"]
        opened.write(f"{plan.stage}.json", found)
    return found


def _put_in_place(
    plan: TreatPlan,
    out: Path,
    folder: Path,
    work: Callable[[Job], dict[str, Any]],
    result: Callable[[Mapping[str, Any]], Result],
    overwrite: bool,
    workers: int,
    notes: Mapping[str, Any] | None,
    progress: Progress | None,
) -> Result:
    """What ``result`` makes of the provenance in ``out``, once the folder stands there: made now, or before."""
    _check_workers(workers)
    with disk_errors(out):
        put_back(out, folder)
        require_free(out, plan, overwrite)
    # A kill of an overwriting run is gone on from, like any other.
    anew = overwrite and not _unfinished(folder, plan)
    with _begun(folder, plan, notes, overwrite, anew) as opened:
        let_go(opened)
        if anew or not stands(out, plan):
            job, started = _job(plan, opened, workers, progress), time.monotonic()
            provenance = {**_about(plan), **_worked(plan, job, work)}
            put(job.draft, plan, out, provenance, opened, overwrite)
            taking.note(opened, out, time.monotonic() - started, workers, (notes or {}).get("estimate", {}))
        made = result(json.loads((out / PROVENANCE).read_text("utf-8")))
        opened.write(RESULT, made)
    return made


def _worked(plan: TreatPlan, job: Job, work: Callable[[Job], dict[str, Any]]) -> dict[str, Any]:
    """What the work of a plan found, in plain JSON, once its inputs are still those that were planned with."""
    if processes.together() > 1:
        processes.messages().tell({"run": str(job.run.dir), "draft": str(job.draft)})
        job = replace(job, run=cast(Run, processes.LeadingRun(job.run)))
        processes.settle(plan.device)
    with compute_threads(plan.threads):
        found: dict[str, Any] = to_json(work(job))
    _require_unchanged(plan)
    return found


@contextmanager
def _begun(
    folder: Path, plan: TreatPlan, notes: Mapping[str, Any] | None, overwrite: bool, anew: bool
) -> Iterator[Run]:
    """The run of a plan. One that was begun here and ends at unusable input leaves nothing behind: a corrected
    command must not find the folder taken by the plan that could not be."""
    fresh = overwrite or not (folder / "plan.json").exists()
    with open_run(folder, {**plan.identity, **(notes or {})}, overwrite=anew) as opened:
        try:
            yield opened
        except BadInput as error:
            # What was computed from inputs that changed is no use to anyone.
            if (fresh or isinstance(error, _Changed)) and not foreign(folder):
                opened.discard()
            raise


def _unfinished(folder: Path, plan: TreatPlan) -> bool:
    """Whether a killed run of this very plan is there."""
    try:
        found = json.loads((folder / PLAN).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    same = isinstance(found, dict) and plan_digest(found) == plan_digest(plan.identity)
    return same and not (folder / RESULT).exists()


class _Changed(BadInput):
    """An input is not what it was when the treatment was planned."""


def _require_unchanged(plan: TreatPlan) -> None:
    """Pass when models and input files still have the bytes they were planned with.

    Raises:
        BadInput: One of them was written to while the treatment ran.
    """
    for role, ref in plan.models.items():
        if ref.kind in FOLDERS and _digest_now(ref) != ref.digest:
            raise _changed(f"The {role} model {ref.where}")
    said = plan.identity["treatment"]["config"]
    for name, file in inputs(plan.options).items():
        if digest_file(file) != said[name]:
            raise _changed(f"{name}={file}")


def _digest_now(ref: ModelRef) -> str:
    try:
        return resolve(_place(ref)).digest
    except BadInput:
        return ""  # gone, or half written


def _changed(what: str) -> _Changed:
    return _Changed(
        f"{what} has changed since the treatment began.",
        why="The result would be a mixture, under the digest of other bytes.",
        fix="Wait until nothing writes there, and give the command again.",
    )


def _place(ref: ModelRef) -> str:
    """Where a model is, said so that it is found from any folder."""
    return f"{ref.where}@{ref.revision}" if ref.revision is not None else _absolute(ref.where)


def _absolute(where: str) -> str:
    folder = as_path(where)
    return str(folder.absolute()) if folder.is_dir() else where


def _about(plan: TreatPlan) -> dict[str, Any]:
    """What a provenance file says about any treatment."""
    return {
        "plan": plan_digest(plan.identity),
        "treatment": plan.identity["treatment"],
        "parents": {
            role: {
                "digest": ref.digest,
                "where": _place(ref),
                "kind": ref.kind,
                "base": ref.base and _absolute(ref.base),
            }
            for role, ref in plan.models.items()
        },
        "inputs": {name: str(file.absolute()) for name, file in inputs(plan.options).items()},
        "data": {role: held.describe() for role, held in plan.data.items()},
        "seed": plan.seed,
        "engine": plan.identity["engine"],
        "versions": plan.identity["versions"],
    }


def _check_workers(workers: int) -> None:
    if workers < 1:
        raise BadInput(f"--workers is {workers}.", fix="It must be at least 1.")


def _job(plan: TreatPlan, opened: Run, workers: int, progress: Progress | None) -> Job:
    draft = opened.own(DRAFT)
    for torn in draft.glob(".*.part"):
        torn.unlink()  # what a kill left of a file that was being written
    return Job(
        models=plan.models,
        data=plan.data,
        config=plan.options,
        out=plan.out,
        draft=draft,
        run=opened,
        seed=plan.seed,
        device=plan.device,
        threads=plan.threads,
        workers=workers,
        progress=progress or silent,
    )
