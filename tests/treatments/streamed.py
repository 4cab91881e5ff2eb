"""H of a model's inputs, summed block by block as prepare does, or while the whole model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from safewright.models.blocks import blocks_of, decoder_blocks
from safewright.models.checkpoint import Checkpoint
from safewright.treatments.safe_delta import streaming
from safewright.treatments.safe_delta.gathering import Moments, Watch
from safewright.treatments.safe_delta.resident import Resident
from tests.treatments import folders

Batches = Sequence[Mapping[str, torch.Tensor]]


def by_block(folder: Path, batches: Batches, dtype: str = "auto") -> dict[str, Moments]:
    """H by leader, with one block in memory at a time."""
    resident = Resident(folder, dtype)
    modules = [matrix.module for matrix in blocks_of(resident.model, resident.checkpoint.stored).matrices]
    states: list[torch.Tensor] = []
    streaming.embed(resident, batches, states.append)
    found: dict[str, Moments] = {}
    for layer in range(resident.depth):
        given, states = iter(states), []
        own = [name for name in modules if name.startswith(f"{resident.prefix(layer)}.")]
        with resident.block(layer) as block, resident.outside():
            with Watch(block, resident.prefix(layer), layer, own) as watch:
                streaming.run_block(resident, block, layer, batches, given, states.append, watch)
            assert resident.model.get_input_embeddings().weight.is_meta
            found |= watch.moments
        assert all(parameter.is_meta for parameter in resident.model.parameters())
    resident.close()
    return found


def at_once(folder: Path, batches: Batches, dtype: str = "auto") -> dict[str, Moments]:
    """H by leader, while the whole model runs as transformers loads it."""
    model = folders.load(folder).eval()
    if dtype != "auto":
        model = model.to(getattr(torch, dtype))
    checkpoint = Checkpoint(folder)
    modules = [matrix.module for matrix in blocks_of(model, checkpoint.stored).matrices]
    home, blocks = decoder_blocks(model)
    found: dict[str, Moments] = {}
    with ExitStack() as stack, torch.inference_mode():
        watches = [
            stack.enter_context(
                Watch(
                    block,
                    f"{home}.{layer}",
                    layer,
                    [name for name in modules if name.startswith(f"{home}.{layer}.")],
                )
            )
            for layer, block in enumerate(blocks)
        ]
        for batch in batches:
            mask = batch["attention_mask"].bool()
            for watch in watches:
                watch.mask = mask.reshape(-1)
            model(**batch, position_ids=(mask.long().cumsum(1) - 1).clamp_min(0), use_cache=False)
        for watch in watches:
            found |= watch.moments
    return found


def batch(lines: Sequence[Sequence[int]], left: bool) -> dict[str, Any]:
    """Sequences padded on either side."""
    width = max(map(len, lines))
    blank = [[0] * (width - len(line)) for line in lines]
    ids = [[*b, *x] if left else [*x, *b] for b, x in zip(blank, lines, strict=True)]
    mask = [[0] * len(b) + [1] * len(x) for b, x in zip(blank, lines, strict=True)]
    if not left:
        mask = [line[::-1] for line in mask]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
