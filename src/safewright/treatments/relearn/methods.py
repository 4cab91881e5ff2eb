"""The methods of `relearn`: what each pushes, what it keeps, and the settings it was published with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Loss = Literal[
    "nll", "ascent", "npo", "simnpo", "dpo", "undial", "wga", "satimp", "ceu", "pdu", "rmu"
]  # fmt: skip
Keep = Literal["nll", "kl", "embed_diff"]
Name = Literal[
    "relearn_klr_gdr",
    "relearn",
    "relearn_gdr",
    "relearn_klr",
    "relearn_dpo",
    "relearn_dpo_gdr",
    "relearn_dpo_klr",
    "ga",
    "ga_gdr",
    "ga_klr",
    "graddiff",
    "npo",
    "npo_gdr",
    "npo_klr",
    "simnpo",
    "dpo",
    "idk_dpo",
    "altpo",
    "undial",
    "wga",
    "satimp",
    "ceu",
    "pdu",
    "rmu",
]
NAMES: tuple[str, ...] = get_args(Name)
Preset = Literal["paper", "release", "tofu"]


@dataclass(frozen=True)
class Method:
    """One method: its loss on the rows to be forgotten, and what it holds on to.

    ``keeps`` are its retain terms; ``fixed`` says its name names them, so that ``retain_loss`` cannot say
    otherwise. ``learns``: it trains on augmented rows, not on the forget rows themselves. ``beside`` is where
    a pair's other answer comes from. ``options`` are the numbers only some methods have, at their published
    values. ``formula`` is the loss, for the docs.
    """

    loss: Loss
    keeps: tuple[Keep, ...] = ()
    fixed: bool = False
    learns: bool = False
    beside: Literal["original", "idk", "alternatives"] | None = None
    gamma: float = 1.0
    alpha: float = 1.0
    options: Mapping[str, float] | None = None
    lr: float = 1e-5
    epochs: float = 10.0
    batch: int = 32
    formula: str = ""


def _of(loss: Loss, formula: str, **more: object) -> dict[str, Method]:
    """A method in its plain form and with each retain term its name can carry."""
    return {
        end: Method(loss, keeps, fixed=True, formula=formula, **more)  # type: ignore[arg-type]
        for end, keeps in _ENDS.items()
    }


_ENDS: Mapping[str, tuple[Keep, ...]] = {"": (), "_gdr": ("nll",), "_klr": ("kl",)}
_LEARN = {"learns": True, "lr": 1e-5, "epochs": 3.0, "batch": 4}
_PAPER = {"epochs": 10.0, "batch": 8}
_PAIR = "−(2/β) log σ(β[(ℓ_w^ref − ℓ_w) − (ℓ_l^ref − ℓ_l)])"


def _table() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for end, method in _of("nll", "mean CE on augmented rows", **_LEARN).items():
        found[f"relearn{end}"] = method
    found["relearn_klr_gdr"] = dataclasses.replace(found["relearn"], keeps=("nll", "kl"))
    beta = {"options": {"beta": 0.1}}
    for end, method in _of("dpo", _PAIR, beside="original", **_LEARN, **beta).items():
        found[f"relearn_dpo{end}"] = method
    for end, method in _of("ascent", "−mean CE", **_PAPER).items():
        found[f"ga{end}"] = method
    found["graddiff"] = Method("ascent", ("nll",), formula="−mean CE")
    for end, method in _of("npo", "−(2/β) log σ(β(ℓ − ℓ_ref))", **_PAPER, **beta).items():
        found[f"npo{end}"] = method
    found["simnpo"] = Method(
        "simnpo",
        ("nll",),
        gamma=0.125,
        options={"beta": 4.5, "delta": 0.0},
        formula="−(2/β) log σ(β(ℓ/n − δ))",
    )
    for name, source in (("dpo", "alternatives"), ("idk_dpo", "idk"), ("altpo", "alternatives")):
        found[name] = Method("dpo", ("nll",), beside=source, options={"beta": 0.1}, formula=_PAIR)  # type: ignore[arg-type]
    found["undial"] = Method(
        "undial", (), lr=1e-4, options={"beta": 10.0}, formula="CE to softmax(teacher logits − β e_y)"
    )
    found["wga"] = Method("wga", ("nll",), options={"beta": 1.0}, formula="−mean sg(p^β)(−log p)")
    found["satimp"] = Method(
        "satimp",
        ("nll",),
        gamma=0.1,
        options={"beta1": 5.0, "beta2": 1.0},
        formula="−mean sg(p^β1 (1 − p)^β2)(−log p)",
    )
    found["ceu"] = Method(
        "ceu", (), formula="CE to softmax(own logits, label at −∞, detached), first answer token left out"
    )
    found["pdu"] = Method(
        "pdu", ("nll",), formula="mean (max z − mean z)², λ ← max(0, λ + η(L_r − ε)) weighs L_r"
    )
    found["rmu"] = Method(
        "rmu", ("embed_diff",), formula="MSE(h_layer, c·u), u a random unit vector; MSE(h, h_ref) on retain"
    )
    return found


METHODS: Mapping[str, Method] = _table()

OWN_OPTIONS: Mapping[str, frozenset[Loss]] = {
    "beta": frozenset({"npo", "simnpo", "dpo", "undial", "wga"}),
    "delta": frozenset({"simnpo"}),
    "beta1": frozenset({"satimp"}),
    "beta2": frozenset({"satimp"}),
    "length_normalised": frozenset({"dpo"}),
    "ascent": frozenset({"ascent"}),
    "pdu_epsilon": frozenset({"pdu"}),
    "pdu_eta": frozenset({"pdu"}),
    "pdu_warmup": frozenset({"pdu"}),
    "parity": frozenset({"pdu"}),
    "rmu_layer": frozenset({"rmu"}),
    "rmu_scale": frozenset({"rmu"}),
    "rmu_target": frozenset({"rmu"}),
}
"""Options that only some losses have."""

PAPER_LR: Mapping[tuple[str, bool], float] = {
    ("ga_gdr", False): 5e-6,
    ("ga_gdr", True): 5e-6,
    ("ga_klr", False): 3e-4,
    ("ga_klr", True): 1e-5,
    ("npo_gdr", False): 1e-5,
    ("npo_gdr", True): 5e-6,
    ("npo_klr", False): 5e-6,
    ("npo_klr", True): 1e-5,
}
"""Learning rates of the paper's baselines on KnowUnDo, by method and whether SURE is on."""


def learning_rate(name: str, preset: Preset, sure: bool) -> float:
    """The published learning rate of a method; 1e-5 where nothing was published for it."""
    method = METHODS[name]
    if method.lr != 1e-5:
        return method.lr
    if preset == "tofu":
        return 3e-4 if name == "npo_gdr" else 1e-4
    return PAPER_LR.get((name, sure), method.lr) if preset == "paper" else method.lr


def epochs(name: str, preset: Preset) -> float:
    """The published number of passes over the rows to be forgotten (or learned)."""
    method = METHODS[name]
    if method.learns:
        return {"paper": 3.0, "release": 4.0, "tofu": 2.0}[preset]
    return 10.0 if preset == "paper" else 5.0


def batch(name: str, preset: Preset) -> int:
    """The published rows of an optimiser step."""
    method = METHODS[name]
    return 8 if method.learns and preset == "tofu" else method.batch
