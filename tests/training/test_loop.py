"""The loop: how a step's rows are split changes nothing, rules see whole gradients, and a bad loss ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput, NumericalFailure
from safewright.training.encoding import pad_token
from safewright.training.fitting import FitOptions, fit, with_lora
from safewright.training.loop import loss_trainer, refuse_sharded
from safewright.training.pairing import collate_pairs
from tests import tiny
from tests.training import simple

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("loop") / "model", **SMALL)


def largest(one: Any, other: Any) -> float:
    """The largest difference between weights of two models."""
    return max(
        float((a - b).abs().max())
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def apart(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """The largest difference between two histories."""
    assert [line.keys() for line in one] == [line.keys() for line in other]
    return max(abs(a[name] - b[name]) for a, b in zip(one, other, strict=True) for name in a)


def test_a_step_is_the_gradient_of_sums_over_counts(folder: Path) -> None:
    """One SGD step by hand: forget over rows, retain over tokens, both over the whole batch."""
    import torch

    options = {"steps": 1, "batch": 8, "accumulation": 4, "clip": 0.0, "weight_decay": 0.0}
    job = {"model": str(folder), "options": options}
    model, history, objective, _ = simple.train(job)
    by_hand = simple.model_of(folder)
    pairs = simple.pairs()
    batch = collate_pairs(0)([pairs.item(0, place) for place in range(8)])
    found = {part: objective.part(None, by_hand, batch, part) for part in objective.parts}
    counts = objective.counts(batch)
    losses = {part: total / counts[by] for part, (total, by, *_) in found.items()}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= 1e-2 * parameter.grad
    assert largest(model, by_hand) < 1e-7
    (line,) = history.losses
    assert {part: line[part] for part in losses} == pytest.approx({p: float(v) for p, v in losses.items()})
    assert line["loss"] == pytest.approx(line["forget"] + line["retain"])
    assert objective.told == [{name: line[name] for name in ("forget", "forget_nll", "retain")}]


@pytest.mark.parametrize("rule", [False, True])
def test_accumulation_splits_are_equal(folder: Path, rule: bool) -> None:
    """4 x 2 = 2 x 4 = 8 x 1 within 1e-6 (SGD)."""
    found = []
    for accumulation in (1, 2, 4):
        options = {"batch": 8, "accumulation": accumulation, "steps": 6}
        found.append(simple.train({"model": str(folder), "rule": rule, "options": options}))
    for model, history, objective, keeper in found[1:]:
        assert largest(model, found[0][0]) < 1e-6
        assert apart(history.losses, found[0][1].losses) < 1e-4
        assert objective.steps == 6
        for mine, first in zip(keeper.seen if rule else (), found[0][3].seen if rule else (), strict=True):
            for part in mine:
                gaps = [float((a - b).abs().max()) for a, b in zip(mine[part], first[part], strict=True)]
                assert max(gaps) < 1e-5


def test_counts_of_single_micro_batches_are_another_loss(folder: Path) -> None:
    """``normalise=batch`` averages over micro-batches: short answers weigh more."""
    options = {"batch": 8, "accumulation": 4, "steps": 1}
    whole = simple.train({"model": str(folder), "options": options})[1].losses[0]
    split = simple.train({"model": str(folder), "options": {**options, "normalise": "batch"}})[1].losses[0]
    assert split["forget"] == pytest.approx(whole["forget"])  # as many rows in each
    assert abs(split["retain"] - whole["retain"]) > 1e-3  # not as many tokens


def test_padding_changes_no_trajectory(folder: Path) -> None:
    plain = simple.train({"model": str(folder)})
    for job in ({"width": 64}, {"side": "left"}, {"side": "left", "width": 48}):
        model, history, *_ = simple.train({"model": str(folder), **job})
        assert largest(model, plain[0]) < 1e-6, job
        assert apart(history.losses, plain[1].losses) < 1e-4, job


def test_masked_rows_do_not_move_at_all(folder: Path) -> None:
    """A zero gradient is no zero update under AdamW with decay: the rule puts masked rows back bit by bit."""
    import torch

    options = {"optimiser": "adamw", "weight_decay": 0.1, "steps": 3}
    model, _, _, rule = simple.train({"model": str(folder), "rule": True, "options": options})
    moved = kept = 0
    for parameter, before, mask in zip(model.parameters(), rule.before, rule.kept, strict=True):
        assert torch.equal(parameter[~mask], before[~mask])
        moved += (
            int((parameter != before).flatten(1).any(1).sum())
            if parameter.dim() > 1
            else int((parameter != before).sum())
        )
        kept += int(mask.sum())
    assert moved == kept > 0  # and every other one did


def test_a_gradient_rule_without_a_choice_changes_nothing(folder: Path) -> None:
    class Sum:
        def __call__(self, by_part: Any, params: Any) -> Any:
            return [f + r for f, r in zip(by_part["forget"], by_part["retain"], strict=True)]

        def after_step(self, params: Any) -> None:
            return None

    plain, history, *_ = simple.train({"model": str(folder)})
    model = simple.model_of(folder)
    options = FitOptions(batch=4, accumulation=2, steps=5, lr=1e-2, optimiser="sgd")
    ruled = fit(
        model,
        simple.pairs(),
        collate_pairs(0),
        simple.PushAndKeep(),
        options,
        seed=3,
        gradient_rule=Sum(),
    )
    assert largest(model, plain) < 1e-6
    assert apart(ruled.losses, history.losses) < 1e-4


class Sharp:
    """A step rule: the gradient where a step along the forget gradient leads."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, trainer: Any, model: Any, batch: Any, counts: Any) -> Any:
        import torch

        self.calls += 1
        kept = [p.grad for p in trainer.trained]
        with trainer.accelerator.no_sync(model):
            _, ascent = trainer.gradient(model, batch, "forget", counts)
        with torch.no_grad():
            for p, g in zip(trainer.trained, ascent, strict=True):
                p += 0.01 * g
        for p, g in zip(trainer.trained, kept, strict=True):
            p.grad = g
        loss = trainer.compute_loss(model, batch, num_items_in_batch=counts)
        trainer.accelerator.backward(loss)
        with torch.no_grad():
            for p, g in zip(trainer.trained, ascent, strict=True):
                p -= 0.01 * g
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def test_a_step_rule_makes_its_own_passes(folder: Path) -> None:
    plain = simple.train({"model": str(folder)})[1].values()
    model, rule = simple.model_of(folder), Sharp()
    options = FitOptions(batch=4, accumulation=2, steps=5, lr=1e-2, optimiser="sgd")
    history = fit(
        model, simple.pairs(), collate_pairs(0), simple.PushAndKeep(), options, seed=3, step_rule=rule
    )
    assert rule.calls == 10
    assert all(0 < line["grad_norm"] < 1e3 for line in history.losses)
    assert max(abs(a - b) for a, b in zip(history.values(), plain, strict=True)) > 1e-4


@pytest.mark.parametrize(("kind", "said"), [("FSDP", "fsdp2"), ("DEEPSPEED", "zero3")])
def test_rules_are_refused_by_name_where_parameters_are_split(kind: str, said: str) -> None:
    with pytest.raises(BadInput, match=f"loud rows does not run under {said}"):
        refuse_sharded(kind, simple.KeepLoudRows(), None)
    with pytest.raises(BadInput, match=f"Sharp does not run under {said}"):
        refuse_sharded(kind, None, Sharp())
    refuse_sharded(kind, None, None)
    refuse_sharded("MULTI_CPU", simple.KeepLoudRows())


def test_only_public_methods_of_the_trainer_are_overridden() -> None:
    import transformers

    own = {name for name in vars(loss_trainer()) if not name.startswith("__")}
    theirs = {name for name in dir(transformers.Trainer) if name.startswith("_")}
    assert not own & theirs


def test_a_loss_that_is_no_number_ends_before_the_step(folder: Path) -> None:
    """With the step and the rows of the micro-batch; the weights are those of the step before."""

    class Breaking(simple.PushAndKeep):
        def part(self, acc: Any, model: Any, batch: Any, part: str) -> Any:
            total, by, *more = super().part(acc, model, batch, part)
            broken = part == "retain" and self.steps == 2 and 9 in batch["index"]["forget"].tolist()
            return (total * float("nan") if broken else total), by, *more

    pairs = simple.pairs(shuffle=False)
    options = {"batch": 4, "accumulation": 2, "lr": 1e-2, "optimiser": "sgd"}
    model, objective = simple.model_of(folder), Breaking()
    with pytest.raises(NumericalFailure) as caught:
        fit(model, pairs, collate_pairs(0), objective, FitOptions(steps=5, **options), seed=3)
    retained = [pairs.item(0, place)["retain"].id for place in (8, 9)]
    rows = ["forget:f8", "forget:f9", *(f"retain:{name}" for name in retained)]
    assert caught.value.what == f"The retain loss is nan at step 3 (rows {', '.join(rows)})."
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert objective.steps == 2


def test_a_gradient_that_is_no_number_ends_too(folder: Path) -> None:
    """A finite loss whose gradient is none: clipping would make every weight one."""
    import torch

    class Cornered(simple.PushAndKeep):
        def part(self, acc: Any, model: Any, batch: Any, part: str) -> Any:
            total, by, *more = super().part(acc, model, batch, part)
            return total + torch.sqrt((total - total.detach()).abs()), by, *more

    model = simple.model_of(folder)
    with pytest.raises(NumericalFailure, match="gradient's norm is nan at step 1"):
        fit(model, simple.pairs(), collate_pairs(0), Cornered(), FitOptions(steps=2, batch=4))


def test_a_loss_beyond_its_bound_ends(folder: Path) -> None:
    with pytest.raises(
        NumericalFailure, match=r"The forget_nll loss is 2\d\.\d+ at step 1, beyond the bound of 9"
    ):
        simple.train({"model": str(folder), "options": {"stop_above": 9.0}})
    assert len(simple.train({"model": str(folder), "options": {"stop_above": 90.0}})[1].losses) == 5


def test_a_part_with_nothing_to_divide_by_ends(folder: Path) -> None:
    class Empty(simple.PushAndKeep):
        def counts(self, batch: Any) -> dict[str, float]:
            return {**super().counts(batch), "retain_tokens": 0}

    with pytest.raises(
        NumericalFailure, match="The retain part has 0 retain_tokens to be divided by at step 1"
    ):
        fit(simple.model_of(folder), simple.pairs(), collate_pairs(0), Empty(), FitOptions(steps=2, batch=4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"accumulation": 0}, "accumulation is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"epochs": 0.0}, r"epochs is 0\.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"warmup": 1.5}, r"warmup is 1\.5"),
        ({"clip": -1.0}, r"clip is -1\.0"),
        ({"save_every": 0}, "save_every is 0"),
        ({"stop_above": float("nan")}, "stop_above is nan"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        FitOptions(**options)


def test_batches_are_rows_of_a_step_over_all_processes() -> None:
    options = FitOptions(batch=12, accumulation=2, epochs=2.0)
    assert [options.per_process(count) for count in (1, 2, 3)] == [6, 3, 2]
    with pytest.raises(
        BadInput, match="batch of 12 rows cannot be split over 4 processes and 2 micro-batches"
    ):
        options.per_process(4)
    assert (options.planned(30), options.rising(30)) == (5, 0)
    assert FitOptions(batch=12, warmup=None, epochs=2.0).rising(30) == 3
    assert FitOptions(batch=12, warmup=0.25, steps=10).rising(30) == 3


def test_the_learning_rate_follows_its_schedule(folder: Path) -> None:
    job = {"options": {"steps": 4, "warmup": 0.5, "schedule": "constant"}, "model": str(folder)}
    assert simple.train(job)[1].values("learning_rate") == pytest.approx([0, 5e-3, 1e-2, 1e-2])


def test_an_adapter_is_all_that_moves(folder: Path) -> None:
    model, *_ = simple.train({"model": str(folder), "lora": 2, "options": {"optimiser": "adamw"}})
    base = simple.model_of(folder)
    own = dict(base.named_parameters())
    moved = {n for n, p in model.named_parameters() if "lora_B" in n and bool(p.detach().abs().sum() > 0)}
    assert len(moved) == 14
    for name, parameter in model.get_base_model().named_parameters():
        if "lora" not in name:
            assert parameter.equal(own[name.replace(".base_layer", "")])
    with model.disable_adapter():
        ids = collate_pairs(pad_token(simple.words()))([simple.pairs().item(0, 0)])["forget"]["input_ids"]
        assert model(ids).logits.equal(base(ids).logits)


def test_the_page_s_example_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The objective of docs/training.md, as it stands there."""
    import json
    import re

    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    given = {"tokenizer": simple.words(), "model": simple.model_of(folder)}
    given |= {"forget": tiny.rows(20), "retain": tiny.rows(30)[20:]}
    exec(code, given)
    history: Any = given["history"]
    assert history.steps == len(history.losses) == 4  # three passes over 20 rows, 16 a step
    assert history.losses[-1]["forget"] < 0 < history.losses[-1]["retain"]
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert (tmp_path / "checkpoints" / "checkpoint-4" / "whole.json").is_file()


def test_weights_that_are_no_numbers_are_no_result(folder: Path) -> None:
    """What a last step overflows shows in no loss: the gradient is finite, and the step is not."""

    class Steep(simple.PushAndKeep):
        def part(self, acc: Any, model: Any, batch: Any, part: str) -> Any:
            total, by, *more = super().part(acc, model, batch, part)
            return total * 100, by, *more

    options = FitOptions(steps=1, batch=4, clip=0.0, lr=1e3, optimiser="sgd")
    model = simple.model_of(folder).half()
    with pytest.raises(NumericalFailure, match="numbers that are none after the last step"):
        fit(model, simple.pairs(), collate_pairs(0), Steep(), options)


def test_a_paged_optimiser_needs_a_gpu(folder: Path) -> None:
    options = FitOptions(steps=1, batch=4, optimiser="paged_adamw")
    with pytest.raises(BadInput, match=r"paged_adamw on a CPU.*optimiser=adamw"):
        fit(simple.model_of(folder), simple.pairs(), collate_pairs(0), simple.PushAndKeep(), options)


@pytest.mark.parametrize("targets", [["nothing"], ["input_layernorm"], []])
def test_modules_that_take_no_adapter_are_named(folder: Path, targets: list[str]) -> None:
    with pytest.raises(BadInput, match=f"No adapter fits the modules {', '.join(targets)}.*all-linear"):
        with_lora(simple.model_of(folder), 2, 4, targets=targets)
