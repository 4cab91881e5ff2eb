"""What Safe Delta says it will take: shapes against the published figures, and against what was taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.models.blocks import blocks_of
from safewright.models.checkpoint import Stored
from safewright.treatments import plan_treatment, run_stage, treat
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.estimating import DISK_SPEED, TOKENS_PER_ROW, applying, preparing
from safewright.treatments.taking import TOOK, held_bytes, peak_bytes
from tests import tiny
from tests.treatments import folders


@pytest.fixture(scope="module")
def seventy() -> tuple[Any, dict[str, Stored]]:
    """Blocks and tensors of a 70B Llama in bf16, without a byte of them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    stored, place = {}, 0
    for name, value in model.state_dict().items():
        size = value.numel() * 2
        stored[name] = Stored(name, "bfloat16", tuple(value.shape), "model.safetensors", place, place + size)
        place += size
    return blocks_of(model, stored), stored


def test_seventy_billion_as_published(seventy: Any) -> None:
    """Section 8.4: 327 GB of H in float32, one block of 1.7 GB, 15 + 18 PFLOP for 110,000 tokens."""
    blocks, stored = seventy
    assert sum(item.stop - item.start for item in stored.values()) == pytest.approx(141e9, rel=0.01)
    plain = SafeDeltaConfig(holdout=0.0, spectrum="never")
    found = preparing(blocks, stored, plain, 112_640)
    states = 2 * 112_640 * 8192 * 2
    assert found.disk - states == pytest.approx(327e9, rel=0.01)
    # Float64 counts twice, and gate and up are one input: 18 PFLOP of H are 36, the forward's 15 as they are.
    assert found.flops == pytest.approx((2 * 18.4 + 15.4) * 1e15, rel=0.05)
    assert 10e9 < found.memory < 20e9
    assert preparing(blocks, stored, SafeDeltaConfig(), 112_640).disk > 2 * 327e9
    written = applying(blocks, stored, plain, 1, 141e9)
    assert written.disk == 141e9
    assert written.memory < 20e9
    assert applying(blocks, stored, plain, 2, 141e9).memory > 1.9 * written.memory
    assert written.seconds(1e13, 2) == pytest.approx(written.flops / 2e13 + written.moved / DISK_SPEED)


def test_maps_that_share_an_input_count_once_whichever_are_chosen(seventy: Any) -> None:
    blocks, stored = seventy
    disks = [
        preparing(blocks, stored, SafeDeltaConfig(modules=modules), 1000).disk
        for modules in ("gate_proj", "up_proj", "gate_proj,up_proj")
    ]
    assert disks[0] == disks[1] == disks[2]
    assert disks[0] > 80 * 8192**2 * 4


def test_experts_see_a_part_of_the_tokens(tmp_path: Path) -> None:
    from safewright.models.blocks import skeleton
    from safewright.models.checkpoint import Checkpoint
    from safewright.treatments.safe_delta.estimating import _routed

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    for kind, more, share in (
        ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 2}, 0.25),
        ("gpt2", {}, 1.0),
    ):
        folder = tiny.save_kind(kind, tmp_path / kind, **({**shape, **more} if more else {}))
        model, stored = skeleton(folder), Checkpoint(folder).stored
        assert _routed(model) == share
        found = [
            preparing(blocks_of(model, stored), stored, SafeDeltaConfig(), 1000, part).flops
            for part in (1.0, share)
        ]
        assert (found[1] < 0.6 * found[0]) == (share < 1)


def test_what_it_took_is_kept_beside_the_estimate(tmp_path: Path) -> None:
    aligned = tiny.save_tiny(tmp_path / "aligned", hidden_size=64, intermediate_size=128, shard="200KB")
    tuned = folders.tuned(aligned, tmp_path / "tuned")
    rows = folders.rows_file(tmp_path / "rows.jsonl")
    models, data = {"aligned": aligned, "tuned": tuned}, {"calibration": rows}
    out = tmp_path / "out"
    estimated = plan_treatment("safe_delta", models, data, out=out).estimate()
    treat("safe_delta", models, data, out=out, notes={"estimate": estimated})
    took = json.loads((tmp_path / "out.run" / TOOK).read_text())
    assert took["estimated"] == estimated
    measured = took["measured"]
    assert measured["disk_bytes"] >= held_bytes(out)
    # Files end in whole blocks of the disk, and the run keeps a journal and a page.
    assert 0.5 * estimated["disk_bytes"] <= measured["disk_bytes"] <= estimated["disk_bytes"] + 2**20
    assert measured["memory_bytes"] <= peak_bytes()
    assert measured["seconds"] > 0
    again = json.loads((tmp_path / "out.run" / TOOK).read_text())
    treat("safe_delta", models, data, out=out, notes={"estimate": estimated})
    assert json.loads((tmp_path / "out.run" / TOOK).read_text()) == again  # it was there already


def test_a_stage_is_estimated_by_itself(tmp_path: Path) -> None:
    aligned = tiny.save_tiny(tmp_path / "aligned")
    rows = folders.rows_file(tmp_path / "rows.jsonl")
    plan = plan_treatment(
        "safe_delta", {"aligned": aligned}, {"calibration": rows}, stage="prepare", out=tmp_path / "prep"
    )
    said = plan.estimate()
    run_stage(plan)
    files = sum(file.stat().st_size for file in (tmp_path / "prep").glob("*.safetensors"))
    states = 2 * 24 * TOKENS_PER_ROW * 32 * 4  # gone in the end
    assert files == pytest.approx(said["disk_bytes"] - states, rel=0.05)
