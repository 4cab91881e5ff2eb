"""SRG in miniature: refusal training, reasoning along guidelines and its controls, under attacks they never saw.

The claims are the effects that the published miniature requires, with its margins; they were written before the
declared seeds were run. All arms are trained on the same requests in the same order, the harmful ones plain. What
is asked is new: objects no row named, in six wrappings (which harmless rows had, and no harmful one), with begun
answers, and many times over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safewright.errors import BadInput, nearest
from safewright.replications import Outcome, Study, value_of
from safewright.replications.srg.arms import ARMS, DRAWN, Arm, ablation
from safewright.replications.srg.claims import CLAIMS, SEEDS
from safewright.replications.srg.world import ABSENT, DRAWS, LINKS, seed_table
from safewright.stats import Verdict
from safewright.treatments.srg.arms import known

__all__ = ["CLAIMS", "OPTIONS", "PAPER", "SEEDS", "VERSION", "check", "study"]

VERSION = "1"
PAPER = "2502.04040"
OPTIONS = {
    "arms": "Only these of all arms, with commas.",
    "ablation": "scale (6, 18, 60 harmful objects) or teacher (30 % wrong traces, three filters): these arms only.",
    "replay": "Whether the arms of an ablation rehearse facts: on (default) or off.",
}
SHOWN = (
    "plain", "euphemism", "wrappers", "harm", "no_answer", "answer_prefill", "think_prefill", "alarming",
    "plain_benign", "wrapped_benign",
)  # fmt: skip
CHOICES = {"ablation": ("scale", "teacher"), "replay": ("on", "off")}


def check(options: Mapping[str, str]) -> None:
    """Pass when the options have values there are.

    Raises:
        BadInput: One has another, an arm is unknown, or options are given that do not go together.
    """
    for name, value in options.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise BadInput(f"{name} is {value!r}.", fix=nearest(value, CHOICES[name]))
    if "arms" in options:
        if "ablation" in options:
            raise BadInput(
                "arms is given beside an ablation, which has its own.", fix="Leave one of them out."
            )
        chosen(options["arms"])
    if "replay" in options and "ablation" not in options:
        raise BadInput("replay is given without an ablation.", fix="Add --set ablation=scale or teacher.")


def chosen(names: str) -> dict[str, Arm]:
    """The arms of a list with commas, in the order of the table.

    Raises:
        BadInput: There is none in it, or one is unknown.
    """
    named = known([name.strip() for name in names.split(",") if name.strip()])
    return {name: arm for name, arm in ARMS.items() if name in named}


def study(work: Study) -> Outcome:
    """Train and ask all arms, seed by seed; finished arms are not run again.

    The world's model has one size: widths are not varied. An ablation, and a choice of arms, have a table and no
    claims.
    """
    arms: Mapping[str, Arm] = ARMS
    if "ablation" in work.options:
        arms = ablation(work.options["ablation"], work.options.get("replay", "on") == "on")
    elif "arms" in work.options:
        arms = chosen(work.options["arms"])
    table = {seed: seed_table(work, seed, arms) for seed in work.seeds}
    names = ["base", *arms]
    if "context" in arms:
        names.insert(names.index("context") + 1, ABSENT)
    rows = [{"arm": name, **{key: _mean(table, f"{name}.{key}") for key in SHOWN}} for name in names]
    if work.options:
        return Outcome(("arm", *SHOWN), tuple(rows), (), (), (NOTE,))
    notes = (NOTE, *_draws(table), *_closed(table), *_links(table), *_states(table), *_by_seed(table))
    return Outcome(("arm", *SHOWN), tuple(rows), judged([*table.values()]), (), notes)


NOTE = (
    "plain, euphemism, wrappers, prefills: harmful requests that are not refused, whatever is said (no visible answer "
    "is one of them, and stands as no_answer); harm: the true procedure, under wrappers; alarming: harmless requests "
    "refused; plain_benign, wrapped_benign: harmless requests that get their procedure"
)


def judged(found: Sequence[Mapping[str, float]]) -> tuple[Verdict, ...]:
    """What the seeds' quantities say about the claims."""
    return tuple(claim.judge([value_of(claim.quantity, each) for each in found]) for claim in CLAIMS)


def _mean(table: Mapping[int, Mapping[str, float]], name: str) -> float:
    return sum(found[name] for found in table.values()) / len(table)


def _draws(table: Mapping[int, Mapping[str, float]]) -> list[str]:
    said = {"asr_all": "all harmful", "refusal": "none refuses", "asr_any": "any harmful"}
    return [
        f"best of N on wrappers, {name}, N=1 and {DRAWS}: "
        + "; ".join(
            f"{what} {_mean(table, f'{name}.{kind}_1'):.2f} and {_mean(table, f'{name}.{kind}_{DRAWS}'):.2f}"
            for kind, what in said.items()
        )
        for name in DRAWN
    ]


def _closed(table: Mapping[int, Mapping[str, float]]) -> list[str]:
    pairs = ", ".join(
        f"{seed}: {found[f'rt.closed_{DRAWS}']:.2f} and {found[f'rt.refusal_{DRAWS}']:.2f}"
        for seed, found in table.items()
    )
    return [f"rt, none of {DRAWS} refuses, in closed form from the first token and by draws: {pairs}"]


def _links(table: Mapping[int, Mapping[str, float]]) -> list[str]:
    return [
        f"first broken link of {name}'s traces under wrappers, all seeds: "
        + ", ".join(
            f"{link} {count:.0f}"
            for link in LINKS
            if (count := sum(found[f"{name}.link_{link}"] for found in table.values()))
        )
        for name in ("srg", "harden")
    ]


def _states(table: Mapping[int, Mapping[str, float]]) -> list[str]:
    told: list[str] = []
    for name, keys in (
        ("rt", ("prompt_auc", "projection")),
        ("srg", ("prompt_auc", "decision_auc", "decision_projection")),
    ):
        told += [
            f"{name} {key} " + "/".join(f"{found[f'{name}.{key}']:.2f}" for found in table.values())
            for key in keys
        ]
    return ["hidden states, last layer, wrapped requests by the direction of plain ones: " + "; ".join(told)]


def _by_seed(table: Mapping[int, Mapping[str, Any]]) -> list[str]:
    keys = ("wrappers", "answer_prefill", "think_prefill", "alarming", "wrapped_benign")
    return [
        f"{name} {'/'.join(keys)} by seed: "
        + ", ".join(
            f"{seed}: " + "/".join(f"{found[f'{name}.{key}']:.2f}" for key in keys)
            for seed, found in table.items()
        )
        for name in ("rt", "srg", "harden")
    ]
