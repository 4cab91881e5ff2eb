"""Models with changed weights: the change is what it says, and the original stays untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.models import load, resolve
from safewright.models.altered import ROUNDINGS, Altered, _round, matrices, round_groups, rounded
from safewright.models.engine import Deferred, EngineOptions
from safewright.types import Decoding, ModelRef
from tests import tiny

HOW = Decoding(max_new_tokens=6)
CHATS = [row.prompt for row in tiny.rows(4)]


def weights(model: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_int4_puts_each_group_on_fifteen_steps() -> None:
    import torch

    torch.manual_seed(0)
    matrix = torch.randn(5, 70)  # two whole groups, and one of six
    found = round_groups(matrix, 4)
    assert found.shape == matrix.shape
    for row in range(5):
        for left, right in ((0, 32), (32, 64), (64, 70)):
            own, new = matrix[row, left:right], found[row, left:right]
            scale = own.abs().max() / 7
            steps = new / scale
            assert torch.allclose(steps, steps.round(), atol=1e-4)
            assert steps.abs().max() <= 7 + 1e-4
            assert (new - own).abs().max() <= scale / 2 + 1e-6
    assert torch.equal(round_groups(found, 4), found) or torch.allclose(
        round_groups(found, 4), found, atol=1e-6
    )
    assert (round_groups(matrix, 8) - matrix).abs().max() < (found - matrix).abs().max() / 8
    assert torch.equal(round_groups(torch.zeros(2, 40), 4), torch.zeros(2, 40))


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_is_that_of_a_loop_over_single_weights(bits: int) -> None:
    import torch

    torch.manual_seed(bits)
    matrix = torch.cat([torch.randn(3, 45) * 10.0 ** torch.arange(-2, 1)[:, None], torch.zeros(1, 45)])
    matrix[0, 3] = 1e-42  # a subnormal weight, and a group whose largest one is
    matrix[3, 40] = 1e-42
    most = 2 ** (bits - 1) - 1
    expected = torch.zeros_like(matrix)
    for row in range(4):
        for left in range(0, 45, 32):
            own = [float(w) for w in matrix[row, left : left + 32]]
            scale = max(map(abs, own)) / most
            for place, weight in enumerate(own):
                expected[row, left + place] = scale * round(weight / scale) if scale else 0.0
    assert torch.allclose(round_groups(matrix, bits), expected, rtol=1e-6, atol=1e-41)
    half = matrix.to(torch.bfloat16)
    assert round_groups(half, bits).dtype == torch.bfloat16


def test_the_original_is_untouched_and_each_has_a_digest_of_its_own(tiny_folder: Path) -> None:
    import torch

    base = load(tiny_folder)
    before, said = weights(base.model), base.generate(CHATS, HOW)
    made = {how: rounded(base, how) for how in ROUNDINGS}
    assert len({base.ref.digest, *(altered.ref.digest for altered in made.values())}) == 4
    for how, altered in made.items():
        assert altered.ref.digest == rounded(base, how).ref.digest
        altered.generate(CHATS, HOW)
        facts = altered.conventions["altered"]
        assert facts["kind"] == how
        assert 0 < facts["changed_weights"] <= facts["weights"]
        after = weights(altered.opened.model)
        assert all(torch.equal(before[name], tensor) for name, tensor in weights(base.model).items())
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        if how == "bf16":  # a cast spares nothing; the norms are ones, which it leaves
            assert changed == {name for name in before if "norm" not in name}
            assert facts["weights_left_alone"] == 0
            assert all(torch.equal(before[n].bfloat16().float(), after[n]) for n in before)
        else:
            assert changed == {name for name in before if "proj" in name or name == "lm_head.weight"}
            spared = sum(before[n].numel() for n in before if n not in changed)
            assert facts["weights_left_alone"] == spared
        altered.close()
    assert base.generate(CHATS, HOW) == said


def test_a_tied_head_and_other_layouts(tmp_path: Path) -> None:
    tied = load(tiny.save_tiny(tmp_path / "tied", tie_word_embeddings=True))
    assert all(parameter is not tied.model.lm_head.weight for parameter, _ in matrices(tied.model))
    assert len(list(matrices(tied.model))) == 3 * 7
    gpt2 = load(tiny.save_kind("gpt2", tmp_path / "gpt2", n_embd=32, n_layer=1, n_head=2))
    assert [across for _, across in matrices(gpt2.model)] == [True] * 4
    rounded(gpt2, "int4").generate(CHATS[:1], HOW)


@pytest.mark.parametrize(("kind", "across"), [("mixtral", False), ("gpt_oss", True)])
def test_experts_in_one_tensor_are_rounded_along_their_inputs(kind: str, across: bool) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        kind, **shape, num_key_value_heads=2, head_dim=16, vocab_size=50, num_local_experts=3
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    facts = _round(model, "int4")
    after = model.state_dict()
    for name in ("gate_up_proj", "down_proj"):
        full = f"model.layers.0.mlp.experts.{name}"
        for expert in range(3):
            old, new = before[full][expert], after[full][expert]
            expected = round_groups(old.T, 4).T if across else round_groups(old, 4)
            assert torch.equal(new, expected)
            assert not torch.equal(new, old)
    assert all(torch.equal(before[n], after[n]) for n in before if "bias" in n or "norm" in n)
    assert facts["weights_left_alone"] < facts["weights"]


def test_an_adapter_is_merged_into_the_copy(tiny_folder: Path) -> None:
    import peft
    import torch

    base = load(tiny_folder)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(
        base.model,
        peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
    )
    live = load(adapted, tokenizer=base.tokenizer)
    said = live.generate(CHATS, HOW)
    same = Altered(live, {"kind": "none"}, lambda model, _: (model, {}), "none")
    assert same.generate(CHATS, HOW) == said
    assert not hasattr(same.opened.model, "peft_config")
    assert live.generate(CHATS, HOW) == said


def test_a_model_elsewhere_cannot_be_changed(tiny_folder: Path) -> None:
    class Served:
        ref = ModelRef("served", "http://127.0.0.1:1/v1#m", "declared:x")

    class Closed:
        ref = resolve(tiny_folder)
        able = frozenset({"generate"})

    with pytest.raises(BadInput, match="not here"):
        rounded(Served(), "int4")
    with pytest.raises(BadInput, match="does not hand them out"):
        rounded(Closed(), "int4").generate(CHATS, HOW)
    with pytest.raises(BadInput, match="int3"):
        rounded(Served(), "int3")


def test_a_model_that_is_not_open_yet_is_opened_when_it_is_asked(tiny_folder: Path) -> None:
    deferred = Deferred(resolve(tiny_folder), frozenset({"generate"}), EngineOptions())
    altered = rounded(deferred, "bf16")
    assert deferred._loaded is None
    assert len(altered.generate(CHATS, HOW)) == len(CHATS)
    deferred.close()
