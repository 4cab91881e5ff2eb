"""Safe Delta on a model that is already in memory: the end of a training run, or a small model at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from safewright.errors import BadInput
from safewright.models import resolve
from safewright.models.adapters import check_plain
from safewright.models.blocks import Matrix, chosen, linear_modules
from safewright.models.checkpoint import Checkpoint
from safewright.models.references import local_folder
from safewright.treatments.safe_delta.applying import checks, summarised
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.matrix import edit_one, edit_step
from safewright.treatments.safe_delta.prepared import Prepared
from safewright.types import ModelRef


def edit_model(
    model: Any,
    aligned: str | Path | ModelRef,
    prep: str | Path,
    config: SafeDeltaConfig | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Repair a fine-tuned model in place.

    Args:
        model: A ``PreTrainedModel``, whose matrices are edited, or a ``PeftModel`` with one plain LoRA
            adapter, whose A factors are edited.
        aligned: The folder (or hub id) of the aligned model it was fine-tuned from.
        prep: A folder of the stage ``prepare`` for that model.
        config: Options of `safe_delta`; ``prep``, ``output`` and ``save_dtype`` have no say here.

    Returns:
        The report of the treatment: summed losses, ``layers``, ``checks``.

    Raises:
        BadInput: The model is not a fine-tune of the aligned one, or options do not fit.
        NumericalFailure: A weight is not finite.
    """
    known = config if isinstance(config, SafeDeltaConfig) else SafeDeltaConfig(**(config or {}))
    ref = aligned if isinstance(aligned, ModelRef) else resolve(aligned)
    prepared = Prepared(prep)
    prepared.require_for(ref)
    checkpoint = Checkpoint(local_folder(ref))
    try:
        if hasattr(model, "peft_config"):
            layers, kinds = _edit_adapter(model, checkpoint, prepared, known)
        else:
            layers, kinds = _edit_weights(model, checkpoint, prepared, known)
    finally:
        checkpoint.close()
    return summarised(layers, kinds, 0.0, known) | {"layers": layers, "checks": checks(layers, kinds)}


def _matrices(
    model: Any, checkpoint: Checkpoint, config: SafeDeltaConfig
) -> tuple[list[tuple[Matrix, Any]], dict[str, int]]:
    """The matrices to edit with their modules, and how many were edited, exempt and refused."""
    found, refused = {}, []
    for name, module, layer in linear_modules(model):
        if module is None:
            refused.append(name)
            continue
        tensor = next(
            (t for t in (f"{name}.weight", f"{name.partition('.')[2]}.weight") if t in checkpoint.stored),
            None,
        )
        if tensor is None:
            raise BadInput(
                f"The aligned model {checkpoint.folder} has no {name}.weight.",
                why="Each matrix is compared with the aligned one.",
                fix="Give the model that was fine-tuned.",
            )
        found[name] = (Matrix(name, tensor, layer, type(module).__name__ == "Conv1D"), module)
    if refused and not config.allow_skip:
        raise BadInput(
            f"{len(refused)} matrices are of a kind that cannot be edited, first {refused[0]}.",
            fix="Accept that knowingly with allow_skip=True.",
        )
    edited = chosen([matrix for matrix, _ in found.values()], config.modules)
    kinds = {
        "edited": len(edited),
        "exempt": len(found) - len(edited),
        "refused": len(refused),
        "in blocks": len(found) + len(refused),
    }
    return [found[matrix.module] for matrix in edited], kinds


def _edit_weights(
    model: Any, checkpoint: Checkpoint, prepared: Prepared, config: SafeDeltaConfig
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    pairs, kinds = _matrices(model, checkpoint, config)
    layers = []
    for matrix, module in pairs:
        weight = module.weight
        base, tuned = checkpoint.read(matrix.tensor).to(weight.device), weight.detach()
        if base.shape != tuned.shape:
            raise BadInput(
                f"{matrix.module} has the shape {tuple(tuned.shape)}, {tuple(base.shape)} in the aligned model."
            )
        if matrix.transposed:
            base, tuned = base.T, tuned.T
        new = torch.empty_like(tuned)

        def rows(start: int, stop: int, of: Any = (base, tuned)) -> tuple[torch.Tensor, torch.Tensor]:
            return of[0][start:stop], of[1][start:stop]

        def put(start: int, piece: torch.Tensor, new: torch.Tensor = new) -> None:
            new[start : start + piece.shape[0]] = piece

        report = edit_one(
            matrix,
            rows,
            (tuned.shape[0], tuned.shape[1]),
            prepared,
            config,
            work=torch.float64 if torch.float64 in (base.dtype, tuned.dtype) else torch.float32,
            dtype=tuned.dtype,
            device=str(weight.device),
            put=put,
        )
        with torch.no_grad():
            weight.copy_(new.T if matrix.transposed else new)
        layers.append({"tensor": matrix.tensor, **report})
    if config.others == "aligned":
        _restore_others(model, checkpoint, {matrix.tensor for matrix, _ in pairs})
    return layers, kinds


def _restore_others(model: Any, checkpoint: Checkpoint, edited: set[str]) -> None:
    """Give every parameter that was not edited its aligned value."""
    prefix = f"{model.base_model_prefix}."
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for stored in (name, name.removeprefix(prefix)):
                if stored in edited:
                    break
                if stored in checkpoint.stored:
                    value = checkpoint.read(stored)
                    if value.shape != parameter.shape:
                        raise BadInput(
                            f"The fine-tuning resized {name}, but its aligned value is asked for.",
                            fix="Use nonlinear=finetuned.",
                        )
                    parameter.copy_(value)
                    break


def _edit_adapter(
    model: Any, checkpoint: Checkpoint, prepared: Prepared, config: SafeDeltaConfig
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    if config.mode not in ("soft", "exact"):
        raise BadInput(
            f"The mode {config.mode!r} raises the rank of an adapter.",
            fix="Use soft or exact for an adapter.",
        )
    names = list(model.active_adapters)
    if len(names) != 1:
        raise BadInput(
            f"{len(names)} adapters are active ({', '.join(names)}).",
            why="Their steps add up, and each would be repaired as if it were alone.",
            fix="Activate one: model.set_adapter(name).",
        )
    (name,) = names
    check_plain(model.peft_config[name])
    pairs, kinds = _matrices(model, checkpoint, config)
    modules = dict(model.get_base_model().named_modules())
    layers = []
    for matrix, module in pairs:
        layer = modules[matrix.module]
        if not hasattr(layer, "lora_A") or name not in layer.lora_A:
            continue
        if not torch.equal(
            module.weight.detach().cpu(), checkpoint.read(matrix.tensor).to(module.weight.dtype)
        ):
            raise BadInput(
                f"The base's {matrix.module} differs from the aligned model's.",
                why="The adapter's step would not be the whole difference (some initialisations change the base).",
                fix="Give the base the adapter was trained on.",
            )
        A, B = layer.lora_A[name].weight, layer.lora_B[name].weight
        new_A, report = edit_step(
            A.detach(), B.detach(), layer.scaling[name], matrix.module, prepared, config, str(A.device)
        )
        with torch.no_grad():
            A.copy_(new_A)
        layers.append({"tensor": matrix.tensor, "layer": matrix.layer, **report})
    return layers, kinds
