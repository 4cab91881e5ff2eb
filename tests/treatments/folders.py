"""Folders a treatment is given in tests: aligned models, their fine-tunes, adapters, and rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safewright.treatments import plan_treatment, run_stage
from tests import tiny

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def load(folder: Path) -> Any:
    """A model as plain transformers loads it."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def edit_tensors(folder: Path, change: Callable[[str, Any], Any]) -> None:
    """Put ``change(name, tensor)`` in the place of every tensor of a folder; None deletes it."""
    from safetensors.torch import load_file, save_file

    gone = set()
    for file in sorted(folder.glob("*.safetensors")):
        changed = {name: change(name, tensor) for name, tensor in load_file(file).items()}
        gone |= {name for name, tensor in changed.items() if tensor is None}
        kept = {name: tensor.contiguous() for name, tensor in changed.items() if tensor is not None}
        save_file(kept, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        found = json.loads(index.read_text())
        found["weight_map"] = {k: v for k, v in found["weight_map"].items() if k not in gone}
        index.write_text(json.dumps(found))


def tuned(aligned: Path, folder: Path, *, seed: int = 1, size: float = 0.02, only: str = "") -> Path:
    """A fine-tune: the aligned model with every weight moved at random."""
    import torch

    shutil.copytree(aligned, folder)
    draw = torch.Generator().manual_seed(seed)

    def moved(name: str, tensor: Any) -> Any:
        step = size * torch.randn(tensor.shape, generator=draw)
        return (tensor + step).to(tensor.dtype) if only in name else tensor

    edit_tensors(folder, moved)
    return folder


def adapter(aligned: Path, folder: Path, *, seed: int = 2, dtype: str = "float32", **settings: Any) -> Path:
    """A LoRA adapter with a step that is not zero."""
    import peft
    import torch

    how = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    torch.manual_seed(seed)
    model = peft.get_peft_model(load(aligned), peft.LoraConfig(task_type="CAUSAL_LM", **how))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05 * torch.randn_like(parameter)
    model.peft_config["default"].base_model_name_or_path = str(aligned)
    model.save_pretrained(folder, save_embedding_layers=False)
    if dtype != "float32":
        edit_tensors(folder, lambda name, tensor: tensor.to(getattr(torch, dtype)))
    return folder


def rows_file(file: Path, count: int = 24, *, answers: bool = True, shift: int = 0) -> Path:
    """Rows of made-up words with made-up answers."""
    lines = []
    for i, row in enumerate(tiny.rows(count + shift)[shift:]):
        line = {"id": row.id, "prompt": row.prompt[0]["content"]}
        if answers:
            line["response"] = f"{row.reference} {tiny.WORDS[i % 7]}"
        lines.append(json.dumps(line))
    file.write_text("\n".join(lines) + "\n")
    return file


def prepared(aligned: Path, rows: Path, out: Path, **config: Any) -> Path:
    """A folder of the stage ``prepare``."""
    more = {"finetune": rows} if config.get("utility") == "task" else {}
    run_stage(
        plan_treatment(
            "safe_delta",
            {"aligned": aligned},
            {"calibration": rows, **more},
            stage="prepare",
            config=config,
            out=out,
        )
    )
    return out


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def weights(folder: Path) -> dict[str, Any]:
    """Every tensor of a folder."""
    from safetensors.torch import load_file

    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def shards(folder: Path) -> dict[str, bytes]:
    """The weight files of a folder."""
    return {name: data for name, data in content(folder).items() if name.endswith(".safetensors")}
