"""What Safe Delta will take, from the shapes on disk and this machine's speed."""

from __future__ import annotations

from collections.abc import Mapping

from safewright.data import LoadedData
from safewright.models.blocks import blocks_of, chosen, skeleton
from safewright.models.checkpoint import Checkpoint
from safewright.models.estimate import DTYPE_BYTES, RUNTIME_BYTES, multiply_speed
from safewright.models.references import local_folder
from safewright.models.weights import weight_files
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.sources import require_folders
from safewright.types import ModelRef

TOKENS_PER_ROW = 100
"""Tokens of a calibration sequence, roughly; the limit where it is lower."""

KEPT = 3
"""Matrices kept per layer input: H, H of the held-out rows, eigenvectors."""

EIGH_FLOPS = 12
"""Operations of a symmetric eigendecomposition, in cubes of the width."""

START_SECONDS = 5.0
"""Importing the libraries, loading and checking: what even a small model takes."""

SHARED = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Maps that read the input of another one; they share its H."""


def estimate(
    models: Mapping[str, ModelRef], data: Mapping[str, LoadedData], config: SafeDeltaConfig, workers: int
) -> dict[str, float]:
    """``disk_bytes``, ``memory_bytes`` and ``seconds`` of prepare and apply together.

    Disk: the new weights and, without a prepared folder, H. Memory: the aligned model and H of all inputs
    while preparing, or the factors of one input and a chunk of rows while applying, whichever is larger.
    Time: their multiplications at this machine's measured speed, in float32.

    Raises:
        BadInput: A model is no folder.
    """
    require_folders(models)
    folder = local_folder(models["aligned"])
    checkpoint = Checkpoint(folder)
    blocks = blocks_of(skeleton(folder), checkpoint.stored)
    weights = sum(item.stop - item.start for item in checkpoint.stored.values())
    parameters = sum(item.stop - item.start for item in checkpoint.stored.values()) / 2
    store = DTYPE_BYTES[config.store]
    widths, flops, largest = [], 0.0, 0
    for matrix in chosen(blocks.matrices, config.modules):
        rows, width = checkpoint[matrix.tensor].shape
        if matrix.transposed:
            rows, width = width, rows
        largest = max(largest, width)
        # Two products find the energies and make the edit, four evaluate losses.
        flops += 2 * 6 * rows * width**2
        if SHARED.get(matrix.module.rpartition(".")[2]) is None:
            widths.append(width)
    chunk = 3 * min(config.row_chunk, 64) * largest * 4
    apply_memory = workers * (RUNTIME_BYTES + (KEPT + 1) * largest**2 * 4 + chunk)
    disk, memory = float(_written(models, config, weights)), float(apply_memory)
    if config.prep is None:
        rows_given = sum(len(held.rows) for role, held in data.items() if role in ("calibration", "harmful"))
        tokens = min(rows_given, config.rows) * min(TOKENS_PER_ROW, config.max_length)
        kept = sum(KEPT * width**2 * store for width in widths)
        disk += kept
        memory = max(memory, RUNTIME_BYTES + weights + sum(2 * width**2 * 8 for width in widths))
        # H is summed and factorised in float64, at half the speed.
        flops += 2 * sum(2 * tokens * width**2 + EIGH_FLOPS * width**3 for width in widths)
        flops += 2 * parameters * tokens
    seconds = START_SECONDS + flops / multiply_speed() / workers
    return {"disk_bytes": disk, "memory_bytes": memory, "seconds": seconds}


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
