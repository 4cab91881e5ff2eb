"""What asking a model will cost, before it is loaded: a roofline over its saved weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safewright.models.references import base_folder, local_folder
from safewright.models.weights import read_json, tensors, weight_files
from safewright.types import Chat, ModelRef

STEP_SECONDS_PER_LAYER = 3e-4
"""Fixed cost of one decoder layer in one step on a CPU: what small models spend outside arithmetic."""

RUNTIME_BYTES = 450 * 2**20
"""Resident memory of the imported libraries (torch and transformers)."""

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Estimate:
    """Expected use of a run; ``seconds`` is None where nothing here decides it (a served model)."""

    calls: int
    prompt_tokens: int
    new_tokens: int
    memory_bytes: int
    seconds: float | None
    basis: str


def estimate(
    ref: ModelRef, chats: Sequence[Chat], new_tokens: int, batch_size: int | None, device: str = "cpu"
) -> Estimate:
    """Calls, tokens, memory and time of generating for ``chats``.

    Time is an upper bound in the answers' length (every answer runs to the limit) and a rough figure in
    speed: each decoding step reads all weights once at the memory's speed, or multiplies at the
    processor's, whichever is slower; both speeds are measured here in a few milliseconds.
    """
    prompt = sum(sum(tokens(message["content"]) for message in chat) for chat in chats)
    if ref.kind not in ("hf", "adapter"):
        elsewhere = ref.kind in ("served", "inspect")
        who = "the server decides how long it takes" if elsewhere else "already in memory"
        return Estimate(len(chats), prompt, len(chats) * new_tokens, 0, None, who)
    parameters, saved = saved_weights(ref)
    shape = _shape(ref)
    width = DTYPE_BYTES.get(ref.dtype, 0)
    weight_bytes = parameters * width if width else saved
    batch = min(batch_size or 32, max(1, len(chats)))
    longest = max((sum(tokens(m["content"]) for m in chat) for chat in chats), default=0) + new_tokens
    cache = 2 * shape["layers"] * shape["kv_width"] * longest * batch * (width or 4)
    logits = batch * shape["vocabulary"] * 4 * 2
    memory = RUNTIME_BYTES + weight_bytes + cache + logits
    if device.startswith("cuda"):
        return Estimate(
            len(chats), prompt, len(chats) * new_tokens, memory, None, "time on a GPU is not estimated"
        )
    read, multiply = _speeds()
    steps = -(-len(chats) // batch) * new_tokens
    per_step = max(weight_bytes / read, 2 * parameters * batch / multiply)
    overhead = shape["layers"] * STEP_SECONDS_PER_LAYER
    seconds = steps * (per_step + overhead) + 2 * parameters * prompt / multiply
    return Estimate(
        len(chats),
        prompt,
        len(chats) * new_tokens,
        memory,
        seconds,
        "every answer at its limit; short answers take less",
    )


def tokens(text: str) -> int:
    """A text's tokens, roughly: four Latin letters each, one Chinese character each."""
    wide = sum(character >= "\u2e80" for character in text)
    return wide + (len(text) - wide + 3) // 4


def saved_weights(ref: ModelRef) -> tuple[int, int]:
    """Parameters and bytes of a model's saved tensors, an adapter's with its base's."""
    parameters = size = 0
    folders = [local_folder(ref)]
    if ref.kind == "adapter":
        folders.append(base_folder(ref))
    for folder in folders:
        for file in weight_files(folder):
            if file.suffix != ".safetensors":
                size += file.stat().st_size
                parameters += file.stat().st_size // 2
                continue
            for _, entry in tensors(file):
                count = 1
                for dimension in entry["shape"]:
                    count *= dimension
                parameters += count
                size += entry["data_offsets"][1] - entry["data_offsets"][0]
    return parameters, size


def _shape(ref: ModelRef) -> dict[str, int]:
    """Layers, width of keys, and vocabulary of a model's configuration; rough where it does not say."""
    folder = base_folder(ref) if ref.kind == "adapter" else local_folder(ref)
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    config = {**config, **(text if isinstance(text, dict) else {})}

    def count(*names: str, default: int = 0) -> int:
        found = (config.get(name) for name in names)
        return next((value for value in found if type(value) is int and value > 0), default)

    heads = count("num_attention_heads", "n_head", default=1)
    head = count("head_dim", default=count("hidden_size", "n_embd") // heads)
    return {
        "layers": count("num_hidden_layers", "n_layer", default=1),
        "kv_width": head * count("num_key_value_heads", default=heads),
        "vocabulary": count("vocab_size"),
    }


def multiply_speed() -> float:
    """Operations per second of this machine's matrix product in float32, briefly measured."""
    return _speeds()[1]


def _speeds() -> tuple[float, float]:
    """This machine's memory read speed (bytes/s) and matrix speed (operations/s), briefly measured."""
    import numpy as np

    block = np.ones(16 * 2**20, dtype=np.float32)
    left = np.ones((512, 512), dtype=np.float32)
    block.sum(), left @ left
    read = min(_timed(lambda: block.sum()) for _ in range(3))
    multiply = min(_timed(lambda: left @ left) for _ in range(3))
    return block.nbytes / read, 2 * 512**3 / multiply


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return max(time.perf_counter() - start, 1e-9)
