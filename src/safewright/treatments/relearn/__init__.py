"""ReLearn and the field's baselines: a model forgets what it is asked to, and keeps the rest."""

from __future__ import annotations

from collections.abc import Mapping

from safewright.catalog import Stage, treatment
from safewright.data import LoadedData
from safewright.treatments.job import Job, Made
from safewright.treatments.relearn.augmenting.pipeline import augment
from safewright.treatments.relearn.config import RelearnConfig
from safewright.types import ModelRef

__all__ = ["RelearnConfig", "relearn"]


def estimate(
    models: Mapping[str, ModelRef], data: Mapping[str, LoadedData], config: RelearnConfig, workers: int
) -> dict[str, float]:
    """Disk, memory and time of the whole, with the calls of the augmenter where rows have to be made."""
    from safewright.treatments.relearn import estimating

    return estimating.estimate(models, data, config)


@treatment(
    "relearn",
    version="1",
    paper="2502.11190",
    config=RelearnConfig,
    takes=("tuned",),
    optional=("reference", "augmenter"),
    data=("forget",),
    optional_data=("retain", "generic", "augmented", "alternatives"),
    gives=("weights", "adapter"),
    estimate=estimate,
    launches=True,
    stages={"augment": Stage(augment, writes=True)},
)
def relearn(job: Job) -> Made:
    """Unlearning by learning vague answers (ReLearn), and the baselines that push answers down.

    `--set method=` names one of 24: ReLearn with or without its retain terms, gradient ascent, NPO, SimNPO, DPO,
    AltPO, UNDIAL, WGA, SatImp, CE-U, PDU and RMU; `--set modifier=sure` (or `memflex`) lets a step move only
    some weights. What is left out takes the value a method was published with, see `preset`.

    Rows: `forget`, what is to be forgotten; `retain`, what is to be kept, needed by every method with a retain
    term; `augmented`, vague answers made before by the stage `augment` (made now where it is not given, by
    `--model augmenter` or from what the forget rows bring), `generic`, rows of any kind for the mix;
    `alternatives`, answers preferred to the old ones (dpo, altpo).
    """
    from safewright.treatments.relearn import training

    return training.train(job)
