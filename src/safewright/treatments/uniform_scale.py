"""The simplest repair: keep the same share of the fine-tuning step everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from safewright.catalog import treatment
from safewright.errors import BadInput
from safewright.treatments.blending import blend
from safewright.treatments.editing import Blend
from safewright.treatments.job import Job, Made


@dataclass(frozen=True)
class UniformScaleConfig:
    """Options of `uniform_scale`."""

    alpha: float = field(default=0.65, metadata={"help": "Share of the fine-tuning step that is kept."})
    row_chunk: int = field(default=4096, metadata={"help": "Rows read together.", "decides": False})

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise BadInput(f"alpha is {self.alpha}.", fix="It must lie in [0, 1].")


@treatment(
    "uniform_scale",
    version="1",
    paper="2109.01903",
    config=UniformScaleConfig,
    takes=("aligned", "tuned"),
    gives=("weights", "adapter"),
)
def uniform_scale(job: Job) -> Made:
    """Interpolation between the aligned and the fine-tuned weights: the baseline every repair must beat.

    ``aligned + alpha (tuned - aligned)`` for every tensor (WiSE-FT). An adapter comes back as an adapter.
    """
    alpha = job.config.alpha
    return blend(job, Blend(step=alpha), scale=alpha)
