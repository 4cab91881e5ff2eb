"""Prepare block by block: what one block alone reads is what it reads inside the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.treatments import streamed

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
PLAIN = {"num_attention_heads": 2, "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 24}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "mistral": SHAPE | {"sliding_window": 4},
    "qwen2": PLAIN | {"num_key_value_heads": 1},
    "qwen3": SHAPE,
    "gemma2": SHAPE | {"sliding_window": 4},
    "gemma3_text": SHAPE | {"sliding_window": 4, "sliding_window_pattern": 2},
    "phi3": PLAIN | {"num_key_value_heads": 1},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64},
    "mixtral": PLAIN | {"num_key_value_heads": 1, "num_local_experts": 4},
    "qwen2_moe": PLAIN
    | {
        "num_key_value_heads": 1,
        "num_experts": 4,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    },
}
LINES = [[5 + (i * 7 + j * 3) % 30 for j in range(3 + i % 7)] for i in range(11)]


@pytest.mark.parametrize("kind", KINDS)
def test_01_block_by_block_is_the_whole_model(kind: str, tmp_path: Path) -> None:
    """To the last bit, in several shards, with padding on either side and masks that differ between layers."""
    folder = tiny.save_kind(kind, tmp_path / kind, shard="10KB", **KINDS[kind])
    assert len(list(folder.glob("*.safetensors"))) > 2
    batches = [streamed.batch(LINES[:6], True), streamed.batch(LINES[6:], False)]
    found, wanted = streamed.by_block(folder, batches), streamed.at_once(folder, batches)
    assert found.keys() == wanted.keys()
    for name, moments in found.items():
        assert moments.modules == wanted[name].modules
        assert moments.tokens == wanted[name].tokens
        if moments.total is None or wanted[name].total is None:
            assert moments.total is wanted[name].total  # an expert nothing came to
        else:
            assert torch.equal(moments.total, wanted[name].total), name
