"""Options of `relearn`: published values where nothing is said, and an error for whatever has no effect."""

from __future__ import annotations

from typing import Any

import pytest

from safewright import catalog
from safewright.errors import BadInput
from safewright.treatments.relearn.config import RelearnConfig
from safewright.treatments.relearn.methods import METHODS, NAMES


def made(**options: Any) -> Any:
    return RelearnConfig(**options).resolved()


def test_every_option_has_its_help_and_every_method_its_formula() -> None:
    entry = catalog.find("relearn", "treatment")
    assert all(option.metadata.get("help") for option in entry.options().values())
    assert entry.takes == ("tuned",)
    assert set(METHODS) == set(NAMES)
    assert all(method.formula for method in METHODS.values())
    assert [name for name in NAMES if METHODS[name].learns] == [n for n in NAMES if n.startswith("relearn")]


@pytest.mark.parametrize(
    ("preset", "lora", "epochs", "lr", "batch", "accumulation"),
    [
        ("paper", (8, 16, 0.1), 3.0, 1e-5, 4, 1),
        ("release", (32, 32, 0.05), 4.0, 1e-5, 4, 4),
        ("tofu", (8, 16, 0.1), 2.0, 1e-4, 8, 1),
    ],
)
def test_presets_of_relearn(
    preset: Any, lora: Any, epochs: float, lr: float, batch: int, accumulation: int
) -> None:
    found = made(preset=preset)
    assert (found.lora_rank, found.lora_alpha, found.lora_dropout) == lora
    assert (found.epochs, found.lr, found.batch, found.accumulation) == (epochs, lr, batch, accumulation)
    assert (found.method, found.keeps) == ("relearn_klr_gdr", ("nll", "kl"))
    release = preset == "release"
    assert found.kl_positions == ("all_positions" if release else "answer")
    assert found.normalise == ("micro_batch" if release else "global")
    assert found.pairing == ("cycle" if release else "shuffle")
    assert (found.pad_to, found.side) == ((512, "left") if release else (0, "right"))
    assert found.kl_direction == "forward"


@pytest.mark.parametrize(
    ("method", "modifier", "preset", "lr"),
    [
        ("ga_gdr", "none", "paper", 5e-6),
        ("ga_gdr", "sure", "paper", 5e-6),
        ("ga_klr", "none", "paper", 3e-4),
        ("ga_klr", "sure", "paper", 1e-5),
        ("npo_gdr", "none", "paper", 1e-5),
        ("npo_gdr", "sure", "paper", 5e-6),
        ("npo_klr", "none", "paper", 5e-6),
        ("npo_klr", "sure", "paper", 1e-5),
        ("ga_gdr", "none", "tofu", 1e-4),
        ("npo_gdr", "none", "tofu", 3e-4),
        ("npo_klr", "none", "tofu", 1e-4),
        ("undial", "none", "paper", 1e-4),
        ("simnpo", "none", "paper", 1e-5),
    ],
)
def test_published_learning_rates(method: Any, modifier: Any, preset: Any, lr: float) -> None:
    found = made(method=method, modifier=modifier, preset=preset)
    assert found.lr == lr
    assert found.epochs == (10.0 if preset == "paper" else 5.0)
    assert found.batch == (8 if method.startswith(("ga", "npo")) else 32)


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("npo", {"beta": 0.1, "keeps": (), "reference": "adapter_off"}),
        ("simnpo", {"beta": 4.5, "delta": 0.0, "gamma": 0.125, "keeps": ("nll",), "reference": "none"}),
        ("undial", {"beta": 10.0, "keeps": ()}),
        ("wga", {"beta": 1.0, "keeps": ("nll",)}),
        ("satimp", {"beta1": 5.0, "beta2": 1.0, "gamma": 0.1}),
        ("dpo", {"beta": 0.1, "length_normalised": False, "keeps": ("nll",)}),
        ("ceu", {"keeps": (), "reference": "none"}),
        ("rmu", {"rmu_scale": 2.0, "lora_rank": 0, "reference": "model", "keeps": ("embed_diff",)}),
        ("graddiff", {"gamma": 1.0, "alpha": 1.0, "ascent": "clamp"}),
    ],
)
def test_published_numbers_of_the_peers(method: Any, wanted: dict[str, Any]) -> None:
    found = made(method=method)._asdict()
    assert {name: found[name] for name in wanted} == wanted


def test_what_is_said_wins_over_what_is_published() -> None:
    found = made(method="simnpo", preset="release", gamma=0.5, beta=2.0, lr=3e-4, batch=6, accumulation=2)
    assert (found.gamma, found.beta, found.lr, found.batch, found.accumulation) == (0.5, 2.0, 3e-4, 6, 2)
    assert made(method="ga_gdr", modifier="memflex").gamma == 0.4
    assert made(method="ga_gdr", modifier="memflex", gamma=1.0).gamma == 1.0
    assert made(method="ga_gdr", modifier="memflex").alpha == 2.0
    assert made(method="npo_klr", lora_rank=0).reference == "model"
    assert made(method="wga", retain_loss="nll+kl").keeps == ("nll", "kl")
    assert made(method="wga", beta=0.0).beta == 0.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "ga", "beta": 0.1}, "beta given for the method ga"),
        ({"method": "npo", "delta": 0.1}, "delta given"),
        ({"method": "npo", "alpha": 2.0}, r"alpha given for the method npo .retain: none"),
        ({"method": "npo_gdr", "kl_direction": "reverse"}, "kl_direction given"),
        ({"method": "ga", "pairing": "cycle"}, "pairing given"),
        ({"method": "ga", "sure_threshold": 90.0}, "sure_threshold given .* modifier: none"),
        ({"method": "ga_gdr", "memflex_cosine": 0.5}, "memflex_cosine given"),
        (
            {"method": "simnpo", "reference": "model"},
            "reference is model, but simnpo compares with no reference",
        ),
        ({"reference_top": 5}, "reference_top given"),
        ({"method": "npo_gdr", "retain_loss": "kl"}, "retain_loss is kl, but the method npo_gdr keeps nll"),
        ({"method": "ga", "retain_loss": "nll"}, "the method ga keeps nothing by its name"),
        ({"method": "wga", "retain_loss": "embed_diff"}, "embed_diff belongs to rmu"),
        ({"method": "rmu", "retain_loss": "kl"}, "embed_diff belongs to rmu"),
        ({"method": "rmu", "lora_rank": 8}, r"rmu with lora_rank=8.*three whole matrices.*lora_rank=0"),
        ({"method": "pdu"}, "pdu_epsilon"),
        ({"method": "pdu", "pdu_epsilon": 1.0, "retain_loss": "none"}, "pdu bounds the retain NLL"),
        ({"method": "ga", "modifier": "memflex"}, "memflex compares forget with retain gradients"),
        ({"method": "ga", "modifier": "sure", "sure_alpha": 1.0}, "sure_alpha is 1.0 in the preset paper"),
        ({"reference": "adapter_off", "lora_rank": 0}, "no adapter to switch off"),
        ({"reference": "cached", "kl_positions": "nonpad"}, "reference is cached with kl_positions=nonpad"),
        ({"method": "rmu", "reference": "cached"}, "activations, which are not cached"),
        ({"method": "ga", "preset": "papers"}, "preset is 'papers'.*Did you mean 'paper'"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"method": "npo", "beta": 0.0}, "beta is 0.0.*above 0"),
        ({"gamma": -1.0}, "gamma is -1.0"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"batch": 0}, "batch is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"warmup": 1.5}, "warmup is 1.5"),
        ({"max_length": 1}, "max_length is 1"),
        ({"variants": "simpel"}, "Did you mean 'simple'"),
    ],
)
def test_an_option_without_effect_or_out_of_range_is_an_error(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=f"(?s){said}") as refused:
        catalog.read_options(catalog.find("relearn", "treatment"), options)
    assert refused.value.exit_code == 2
    assert refused.value.fix


def test_options_read_from_the_command_line() -> None:
    entry = catalog.find("relearn", "treatment")
    found = catalog.read_options(
        entry,
        {"method": "wga", "retain_loss": "none", "modifier": "none", "lora_rank": "0", "warmup": "none"},
    )
    assert found.keeps == ()
    assert (found.lora_rank, found.warmup, found.modifier) == (0, None, "none")


def test_a_batch_is_split_evenly_before_anything_is_loaded() -> None:
    with pytest.raises(
        BadInput, match=r"batch of 4 rows cannot be split over 3 micro-batches.*multiple of 3"
    ):
        made(batch=4, accumulation=3)
    assert made(batch=6, preset="release").accumulation == 6
