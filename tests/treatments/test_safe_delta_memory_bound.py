"""Acceptance check 10: memory is one factor and a few chunks, whatever the model's size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safewright.models import resolve
from safewright.models.blocks import blocks_of, skeleton
from safewright.models.checkpoint import Checkpoint
from safewright.runs import digest_file
from tests import tiny
from tests.treatments import folders

LAYERS, WIDTH, INNER, CHUNK = 20, 512, 1024, 256


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A synthetic pair of 180 tensors and 185 MB each, and H of every input."""
    home = tmp_path_factory.mktemp("large")
    shape = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    aligned = tiny.save_tiny(home / "aligned", shard="60MB", **shape, num_attention_heads=4)
    tuned = folders.tuned(aligned, home / "tuned")
    blocks = blocks_of(skeleton(aligned), Checkpoint(aligned).stored)
    prep = home / "hess"
    prep.mkdir()
    groups: dict[tuple[int, str], dict[str, object]] = {}
    kinds: dict[int, Path] = {}
    for width in (WIDTH, INNER):
        draw = torch.Generator().manual_seed(width)
        X = torch.randn(width, 2 * width, generator=draw)
        H = X @ X.T / width
        values, vectors = torch.linalg.eigh(H)
        kinds[width] = prep / f"H{width}.safetensors"
        save_file(
            {"H": H, "H_held": H + 0.1, "values": values, "vectors": vectors.contiguous()}, kinds[width]
        )
    inputs = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
    for matrix in blocks.matrices:
        last = matrix.module.rpartition(".")[2]
        width = INNER if last == "down_proj" else WIDTH
        key = (matrix.layer, inputs.get(last, last))
        group = groups.setdefault(
            key,
            {
                "name": matrix.module,
                "file": kinds[width].name,
                "layer": matrix.layer,
                "width": width,
                "modules": [],
                "tokens": 9999,
                "rank": width,
                "dead": 0,
                "condition": 1.0,
                "outlier": 1.0,
                "digest": digest_file(kinds[width]),
            },
        )
        group["modules"].append(matrix.module)  # type: ignore[attr-defined]
    facts = {
        "aligned": {"digest": resolve(aligned).digest, "where": str(aligned)},
        "counts": {"given": 1},
        "utility": "identity",
        "groups": list(groups.values()),
    }
    (prep / "prep.json").write_text(json.dumps(facts))
    return {"aligned": aligned, "tuned": tuned, "prep": prep}


@pytest.mark.parametrize("mode", ["soft", "exact"])
def test_10_memory_is_a_factor_and_three_chunks(large: dict[str, Path], tmp_path: Path, mode: str) -> None:
    size = sum(file.stat().st_size for file in large["aligned"].glob("*.safetensors"))
    factor, chunk = INNER**2 * 4, CHUNK * INNER * 4
    bound = factor + 3 * chunk + 200 * 2**20
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.treatments.measure_memory",
            *(str(large[role]) for role in ("aligned", "tuned", "prep")),
            str(tmp_path / "out"),
            mode,
            str(CHUNK),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    rise = json.loads(told.stdout)["rise"]
    assert len(Checkpoint(large["aligned"]).stored) >= 30
    assert 2 * size > 1.5 * bound
    assert rise <= bound, f"{rise / 2**20:.0f} MiB of {bound / 2**20:.0f}"
