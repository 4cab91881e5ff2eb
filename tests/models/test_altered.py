"""Models with changed weights: the change is what it says, and the original stays untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.models import load, resolve
from safewright.models.altered import Altered, matrices, round_groups, rounded
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


@pytest.mark.parametrize("how", ["int8", "int4", "bf16"])
def test_the_original_is_untouched_and_each_has_a_digest_of_its_own(how: str, tiny_folder: Path) -> None:
    import torch

    base = load(tiny_folder)
    before, said = weights(base.model), base.generate(CHATS, HOW)
    altered = rounded(base, how)
    assert altered.ref.digest not in {
        base.ref.digest,
        *(rounded(base, h).ref.digest for h in {"int8", "int4", "bf16"} - {how}),
    }
    assert altered.ref.digest == rounded(base, how).ref.digest
    altered.generate(CHATS, HOW)
    facts = altered.conventions["altered"]
    assert facts["kind"] == how
    assert 0 < facts["changed_weights"] <= facts["weights"]
    after = weights(altered.opened.model)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(base.model).items())
    assert base.generate(CHATS, HOW) == said
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "proj" in name or name == "lm_head.weight"}
    altered.close()
    assert base.generate(CHATS, HOW) == said


def test_a_tied_head_and_other_layouts(tmp_path: Path) -> None:
    tied = load(tiny.save_tiny(tmp_path / "tied", tie_word_embeddings=True))
    assert all(parameter is not tied.model.lm_head.weight for parameter, _ in matrices(tied.model))
    assert len(list(matrices(tied.model))) == 3 * 7
    gpt2 = load(tiny.save_kind("gpt2", tmp_path / "gpt2", n_embd=32, n_layer=1, n_head=2))
    assert [across for _, across in matrices(gpt2.model)] == [True] * 4
    rounded(gpt2, "int4").generate(CHATS[:1], HOW)


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
