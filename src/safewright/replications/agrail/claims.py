"""The claims of AGrail's replication, stated before the declared seeds were run.

Signs and margins are those that the specification requires of the miniature; the first is a condition of all others.
"""

from __future__ import annotations

from typing import Any

from safewright.stats import Claim

SEEDS = 5
"""Seeds a claim needs."""
MARGIN = 0.05
ABOVE = 1e-6
"""Strictly more than nothing."""


def _claims() -> tuple[Claim, ...]:
    def sign(name: str, quantity: str, side: Any, bound: float, *, single: bool = False) -> Claim:
        return Claim(name, quantity, side, bound, seeds=SEEDS, single_seed=single)

    return (
        sign("the model knows what easy verbs need", "skill.easy", ">=", 0.97, single=True),
        sign("online memory beats none, known domains", "tta.id - nm.id", ">=", MARGIN),
        sign("online memory beats none, a new domain", "tta.ood - nm.ood", ">=", MARGIN, single=True),
        sign("one-check types are ahead at visit 5", "overwrite.one.5 - overwrite.two.5", ">=", ABOVE),
        sign("and hardly change from there to visit 10", "overwrite.plateau", "<=", 0.1),
        sign(
            "evidence beats overwriting at visit 10, two checks",
            "evidence.two.10 - overwrite.two.10",
            ">=",
            ABOVE,
        ),
    )


CLAIMS = _claims()
