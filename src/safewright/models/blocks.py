"""The matrices inside a model's decoder blocks: which modules they are, and their tensors on disk."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, nearest
from safewright.models.weights import read_json

if TYPE_CHECKING:
    from safewright.models.checkpoint import Stored


@dataclass(frozen=True)
class Matrix:
    """One linear map of a decoder block.

    ``module`` is its name in the model, ``tensor`` that of its weight on disk, ``transposed`` whether it is
    stored (in, out) as GPT-2's Conv1D does.
    """

    module: str
    tensor: str
    layer: int
    transposed: bool


@dataclass(frozen=True)
class Blocks:
    """What a model's decoder blocks hold, by the names of tensors on disk.

    ``inside`` are all tensors of two or more dimensions inside blocks; each is a matrix, a router (exempt by
    rule: it moves no text, it chooses experts), or refused: no linear map we know, such as experts.
    """

    matrices: tuple[Matrix, ...]
    routers: tuple[str, ...]
    refused: tuple[str, ...]
    inside: tuple[str, ...]


ROUTERS = ("gate", "router", "shared_expert_gate")
"""Last names of the modules that choose experts."""


def skeleton(folder: Path) -> Any:
    """The model of a folder's configuration without its weights.

    Raises:
        BadInput: The weights are quantised, or the architecture is unknown.
    """
    import torch
    import transformers

    require_plain(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            make: Any = transformers.AutoModelForCausalLM  # untyped in transformers
            model = make.from_config(config)
    except (ValueError, KeyError) as error:
        raise BadInput(f"The architecture of {folder} is unknown: {error}.") from error
    model.tie_weights()
    return model


def require_plain(folder: Path) -> None:
    """Pass when the configuration of a folder declares no quantised weights.

    Raises:
        BadInput: It does.
    """
    quantised = read_json(folder / "config.json").get("quantization_config")
    if quantised:
        kind = quantised.get("quant_method", "quantised") if isinstance(quantised, dict) else "quantised"
        raise BadInput(
            f"The weights of {folder} are quantised ({kind}).",
            why="Their integers cannot be edited.",
            fix="Load the model in bfloat16 (transformers: model.dequantize()) and save that.",
        )


def blocks_of(model: Any, stored: Mapping[str, Stored]) -> Blocks:
    """The decoder blocks of a model, matched with the tensors of its folder.

    Args:
        model: A ``PreTrainedModel``, with or without weights.
        stored: The tensors on disk by name.

    Raises:
        BadInput: The model has no decoder blocks, or a matrix of theirs has no tensor on disk.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    matrices = []
    for name, module, layer in linear_modules(model):
        if module is None:
            continue
        tensor = stored_name(model, f"{name}.weight", stored)
        if tensor is None:
            raise BadInput(
                f"The matrix {name} of the model has no tensor on disk.",
                why="Its file names differ from the architecture's.",
                fix="Load the model with transformers and save_pretrained it to another folder.",
            )
        matrices.append(Matrix(name, tensor, layer, type(module).__name__ == "Conv1D"))
    # Files and modules differ: experts are one parameter in memory, many tensors on disk.
    home = f"{decoder_blocks(model)[0]}."
    homes = (home, home.removeprefix(prefix), prefix + home)
    inside = [name for name, item in stored.items() if len(item.shape) >= 2 and name.startswith(homes)]
    owned = {matrix.tensor for matrix in matrices}
    rest = [name for name in inside if name not in owned]
    routers = [name for name in rest if is_router(name.rpartition(".")[0])]
    refused = [name for name in rest if name not in routers]
    return Blocks(tuple(matrices), tuple(routers), tuple(refused), tuple(inside))


def stored_name(model: Any, name: str, stored: Container[str]) -> str | None:
    """What a parameter of a ``PreTrainedModel`` is called on disk; None where it has no tensor there."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    # Some folders hold the inner model alone, others name it.
    return next((t for t in (name, name.removeprefix(prefix), prefix + name) if t in stored), None)


def is_router(module: str) -> bool:
    """Whether a module, by its name, chooses experts."""
    return module.rpartition(".")[2] in ROUTERS


def linear_modules(model: Any) -> Iterator[tuple[str, Any, int]]:
    """Name, module and layer of every linear map in the decoder blocks, in the model's order.

    A parameter of two or more dimensions that no linear map owns comes with None for its module. Routers do
    not come.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    blocks_name, blocks = decoder_blocks(model)
    for layer, block in enumerate(blocks):
        owned = set()
        for name, module in block.named_modules():
            # PEFT keeps the matrix it adapts inside, under this name.
            if isinstance(module, (torch.nn.Linear, Conv1D)) and ".lora_" not in f".{name}":
                owned.add(id(module.weight))
                plain = name.removesuffix(".base_layer")
                if is_router(plain):
                    continue
                yield f"{blocks_name}.{layer}.{plain}", module, layer
        for name, parameter in block.named_parameters():
            unknown = parameter.ndim >= 2 and id(parameter) not in owned and "lora_" not in name
            if unknown and not is_router(name.rpartition(".")[0]):
                yield f"{blocks_name}.{layer}.{name}", None, layer


def decoder_blocks(model: Any) -> tuple[str, Any]:
    """The list of a model's decoder blocks and its name.

    Raises:
        BadInput: There is none.
    """
    import torch

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    depth = plain.config.get_text_config().num_hidden_layers
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth and "vision" not in name:
            return name, module
    raise BadInput(
        f"A {type(plain).__name__} has no list of {depth} decoder blocks.",
        why="Only models of a known layout can be edited layer by layer.",
    )


def chosen(matrices: Collection[Matrix], modules: str) -> tuple[Matrix, ...]:
    """The matrices whose last names are in a comma-separated list; ``all`` is all of them.

    Raises:
        BadInput: A name fits no matrix.
    """
    if modules == "all":
        return tuple(matrices)
    wanted = [name.strip() for name in modules.split(",")]
    ends = {matrix.module.rpartition(".")[2] for matrix in matrices}
    for name in wanted:
        if name not in ends:
            raise BadInput(f"No matrix of the model is called {name!r}.", fix=nearest(name, ends))
    return tuple(matrix for matrix in matrices if matrix.module.rpartition(".")[2] in wanted)
