"""Treatments: model in, better model out. One file or folder per treatment; the catalog finds it."""

from safewright.treatments.driver import check_free, follow_treatment, run_stage, run_treatment, treat
from safewright.treatments.job import Job, Made
from safewright.treatments.plan import TreatPlan, plan_treatment

__all__ = [
    "Job",
    "Made",
    "TreatPlan",
    "check_free",
    "follow_treatment",
    "plan_treatment",
    "run_stage",
    "run_treatment",
    "treat",
]
