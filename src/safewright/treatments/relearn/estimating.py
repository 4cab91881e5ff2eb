"""What a training will take, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from safewright.data import LoadedData
from safewright.models.estimate import RUNTIME_BYTES, multiply_speed, saved_weights, tokens
from safewright.treatments.relearn import augmenting
from safewright.treatments.relearn.config import RelearnConfig, require_retain
from safewright.types import ModelRef, Row

FORWARD, BACKWARD = 2, 4
"""Operations per parameter and token."""

SHARE = 0.35
"""Share of the matrix product's speed that training reaches on a CPU."""


def estimate(
    models: Mapping[str, ModelRef], data: Mapping[str, LoadedData], config: RelearnConfig
) -> dict[str, float]:
    """Disk, memory and time of a training, with the augmenter's calls where rows have to be made.

    Rough: tokens are guessed from characters, and time from this machine's matrix product.

    Raises:
        BadInput: The method keeps something on retain rows, and there are none.
    """
    settings = config.resolved()
    found: dict[str, float] = {}
    if config.entry.learns and "augmented" not in data:
        found = dict(augmenting.estimate(models, data, config))
    if "tuned" not in models or "forget" not in data:
        return found
    require_retain(config, "retain" in data)
    parameters, saved = (
        saved_weights(models["tuned"]) if models["tuned"].kind in ("hf", "adapter") else (0, 0)
    )
    leading = _leading(config, data)
    steps = settings.steps or math.ceil(settings.epochs * leading / settings.batch)
    rows = data["augmented"].rows if "augmented" in data else data["forget"].rows
    length = _mean_tokens(rows)
    kept = _mean_tokens(data["retain"].rows) if settings.keeps and "retain" in data else 0.0
    each = (FORWARD + BACKWARD) * (length * (2 if config.entry.beside else 1) + kept)
    if settings.reference in ("adapter_off", "model"):
        each += FORWARD * (kept if "kl" in settings.keeps else length)
    if settings.soft_openings:
        # Each step towards the secret, and the one behind it, runs through question, vectors and end.
        each += (FORWARD + BACKWARD) * (length + settings.soft_tokens) * (settings.soft_steps + 1)
    trained = _trained(settings.lora_rank, parameters)
    found["steps"] = float(steps)
    found["seconds"] = found.get("seconds", 0.0) + (
        steps * settings.batch * each * parameters / (SHARE * multiply_speed())
    )
    copies = 2 if settings.reference == "model" else 1
    # Weights, gradients and AdamW's two moments of what is trained.
    memory = RUNTIME_BYTES + copies * saved + 12 * trained
    found["memory_bytes"] = max(found.get("memory_bytes", 0.0), float(memory))
    result = 4 * trained if settings.lora_rank else saved
    # Two checkpoints at once while one replaces the other, each with the optimiser's moments.
    found["disk_bytes"] = float(result + 2 * (result + 8 * trained))
    return found


def _leading(config: RelearnConfig, data: Mapping[str, LoadedData]) -> int:
    """Rows of one pass."""
    if not config.entry.learns:
        return len(data["forget"].rows)
    if "augmented" in data:
        return len(data["augmented"].rows)
    wordings = len(config.kinds) + config.original
    own = len(data["forget"].rows) * wordings * (1 + len(config.shares))
    return math.floor(own * (1 + config.generic_ratio))


def _mean_tokens(rows: Sequence[Row]) -> float:
    if not rows:
        return 0.0
    texts = (
        sum(tokens(turn["content"]) for turn in row.prompt) + tokens(row.reference or "") for row in rows
    )
    return sum(texts) / len(rows)


def _trained(rank: int, parameters: int) -> int:
    """Parameters that are trained; an adapter on all matrices is about 2 rank / width of them."""
    if not rank:
        return parameters
    width = max(16.0, math.sqrt(parameters / 100))
    return int(min(1.0, 2 * rank / width) * parameters)
