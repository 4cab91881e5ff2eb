"""The objectives on a model: checks 5 to 8 of the method, in float64."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from safewright.training import losses
from safewright.training.forward import answers_of
from safewright.treatments.relearn.objectives import mislead
from safewright.treatments.relearn.references import Cached, Live
from tests.treatments import unlearning

FORGET, RETAIN, OTHER = (unlearning.examples(4, seed, name) for seed, name in ((1, "f"), (2, "r"), (3, "o")))


@pytest.fixture
def base() -> Any:
    return unlearning.model()


@pytest.fixture
def both() -> dict[str, Any]:
    return unlearning.batch(forget=FORGET, retain=RETAIN)


def gradient(model: Any, loss: Any) -> torch.Tensor:
    """The loss's gradient over all trained parameters, as one vector."""
    model.zero_grad()
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])


def test_05_relearn_klr_gdr_is_the_sum_of_its_terms(base: Any, both: dict[str, Any]) -> None:
    run = unlearning.adapted(base)
    whole = unlearning.value(unlearning.objective("relearn_klr_gdr", reference=Live(0)), run, both)
    learned = unlearning.value(unlearning.objective("relearn"), run, both)["sum"]
    kept = answers_of(run, both["retain"])
    with torch.no_grad(), run.disable_adapter():
        before = answers_of(run, both["retain"])
    n = len(kept.targets)
    ce, kl = losses.cross_entropy(kept) / n, losses.kl(kept.logits, before.logits) / n
    assert float(kl.detach()) > 0.01
    assert (whole["sum"] - (learned + ce + kl)).abs().item() < 1e-9
    by_hand = torch.log_softmax(before.logits, -1).exp() * (
        torch.log_softmax(before.logits, -1) - torch.log_softmax(kept.logits, -1)
    )
    assert (whole["kl"] - by_hand.sum(-1).mean()).abs().item() < 1e-9


def test_05_kl_and_its_gradient_are_zero_at_the_reference(base: Any, both: dict[str, Any]) -> None:
    run = unlearning.adapted(base, size=0.0)
    made = unlearning.objective("relearn_klr", reference=Live(0))
    found = unlearning.value(made, run, both)
    assert found["kl"].abs().item() < 1e-9
    alone = unlearning.value(unlearning.objective("relearn"), run, both)
    assert torch.allclose(gradient(run, found["sum"]), gradient(run, alone["sum"]), atol=1e-9)


def test_05_relearn_without_retain_rows_is_trls_sft_loss(base: Any, tmp_path: Any) -> None:
    import datasets
    import trl as untyped

    trl: Any = untyped
    part = unlearning.batch(forget=FORGET)
    rows = [{"input_ids": list(e.ids), "labels": e.labels} for e in FORGET]
    trainer = trl.SFTTrainer(
        model=base,
        args=trl.SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            max_length=None,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=unlearning.tiny.tokenizer(),
    )
    theirs = trainer.compute_loss(base, dict(part["forget"]))
    ours = unlearning.value(unlearning.objective("relearn"), base, part)["sum"]
    assert (ours - theirs).abs().item() < 2e-6  # transformers casts logits to float32
    assert theirs.item() > 1


@pytest.mark.parametrize("method", ["npo", "dpo"])
def test_05_preferences_at_the_reference(method: str, base: Any) -> None:
    """(2/beta) ln 2 = 13.862944 at beta = 0.1."""
    run = unlearning.adapted(base, size=0.0)
    given = unlearning.batch(forget=FORGET, chosen=OTHER)
    options = {"beside": "chosen", "retain_loss": "none"} if method == "dpo" else {}
    made = unlearning.objective(method, reference=Live(0), **options)
    assert unlearning.value(made, run, given)["sum"].item() == pytest.approx(20 * math.log(2), abs=1e-9)


def test_05_npo_becomes_ascent_per_sequence(base: Any) -> None:
    given = unlearning.batch(forget=FORGET)
    other = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    made = unlearning.objective("npo", reference=Live(0, other), beta=1e-4)
    limit = gradient(base, unlearning.value(made, base, given)["sum"])
    nll = losses.sequence_nll(answers_of(base, given["forget"]))
    ascent = -gradient(base, nll.mean())
    assert ((limit - ascent).norm() / ascent.norm()).item() < 1e-3


def test_05_dpo_prefers_what_it_is_told_to(base: Any) -> None:
    """The gradient raises the chosen answers and lowers the rejected ones, whichever part they stand in."""
    run = unlearning.adapted(base)
    for method, beside in (("dpo", "chosen"), ("relearn_dpo", "rejected")):
        given = unlearning.batch(forget=FORGET, **{beside: OTHER})
        options = {"retain_loss": "none"} if method == "dpo" else {}
        made = unlearning.objective(method, reference=Live(0), beside=beside, **options)
        step = gradient(run, unlearning.value(made, run, given)["sum"])
        chosen, rejected = ("forget", beside) if beside == "rejected" else (beside, "forget")
        up, down = (
            gradient(run, losses.sequence_nll(answers_of(run, given[part])).mean())
            for part in (chosen, rejected)
        )
        assert float(step @ up) > 0 > float(step @ down)
        with torch.no_grad():
            ours = {p: losses.sequence_nll(answers_of(run, given[p])) for p in ("forget", beside)}
            before = Live(0).nll(run, given, ("forget", beside))
        margin = (before[chosen] - ours[chosen]) - (before[rejected] - ours[rejected])
        wanted = 20 * torch.nn.functional.softplus(-0.1 * margin).mean()
        assert unlearning.value(made, run, given)["sum"].item() == pytest.approx(wanted.item(), abs=1e-9)


def test_length_normalised_dpo_compares_means(base: Any) -> None:
    run = unlearning.adapted(base)
    given = unlearning.batch(forget=FORGET, chosen=OTHER)
    made = unlearning.objective(
        "dpo", reference=Live(0), beside="chosen", retain_loss="none", length_normalised=True
    )
    with torch.no_grad():
        found = {p: answers_of(run, given[p]) for p in ("forget", "chosen")}
        ours = {p: losses.sequence_nll(f) / f.lengths() for p, f in found.items()}
        before = Live(0).nll(run, given, ("forget", "chosen"))
        theirs = {p: before[p] / found[p].lengths() for p in found}
    margin = (theirs["chosen"] - ours["chosen"]) - (theirs["forget"] - ours["forget"])
    wanted = 20 * torch.nn.functional.softplus(-0.1 * margin).mean()
    assert unlearning.value(made, run, given)["sum"].item() == pytest.approx(wanted.item(), abs=1e-9)


def test_ceu_leaves_the_first_answer_token_out(base: Any) -> None:
    given = unlearning.batch(forget=FORGET)
    made = unlearning.objective("ceu")
    answers = answers_of(base, given["forget"])
    kept = losses.without_first(answers)
    assert made.counts(given)["forget_tokens"] == len(kept.targets) == len(answers.targets) - len(FORGET)
    wanted = losses.ceu(kept) / len(kept.targets)
    assert unlearning.value(made, base, given)["sum"].item() == pytest.approx(wanted.item(), abs=1e-12)


def test_pdu_moves_its_dual_variable_once_a_step(base: Any, both: dict[str, Any]) -> None:
    made = unlearning.objective("pdu", pdu_epsilon=0.5, pdu_eta=2.0, pdu_warmup=1.0)
    found = unlearning.value(made, base, both)
    ce = losses.cross_entropy(answers_of(base, both["retain"])) / made.counts(both)["retain_tokens"]
    assert found["retain"].item() == pytest.approx(ce.item(), abs=1e-9)
    made.after_step({"retain_ce": 3.0})
    assert made.dual == 1.0  # warm-up: one step is an epoch here
    made.after_step({"retain_ce": 3.0})
    assert made.dual == 1.0 + 2.0 * (3.0 - 0.5)
    assert unlearning.value(made, base, both)["retain"].item() == pytest.approx(6 * ce.item(), abs=1e-9)
    made.after_step({"retain_ce": -99.0})
    assert made.dual == 0.0
    other = unlearning.objective("pdu", pdu_epsilon=0.5)
    other.load_state_dict(made.state_dict())
    assert (other.dual, other.steps) == (0.0, 3)


def test_pdu_in_parity_looks_at_the_labels_own_positions(base: Any, both: dict[str, Any]) -> None:
    logits = base(
        input_ids=both["forget"]["input_ids"], attention_mask=both["forget"]["attention_mask"]
    ).logits
    labels = both["forget"]["labels"]
    each = (logits.amax(-1) - logits.mean(-1)).square()
    shifted = unlearning.value(unlearning.objective("pdu"), base, both)["forget"]
    parity = unlearning.value(unlearning.objective("pdu", parity=True), base, both)["forget"]
    assert shifted.item() == pytest.approx(each[losses.supervised(labels)].mean().item(), abs=1e-9)
    assert parity.item() == pytest.approx(each[labels != -100].mean().item(), abs=1e-9)
    assert abs(shifted.item() - parity.item()) > 1e-6


def test_rmu_is_a_token_mean_of_each_row_then_a_row_mean(base: Any, both: dict[str, Any]) -> None:
    misled = mislead(16, 1, 2.0, "uniform", seed=3)
    assert misled.aim.norm().item() == pytest.approx(2.0)
    assert bool((misled.aim >= 0).all())
    assert not bool((mislead(16, 1, 2.0, "gaussian", seed=3).aim >= 0).all())
    assert torch.equal(misled.aim, mislead(16, 1, 2.0, "uniform", seed=3).aim)
    before = copy.deepcopy(base)
    with torch.no_grad():
        base.model.layers[1].mlp.down_proj.weight += 0.1
    made = unlearning.objective("rmu", reference=Live(0, before), misled=misled)
    found = unlearning.value(made, base, both)
    inputs = {part: {k: both[part][k] for k in ("input_ids", "attention_mask")} for part in made.parts}
    states = {p: base(**inputs[p], output_hidden_states=True).hidden_states[2] for p in made.parts}
    old = before(**inputs["retain"], output_hidden_states=True).hidden_states[2]
    for part, aim in (("forget", misled.aim.double()), ("retain", old)):
        kept = both[part]["labels"] != -100
        each = (states[part] - aim).square().mean(-1)
        wanted = torch.stack([each[row][kept[row]].mean() for row in range(4)]).mean()
        assert found[part].item() == pytest.approx(wanted.item(), abs=1e-6)
    assert found["retain"].item() > 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
def test_06_kl_positions_of_the_objective(side: str, base: Any) -> None:
    run = unlearning.adapted(base)

    def kl(width: int, positions: str, direction: str = "forward") -> float:
        given = unlearning.batch(side, width, forget=FORGET, retain=RETAIN)
        made = unlearning.objective(
            "relearn_klr", reference=Live(0), kl_positions=positions, kl_direction=direction
        )
        return float(unlearning.value(made, run, given)["kl"].detach())

    def official(width: int) -> float:
        part = unlearning.batch(side, width, retain=RETAIN)["retain"]
        inputs = {k: v for k, v in part.items() if k != "labels"}
        with torch.no_grad():
            if side == "right":
                inputs["position_ids"] = (part["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            current = run(**inputs).logits.log_softmax(-1)
            with run.disable_adapter():
                wanted = run(**inputs).logits.log_softmax(-1)
        gap = torch.nn.functional.kl_div(current, wanted, reduction="none", log_target=True)
        return float(gap.sum(-1).mean())

    assert kl(20, "all_positions") == pytest.approx(official(20), abs=1e-9)
    assert abs(kl(20, "all_positions") - kl(40, "all_positions")) > 1e-6
    for positions in ("answer", "nonpad"):
        assert kl(20, positions) == pytest.approx(kl(40, positions), abs=1e-9)
        assert abs(kl(20, positions) - kl(20, "all_positions")) > 1e-6
    assert abs(kl(20, "answer") - kl(20, "nonpad")) > 1e-6
    assert abs(kl(20, "answer") - kl(20, "answer", "reverse")) > 1e-6


METHODS = ["relearn_klr_gdr", "ga_klr", "npo_gdr", "simnpo", "wga", "satimp", "undial", "ceu", "pdu"]


@pytest.mark.parametrize("method", METHODS)
def test_07_padding_changes_no_loss(method: str, base: Any) -> None:
    """To any width, on either side, in one run or part by part: within 1e-5 (here float64)."""
    run = unlearning.adapted(base)
    reference = Live(0) if method in ("relearn_klr_gdr", "ga_klr", "npo_gdr", "undial") else None
    found = []
    for together in (True, False):
        for side, width in (("right", 0), ("right", 64), ("left", 48), ("left", 64)):
            given = unlearning.batch(side, width, forget=FORGET, retain=RETAIN)
            made = unlearning.objective(method, reference=reference, together=together)
            with torch.no_grad():
                found.append(unlearning.value(made, run, given)["sum"].item())
    assert max(found) - min(found) < 1e-9
    assert math.isfinite(found[0])


def test_a_fused_run_calls_the_model_once_for_all_parts(base: Any, both: dict[str, Any]) -> None:
    run = unlearning.adapted(base)
    for together, wanted in ((True, 1), (False, 3)):
        made = unlearning.objective("relearn_klr_gdr", reference=Live(0), together=together)
        calls: list[bool] = []
        handle = run.get_base_model().register_forward_hook(
            lambda *_: calls.append(torch.is_grad_enabled())  # noqa: B023
        )
        found = unlearning.value(made, run, both)
        handle.remove()
        assert calls.count(True) == wanted
        assert calls.count(False) == 1  # the reference
        assert bool(gradient(run, found["sum"]).isfinite().all())
        assert made._held is None


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_08_adapter_off_is_a_frozen_copy_bit_for_bit(kind: str, both: dict[str, Any]) -> None:
    """In float32, in the middle of training: dropout on in the adapter, and in GPT-2 itself."""
    base = unlearning.model(kind).float()
    kept = copy.deepcopy(base)
    run = unlearning.adapted(base, dropout=0.5).float()
    run.train()
    modes = {name: module.training for name, module in run.named_modules()}
    where = {"retain": losses.supervised(both["retain"]["labels"])}
    off, copied = Live(0), Live(0, kept)
    assert torch.equal(off.logits(run, both, where)["retain"], copied.logits(run, both, where)["retain"])
    first, second = (ref.nll(run, both, ("forget", "retain")) for ref in (off, copied))
    assert all(torch.equal(first[part], second[part]) for part in first)
    assert {name: module.training for name, module in run.named_modules()} == modes
    assert all(p.requires_grad == ("lora_" in name) for name, p in run.named_parameters())
    moved = answers_of(run.eval(), both["retain"]).logits
    assert not torch.equal(moved, off.logits(run, both, where)["retain"])


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_08_cached_log_probabilities(direction: str, base: Any, both: dict[str, Any]) -> None:
    """Exact at k = V; near where the tail is small; the same pairs in any order."""
    rows = {"forget": FORGET, "retain": RETAIN}
    with torch.no_grad():
        base.lm_head.weight *= 4  # sharp enough for a small tail
    found = {}
    for k in (48, 24):
        cached = Cached(k)
        cached.take(base, rows, tops=["retain"], pad=0, batch=3, progress=lambda *_: None)
        found[k] = cached
    run = unlearning.adapted(base, size=0.05)
    assert torch.allclose(
        found[48].nll(run, both, ("forget",))["forget"], Live(0).nll(run, both, ("forget",))["forget"]
    )
    order = torch.tensor([2, 0, 3, 1])
    given = unlearning.batch(forget=FORGET, retain=[RETAIN[int(i)] for i in order])
    given["index"]["retain"] = order

    def kl(reference: Any) -> float:
        made = unlearning.objective("relearn_klr", reference=reference, kl_direction=direction)
        return float(unlearning.value(made, run, given)["kl"].detach())

    tail = max(float(top.tail.exp().max()) for top in found[24].tops["retain"])
    assert tail < 1e-3
    assert kl(found[48]) == pytest.approx(kl(Live(0)), abs=1e-9)
    if direction == "forward":
        assert kl(found[24]) <= kl(Live(0))
        assert kl(found[24]) == pytest.approx(kl(Live(0)), abs=1e-3)


def test_cached_references_serve_npo_and_undial(base: Any) -> None:
    given = unlearning.batch(forget=FORGET)
    cached = Cached(48)
    cached.take(base, {"forget": FORGET}, tops=["forget"], pad=0, batch=2, progress=lambda *_: None)
    run = unlearning.adapted(base)
    for method in ("npo", "undial"):
        live = unlearning.value(unlearning.objective(method, reference=Live(0)), run, given)["sum"]
        kept = unlearning.value(unlearning.objective(method, reference=cached), run, given)["sum"]
        assert kept.item() == pytest.approx(live.item(), abs=1e-9)


def test_ascent_counts_what_is_beyond_its_bound(base: Any) -> None:
    from safewright.errors import NumericalFailure

    with torch.no_grad():
        base.lm_head.weight *= 6
    given = unlearning.batch(forget=FORGET)
    found = {}
    for how in ("clamp", "free", "stop"):
        made = unlearning.objective("ga", ascent=how)
        total, by, told = made.part(None, base, given, "forget")
        found[how] = gradient(base, total)
        share = float(told["forget_beyond"]) / made.counts(given)[by]
        assert 0 < share < 1
        made.after_step({"forget_beyond": share, "forget_ce": 1.0})
        assert made.clamped_steps == 1
    assert torch.equal(found["free"], found["stop"])
    assert not torch.equal(found["free"], found["clamp"])
    with pytest.raises(NumericalFailure, match=r"reached 9 nats a token at step 2, beyond 2 ln V = 7\.74"):
        made.after_step({"forget_beyond": 0.9, "forget_ce": 9.0})
