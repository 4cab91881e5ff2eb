"""Intervals, paired tests, multiplicity and readings: every number of a scorecard with its doubt.

numpy and scipy only.
"""

from safewright.stats.agreement import Confusion, cohen_kappa, confusion, krippendorff_alpha
from safewright.stats.claims import Claim, Verdict, over_seeds
from safewright.stats.correction import (
    CorrectedPair,
    JudgeQuality,
    correct_joint,
    corrected_pair,
    corrected_rate,
    noise_floor,
    prediction_powered,
    quality_of,
    rogan_gladen,
)
from safewright.stats.intervals import (
    bounded_mean,
    clopper_pearson,
    cluster_bootstrap,
    newcombe_paired,
    paired_cluster_bootstrap,
    wilson,
)
from safewright.stats.paired import holm, mcnemar_exact, minimum_detectable, paired_permutation
from safewright.stats.readings import mean_reading, rate_reading
from safewright.stats.roc import auc, auc_interval, auc_reading, wins

__all__ = [
    "Claim",
    "Confusion",
    "CorrectedPair",
    "JudgeQuality",
    "Verdict",
    "auc",
    "auc_interval",
    "auc_reading",
    "bounded_mean",
    "clopper_pearson",
    "cluster_bootstrap",
    "cohen_kappa",
    "confusion",
    "correct_joint",
    "corrected_pair",
    "corrected_rate",
    "holm",
    "krippendorff_alpha",
    "mcnemar_exact",
    "mean_reading",
    "minimum_detectable",
    "newcombe_paired",
    "noise_floor",
    "over_seeds",
    "paired_cluster_bootstrap",
    "paired_permutation",
    "prediction_powered",
    "quality_of",
    "rate_reading",
    "rogan_gladen",
    "wilson",
    "wins",
]
