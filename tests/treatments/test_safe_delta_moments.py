"""Acceptance check 1: H is 2/N sum x x^T, however the sequences come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.models.blocks import linear_modules
from safewright.models.checkpoint import read_file
from safewright.treatments.safe_delta.prepared import Prepared
from safewright.treatments.safe_delta.streaming import padded
from tests.treatments import folders, streamed
from tests.treatments.streamed import batch

LINES = [[5 + (i * 7 + j * 3) % 30 for j in range(3 + i % 5)] for i in range(11)]


def direct(model: Any) -> dict[str, torch.Tensor]:
    """2/N sum x x^T of every linear map, one sequence at a time, without padding."""
    sums: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Any:
        def before(module: Any, inputs: Any) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
            sums[name] = sums.get(name, torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)) + x.T @ x

        return before

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module, _ in linear_modules(model)
        if module is not None
    ]
    with torch.inference_mode():
        for line in LINES:
            model(torch.tensor([line]), use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: 2.0 / len(LINES) * total for name, total in sums.items()}


WAYS = {
    "one at a time": [batch([line], False) for line in LINES],
    "backwards": [batch([line], False) for line in reversed(LINES)],
    "padded right": [batch(LINES[:4], False), batch(LINES[4:], False)],
    "padded left": [batch(LINES[:7], True), batch(LINES[7:], True)],
    "as prepare does": list(padded(LINES, 0, "cpu")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-12)])
def test_01_moments_are_the_same_however_the_sequences_come(
    models: dict[str, Path], gpt2: dict[str, Path], kind: str, way: str, dtype: str, bound: float
) -> None:
    folder = (gpt2 if kind == "gpt2" else models)["aligned"]
    found = streamed.by_block(folder, WAYS[way], dtype)
    wanted = direct(folders.load(folder).to(getattr(torch, dtype)).eval())
    covered = [name for moments in found.values() for name in moments.modules]
    assert sorted(covered) == sorted(wanted)
    for moments in found.values():
        assert moments.tokens == sum(map(len, LINES))
        H = moments.release(len(LINES))
        for name in moments.modules:
            assert float((H - wanted[name]).norm() / wanted[name].norm()) <= bound, name


def test_01_maps_that_read_one_tensor_share_one_h(models: dict[str, Path], prep: Path) -> None:
    groups = [tuple(name.rpartition(".")[2] for name in group.modules) for group in Prepared(prep).groups]
    layer = [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]
    assert groups == layer * 2
    held = Prepared(prep)
    assert held.group("model.layers.0.self_attn.q_proj") is held.group("model.layers.0.self_attn.v_proj")
    assert len(list(prep.glob("*.safetensors"))) == len(groups)


@pytest.mark.parametrize("store", ["float32", "float64"])
def test_01_the_kept_h_is_that_of_the_rows(models: dict[str, Path], tmp_path: Path, store: str) -> None:
    import transformers

    from safewright.data import load_rows
    from safewright.models.chat import encode

    folder = folders.prepared(models["aligned"], models["rows"], tmp_path / "h", holdout=0.0, store=store)
    words = transformers.AutoTokenizer.from_pretrained(models["aligned"])
    model = folders.load(models["aligned"]).eval()
    lines = [
        [*encode(words, row.prompt), *words(row.reference, add_special_tokens=False)["input_ids"]]
        for row in load_rows(models["rows"])
    ]
    with torch.inference_mode():
        X = torch.cat(
            [model(torch.tensor([line]), output_hidden_states=True).hidden_states[0][0] for line in lines]
        )
        X = model.model.layers[0].input_layernorm(X).double()
    wanted = 2.0 / len(lines) * X.T @ X
    group = Prepared(folder).group("model.layers.0.self_attn.q_proj")
    H = read_file(folder / group.file, ["H"])["H"]
    assert H.dtype == getattr(torch, store)
    assert float((H.double() - wanted).norm() / wanted.norm()) <= 1e-5
    assert group.tokens == sum(map(len, lines))


def test_01_held_out_rows_are_kept_apart(models: dict[str, Path], prep: Path) -> None:
    facts = Prepared(prep).facts["counts"]
    assert (facts["given"], facts["fitted"], facts["held_out"]) == (24, 20, 4)
    group = Prepared(prep).groups[0]
    held = read_file(prep / group.file, ["H", "H_held", "values", "vectors"])
    assert not torch.allclose(held["H"], held["H_held"])
    rebuilt = held["vectors"] * held["values"] @ held["vectors"].T
    assert torch.allclose(rebuilt, held["H"], atol=1e-4 * float(held["H"].norm()))


def test_01_every_input_has_a_file_of_its_own(gpt2: dict[str, Path]) -> None:
    """GPT-2 calls two maps of a block c_proj."""
    held = Prepared(gpt2["prep"])
    assert len(held.groups) == len({group.file for group in held.groups}) == 8
    for group in held.groups:
        assert held.read(group, "H")["H"].shape == (group.width, group.width)
