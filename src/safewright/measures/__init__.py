"""Measures: model in, scorecard out. One file per measure; the catalog finds it by its decorator."""

from safewright.measures.behaviour import Behaviour
from safewright.measures.driver import MeasurePlan, measure_model, plan_measure, run_measure

__all__ = [
    "Behaviour",
    "MeasurePlan",
    "measure_model",
    "plan_measure",
    "run_measure",
]
