"""The arms of SRG's replication: options of `treat srg`, the model they start from, and what else is asked of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safewright.lab.reasoning import Filter
from safewright.treatments.srg.arms import ARMS as OPTIONS

TRAINING: Mapping[str, Any] = {
    "lora_rank": 0, "lr": 5e-4, "steps": 200, "batch": 64, "max_length": 128, "formats": 0.0,
}  # fmt: skip
"""How every arm is trained: all weights, the published miniature's steps, rows and learning rate."""


@dataclass(frozen=True)
class Arm:
    """One way to train on the world's records.

    Args:
        options: Of `treat srg`, beside `TRAINING`.
        student: The arm whose model it starts from; the base model where None.
        harmful: Distinct harmful objects in its records; all where None.
        noise: The share of wrong traces of its teacher.
        keep: The teacher's filter.
        replay: Whether facts are rehearsed beside.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    student: str | None = None
    harmful: int | None = None
    noise: float = 0.0
    keep: Filter = "none"
    replay: bool = True


def _own() -> dict[str, Arm]:
    arms = {name: Arm(dict(options)) for name, options in OPTIONS.items()}
    # Only a student that follows guidelines it is shown has anything to distil.
    kl = {**OPTIONS["on_policy_kl"], "kl_tokens": 30, "steps": 100}
    arms["on_policy_kl"] = Arm(kl, student="context")
    arms["dpo"] = Arm({**OPTIONS["dpo"], "dpo_beta": 1.0})
    return arms


ARMS: Mapping[str, Arm] = _own()
"""All arms of `treat srg`, as they are trained here."""
SHOWN_TEXT = ("context", "on_policy_kl")
"""Arms that read the guidelines' text while they are trained."""
DRAWN = ("base", "rt", "srg", "harden")
"""Models whose answers are also drawn, for the best of N."""
SEEN = ("rt", "srg")
"""Arms whose hidden states are looked at."""

SCALES = (6, 18, 60)
NOISE = 0.3


def ablation(name: str, replay: bool) -> dict[str, Arm]:
    """The further arms of an ablation: harmful objects in training, or a teacher that errs under three filters."""
    if name == "scale":
        return {
            f"{target}_{count}": Arm(dict(OPTIONS[target]), harmful=count, replay=replay)
            for target in ("rt", "srg")
            for count in SCALES
        }
    kinds: tuple[Filter, ...] = ("none", "outcome", "process")
    noisy = {f"srg_noisy_{keep}": Arm(noise=NOISE, keep=keep, replay=replay) for keep in kinds}
    return {"srg_clean": Arm(replay=replay), **noisy}
