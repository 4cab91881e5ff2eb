"""RESTA: add a safety vector, the difference between the aligned and an unaligned model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from safewright.catalog import treatment
from safewright.errors import BadInput
from safewright.treatments.blending import blend
from safewright.treatments.editing import Blend
from safewright.treatments.job import Job, Made


@dataclass(frozen=True)
class RestaConfig:
    """Options of `resta`."""

    gamma: float = field(default=0.5, metadata={"help": "How much of the safety vector is added."})
    row_chunk: int = field(default=4096, metadata={"help": "Rows read together.", "decides": False})

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise BadInput(f"gamma is {self.gamma}.", fix="It must be a number of at least 0.")


@treatment(
    "resta",
    version="1",
    paper="2402.11746",
    config=RestaConfig,
    takes=("aligned", "tuned", "unaligned"),
)
def resta(job: Job) -> Made:
    """Safety vector added at one fixed strength (RESTA).

    ``tuned + gamma (aligned - unaligned)`` for every tensor; the unaligned model is the aligned one after
    harmful fine-tuning on other rows. The result is a whole model, also for an adapter.
    """
    return blend(job, Blend(step=1.0, pull=job.config.gamma), other="unaligned")
