"""Decoder blocks: every tensor inside them is a matrix, a router, or refused; the counts add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.errors import BadInput
from safewright.models.blocks import Matrix, blocks_of, chosen, linear_modules, skeleton
from safewright.models.checkpoint import Checkpoint
from tests import tiny
from tests.treatments import folders

BODY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
STACKED = {"num_local_experts": 2, "num_experts_per_tok": 1}
# Matrices, routers and refused tensors of each architecture's two blocks.
SHAPES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "llama": (BODY, (14, 0, 0)),
    "mistral": (BODY, (14, 0, 0)),
    "qwen2": (BODY, (14, 0, 0)),
    "qwen3": (BODY, (14, 0, 0)),
    "gemma2": (BODY, (14, 0, 0)),
    "gemma3_text": (BODY, (14, 0, 0)),
    "phi3": (BODY, (8, 0, 0)),
    "gpt2": ({"n_embd": 16, "n_layer": 2, "n_head": 2}, (8, 0, 0)),
    "mixtral": ({**BODY, **STACKED}, (20, 2, 0)),
    "qwen2_moe": ({**BODY, **EXPERTS, "shared_expert_intermediate_size": 12}, (26, 4, 0)),
    "qwen3_moe": ({**BODY, **EXPERTS}, (20, 2, 0)),
    # Their folders hold all experts of a layer in one tensor, GPT-OSS's with biases of two dimensions.
    "gpt_oss": ({**BODY, **STACKED}, (8, 2, 8)),
    "llama4_text": ({**BODY, **STACKED, "intermediate_size_mlp": 24}, (14, 2, 4)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_everything_inside_blocks_is_accounted_for(kind: str, tmp_path: Path) -> None:
    shape, counts = SHAPES[kind]
    folder = tiny.save_kind(kind, tmp_path / "model", **shape)
    stored = Checkpoint(folder).stored
    found = blocks_of(skeleton(folder), stored)
    assert (len(found.matrices), len(found.routers), len(found.refused)) == counts
    tensors = [matrix.tensor for matrix in found.matrices]
    parts = [*tensors, *found.routers, *found.refused]
    assert sorted(parts) == sorted(found.inside)
    assert len(set(parts)) == len(parts)
    plain = [name for name, item in stored.items() if len(item.shape) >= 2 and name not in parts]
    assert all("embed" in name or "head" in name or ".wte" in name or ".wpe" in name for name in plain), plain
    assert {matrix.layer for matrix in found.matrices} == {0, 1}
    assert {matrix.transposed for matrix in found.matrices} == {kind == "gpt2"}
    model = folders.load(folder)
    assert [m.module for m in found.matrices if m.part is None] == [
        n for n, module, _ in linear_modules(model) if module is not None
    ]
    # Each matrix is found in the loaded model, number for number.
    tensors = folders.weights(folder)
    held = dict(model.named_parameters())
    for matrix in found.matrices:
        part = matrix.part
        value = part.of(held[part.parameter]) if part else held[f"{matrix.module}.weight"]
        assert torch.equal(value, tensors[matrix.tensor]), matrix
    parts = [matrix.part for matrix in found.matrices if matrix.part is not None]
    whole = {part.parameter: held[part.parameter].shape for part in parts}
    assert sum((part.stop - part.start) for part in parts) == sum(
        shape[0] * shape[1] for shape in whole.values()
    )


@pytest.mark.parametrize(
    ("kind", "names"), [("mixtral", "w1 w3 w2"), ("qwen3_moe", "gate_proj up_proj down_proj")]
)
def test_experts_are_called_alike_whatever_their_files_say(kind: str, names: str, tmp_path: Path) -> None:
    shape, _ = SHAPES[kind]
    folder = tiny.save_kind(kind, tmp_path / "model", **{**shape, "num_hidden_layers": 1})
    found = blocks_of(skeleton(folder), Checkpoint(folder).stored).matrices
    experts = [matrix for matrix in found if matrix.part is not None]
    ends = [f"experts.{e}.{name}" for e in (0, 1) for name in ("gate_proj", "up_proj", "down_proj")]
    assert [matrix.module for matrix in experts] == [f"model.layers.0.mlp.{end}" for end in ends]
    assert [m.tensor.split(".")[-2] for m in experts] == [*names.split(), *names.split()]
    assert chosen(found, "up_proj") == tuple(m for m in experts if m.module.endswith("up_proj"))


def test_experts_that_transformers_would_not_stack_are_refused(tmp_path: Path) -> None:
    shape, _ = SHAPES["mixtral"]
    folder = tiny.save_kind("mixtral", tmp_path / "model", **shape)
    stored = dict(Checkpoint(folder).stored)
    model = skeleton(folder)
    # One map of one expert lacks: nobody can tell which expert each of the others is.
    del stored["model.layers.1.block_sparse_moe.experts.0.w2.weight"]
    found = blocks_of(model, stored)
    assert found.refused == ("model.layers.1.block_sparse_moe.experts.1.w2.weight",)
    model.model.layers[0].mlp.experts.is_transposed = True
    found = blocks_of(model, stored)
    assert len(found.refused) == 7
    assert len(found.matrices) + len(found.routers) + len(found.refused) == len(found.inside) == 21


def test_names_with_and_without_the_inner_models_are_found(tmp_path: Path) -> None:
    folder = tiny.save_kind("llama", tmp_path / "model", **BODY)
    stored = Checkpoint(folder).stored
    inner = {name.removeprefix("model."): item for name, item in stored.items()}
    found = blocks_of(skeleton(folder), inner)
    assert len(found.matrices) == len(found.inside) == 14
    assert found.matrices[0].tensor == "layers.0.self_attn.q_proj.weight"
    del inner["layers.1.mlp.up_proj.weight"]
    with pytest.raises(BadInput, match=r"model\.layers\.1\.mlp\.up_proj of the model has no tensor on disk"):
        blocks_of(skeleton(folder), inner)


def test_a_skeleton_has_no_weights(tmp_path: Path) -> None:
    folder = tiny.save_kind("llama", tmp_path / "model", **BODY)
    assert {parameter.device.type for parameter in skeleton(folder).parameters()} == {"meta"}
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"llama"', '"lama9"'))
    with pytest.raises(BadInput, match=r"architecture of .* is unknown"):
        skeleton(folder)


def test_modules_are_chosen_by_their_last_names() -> None:
    known = [
        Matrix(f"b.{i}.{n}", f"b.{i}.{n}.weight", i, False) for i in (0, 1) for n in ("q_proj", "o_proj")
    ]
    assert chosen(known, "all") == tuple(known)
    assert [m.module for m in chosen(known, "o_proj")] == ["b.0.o_proj", "b.1.o_proj"]
    with pytest.raises(BadInput, match=r"'o_prj'.*'o_proj'"):
        chosen(known, "q_proj,o_prj")
