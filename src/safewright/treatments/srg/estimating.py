"""What a training will take, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from safewright.data import LoadedData
from safewright.models.estimate import RUNTIME_BYTES, multiply_speed, saved_weights, tokens
from safewright.treatments.srg.config import SRGConfig
from safewright.types import ModelRef, Row

STEP = 6
"""Operations per parameter and token: forwards and backwards."""

SHARE = 0.35
"""Share of the matrix product's speed that training reaches on a CPU."""

GUESSED = 180
"""Tokens of reasoning per row, where it has still to be made."""


def estimate(
    models: Mapping[str, ModelRef], data: Mapping[str, LoadedData], config: SRGConfig
) -> dict[str, float]:
    """Disk, memory and time of a training, with the teacher's calls where rows have to be made.

    Rough: tokens are guessed from characters, and time from this machine's matrix product.
    """
    plain = [role for role in ("harmful", "helpful", "contrast") if role in data]
    found: dict[str, float] = {}
    untaught = config.target == "rt" or config.objective == "on_policy_kl"
    if "reasoned" not in data and plain and not (untaught and "teacher" not in models):
        from safewright.treatments.srg import synthesis

        found = dict(synthesis.estimate(models, data, config))
    rows = [row for role in (("reasoned",) if "reasoned" in data else plain) for row in data[role].rows]
    rows += data["general"].rows if "general" in data else ()
    if "student" not in models or not rows:
        return found
    ref = models["student"]
    parameters, saved = saved_weights(ref) if ref.kind in ("hf", "adapter") else (0, 0)
    steps = config.steps or math.ceil(config.epochs * len(rows) / config.batch)
    length = mean_tokens(rows, config, "reasoned" in data)
    if config.budget == "tokens":
        length = max(length, mean_tokens(rows, config, "reasoned" in data, reasons=True))
    trained = parameters
    if config.lora_rank:
        width = max(16.0, math.sqrt(parameters / 100))
        trained = int(min(1.0, 2 * config.lora_rank / width) * parameters)
    found["steps"] = float(steps)
    found["seconds"] = found.get("seconds", 0.0) + (
        steps * config.batch * STEP * length * parameters / (SHARE * multiply_speed())
    )
    # Weights, gradients and AdamW's two moments of what is trained.
    found["memory_bytes"] = max(found.get("memory_bytes", 0.0), float(RUNTIME_BYTES + saved + 12 * trained))
    result = 4 * trained if config.lora_rank else saved
    # Two checkpoints at once while one replaces the other, each with the optimiser's moments.
    found["disk_bytes"] = float(result + 2 * (result + 8 * trained))
    return found


def mean_tokens(rows: Sequence[Row], config: SRGConfig, made: bool, *, reasons: bool = False) -> float:
    """Tokens of a row, roughly; with its reasoning where the target learns as much, or ``reasons`` says so."""
    total = 0
    long = reasons or config.target in ("srg", "filler", "posthoc", "answer_then_check")
    for row in rows:
        total += sum(tokens(turn["content"]) for turn in row.prompt)
        total += tokens(row.reference or str(row.meta.get("answer") or ""))
        if long:
            total += tokens(str(row.meta.get("reasoning") or "")) if made else GUESSED
    return total / len(rows)
