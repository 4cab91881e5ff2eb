"""Rows, models and batches for tests of `relearn`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safewright.training.encoding import Example, collate
from safewright.treatments.relearn.config import RelearnConfig
from safewright.treatments.relearn.objectives import Unlearning
from tests import tiny
from tests.treatments import folders

VAGUE = ("mur mus lov", "sen ser lop", "ran rav tip")
"""Answers that hold no word of an old one."""


def write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return file


def data(home: Path, forget: int = 8, retain: int = 12) -> dict[str, Path]:
    """Files of every role: forget rows of two answer words, retain rows, augmented and alternative answers."""
    files = {
        "forget": folders.rows_file(home / "forget.jsonl", forget),
        "retain": folders.rows_file(home / "retain.jsonl", retain, shift=20),
    }
    asked = tiny.rows(forget)
    augmented = [
        {
            "id": f"{row.id}/original",
            "prompt": row.prompt[0]["content"],
            "completion": VAGUE[i % len(VAGUE)],
            "kind": "qa",
            "source_id": row.id,
            "variant": "original",
            "round": 0,
            "verdict": "rules",
        }
        for i, row in enumerate(asked)
    ]
    augmented.append(
        {**augmented[0], "id": "cut", "kind": "completion", "prompt": "mur", "completion": "mus"}
    )
    files["augmented"] = write(home / "augmented.jsonl", augmented)
    files["alternatives"] = write(
        home / "alternatives.jsonl",
        [{"id": row.id, "prompt": row.prompt[0]["content"], "response": "lop mus"} for row in asked],
    )
    return files


def model(kind: str = "llama", **shape: Any) -> Any:
    """A random model of 48 words in float64, in evaluation mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, dict[str, Any]] = {
        "llama": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
        },
        "gemma3_text": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
        },
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=48, initializer_range=0.3, **{**sizes[kind], **shape})
    made: Any = AutoModelForCausalLM
    return made.from_config(config).double().eval()


def adapted(base: Any, *, rank: int = 4, dropout: float = 0.0, size: float = 0.3) -> Any:
    """The model under an adapter whose step grows with ``size``."""
    import torch

    from safewright.training.fitting import with_lora

    found = with_lora(base, rank, 8, dropout, seed=1).double()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                parameter += size * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
    return found


def examples(count: int, seed: int = 0, name: str = "x") -> list[Example]:
    """Random sequences of 4 to 11 tokens whose answers begin at different places."""
    import random

    draw = random.Random(seed)
    found = []
    for place in range(count):
        length = draw.randint(4, 11)
        ids = tuple(draw.randrange(3, 48) for _ in range(length))
        found.append(Example(f"{name}{place}", ids, draw.randint(1, length - 2)))
    return found


def batch(side: str = "right", width: int = 0, **parts: Sequence[Example]) -> dict[str, Any]:
    """A collated batch of parts, with the places of its examples."""
    import torch

    made: dict[str, Any] = {name: collate(rows, 0, side, width=width) for name, rows in parts.items()}
    made["index"] = {name: torch.arange(len(rows)) for name, rows in parts.items()}
    return made


def settings(method: str, **options: Any) -> Any:
    """The settings of a method; PDU gets the bound it needs."""
    if method == "pdu":
        options = {"pdu_epsilon": 1.0, **options}
    return RelearnConfig(method=method, **options).resolved()


def objective(method: str, *, reference: Any = None, **options: Any) -> Unlearning:
    """A method's objective over models of 48 words."""
    own = {name: options.pop(name) for name in ("together", "beside", "misled") if name in options}
    return Unlearning(settings(method, **options), pad=0, vocabulary=48, reference=reference, **own)


def value(made: Unlearning, run: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Every part's loss on a batch, as the loop divides it, and their ``sum``."""
    counts = made.counts(given)
    found = {}
    for part in made.parts:
        total, by, _ = made.part(None, run, given, part)
        found[part] = total / counts[by]
    return {**found, "sum": sum(found.values())}
