"""An adapter and its base as one plain model folder, for what cannot read the two apart."""

from __future__ import annotations

import shutil
from pathlib import Path

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
