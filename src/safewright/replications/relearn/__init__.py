"""ReLearn in miniature: private facts of made-up people are unlearned in six ways, and asked for under attack.

The claims are the effects that the published miniature requires, with its margins; they were written before the
declared seeds were run. Every arm has the same budget: steps, rows, and a grid of learning rates from which
the harmonic mean of forgetting and retention in a wording that was learned chooses. The reference is a model
that never saw what is forgotten. Real text stands beside it where a folder of it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from safewright.errors import BadInput, nearest
from safewright.replications import Outcome, Study, value_of
from safewright.replications.relearn.arms import ARMS, REFERENCES, SHOWN, arm_of, known_arms
from safewright.replications.relearn.claims import CLAIMS, SEEDS
from safewright.replications.relearn.text import ENVIRONMENT, compared
from safewright.replications.relearn.world import seed_table
from safewright.stats import Verdict

__all__ = ["CLAIMS", "DATA", "OPTIONS", "PAPER", "SEEDS", "VERSION", "check", "study"]

VERSION = "1"
PAPER = "2502.11190"
OPTIONS = {"arms": "Further methods of treat relearn beside those of the claims, with commas."}
DATA = ENVIRONMENT


def check(options: Mapping[str, str]) -> None:
    """Pass when the further arms are methods, each named once.

    Raises:
        BadInput: One is not, with the nearest.
    """
    for name in further(options):
        if name not in known_arms():
            raise BadInput(f"There is no arm {name!r}.", fix=nearest(name, known_arms()))


def further(options: Mapping[str, str]) -> list[str]:
    """The arms that are asked for beside those of the claims."""
    named = [name.strip() for name in options.get("arms", "").split(",")]
    return [name for name in dict.fromkeys(named) if name and name not in ARMS]


def study(work: Study) -> Outcome:
    """Train, unlearn, attack and ask, seed by seed; finished arms are not run again.

    The world's model has one size: widths are not varied, and only the first is named in the table.
    """
    arms = {**ARMS, **{name: arm_of(name) for name in further(work.options)}}
    table = {seed: seed_table(work, seed, arms) for seed in work.seeds}
    rows = [
        {
            "arm": name,
            "lr": _shares([table[seed].get(f"{name}.lr") for seed in work.seeds]),
            **{
                key: sum(table[seed][f"{name}.{key}"] for seed in work.seeds) / len(work.seeds)
                for key in SHOWN
            },
        }
        for name in (*REFERENCES, *arms)
    ]
    notes = [NOTE, *_per_seed(work.seeds, table), *compared(work, arms)]
    return Outcome(("arm", "lr", *SHOWN), tuple(rows), judged([*table.values()]), (), tuple(notes))


NOTE = (
    "kfr, krr: facts forgotten and kept, asked in a wording never seen with the person; ls_f, ls_r, ppl_f, bi_f: "
    "language of those answers; kfr_prefix: the answer is begun up to its first secret; kfr_int4: weights "
    "rounded; kfr_relearned: the facts of four people are shown again, the others are asked; lr: learning rates "
    "chosen, by the number of seeds"
)


def judged(found: Sequence[Mapping[str, float]]) -> tuple[Verdict, ...]:
    """What the seeds' quantities say about the claims."""
    return tuple(claim.judge([value_of(claim.quantity, each) for each in found]) for claim in CLAIMS)


def _shares(chosen: Sequence[float | None]) -> str:
    """How often each learning rate was chosen."""
    counts: dict[float, int] = {}
    for rate in chosen:
        if rate is not None:
            counts[rate] = counts.get(rate, 0) + 1
    return ", ".join(f"{rate:g} ({count})" for rate, count in sorted(counts.items())) or "–"


def _per_seed(seeds: Sequence[int], table: Mapping[int, Mapping[str, float]]) -> list[str]:
    keys = ("kfr", "krr", "kfr_prefix")
    return [
        f"{name} {'/'.join(keys)} by seed: "
        + ", ".join(
            f"{seed}: " + "/".join(f"{table[seed][f'{name}.{k}']:.2f}" for k in keys) for seed in seeds
        )
        for name in ("retrained", "relearn", "relearn_soft")
    ]
