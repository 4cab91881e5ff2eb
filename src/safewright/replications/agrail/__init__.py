"""AGrail in miniature: a guard whose memory of safety checks learns from the actions it judges.

A tiny model plays analyser and executor in a world where an action's type decides which checks it needs. Most
actions have verbs that no training row had: what they need, only a memory of their type can say. Memory is absent
(NM), learned beforehand and frozen (FM), or learns while it is used (TTA). The claims were written before the declared
seeds were run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safewright.replications import Outcome, Study, value_of
from safewright.replications.agrail.claims import CLAIMS, SEEDS
from safewright.replications.agrail.loop import UPDATES
from safewright.replications.agrail.world import SIDES, VISITS, mean, seed_table
from safewright.stats import Verdict

__all__ = ["CLAIMS", "PAPER", "SEEDS", "VERSION", "judged", "outcome", "seed_table", "study"]

VERSION = "2"
PAPER = "2502.11448"
COLUMNS = (
    "memory",
    "update",
    "id",
    "ood",
    "f1 id",
    "f1 ood",
    "none id",
    "none ood",
    "closed id",
    "closed ood",
)
SCORES = {"": "", "f1": "f1 ", "unruled": "none ", "closed": "closed "}
"""What a mode's quantities are called, and the columns that show them."""
MODES = {"nm": "none", "fm": "frozen", "tta": "online"}


def study(work: Study) -> Outcome:
    """Train the world's model and run its guard, seed by seed; finished parts are not run again.

    The world's model has one size: widths are not varied.
    """
    table = {}
    for place, seed in enumerate(work.seeds):
        work.progress(f"seed {seed}", place, len(work.seeds))
        table[seed] = seed_table(work, seed)
    return outcome(table)


def outcome(table: Mapping[int, Mapping[str, float]]) -> Outcome:
    """The table, notes and verdicts of some seeds."""
    notes = (NOTE, *_convergence(table), *_seen(table), *_by_seed(table))
    return Outcome(COLUMNS, tuple(_rows(table)), judged([*table.values()]), (), notes)


NOTE = (
    "id, ood: share of right decisions (LPA) on actions of three known domains and of a fourth; always allowing is "
    "the floor of no model. FM learned from the known domains only. none: share of actions that no check stood for; "
    "the release allows those (id, ood, f1), the engine has no valid verdict there and denies (closed)"
)


def judged(found: Sequence[Mapping[str, float]]) -> tuple[Verdict, ...]:
    """What the seeds' quantities say about the claims."""
    return tuple(claim.judge([value_of(claim.quantity, each) for each in found]) for claim in CLAIMS)


def _rows(table: Mapping[int, Mapping[str, float]]) -> list[dict[str, Any]]:
    always: dict[str, float] = {side: mean(table, f"floor.{side}") for side in SIDES}
    rows: list[dict[str, Any]] = [
        {
            "memory": "always allow",
            "update": "–",
            **always,
            **{f"f1 {side}": 0.0 for side in SIDES},
            **{f"none {side}": 0.0 for side in SIDES},
            **{f"closed {side}": always[side] for side in SIDES},
        }
    ]
    for mode, said in MODES.items():
        for update, words in UPDATES.items():
            if mode == "nm" and update != "overwrite":
                continue
            name = mode if update == "overwrite" else f"{mode}.{update}"
            rows.append(
                {
                    "memory": f"{mode.upper()}, {said}",
                    "update": "–" if mode == "nm" else words,
                    **{
                        f"{words}{side}": mean(table, ".".join(filter(None, (name, score, side))))
                        for score, words in SCORES.items()
                        for side in SIDES
                    },
                }
            )
    return rows


def _convergence(table: Mapping[int, Mapping[str, float]]) -> list[str]:
    return [
        f"cosine to the truth after {', '.join(map(str, VISITS))} visits, {words}: "
        + "; ".join(
            f"{size}-check types "
            + " ".join(f"{mean(table, f'{update}.{size}.{turn}'):.2f}" for turn in VISITS)
            for size in ("one", "two")
        )
        for update, words in UPDATES.items()
    ]


def _seen(table: Mapping[int, Mapping[str, float]]) -> list[str]:
    """What was seen in the published miniature, and is no claim."""
    gains = {
        "FM - NM on ood (the paper: +.04; not expected here)": ("fm.ood", "nm.ood"),
        "TTA - FM on id (the paper: above 0; seen below)": ("tta.id", "fm.id"),
        "FM - NM on id": ("fm.id", "nm.id"),
        "closed: TTA - NM on id": ("tta.closed.id", "nm.closed.id"),
        "on ood": ("tta.closed.ood", "nm.closed.ood"),
    }
    return [
        "no claims: "
        + "; ".join(f"{words} {mean(table, a) - mean(table, b):+.3f}" for words, (a, b) in gains.items()),
        "the model alone, share of exact lists: "
        + ", ".join(
            f"{words} {mean(table, f'skill.{name}'):.2f}"
            for name, words in (
                ("easy", "easy verbs, any memory (the worst)"),
                ("hard_empty", "hard verbs without memory"),
                ("hard_true", "with a true one"),
                ("hard_wrong", "with one wrong check more"),
            )
        ),
    ]


def _by_seed(table: Mapping[int, Mapping[str, float]]) -> list[str]:
    return [
        f"NM/FM/TTA {side} by seed: "
        + ", ".join(
            f"{seed}: " + "/".join(f"{found[f'{mode}.{side}']:.3f}" for mode in MODES)
            for seed, found in table.items()
        )
        for side in SIDES
    ]
