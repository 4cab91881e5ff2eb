"""Safe Delta on a checkpoint of gigabytes: ``python benchmarks/safe_delta_large.py``.

Makes two bf16 folders of the Llama shape with random weights (width 2048, inner 5632), prepares the one and edits the
other, each stage in a process of its own, and prints the increase of peak memory over that after imports, as a share of
the checkpoint; where the wall time went; what the estimate had said; and what the same formulas say of Llama-3-70B.

    python benchmarks/safe_delta_large.py [--layers 20] [--rows 32] [--threads 2] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

WIDTH, INNER, HEADS, KEYS, VOCABULARY = 2048, 5632, 32, 32, 128_256
SHARD = 800 * 2**20
BOUND = 0.35
WORDS = tuple(f"w{number}" for number in range(64))
LLAMA_70B = {
    "hidden_size": 8192,
    "intermediate_size": 28_672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
}
TOKENS_70B = 512 * 220
"""Calibration tokens of the projection: 512 sequences, as in the paper."""

WORK = {
    "reading": (
        ("safewright.models.checkpoint", "Checkpoint", "read"),
        ("safewright.models.checkpoint", "Checkpoint", "rows"),
        ("safewright.treatments.safe_delta.prepared", "", "read_file"),
        ("safewright.treatments.safe_delta.prepared", "", "digest_file"),
    ),
    "writing": (
        ("safewright.models.checkpoint", "Shards", "allocate"),
        ("safewright.models.checkpoint", "Shards", "write"),
        ("safewright.models.checkpoint", "Shards", "checksum"),
        ("safetensors.torch", "", "save_file"),
        ("os", "", "fsync"),
    ),
}
"""Functions whose time is reading and writing; the rest of a stage is arithmetic."""


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a Llama configuration, as its folder holds them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config))
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def make(folder: Path, layers: int, rows: int) -> None:
    """Write the aligned and the tuned folder, and the calibration rows."""
    import torch
    from transformers import LlamaConfig

    from safewright.lab.tiny import word_tokenizer
    from safewright.models.checkpoint import Planned, Shards

    words = word_tokenizer(WORDS)
    config: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "max_position_embeddings": 2048,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    planned, size, file = [], 0, 1
    for name, shape in shapes(config).items():
        item = Planned(name, "bfloat16", shape, "")
        if size + item.nbytes > SHARD and size:
            size, file = 0, file + 1
        size += item.nbytes
        planned.append(Planned(name, "bfloat16", shape, f"model-{file:05d}.safetensors"))
    pair = [Shards(folder / role, planned) for role in ("aligned", "tuned")]
    for role, shards in zip(("aligned", "tuned"), pair, strict=True):
        shards.allocate()
        LlamaConfig(**config, dtype="bfloat16", architectures=["LlamaForCausalLM"]).save_pretrained(
            folder / role
        )
        words.save_pretrained(folder / role)
    draw = torch.Generator().manual_seed(0)
    for item in planned:
        for start in range(0, item.shape[0], 8192):
            stop = min(start + 8192, item.shape[0])
            piece = torch.randn(stop - start, *item.shape[1:], generator=draw) * 0.02
            piece += 1.0 if len(item.shape) == 1 else 0.0
            step = 5e-4 * torch.randn(piece.shape, generator=draw) if len(item.shape) > 1 else 0.0
            pair[0].write(item.name, start, piece)
            pair[1].write(item.name, start, piece + step)
    for shards in pair:
        shards.close()
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as handle:
        for number in range(rows):
            said = [WORDS[(number * 7 + place * (number % 5 + 1)) % len(WORDS)] for place in range(64)]
            handle.write(json.dumps({"prompt": " ".join(said[:24]), "response": " ".join(said[24:])}) + "\n")


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Within it, what the functions of `WORK` take is added up; one within another counts once."""
    import importlib

    depth = [0]

    def counted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            depth[0] += 1
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                depth[0] -= 1
                if not depth[0]:
                    spent[kind] = spent.get(kind, 0.0) + time.perf_counter() - began

        return call

    for kind, places in WORK.items():
        for module, holder, name in places:
            home = importlib.import_module(module)
            owner: Any = getattr(home, holder) if holder else home
            setattr(owner, name, counted(kind, getattr(owner, name)))
    yield


def stage(folder: Path, name: str, threads: int) -> None:
    """Run a stage in this process, and print what it took."""
    import torch
    import transformers  # noqa: F401 - counted as imports

    from safewright.models.blocks import skeleton
    from safewright.treatments import plan_treatment, run_stage
    from safewright.treatments.safe_delta import applying, streaming  # noqa: F401

    torch.set_num_threads(threads)
    skeleton(folder / "aligned")  # imports the architecture
    models: dict[str, Any] = {"aligned": folder / "aligned"}
    data, config = {}, {}
    if name == "prepare":
        data = {"calibration": folder / "rows.jsonl"}
    else:
        models["tuned"] = folder / "tuned"
        config = {"prep": str(folder / "prep")}
    plan = plan_treatment(
        "safe_delta",
        models,
        data,
        stage=name,
        config=config,
        out=folder / {"prepare": "prep", "apply": "out"}[name],
        threads=threads,
    )
    expected = plan.estimate(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    spent: dict[str, float] = {}
    began = time.perf_counter()
    with timed(spent):
        run_stage(plan)
    wall = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "rise": peak - before,
                "peak": peak,
                "seconds": wall,
                "split": {**spent, "arithmetic": wall - sum(spent.values())},
                "estimated": expected,
            }
        )
    )


def projected() -> dict[str, Any]:
    """What the formulas say of Llama-3-70B in bf16, at this machine's speed and at that of a GPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from safewright.models.blocks import blocks_of
    from safewright.models.checkpoint import Stored
    from safewright.models.estimate import RUNTIME_BYTES, multiply_speed
    from safewright.treatments.safe_delta.config import SafeDeltaConfig
    from safewright.treatments.safe_delta.estimating import applying, preparing

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**LLAMA_70B))
    stored, place = {}, 0
    for name, value in model.state_dict().items():
        size = value.numel() * 2
        stored[name] = Stored(name, "bfloat16", tuple(value.shape), "model.safetensors", place, place + size)
        place += size
    blocks, config = blocks_of(model, stored), SafeDeltaConfig()
    here = multiply_speed()
    found: dict[str, Any] = {"checkpoint_bytes": place, "speed_here": here}
    for name, figures in (
        ("prepare", preparing(blocks, stored, config, TOKENS_70B)),
        ("apply", applying(blocks, stored, config, 1, place)),
    ):
        found[name] = {
            "disk_bytes": figures.disk,
            "memory_bytes": RUNTIME_BYTES + figures.memory,
            "hours_here": figures.seconds(here) / 3600,
            "minutes_at_20_tflops": figures.seconds(2e13) / 60,
        }
    return found


def main() -> int:
    """Run everything, print a table and JSON; exit 1 where the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="where the checkpoints are made, and kept")
    parser.add_argument("--stage", choices=("prepare", "apply"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        stage(given.folder, given.stage, given.threads)
        return 0
    folder = given.folder or Path(tempfile.mkdtemp(prefix="safewright-large-"))
    try:
        if not (folder / "rows.jsonl").is_file():
            make(folder, given.layers, given.rows)
        files = sorted((folder / "aligned").glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        print(
            f"{size / 2**30:.2f} GiB in {len(files)} shards, {given.layers} layers of {WIDTH} x {INNER}, bfloat16"
        )
        found: dict[str, Any] = {"checkpoint_bytes": size, "shards": len(files)}
        for name in ("prepare", "apply"):
            command = [sys.executable, __file__, "--stage", name, "--folder", str(folder)]
            told = subprocess.run(
                [*command, "--threads", str(given.threads)], stdout=subprocess.PIPE, text=True
            )
            if told.returncode:
                raise SystemExit(f"{name} ended with {told.returncode}")
            took = found[name] = json.loads(told.stdout.splitlines()[-1])
            parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in took["split"].items())
            said = took["estimated"]
            print(
                f"{name}: memory rises by {took['rise'] / 2**20:,.0f} MiB, {took['rise'] / size:.0%} of the model; "
                f"{took['seconds']:.0f} s ({parts}); estimated {said['memory_bytes'] / 2**20:,.0f} MiB in all "
                f"(peak {took['peak'] / 2**20:,.0f}) and {said['seconds']:.0f} s"
            )
        found["disk"] = {
            name: sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file())
            for name in ("prep", "out")
        }
        found["llama_3_70b"] = projected()
        found["bound_met"] = all(found[name]["rise"] < BOUND * size for name in ("prepare", "apply"))
        print(json.dumps(found, indent=2))
        return 0 if found["bound_met"] else 1
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
