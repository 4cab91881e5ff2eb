"""The data pipeline of ReLearn: from what is to be forgotten to rows that teach how not to say it."""

from __future__ import annotations

from safewright.treatments.relearn.augmenting.asking import augmenter
from safewright.treatments.relearn.augmenting.config import AugmentOptions, options_of
from safewright.treatments.relearn.augmenting.estimating import estimate
from safewright.treatments.relearn.augmenting.pipeline import augment, augment_rows, build
from safewright.treatments.relearn.augmenting.rows import Augmented, Built, Coverage, Dropped, read

__all__ = [
    "AugmentOptions",
    "Augmented",
    "Built",
    "Coverage",
    "Dropped",
    "augment",
    "augment_rows",
    "augmenter",
    "build",
    "estimate",
    "options_of",
    "read",
]
