"""The claims of ReLearn's replication, stated before the declared seeds were run.

Effects (1) to (6) and their margins are those the published miniature found at one and a half seeds; (7) is ours.
"""

from __future__ import annotations

from typing import Any

from safewright.stats import Claim

SEEDS = 5
"""Seeds a claim needs."""


def _claims() -> tuple[Claim, ...]:
    def sign(name: str, quantity: str, side: Any, bound: float, *, single: bool = False) -> Claim:
        return Claim(name, quantity, side, bound, seeds=SEEDS, single_seed=single)

    return (
        sign("the model knows its facts in the unseen wording", "vanilla.krr", ">=", 0.98, single=True),
        sign("the model has forgotten none of them", "vanilla.kfr", "<=", 0.05, single=True),
        # (1) ReLearn forgets about as well as never having learned, and keeps the rest.
        sign("(1) ReLearn forgets like a retrained model", "relearn.kfr - retrained.kfr", ">=", -0.15),
        sign("(1) ReLearn keeps what it is to keep", "relearn.krr", ">=", 0.95, single=True),
        # (2) Its language stays, that of ascent goes.
        sign("(2) ReLearn's answers read like the model's own", "relearn.ls_f_ratio", ">=", 0.8),
        sign("(2) GA's do not", "ga_gdr.ls_f_ratio", "<=", 0.1, single=True),
        sign("(2) nor do NPO's", "npo_gdr.ls_f_ratio", "<=", 0.75),
        sign("(2) GA repeats itself", "ga_gdr.bi_f_ratio", ">=", 1.3),
        # (3)
        sign("(3) ReLearn keeps at least as much as GA", "relearn.krr - ga_gdr.krr", ">=", 0.0),
        # (4)
        sign("(4) without retain terms less is kept", "relearn_noretain.krr - relearn.krr", "<=", -0.1),
        # (5) The honest negative.
        sign("(5) begun answers undo ReLearn", "relearn.kfr_prefix", "<=", 0.2, single=True),
        sign("(5) but not GA", "ga_gdr.kfr_prefix - retrained.kfr_prefix", ">=", -0.15),
        sign("(5) nor NPO", "npo_gdr.kfr_prefix - retrained.kfr_prefix", ">=", -0.15),
        sign("(5) relearning other people undoes ReLearn", "relearn.kfr_relearned", "<=", 0.3),
        sign("(5) more than GA", "ga_gdr.kfr_relearned - relearn.kfr_relearned", ">=", 0.2),
        sign("(5) more than NPO", "npo_gdr.kfr_relearned - relearn.kfr_relearned", ">=", 0.2),
        sign("(5) and not the retrained model", "retrained.kfr_relearned", ">=", 0.65),
        # (6) Rows that go on vaguely from the attack's own openings.
        sign(
            "(6) rows with the same openings close them", "relearn_prefix.kfr_prefix", ">=", 0.9, single=True
        ),
        sign("(6) at no cost in what is kept", "relearn_prefix.krr - relearn.krr", ">=", -0.02),
        sign(
            "(6) but help only partly against relearning",
            "relearn_prefix.kfr_relearned - retrained.kfr_relearned",
            "<=",
            -0.2,
        ),
        # (7) Ours: no opening of an answer is ever shown.
        sign(
            "(7) openings sought by gradient close the held-out ones like a retrained model",
            "relearn_soft.kfr_prefix - retrained.kfr_prefix",
            ">=",
            -0.15,
        ),
        sign("(7) and keep as much as ReLearn", "relearn_soft.krr - relearn.krr", ">=", -0.02),
        sign("(7) and read as well: forget side", "relearn_soft.ls_f_beside_relearn", ">=", 0.95),
        sign("(7) and read as well: retain side", "relearn_soft.ls_r_beside_relearn", ">=", 0.95),
    )


CLAIMS = _claims()
