"""Options of `memorisation`, and what its roles of rows are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safewright.errors import BadInput
from safewright.measures.behaviour import LONGEST
from safewright.models import check_decoding

FORGET, RETAIN, HOLDOUT = "forget", "retain", "holdout"
REAL, WORLD = "real_authors", "world_facts"
VERBATIM, KNOWN_FORGET, KNOWN_RETAIN = "verbatim", "knowledge_forget", "knowledge_retain"
EXAMPLES, CHOICES = "examples", "choices"

OPTIONAL = (RETAIN, HOLDOUT, REAL, WORLD, VERBATIM, KNOWN_FORGET, KNOWN_RETAIN, EXAMPLES, CHOICES)
"""Roles of rows that the measure can do without."""

SCORED = (FORGET, RETAIN, HOLDOUT, REAL, WORLD, VERBATIM)
"""Roles whose answers are scored token by token."""

WITH_OPTIONS = (FORGET, RETAIN, REAL, WORLD)
"""Roles whose paraphrased and wrong answers are scored besides."""

GENERATED = (FORGET, RETAIN, REAL, WORLD, VERBATIM, KNOWN_FORGET, KNOWN_RETAIN)
"""Roles whose questions are answered, for ROUGE."""

NORMALISED = (REAL, WORLD)
"""Roles whose probability is that of the right answer among the options, in TOFU's model utility."""


@dataclass(frozen=True)
class MemorisationConfig:
    """Options of `memorisation`."""

    rouge: bool = field(default=True, metadata={"help": "Also generate answers, for ROUGE-L."})
    max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "Longest generated answer in tokens; default: the recipe's, else 128."},
    )
    min_k: float = field(
        default=0.4, metadata={"help": "Share of the least likely tokens that Min-K and Min-K++ average."}
    )
    gradient_norm: bool = field(
        default=True,
        metadata={"help": "The attack by gradient norms too, with holdout rows: one backward pass a row."},
    )

    def __post_init__(self) -> None:
        check_decoding(self.chosen())
        if self.max_new_tokens is not None and self.max_new_tokens > LONGEST:
            raise BadInput(
                f"max_new_tokens is {self.max_new_tokens}.", fix=f"It must be at most {LONGEST:,}."
            )
        if not 0 < self.min_k <= 1:
            raise BadInput(f"min_k is {self.min_k!r}.", fix="It must lie above 0 and be at most 1.")

    def chosen(self) -> Mapping[str, Any]:
        """The decoding options the user set."""
        return {} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}


def named(score: str, role: str) -> str:
    """The name of a score of rows in a role: plain for the forget set, with the set's name for others.

    Rows of two sets never share a score: two runs are compared score by score.
    """
    return score if role == FORGET else f"{score}/set/{role}"
