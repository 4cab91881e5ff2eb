"""Decoder blocks: every tensor inside them is a matrix, a router, or refused; the counts add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
    "mixtral": ({**BODY, "num_local_experts": 2, "num_experts_per_tok": 1}, (8, 2, 12)),
    "qwen2_moe": ({**BODY, **EXPERTS, "shared_expert_intermediate_size": 12}, (14, 4, 12)),
    "qwen3_moe": ({**BODY, **EXPERTS}, (8, 2, 12)),
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
    assert [m.module for m in found.matrices] == [
        n for n, module, _ in linear_modules(model) if module is not None
    ]


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
