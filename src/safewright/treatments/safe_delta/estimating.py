"""What Safe Delta will take, from the shapes on disk and this machine's speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safewright.data import LoadedData
from safewright.models.blocks import Blocks, Matrix, blocks_of, chosen, skeleton
from safewright.models.checkpoint import Checkpoint, Stored
from safewright.models.estimate import DTYPE_BYTES, RUNTIME_BYTES, multiply_speed
from safewright.models.references import local_folder
from safewright.models.weights import weight_files
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.sources import TILE, require_folders
from safewright.types import ModelRef

TOKENS_PER_ROW = 100
"""Tokens of a calibration sequence, roughly; the limit where it is lower."""

BATCH_VALUES = 8
"""Bytes that a block holds of each token and channel of its widest input."""

EIGH_FLOPS, CHOLESKY_FLOPS, INVERSE_FLOPS = 12.0, 1 / 3, 2 / 3
"""Operations of a symmetric eigendecomposition, a Cholesky factor and an inverse from it, in cubes of the width."""

FACTORS = 5
"""Matrices as large as H that are there together while it is factorised or decomposed, the held-out H included."""

START_SECONDS = 5.0
"""Importing the libraries, loading and checking: what even a small model takes."""

DISK_SPEED = 1e9
"""Bytes per second read or written: a good local disk; over a network it may be a tenth."""

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""What configurations call the number of a layer's experts."""

SHARED = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Maps that read the input of another one; they share its H."""


@dataclass(frozen=True)
class Figures:
    """What a stage takes; ``flops`` counts float64 twice, ``moved`` are bytes read and written."""

    disk: float
    memory: float
    flops: float
    moved: float

    def seconds(self, speed: float, workers: int = 1) -> float:
        """At a speed in operations per second."""
        return self.flops / speed / workers + self.moved / DISK_SPEED


def estimate(
    models: Mapping[str, ModelRef], data: Mapping[str, LoadedData], config: SafeDeltaConfig, workers: int
) -> dict[str, float]:
    """``disk_bytes``, ``memory_bytes`` and ``seconds`` of prepare and apply together.

    Disk: the new weights and, without a prepared folder, H and hidden states. Memory: whichever stage takes more,
    the libraries included. Time: the multiplications at this machine's measured speed, in float32, and what is read
    and written. Answers that the aligned model must first give are not counted.

    Raises:
        BadInput: A model is no folder.
    """
    require_folders(models)
    folder = local_folder(models["aligned"])
    checkpoint = Checkpoint(folder)
    try:
        stored = dict(checkpoint.stored)
    finally:
        checkpoint.close()
    model = skeleton(folder)
    blocks = blocks_of(model, stored)
    parts: list[tuple[Figures, int]] = []
    if "tuned" in models:
        written = _written(models, config, sum(item.stop - item.start for item in stored.values()))
        parts.append((applying(blocks, stored, config, workers, written), workers))
    if config.prep is None:
        given = sum(len(held.rows) for role, held in data.items() if role in ("calibration", "harmful"))
        tokens = min(given, config.rows) * min(TOKENS_PER_ROW, config.max_length)
        parts.append((preparing(blocks, stored, config, tokens, _routed(model)), 1))
    speed = multiply_speed()
    return {
        "disk_bytes": sum(part.disk for part, _ in parts),
        "memory_bytes": RUNTIME_BYTES + max((part.memory for part, _ in parts), default=0.0),
        "seconds": START_SECONDS + sum(part.seconds(speed, count) for part, count in parts),
    }


def preparing(
    blocks: Blocks, stored: Mapping[str, Stored], config: SafeDeltaConfig, tokens: float, routed: float = 1.0
) -> Figures:
    """The stage ``prepare``, memory without the libraries: one block, the sums of its inputs, and one factor.

    Args:
        routed: The share of the tokens that comes to an expert.
    """
    from safewright.treatments.safe_delta.curvature import FP64_WIDTH
    from safewright.treatments.safe_delta.streaming import BATCH_TOKENS

    store = DTYPE_BYTES[config.store]
    kinds = 1 + (config.holdout > 0) + (config.utility == "task")
    widths: dict[int, list[int]] = {}
    size: dict[int, int] = {}
    flops = disk = moved = factor = 0.0
    widest = hidden = 1
    for matrix in blocks.matrices:
        item = stored[matrix.tensor]
        rows, width = item.shape[::-1] if matrix.transposed else item.shape
        size[matrix.layer] = size.get(matrix.layer, 0) + item.stop - item.start
        moved += item.stop - item.start
        flops += 2.0 * rows * width * tokens * (routed if matrix.part else 1.0)
        widest, hidden = max(widest, width), hidden if hidden > 1 else width
    inputs: set[tuple[int, str]] = set()
    for matrix in chosen(blocks.matrices, config.modules):
        if _input(matrix) in inputs:
            continue
        inputs.add(_input(matrix))
        item = stored[matrix.tensor]
        width = item.shape[0] if matrix.transposed else item.shape[1]
        widths.setdefault(matrix.layer, []).append(width)
        spectral = config.keeps_spectrum(width)
        disk += (kinds + spectral) * width**2 * store
        # Summed in float64, at half the speed, and so are narrow ones decomposed.
        flops += 2 * 2.0 * tokens * width**2 * (routed if matrix.part else 1.0)
        if spectral:
            wide = 8 if width <= FP64_WIDTH else 4
            flops += wide / 4 * EIGH_FLOPS * width**3
            factor = max(factor, FACTORS * width**2 * wide)
        else:
            factor = max(factor, 2.0 * width**2 * store)
    # While a part is summed the parts before it are kept; what is kept is then written group by group.
    summed = max((sum(w**2 for w in some) for some in widths.values()), default=0)
    kept = summed * store * kinds
    states = tokens * hidden * max((DTYPE_BYTES.get(item.dtype, 4) for item in stored.values()), default=4)
    # Without embeddings no hidden state is made, and they are let go of before the first block.
    outside = max((i.stop - i.start for n, i in stored.items() if n not in set(blocks.inside)), default=0)
    batch = min(tokens, BATCH_TOKENS) * widest * BATCH_VALUES
    running = max(size.values(), default=0) + max(summed * 8 + kept, kept + factor) + batch
    return Figures(
        disk + 2 * states, max(running, outside + batch), flops, moved + disk + 2 * states * len(size)
    )


def applying(
    blocks: Blocks, stored: Mapping[str, Stored], config: SafeDeltaConfig, workers: int, written: float
) -> Figures:
    """The stage ``apply``, memory without the libraries: factors of one input and chunks of rows, in each worker."""
    flops = memory = moved = 0.0
    seen: set[tuple[int, str]] = set()
    for matrix in chosen(blocks.matrices, config.modules):
        item = stored[matrix.tensor]
        rows, width = item.shape[::-1] if matrix.transposed else item.shape
        spectral = config.keeps_spectrum(width)
        # The edit takes one product (two, and two for the energies, with eigenvectors), the losses six.
        flops += 2.0 * (10 if spectral else 7) * rows * width**2
        if _input(matrix) not in seen:
            seen.add(_input(matrix))
            flops += 0.0 if spectral else (CHOLESKY_FLOPS + INVERSE_FLOPS) * width**3
            moved += (2 + spectral) * width**2 * DTYPE_BYTES[config.store]
        chunk = 2 * min(config.row_chunk, rows) * width * DTYPE_BYTES.get(item.dtype, 4)
        memory = max(memory, FACTORS * width**2 * 4.0 + chunk + 8 * TILE * width * 4)
    whole = sum(item.stop - item.start for item in stored.values())
    return Figures(
        float(written), workers * memory + (workers - 1) * RUNTIME_BYTES, flops, moved + 2.0 * whole + written
    )


def _input(matrix: Matrix) -> tuple[int, str]:
    """What a map reads: maps that share it have the same."""
    place, _, last = matrix.module.rpartition(".")
    return matrix.layer, f"{place}.{SHARED.get(last, last)}"


def _routed(model: Any) -> float:
    """The share of the tokens that comes to one of a layer's experts; 1 where that is not known."""
    config = model.config.get_text_config()
    count = next((n for name in EXPERTS if isinstance(n := getattr(config, name, None), int) and n > 0), None)
    each = getattr(config, "num_experts_per_tok", None)
    return min(1.0, each / count) if count and isinstance(each, int) else 1.0


def _written(models: Mapping[str, ModelRef], config: SafeDeltaConfig, weights: int) -> int:
    """Bytes of the new model: the fine-tuned one's dtype decides, and an adapter stays as small as it is."""
    tuned = models.get("tuned")
    if tuned is None:
        return 0
    if tuned.kind == "adapter":
        if config.output == "model" or config.mode not in ("soft", "exact"):
            return weights
        return sum(file.stat().st_size for file in weight_files(local_folder(tuned)))
    stored = Checkpoint(local_folder(tuned)).stored.values()
    return sum(item.stop - item.start for item in stored)
