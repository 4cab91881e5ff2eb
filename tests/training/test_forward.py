"""Padding on either side, to any width, packed or joined: the same losses (check 7 of the method, loss side)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safewright.training import forward, losses
from tests import tiny

LENGTHS = ((9, 4), (17, 11), (5, 2), (30, 24))
"""Length and start of the answer of each sequence."""
IGNORED = losses.IGNORED

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    # Absolute positions: they must start at 0 at the first real token.
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    # No position_ids in its signature: attention decays with the distance instead.
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, vocab_size=64, initializer_range=0.3, **KINDS[request.param])
    return AutoModelForCausalLM.from_config(config).eval()


def sequences() -> list[tuple[list[int], list[int]]]:
    draw = torch.Generator().manual_seed(4)
    found = []
    for length, start in LENGTHS:
        ids = torch.randint(4, 64, (length,), generator=draw).tolist()
        found.append((ids, [IGNORED] * start + ids[start:]))
    return found


def padded(width: int, side: str, fill: int = 0) -> dict[str, torch.Tensor]:
    parts: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for ids, labels in sequences():
        lacking = width - len(ids)
        for key, values, value in (
            ("input_ids", ids, fill),
            ("labels", labels, IGNORED),
            ("attention_mask", [1] * len(ids), 0),
        ):
            more = [value] * lacking
            parts[key].append(more + values if side == "left" else values + more)
    return {key: torch.tensor(values) for key, values in parts.items()}


def in_a_row() -> dict[str, torch.Tensor]:
    rows = sequences()
    return {
        "input_ids": torch.tensor([[token for ids, _ in rows for token in ids]]),
        "labels": torch.tensor([[label for _, labels in rows for label in labels]]),
        "position_ids": torch.tensor([[place for ids, _ in rows for place in range(len(ids))]]),
    }


def alone(model: Any) -> torch.Tensor:
    """Summed NLL of every sequence, run by itself without any padding."""
    found = []
    for ids, labels in sequences():
        logits = model(input_ids=torch.tensor([ids])).logits
        found.append(losses.cross_entropy(losses.answers(logits, torch.tensor([labels]))))
    return torch.stack(found)


@torch.no_grad()
def test_07_padding_and_packing_change_nothing(model: Any) -> None:
    wanted = alone(model)
    assert float(wanted.min()) > 1
    shapes = [padded(width, side) for width in (30, 48, 64, 512) for side in ("left", "right")]
    shapes.append(padded(48, "left", fill=7))
    if model.config.model_type != "bloom":  # which cannot tell packed sequences apart
        shapes.append(in_a_row())
    count = sum(length - start for length, start in LENGTHS)
    for part in shapes:
        found = forward.answers_of(model, part)
        assert (found.size, int(found.lengths().sum())) == (len(LENGTHS), count)
        nll = losses.sequence_nll(found)
        assert torch.allclose(nll / found.lengths(), wanted / found.lengths(), atol=1e-5, rtol=0)
        mean = losses.cross_entropy(found) / count
        assert float(mean) == pytest.approx(float(wanted.sum()) / count, abs=1e-5)


@torch.no_grad()
def test_only_positions_with_a_label_meet_the_vocabulary(model: Any) -> None:
    part = padded(48, "right")
    seen: list[int] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, given, out: seen.append(out.shape[:-1].numel()))
    try:
        found = forward.answers_of(model, part)
    finally:
        handle.remove()
    assert seen == [sum(length - start for length, start in LENGTHS)]
    assert not head._forward_pre_hooks
    inputs = {key: part[key] for key in ("input_ids", "attention_mask")}
    whole = losses.answers(model(**inputs).logits, part["labels"])
    assert torch.allclose(found.logits, whole.logits, atol=1e-5)
    assert torch.equal(found.targets, whole.targets)
    assert torch.equal(found.rows, whole.rows)


def test_a_head_that_is_not_called_is_no_matter(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    part = padded(48, "right")
    wanted = forward.answers_of(model, part).logits
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    assert torch.allclose(forward.answers_of(model, part).logits, wanted, atol=1e-6)


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "sliding_window": 12,
}


ATTENTIONS = [(kind, how) for kind in sorted(forward.PACKS) for how in ("eager", "sdpa")]
ATTENTIONS.remove(("gemma2", "sdpa"))  # which transformers does not offer


@pytest.mark.parametrize(("kind", "attention"), ATTENTIONS)
def test_sequences_in_lines_do_not_see_each_other(kind: str, attention: str) -> None:
    """Logits and gradients, in float64 (eager attention takes its softmax in float32)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = {**SMALL, "initializer_range": 0.3}
    config = AutoConfig.for_model(kind, vocab_size=64, attn_implementation=attention, **shape)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    parts = [padded(48, "left"), padded(30, "right")]
    where = [losses.supervised(part["labels"]) for part in parts]
    assert forward.packs(model)
    _, index = forward._in_lines(model, parts, where, 3)
    assert len(index) == sum(int(w.sum()) for w in where)
    found = forward.logits_together(model, parts, where, pad=3)
    # One by one without any padding, on which eager attention with a window gives NaN.
    single = []
    for ids, labels in sequences():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        single.append(losses.answers(logits, torch.tensor([labels])).logits)
    alone = [torch.cat(single)] * 2
    for ours, theirs in zip(found, alone, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert float(theirs.detach().std()) > 0.3
    weights = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (
        torch.autograd.grad(sum(each.square().sum() for each in run), weights, allow_unused=True)
        for run in (found, alone)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a is None or float((a - b).norm() / b.norm()) < 1e-5


def test_lines_are_filled_and_never_overlap() -> None:
    lengths = [9, 30, 17, 5, 12, 8, 30, 1]
    starts, count, width = forward._lines(lengths, 4)
    taken = [
        place for start, length in zip(starts, lengths, strict=True) for place in range(start, start + length)
    ]
    assert len(set(taken)) == len(taken) == sum(lengths)
    assert max(taken) < count * width
    assert all(s // width == (s + n - 1) // width for s, n in zip(starts, lengths, strict=True))
    assert (count, width) == (4, 30)
    assert forward._lines([7], 1) == ([0], 1, 7)


def test_the_layout_is_cheap_for_the_models_width() -> None:
    lengths = [48, 40, 61, 33, 52, 47, 58, 39]
    _, narrow, short = forward._layout(lengths, 16)
    _, broad, long = forward._layout(lengths, 4096)
    assert (broad, long) == (1, sum(lengths))  # matrices cost everything: no token is wasted
    assert narrow > 2
    assert short < long
    assert narrow * short >= sum(lengths)


def test_architectures_that_cannot_pack_are_padded(model: Any) -> None:
    assert forward.packs(model) == (model.config.model_type in ("llama", "gpt2"))


@torch.no_grad()
def test_parts_joined_in_one_run_equal_parts_alone(model: Any) -> None:
    left, right = padded(48, "left"), padded(64, "right")
    where = [losses.supervised(left["labels"]), forward.real(right).bool()]
    a, b = forward.logits_together(model, [left, right], where, pad=3)
    assert torch.allclose(a, forward.logits_at(model, left, where[0]), atol=1e-5)
    assert torch.allclose(b, forward.logits_at(model, right, where[1]), atol=1e-5)
    found = forward.answers_at(right, where[1], b)
    assert torch.allclose(found.logits, forward.answers_of(model, right).logits, atol=1e-5)


def test_the_model_inside_an_adapter_is_found(tmp_path: Any) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny.save_tiny(tmp_path / "m"))
    kind = type(base)
    assert forward.bare(base) is base
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert type(forward.bare(adapted)) is kind
