"""SURE and MemFlex: which weights a step moves (check 10 of the method)."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from safewright.training import losses
from safewright.training.fitting import FitOptions, fit
from safewright.training.forward import answers_of
from safewright.training.pairing import Pairs, collate_pairs
from safewright.treatments.relearn.references import Live
from safewright.treatments.relearn.rules import MemFlex, Sure, kept_count, kept_rows, row_norms, rule_of
from tests.treatments import unlearning

FORGET, RETAIN = unlearning.examples(8, 1, "f"), unlearning.examples(8, 2, "r")


def trained(model: Any) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradients(model: Any, loss: Any) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, trained(model), retain_graph=True))


def parts(model: Any, made: Any, given: Any) -> dict[str, list[torch.Tensor]]:
    found = unlearning.value(made, model, given)
    return {part: gradients(model, found[part]) for part in made.parts}


def run(model: Any, method: str, rule: Any = None, **options: Any) -> Any:
    """A short training in place; the model."""
    how = {"steps": 2, "batch": 4, "lr": 0.05, "optimiser": "sgd", "clip": 0.0, **options}
    made = unlearning.objective(method, reference=Live(0) if "npo" in method else None, together=False)
    fit(model, Pairs(FORGET, RETAIN, seed=3), collate_pairs(0), made, FitOptions(**how), gradient_rule=rule)
    return model


@pytest.mark.parametrize(
    ("rows", "threshold"), [(n, t) for n in (1, 7, 99, 100, 101, 150, 201, 1000) for t in (0, 50, 90, 99)]
)
def test_10_the_percentile_keeps_one_in_a_hundred_rounded_up(rows: int, threshold: float) -> None:
    import numpy as np

    norms = torch.randperm(rows, generator=torch.Generator().manual_seed(rows)).float() + 1
    count = kept_count(rows, threshold)
    assert count == int((norms.numpy() >= np.percentile(norms.numpy(), threshold)).sum())
    if threshold == 99:
        assert count == math.ceil(rows / 100)
    if threshold == 0:
        assert count == rows
    assert int(kept_rows([norms[:, None]], threshold)[0].sum()) == count


def test_10_one_percentile_is_taken_over_all_rows_of_all_tensors() -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = [s * torch.randn(n, 3, generator=draw) for s, n in ((1.0, 120), (9.0, 60), (1.0, 20))]
    kept = kept_rows(tensors, 99)
    assert [int(mask.sum()) for mask in kept] == [0, 2, 0]
    whole = torch.cat([t.norm(dim=1) for t in tensors])
    assert torch.allclose(row_norms(tensors), whole)
    assert torch.equal(torch.cat(kept), whole >= whole.sort().values[-2])
    vector = torch.arange(1.0, 101.0)
    assert kept_rows([vector], 99)[0].nonzero().tolist() == [[99]]


def test_10_with_threshold_zero_the_step_is_the_methods_own() -> None:
    base = unlearning.adapted(unlearning.model())
    for method in ("ga_gdr", "npo_gdr"):
        plain = run(copy.deepcopy(base), method)
        masked = run(copy.deepcopy(base), method, Sure(0.0))
        assert any(not torch.equal(a, b) for a, b in zip(trained(plain), trained(base), strict=True))
        for a, b in zip(trained(plain), trained(masked), strict=True):
            assert torch.equal(a, b)


def test_10_the_gradient_is_the_ascents_own_on_kept_rows() -> None:
    """The release's gradient of ga_sure is exactly zero, and that of ga_gdr_sure the retain gradient alone."""
    model = unlearning.adapted(unlearning.model())
    given = unlearning.batch(forget=FORGET, retain=RETAIN)
    rule = Sure(90.0)
    by_part = parts(model, unlearning.objective("ga", ascent="free"), given)
    made = rule(by_part, trained(model))
    found = answers_of(model, given["forget"])
    wanted = gradients(model, -losses.cross_entropy(found) / len(found.targets))
    assert rule.moved == kept_count(rule.rows, 90.0) < rule.rows
    assert sum(float(g.abs().sum()) for g in made) > 0
    for gradient, right, kept in zip(made, wanted, rule.kept, strict=True):
        assert torch.allclose(gradient[kept], right[kept], atol=1e-12)
        assert not bool(gradient[~kept].any())
    by_part = parts(model, unlearning.objective("ga_gdr", ascent="free"), given)
    both = rule(by_part, trained(model))
    for gradient, f, r, kept in zip(both, by_part["forget"], by_part["retain"], rule.kept, strict=True):
        assert torch.equal(gradient[kept], (f + r)[kept])


def test_10_only_kept_rows_move_and_weight_decay_moves_none_of_the_others() -> None:
    """Six steps of AdamW: momentum and decay would move every row; the masked ones stay bit for bit."""
    model = unlearning.model().requires_grad_(True)
    rule = Sure(99.0)
    weights = trained(model)
    optimiser = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.5)
    made = unlearning.objective("ga_gdr", together=False)
    masks = []
    for step in range(6):
        given = unlearning.batch(forget=FORGET[step : step + 2], retain=RETAIN[step : step + 2])
        by_part = parts(model, made, given)
        before = [weight.detach().clone() for weight in weights]
        for weight, gradient in zip(weights, rule(by_part, weights), strict=True):
            weight.grad = gradient
        optimiser.step()
        rule.after_step(weights)
        moved = [
            (weight.detach() != old).reshape(len(old), -1).any(1)
            for weight, old in zip(weights, before, strict=True)
        ]
        assert all(torch.equal(a, b) for a, b in zip(moved, rule.kept, strict=True))
        assert sum(int(mask.sum()) for mask in moved) == math.ceil(rule.rows / 100)
        masks.append(torch.cat(rule.kept))
    assert not all(torch.equal(masks[0], mask) for mask in masks), "rows differ from step to step"
    # Their moments are left as the optimiser has them: they fade, and are not wiped.
    first = next(i for i, kept in enumerate(rule.kept) if not bool(kept.all()))
    assert optimiser.state[weights[first]]["exp_avg"].shape == weights[first].shape


def test_10_in_the_loop_rows_outside_the_mask_stay_bit_for_bit() -> None:
    base = unlearning.model().requires_grad_(True)
    rule = Sure(99.0)
    model = run(copy.deepcopy(base), "ga_gdr", rule, steps=1, optimiser="adamw", weight_decay=0.3, clip=1.0)
    moved = [
        (a.detach() != b.detach()).reshape(len(a), -1).any(1)
        for a, b in zip(trained(model), trained(base), strict=True)
    ]
    assert sum(int(mask.sum()) for mask in moved) == math.ceil(rule.rows / 100) == rule.moved
    assert all(torch.equal(a, b) for a, b in zip(moved, rule.kept, strict=True))


@pytest.mark.parametrize("accumulation", [2, 4])
def test_10_accumulated_micro_batches_are_one_batch(accumulation: int) -> None:
    base = unlearning.adapted(unlearning.model())
    whole = run(copy.deepcopy(base), "ga_gdr", Sure(90.0), steps=4)
    split = run(copy.deepcopy(base), "ga_gdr", Sure(90.0), steps=4, accumulation=accumulation)
    for a, b in zip(trained(whole), trained(split), strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=0)
    assert any(not torch.equal(a, b) for a, b in zip(trained(whole), trained(base), strict=True))


def test_memflex_moves_tensors_by_size_and_direction() -> None:
    draw = torch.Generator().manual_seed(1)
    f = [torch.randn(4, 3, generator=draw) for _ in range(3)]
    r = [f[0] * 0.5, -f[1], torch.randn(4, 3, generator=draw)]
    f[2] = f[2] * 1e-5
    rule = MemFlex(0.92, 6e-4, gamma=0.4)
    weights = [torch.nn.Parameter(torch.zeros(4, 3)) for _ in range(3)]
    made = rule({"forget": f, "retain": r}, weights)
    assert rule.kept == [False, True, False]  # alike; opposite; too small
    assert torch.equal(made[1], f[1] + r[1])
    assert not bool(made[0].any())
    assert not bool(made[2].any())
    with torch.no_grad():
        for weight in weights:
            weight += 1
    rule.after_step(weights)
    assert [float(weight.detach().sum()) for weight in weights] == [0, 12, 0]
    # Sizes are those of the forget gradient without its weight: 0.4 * 5e-4 carried is 5e-4.
    near = {"forget": [torch.full((2, 2), 0.4 * 5e-4)], "retain": [torch.tensor([[1.0, -1.0], [1.0, -1.0]])]}
    MemFlex(0.92, 4.9e-4, 0.4)(near, weights[:1])
    for least, moves in ((4.9e-4, True), (5.1e-4, False)):
        rule = MemFlex(0.92, least, 0.4)
        rule(near, weights[:1])
        assert rule.kept == [moves]


def test_memflex_trains_only_what_it_chose() -> None:
    base = unlearning.adapted(unlearning.model())
    rule = MemFlex(0.3, 1e-3, 1.0)
    model = run(copy.deepcopy(base), "ga_gdr", rule, steps=1, optimiser="adamw", weight_decay=0.3)
    moved = [not torch.equal(a, b) for a, b in zip(trained(model), trained(base), strict=True)]
    assert moved == rule.kept
    assert 0 < sum(moved) < len(moved)


def test_the_settings_name_the_rule() -> None:
    assert rule_of(unlearning.settings("ga_gdr")) is None
    sure = rule_of(unlearning.settings("ga_gdr", modifier="sure", sure_threshold=95.0))
    assert isinstance(sure, Sure)
    assert (sure.threshold, sure.name) == (95.0, "sure")
    flex = rule_of(unlearning.settings("ga_gdr", modifier="memflex"))
    assert isinstance(flex, MemFlex)
    assert (flex.cosine, flex.magnitude, flex.gamma, flex.name) == (0.92, 6e-4, 0.4, "memflex")


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
@pytest.mark.parametrize("rule", [Sure(99.0), MemFlex(0.92, 6e-4, 1.0)])
def test_rules_are_refused_by_name_where_parameters_are_split(kind: str, rule: Any) -> None:
    from safewright.errors import BadInput
    from safewright.training.loop import refuse_sharded

    with pytest.raises(BadInput, match=f"^{rule.name} does not run under"):
        refuse_sharded(kind, rule)
    refuse_sharded("MULTI_GPU", rule)
