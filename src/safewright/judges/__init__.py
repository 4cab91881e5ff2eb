"""Judges: does an answer have a quality? Rules, a rubric asked of any chat model, classifiers, and coverage.

Every judge takes a batch and gives as many judgements in the same order. What it cannot decide has a status,
never a value.
"""

from safewright.judges.agents import AgentsJudge
from safewright.judges.classifier import LlamaGuardJudge, Qwen3GuardJudge
from safewright.judges.combined import CombinedJudge
from safewright.judges.coverage import CoverageJudge
from safewright.judges.keyword import KeywordJudge, LegacyKeywordJudge
from safewright.judges.model import JudgeModel, models_of
from safewright.judges.resolve import JUDGE_ROLES, JUDGES, JudgeEntry, resolve
from safewright.judges.rubric import RubricJudge

__all__ = [
    "JUDGES",
    "JUDGE_ROLES",
    "AgentsJudge",
    "CombinedJudge",
    "CoverageJudge",
    "JudgeEntry",
    "JudgeModel",
    "KeywordJudge",
    "LegacyKeywordJudge",
    "LlamaGuardJudge",
    "Qwen3GuardJudge",
    "RubricJudge",
    "models_of",
    "resolve",
]
