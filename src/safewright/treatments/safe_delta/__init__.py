"""Safe Delta: give a fine-tuned model its safety back by editing its weights, without training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.catalog import Stage, treatment
from safewright.data import LoadedData
from safewright.errors import BadInput
from safewright.training import processes
from safewright.treatments.job import Job, Made
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.types import ModelRef

if TYPE_CHECKING:
    from safewright.treatments.safe_delta.callback import SafeDeltaCallback as SafeDeltaCallback
    from safewright.treatments.safe_delta.core import edit_matrix as edit_matrix
    from safewright.treatments.safe_delta.memory import edit_model as edit_model

__all__ = ["SafeDeltaConfig", "safe_delta"]

DEALT = ("cpu", "multi_gpu")
"""Launches whose processes prepare together, each with its part of the rows."""

PREP = "prep"
"""Where H is kept inside the run, when no prepared folder was given."""


def prepare(job: Job) -> dict[str, Any]:
    """Run calibration rows through the aligned model and keep H of every layer input in --out."""
    if job.config.prep:
        raise BadInput(
            f"The stage prepare makes a prepared folder, but prep={job.config.prep} names one.",
            fix="Leave prep out; --out names the folder to be made.",
        )
    from safewright.treatments.safe_delta import calibration
    from safewright.treatments.sources import require_folders

    require_folders(job.models)
    from safewright.treatments.safe_delta import verifying

    facts = calibration.prepare(job)
    return verifying.inspect(job.draft) if processes.together() == 1 or processes.is_main() else facts


def apply(job: Job) -> Made:
    """Edit the fine-tuned weights with a prepared H (--set prep=DIR) and write the model to --out."""
    from safewright.treatments.safe_delta import applying

    return applying.apply(job, _given_prep(job))


def sweep(job: Job) -> dict[str, Any]:
    """Safety loss and distance to the fine-tuned weights along mu (--set points=…), without generating.

    With --out, that folder keeps them in sweep.json.
    """
    from safewright.treatments.safe_delta import verifying
    from safewright.treatments.sources import require_folders

    require_folders(job.models)
    return verifying.sweep(job, _prep(job))


def verify(job: Job) -> dict[str, Any]:
    """Recompute the safety losses of the repaired model in --out from its files, and compare."""
    from safewright.errors import NumericalFailure
    from safewright.treatments.safe_delta import verifying

    out = _named(job.out, "verify", "the repaired model")
    found = verifying.read_provenance(out)
    report = found.get("report", {})
    if "layers" not in report:
        raise BadInput(f"{out} was not made by safe_delta.")
    models, prep = verifying.parents(found, out), verifying.prep_of(found, out, job.config)
    checks = [verifying.same_files(found, out)]
    if checks[0].passed:
        checks += verifying.verify(models, out, prep, verifying.config_of(report), report["layers"])
    failed = [check for check in checks if not check.passed]
    if failed:
        raise NumericalFailure(
            f"{out} is not what it reports to be ({failed[0].name}): {failed[0].detail}",
            why="Its files were changed, or its parents were.",
            fix="Make it again.",
        )
    return {"checks": checks}


def inspect(job: Job) -> dict[str, Any]:
    """Print rank, conditioning, outlier channels and tokens of the prepared folder in --out."""
    from safewright.treatments.safe_delta import verifying

    prep = Path(job.config.prep) if job.config.prep else _named(job.out, "inspect", "the prepared folder")
    return verifying.inspect(prep)


def _named(out: Path | None, stage: str, what: str) -> Path:
    """The folder a stage reads.

    Raises:
        BadInput: None was named.
    """
    if out is None:
        raise BadInput(f"The stage {stage} reads {what}, and none was named.", fix="Name it: --out DIR")
    return out


def estimate(
    models: Mapping[str, ModelRef], data: Mapping[str, LoadedData], config: SafeDeltaConfig, workers: int
) -> dict[str, float]:
    """Disk, memory and time of prepare and apply, from the shapes on disk."""
    from safewright.treatments.safe_delta import estimating

    return estimating.estimate(models, data, config, workers)


@treatment(
    "safe_delta",
    version="1",
    paper="2505.12038",
    config=SafeDeltaConfig,
    takes=("aligned", "tuned"),
    optional_data=("calibration", "harmful", "finetune", "test"),
    gives=("weights", "adapter"),
    estimate=estimate,
    launches=DEALT,
    stages={
        "prepare": Stage(prepare, ("aligned",), writes=True, launches=DEALT),
        "apply": Stage(apply, ("aligned", "tuned"), writes=True, makes=True),
        "verify": Stage(verify),
        "sweep": Stage(sweep, ("aligned", "tuned")),
        "inspect": Stage(inspect),
    },
)
def safe_delta(job: Job) -> Made:
    """Edit of fine-tuned weights that restores safety and keeps the task (Safe Delta).

    Refusals of the aligned model say which directions of each layer's input safety rests on; the fine-tuning
    step keeps what costs little there. The default, `soft`, is the closest matrix to the fine-tuned one at
    its safety loss; `official` reproduces the release. Adapter in, adapter of the same rank out.

    Rows: `calibration`, requests the aligned model refuses, needed unless `prep` is given; `harmful`, such
    requests whose answers are never used; `finetune`, for utility=task; `test`, checked for overlap.
    """
    from safewright.treatments.safe_delta import applying, verifying

    with applying.fitting(job):
        pass  # a mistake in models or options shows before calibration is run
    prep = _prep(job)
    if processes.together() > 1 and not processes.is_main():
        return Made("weights", ())  # the main process edits
    made = applying.apply(job, prep)
    assert made.report is not None
    layers = made.report["layers"]
    verified = verifying.verify(job.models, job.draft, prep, job.config, layers)
    return Made(made.kind, (*made.checks, *verified), made.report)


def _given_prep(job: Job) -> Path:
    if not job.config.prep:
        raise BadInput(
            "The stage apply needs a prepared folder.",
            fix="Give it: --set prep=DIR, made by: safewright treat safe_delta prepare … --out DIR",
        )
    from safewright.treatments.safe_delta.prepared import Prepared
    from safewright.treatments.safe_delta.seen import require_unseen

    given = [f"--data {role}" for role in ("calibration", "harmful", "finetune") if role in job.data]
    job.config.require_no_preparing(*given)
    prep = Prepared(job.config.prep)
    require_unseen(prep.facts, prep.folder, job.rows("test"))
    return prep.folder


def _prep(job: Job) -> Path:
    """The prepared folder: the one given, or made now inside the run."""
    from safewright.treatments.safe_delta import calibration

    if job.config.prep:
        return _given_prep(job)
    folder = job.run.own(PREP)
    if not processes.from_main(lambda: (folder / "prep.json").exists()):
        calibration.prepare_folder(job, folder)
    return folder


def __getattr__(name: str) -> Any:
    # Brings torch: only when it is asked for.
    homes = {"SafeDeltaCallback": "callback", "edit_model": "memory", "edit_matrix": "core"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{homes[name]}"), name)
