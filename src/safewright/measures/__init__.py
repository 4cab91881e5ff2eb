"""Measures: model in, scorecard out. One file per measure; the catalog finds it by its decorator."""

from safewright.measures.behaviour import Behaviour
from safewright.measures.driver import MAX_UNSCORED, beyond_bounds, measure_model, run_measure, unscored_share
from safewright.measures.plan import MeasurePlan, plan_measure

__all__ = [
    "MAX_UNSCORED",
    "Behaviour",
    "MeasurePlan",
    "beyond_bounds",
    "measure_model",
    "plan_measure",
    "run_measure",
    "unscored_share",
]
