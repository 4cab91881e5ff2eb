"""Safe Delta on a model that is already in memory: the end of a training run, or a small model at hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from safewright.errors import BadInput, NumericalFailure
from safewright.models import resolve
from safewright.models.adapters import check_plain
from safewright.models.blocks import Homes, Matrix, Part, blocks_of, chosen, homes_of, linear_modules
from safewright.models.checkpoint import Checkpoint
from safewright.models.references import local_folder
from safewright.treatments.safe_delta.applying import checks, summarised
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.curvature import require_finite
from safewright.treatments.safe_delta.matrix import edit_one, edit_step, step_squares
from safewright.treatments.safe_delta.prepared import Prepared
from safewright.types import ModelRef


def edit_model(
    model: Any,
    aligned: str | Path | ModelRef,
    prep: str | Path,
    config: SafeDeltaConfig | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Repair a fine-tuned model in place: all of it or, after an error, nothing.

    Until all edits are known they are kept in memory beside the model.

    Args:
        model: A ``PreTrainedModel``, whose matrices are edited, or a ``PeftModel`` with one plain LoRA
            adapter, whose A factors are edited.
        aligned: The folder (or hub id) of the aligned model it was fine-tuned from.
        prep: A folder of the stage ``prepare`` for that model.
        config: Options of `safe_delta`; ``prep``, ``output``, ``save_dtype`` and what only the stage
            ``prepare`` reads have no say here.

    Returns:
        The report of the treatment: summed losses, ``layers``, ``checks``. ``moved_elsewhere_norm`` is None
        where nothing outside the edited matrices has an aligned counterpart.

    Raises:
        BadInput: The model is not a fine-tune of the aligned one, or options do not fit.
        NumericalFailure: A weight is not finite, of either model or as it would be written.
    """
    known = config if isinstance(config, SafeDeltaConfig) else SafeDeltaConfig(**(config or {}))
    adapter = editable_adapter(model, known)
    ref = aligned if isinstance(aligned, ModelRef) else resolve(aligned)
    prepared = Prepared(prep)
    prepared.require_for(ref)
    checkpoint = Checkpoint(local_folder(ref))
    try:
        if adapter is None:
            plan = _edit_weights(model, checkpoint, prepared, known)
        else:
            plan = _edit_adapter(model, adapter, checkpoint, prepared, known)
    finally:
        checkpoint.close()
    with torch.no_grad():
        for parameter, value in plan.writes:
            parameter.copy_(value)
    return summarised(plan.layers, plan.kinds, plan.moved, known, prepared) | {
        "layers": plan.layers,
        "checks": checks(plan.layers, plan.kinds),
    }


def editable_adapter(model: Any, config: SafeDeltaConfig) -> str | None:
    """The name of the adapter to edit; None where the model has none and its matrices are edited.

    Raises:
        BadInput: Its adapter cannot be edited in place with these options.
    """
    if not getattr(model, "peft_config", None):
        return None
    if callable(model.active_adapters):
        raise BadInput(
            f"The {type(model).__name__} holds its adapter inside (model.load_adapter of transformers).",
            why="Its factors are reached through a PeftModel only.",
            fix="Pass a PeftModel: peft.PeftModel.from_pretrained(base, adapter_folder).",
        )
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
    check_plain(model.peft_config[names[0]])
    return str(names[0])


@dataclass
class _Plan:
    """A whole edit before anything is written: an error leaves the model as it was.

    ``squares`` sums what fine-tuning moved outside the edited matrices; ``compared`` is whether anything
    there has an aligned counterpart.
    """

    kinds: dict[str, int]
    layers: list[dict[str, Any]] = field(default_factory=list)
    writes: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    squares: float = 0.0
    compared: bool = False

    @property
    def moved(self) -> float | None:
        return math.sqrt(self.squares) if self.compared else None


def _matrices(
    model: Any, checkpoint: Checkpoint, config: SafeDeltaConfig
) -> tuple[list[tuple[Matrix, torch.Tensor]], dict[str, int]]:
    """The matrices to edit with their weights in the model, and how many were edited, exempt and refused."""
    blocks = blocks_of(model, checkpoint.stored)
    modules, unknown = {}, []
    homes = homes_of(model, checkpoint.stored)
    on_disk = {part.parameter for _, part in homes.parts.values()} | homes.made | homes.tensors.keys()
    for name, module, _ in linear_modules(model):
        if module is not None:
            modules[name] = module
        elif name not in on_disk:
            unknown.append(name)
    refused = [*blocks.refused, *unknown]
    if refused and not config.allow_skip:
        raise BadInput(
            f"{len(refused)} matrices are of a kind that cannot be edited, first {refused[0]}.",
            fix="Accept that knowingly with allow_skip=True.",
        )
    edited = chosen(blocks.matrices, config.modules)
    kinds = {
        "edited": len(edited),
        "exempt": len(blocks.routers) + len(blocks.matrices) - len(edited),
        "refused": len(refused),
        "in blocks": len(blocks.inside) + len(unknown),
    }
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return [
        (
            matrix,
            modules[matrix.module].weight.detach()
            if matrix.part is None
            else matrix.part.of(plain.get_parameter(matrix.part.parameter).detach()),
        )
        for matrix in edited
    ], kinds


def _edit_weights(model: Any, checkpoint: Checkpoint, prepared: Prepared, config: SafeDeltaConfig) -> _Plan:
    pairs, kinds = _matrices(model, checkpoint, config)
    plan = _Plan(kinds)
    _outside(plan, model, checkpoint, {matrix.tensor for matrix, _ in pairs}, config)
    for matrix, weight in pairs:
        base, tuned = _aligned(checkpoint, matrix.tensor).to(weight.device), weight
        if base.shape != tuned.shape:
            raise BadInput(
                f"{matrix.module} has the shape {tuple(tuned.shape)}, {tuple(base.shape)} in the aligned model."
            )
        require_finite(f"{matrix.module} of the fine-tuned model", tuned)
        if matrix.transposed:
            base, tuned = base.T, tuned.T
        # Beside the model, and not on its device, which may be full.
        new = torch.empty(tuned.shape, dtype=tuned.dtype)

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
        _require_edit(matrix.module, new)
        plan.writes.append((weight, new.T if matrix.transposed else new))
        plan.layers.append({"tensor": matrix.tensor, **report})
    return plan


def _edit_adapter(
    model: Any, name: str, checkpoint: Checkpoint, prepared: Prepared, config: SafeDeltaConfig
) -> _Plan:
    pairs, kinds = _matrices(model, checkpoint, config)
    base_model = model.get_base_model()
    adapted = {
        module: layer
        for module, layer in base_model.named_modules()
        if name in getattr(layer, "lora_A", ()) or name in getattr(layer, "lora_embedding_A", ())
    }
    edited = {matrix.module: (matrix, weight) for matrix, weight in pairs if matrix.module in adapted}
    kinds |= {"edited": len(edited), "exempt": kinds["exempt"] + len(pairs) - len(edited)}
    plan = _Plan(kinds)
    _outside(plan, base_model, checkpoint, {matrix.tensor for matrix, _ in edited.values()}, config)
    for place, layer in adapted.items():
        if name not in layer.lora_A:
            raise BadInput(
                f"The adapter changes {place}, which is an embedding.",
                why="An embedding has no input whose safety loss could be measured.",
                fix="Merge the adapter (peft: merge_and_unload) and give the merged model.",
            )
        A, B = layer.lora_A[name].weight, layer.lora_B[name].weight
        for factor, weight in (("A", A), ("B", B)):
            require_finite(f"lora_{factor} of {place}", weight.detach())
        if place not in edited:
            plan.squares += step_squares(A.detach(), B.detach(), layer.scaling[name])
            if config.others == "aligned":
                plan.writes.append((B, torch.zeros_like(B)))
            continue
        matrix, base = edited[place]
        require_finite(f"{place} of the base", base)
        if not torch.equal(base.cpu(), _aligned(checkpoint, matrix.tensor).to(base.dtype)):
            raise BadInput(
                f"The base's {place} differs from the aligned model's.",
                why="The adapter's step would not be the whole difference (some initialisations change the base).",
                fix="Give the base the adapter was trained on.",
            )
        new_A, report = edit_step(
            A.detach(), B.detach(), layer.scaling[name], place, prepared, config, str(A.device)
        )
        _require_edit(place, new_A)
        plan.writes.append((A, new_A))
        plan.layers.append({"tensor": matrix.tensor, "layer": matrix.layer, **report})
    return plan


def _outside(
    plan: _Plan, model: Any, checkpoint: Checkpoint, edited: set[str], config: SafeDeltaConfig
) -> None:
    """Plan what happens to parameters that are not edited, and sum how far fine-tuning moved them."""
    for plain, stored, tuned in _places(model, homes_of(model, checkpoint.stored)):
        if stored in edited:
            continue
        require_finite(f"{plain} of the fine-tuned model", tuned)
        if stored is None:
            continue
        value = _aligned(checkpoint, stored).to(tuned.device, tuned.dtype)
        if value.shape == tuned.shape:
            gap = float(((tuned.double() - value.double()) ** 2).sum())
            plan.squares += gap
            plan.compared = True
            if gap and config.others == "aligned":
                plan.writes.append((tuned, value))
        elif config.others == "aligned":
            raise BadInput(
                f"The fine-tuning resized {plain}, but its aligned value is asked for.",
                fix="Use nonlinear=finetuned.",
            )


def _places(model: Any, homes: Homes) -> Iterator[tuple[str, str | None, torch.Tensor]]:
    """Every weight of a model but an adapter's factors: its name, its tensor on disk, and itself to be written."""
    experts: dict[str, list[tuple[str, str, Part]]] = {}
    for tensor, (module, part) in homes.parts.items():
        experts.setdefault(part.parameter, []).append((module, tensor, part))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain in experts:
            yield from (
                (module, tensor, part.of(parameter.detach())) for module, tensor, part in experts[plain]
            )
        else:
            yield plain, homes.tensors.get(plain), parameter.detach()


def _aligned(checkpoint: Checkpoint, tensor: str) -> torch.Tensor:
    value = checkpoint.read(tensor)
    require_finite(f"{tensor} of {checkpoint.folder}", value)
    return value


def _require_edit(module: str, new: torch.Tensor) -> None:
    """Raise NumericalFailure unless an edit is finite as it will be written."""
    bad = int((~torch.isfinite(new)).sum())
    if bad:
        kind = str(new.dtype).removeprefix("torch.")
        raise NumericalFailure(
            f"The edit of {module} holds {bad} numbers that are not finite in {kind}.",
            why="The model would answer nothing but noise; it was left as it was.",
            fix="Load the model in bfloat16 or float32, and edit that.",
        )
