"""An adapter and its base as one plain model folder, for what cannot read the two apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, NumericalFailure
from safewright.models.opening import open_folder
from safewright.models.recipes import RECIPE_FILE
from safewright.models.references import base_folder, local_folder
from safewright.runs import single_flight
from safewright.types import ModelRef


def merged(ref: ModelRef, folder: Path) -> Path:
    """The folder of an adapter merged into its base by PEFT, in the base's own dtype; made once.

    Args:
        ref: A resolved adapter.
        folder: Where it is put, at once when it is whole. Its name must carry the adapter's digest.

    Raises:
        BadInput: It is no adapter, or one that cannot become a part of weights.
        NumericalFailure: It makes weights that are not finite.
        Missing: torch, transformers or peft is not installed.
    """
    if ref.kind != "adapter":
        raise BadInput(f"{ref.where} is no adapter.", why="There is nothing to merge.")
    return single_flight(folder, lambda draft: _merge(ref, draft))


def _merge(ref: ModelRef, draft: Path) -> None:
    opened = open_folder(ref, device="cpu")
    merge = getattr(opened.model, "merge_and_unload", None)
    if merge is None:
        raise BadInput(
            f"The adapter {ref.where} cannot be merged into its base.",
            why="It works beside the weights (on the prompt), not on them.",
            fix="Give a model folder, or a LoRA adapter.",
        )
    _untie(opened.model)
    try:
        model = merge(safe_merge=True)
    except ValueError as error:
        raise NumericalFailure(
            f"The adapter {ref.where} cannot be merged: {error}", fix="Train or download it again."
        ) from error
    model.save_pretrained(draft)
    opened.tokenizer.save_pretrained(draft)
    for source in (local_folder(ref), base_folder(ref)):
        if (source / RECIPE_FILE).is_file():
            shutil.copyfile(source / RECIPE_FILE, draft / RECIPE_FILE)
            break
    opened.close()


def _untie(model: Any) -> None:
    """Give the output embeddings weights of their own where they share the input's and an adapter works on one of
    the two: merged into shared weights it would work on both, and make another model."""
    import torch

    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    own = [getattr(end, "base_layer", end) for end in ends]
    adapted = any(end is not layer for end, layer in zip(ends, own, strict=True))
    if None in ends or not adapted or own[0].weight is not own[1].weight:
        return
    own[1].weight = torch.nn.Parameter(own[1].weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False
