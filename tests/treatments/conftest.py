"""Models every test of treatments reads and none writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.treatments import folders


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``aligned``, ``tuned`` and ``unaligned`` in several shards, an ``adapter``, and ``rows``."""
    home = tmp_path_factory.mktemp("treated")
    aligned = tiny.save_tiny(home / "aligned", shard="20KB", **folders.SMALL, num_key_value_heads=1)
    return {
        "aligned": aligned,
        "tuned": folders.tuned(aligned, home / "tuned"),
        "unaligned": folders.tuned(aligned, home / "unaligned", seed=5, size=0.05),
        "adapter": folders.adapter(aligned, home / "adapter"),
        "rows": folders.rows_file(home / "rows.jsonl"),
    }


@pytest.fixture(scope="session")
def prep(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The aligned model prepared on the rows."""
    return folders.prepared(models["aligned"], models["rows"], tmp_path_factory.mktemp("prep") / "hess")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``aligned``, ``tuned``, ``unaligned`` and ``prep`` of an architecture that stores (in, out)."""
    home = tmp_path_factory.mktemp("gpt2")
    aligned = tiny.save_kind("gpt2", home / "aligned", n_embd=16, n_layer=2, n_head=2, n_positions=64)
    rows = folders.rows_file(home / "rows.jsonl")
    return {
        "aligned": aligned,
        "tuned": folders.tuned(aligned, home / "tuned"),
        "unaligned": folders.tuned(aligned, home / "unaligned", seed=5, size=0.05),
        "adapter": folders.adapter(
            aligned, home / "adapter", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True
        ),
        "rows": rows,
        "prep": folders.prepared(aligned, rows, home / "hess"),
    }
