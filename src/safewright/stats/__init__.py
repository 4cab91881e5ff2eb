"""Intervals, paired tests, multiplicity and readings: every number of a scorecard with its doubt.

numpy and scipy only.
"""

from safewright.stats.claims import Claim, Verdict, over_seeds
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

__all__ = [
    "Claim",
    "Verdict",
    "bounded_mean",
    "clopper_pearson",
    "cluster_bootstrap",
    "holm",
    "mcnemar_exact",
    "mean_reading",
    "minimum_detectable",
    "newcombe_paired",
    "over_seeds",
    "paired_cluster_bootstrap",
    "paired_permutation",
    "rate_reading",
    "wilson",
]
