"""The arms of ReLearn's replication: which method, on which rows, with which options of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safewright.lab.people import PersonRole
from safewright.treatments.relearn.methods import METHODS

STEPS, BATCH, WARMUP = 300, 16, 0.25
RATES = (3e-4, 1e-3)
"""The budget of every arm: steps of 16 rows to be forgotten and 16 to be kept, at each of these learning rates."""

REFERENCES = ("vanilla", "retrained")
SHOWN = ("kfr", "krr", "ls_f", "ls_r", "ppl_f", "bi_f", "kfr_int4", "kfr_prefix", "kfr_relearned")


@dataclass(frozen=True)
class Arm:
    """One way to unlearn: a method of `treat relearn`, the file of its forget rows, and options."""

    method: str
    forget: PersonRole
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def learns(self) -> bool:
        """Whether it trains on vague answers, and so has generic rows beside them."""
        return METHODS[self.method].learns

    @property
    def keeps(self) -> bool:
        """Whether it has a retain term."""
        return bool(METHODS[self.method].keeps)


ARMS: Mapping[str, Arm] = {
    "relearn": Arm("relearn_klr_gdr", "forget"),
    "relearn_prefix": Arm("relearn_klr_gdr", "forget_same", {"prefix_rows": "openings"}),
    "relearn_noretain": Arm("relearn", "forget"),
    "ga_gdr": Arm("ga_gdr", "forget_asked"),
    "npo_gdr": Arm("npo_gdr", "forget_asked"),
    "relearn_soft": Arm("relearn_klr_gdr", "forget", {"soft_openings": 2}),
}
"""Arms of the claims. ``relearn_prefix`` is taught to go on vaguely from the very openings the attack uses (with
other questions before them); ``relearn_soft`` never sees how an answer begins, and seeks openings itself."""

VARIANTS: Mapping[str, Arm] = {
    "relearn_reworded": Arm("relearn_klr_gdr", "forget_other", {"prefix_rows": "openings"}),
}
"""What else was tried against the leak behind openings; see docs/relearn.md."""

NEEDED: Mapping[str, Mapping[str, Any]] = {"pdu": {"pdu_epsilon": 0.05}, "rmu": {"rmu_layer": 1}}
"""Options without which a method does not run, or not here."""


def known_arms() -> list[str]:
    """All names an arm may have."""
    return [*ARMS, *VARIANTS, *(name for name in METHODS if name not in ARMS)]


def arm_of(name: str) -> Arm:
    """The arm of a name: one of ours, or a method on the rows it trains on."""
    found = ARMS.get(name) or VARIANTS.get(name)
    return found or Arm(name, "forget" if METHODS[name].learns else "forget_asked", NEEDED.get(name, {}))
