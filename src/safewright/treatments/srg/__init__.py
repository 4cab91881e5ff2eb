"""SRG: a model learns to reason about safety along guidelines before it answers, and refusal training beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safewright.catalog import Stage, treatment
from safewright.data import LoadedData
from safewright.treatments.job import Job, Made
from safewright.treatments.srg.ablating import MEASURES, ablate
from safewright.treatments.srg.arms import AblationOptions
from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.guidelines import write_guidelines
from safewright.treatments.srg.synthesis.pipeline import synthesize
from safewright.types import ModelRef

__all__ = ["SRGConfig", "srg"]


def estimate(
    models: Mapping[str, ModelRef], data: Mapping[str, LoadedData], config: SRGConfig, workers: int
) -> dict[str, float]:
    """Disk, memory and time of the whole, with the calls of the teacher where rows have to be made."""
    from safewright.treatments.srg import estimating

    return estimating.estimate(models, data, config)


def check(job: Job) -> dict[str, Any]:
    """Show what would be learned: spans of 32 rows, and whether the student's template keeps the reasoning."""
    from safewright.treatments.srg import checking

    return checking.check(job)


@treatment(
    "srg",
    version="1",
    paper="2502.04040",
    config=SRGConfig,
    takes=("student",),
    optional=("teacher", "fallback", "judge"),
    data=(),
    optional_data=("harmful", "helpful", "contrast", "general", "reasoned", "evaluation"),
    gives=("weights", "adapter"),
    estimate=estimate,
    extra="train",
    launches=True,
    stages={
        "synthesize": Stage(synthesize, writes=True),
        "guidelines": Stage(write_guidelines, writes=True),
        "check": Stage(check, takes=("student",)),
        "ablate": Stage(ablate, takes=("student",), writes=True, measures=MEASURES, config=AblationOptions),
    },
)
def srg(job: Job) -> Made:
    """Safety reasoning with guidelines: learn request, reasoning, answer, with the guidelines distilled away (SRG).

    `--set target=` names what is learned of the same prompts: srg; rt, the refusal alone (refusal training); and
    the controls noguide, label, filler, posthoc and answer_then_check. `--set harden=0.25` adds rows whose turn
    somebody else has begun.

    Rows: `reasoned`, requests with reasoning and answer, as the stage `synthesize` makes them; without them they are
    made now from `harmful`, `helpful` and `contrast` requests by `--model teacher`. `general` rows are learned as
    they stand. Rows of `evaluation` must share no request with the training.
    """
    from safewright.treatments.srg import training

    return training.train(job)
