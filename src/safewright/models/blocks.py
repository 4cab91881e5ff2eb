"""The matrices inside a model's decoder blocks: which modules they are, and their tensors on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, nearest
from safewright.models.weights import read_json

if TYPE_CHECKING:
    import torch

    from safewright.models.checkpoint import Stored


@dataclass(frozen=True)
class Part:
    """Where an expert's map lives in memory: rows ``start`` to ``stop`` of one expert of a parameter.

    The parameter (experts, out, in) holds the maps of all experts, those of gate and up one below the other.
    """

    parameter: str
    expert: int
    start: int
    stop: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Its rows of the parameter's tensor, without a copy."""
        return tensor[self.expert, self.start : self.stop]


@dataclass(frozen=True)
class Matrix:
    """One linear map of a decoder block.

    ``module`` is its name in the model, ``tensor`` that of its weight on disk, ``transposed`` whether it is
    stored (in, out) as GPT-2's Conv1D does. An expert's map is no module in memory: it is called like one
    (``….mlp.experts.3.up_proj``), and ``part`` says where its weight is.
    """

    module: str
    tensor: str
    layer: int
    transposed: bool
    part: Part | None = None


@dataclass(frozen=True)
class Blocks:
    """What a model's decoder blocks hold, by the names of tensors on disk.

    ``inside`` are all tensors of two or more dimensions inside blocks; each is a matrix, a router (exempt by
    rule: it moves no text, it chooses experts), or refused: no linear map we know, such as experts that lie in
    one tensor of three dimensions.
    """

    matrices: tuple[Matrix, ...]
    routers: tuple[str, ...]
    refused: tuple[str, ...]
    inside: tuple[str, ...]


ROUTERS = ("gate", "router", "shared_expert_gate")
"""Last names of the modules that choose experts."""

EXPERTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""Parameters of transformers' experts modules, and what each holds for one expert, from its first row on."""


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


@dataclass(frozen=True)
class Homes:
    """Where the tensors of a folder live in a model.

    ``tensors``: the tensor on disk of each parameter that is one, by the parameter's name. ``parts``: the
    tensors that are parts of a parameter, with the names of their maps. ``made``: parameters that transformers
    makes of tensors in another way.
    """

    tensors: dict[str, str]
    parts: dict[str, tuple[str, Part]]
    made: frozenset[str]


def homes_of(model: Any, stored: Mapping[str, Stored]) -> Homes:
    """Where the tensors of a folder live in a model, as transformers itself loads them.

    A tensor that transformers converts in another way than experts are stacked has no home.

    Args:
        model: A ``PreTrainedModel``, with or without weights, or a ``PeftModel``.
        stored: The tensors on disk by name.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    prefix = f"{getattr(plain, 'base_model_prefix', '')}."
    # PEFT keeps the matrix it adapts inside, under this name.
    known = {
        name.replace(".base_layer.", "."): tuple(parameter.shape)
        for name, parameter in plain.named_parameters(remove_duplicate=False)
    }
    transforms = get_model_conversion_mapping(plain)
    renamings = [change for change in transforms if isinstance(change, WeightRenaming)]
    converters = [change for change in transforms if isinstance(change, WeightConverter)]

    def known_as(name: str) -> str | None:
        # Some folders hold the inner model alone, others name it.
        return next((n for n in (name, name.removeprefix(prefix), prefix + name) if n in known), None)

    tensors: dict[str, str] = {}
    stacks: dict[str, tuple[WeightConverter, dict[str, list[str]]]] = {}
    for tensor in sorted(stored, key=dot_natural_key):
        name = tensor
        for renaming in renamings:
            name, _ = renaming.rename_source_key(name)
        for converter in converters:
            name, pattern = converter.rename_source_key(name)
            if pattern is not None:
                if found := known_as(name):
                    stacks.setdefault(found, (converter, {}))[1].setdefault(pattern, []).append(tensor)
                break
        else:
            if found := known_as(name) or known_as(tensor):
                tensors[found] = tensor
    parts: dict[str, tuple[str, Part]] = {}
    for name, (converter, by_pattern) in stacks.items():
        stack = [by_pattern.get(pattern, []) for pattern in converter.source_patterns]
        owner, _, last = name.rpartition(".")
        shapes = [[stored[tensor].shape for tensor in some] for some in stack]
        if not _stacks(converter) or not plain_experts(plain.get_submodule(owner)):
            continue
        if len(stack) != len(EXPERTS.get(last, ())) or not _fills(shapes, known[name]):
            continue
        for expert in range(known[name][0]):
            start = 0
            for some, called in zip(stack, EXPERTS[last], strict=True):
                stop = start + stored[some[expert]].shape[0]
                parts[some[expert]] = (f"{owner}.{expert}.{called}", Part(name, expert, start, stop))
                start = stop
    return Homes(tensors, parts, frozenset(stacks) - {part.parameter for _, part in parts.values()})


def _stacks(converter: Any) -> bool:
    """Whether a conversion of transformers stacks experts and puts their maps one below the other."""
    done = [(type(step).__name__, getattr(step, "dim", None)) for step in converter.operations]
    return done in ([("MergeModulelist", 0)], [("MergeModulelist", 0), ("Concatenate", 1)])


def _fills(shapes: Sequence[Sequence[tuple[int, ...]]], whole: tuple[int, ...]) -> bool:
    """Whether matrices, by map and expert, fill a parameter (experts, out, in)."""
    if len(whole) != 3 or any(len(some) != whole[0] for some in shapes):
        return False
    return all(
        all(len(shape) == 2 and shape[1] == whole[2] for shape in of_one)
        and sum(shape[0] for shape in of_one) == whole[1]
        for of_one in zip(*shapes, strict=True)
    )


def plain_experts(module: Any) -> bool:
    """Whether a module is experts of transformers of the common kind: gate over up, (out, in), no biases."""
    wanted = {"has_gate": True, "is_concatenated": True, "is_transposed": False, "has_bias": False}
    return callable(getattr(module, "_apply_gate", None)) and all(
        getattr(module, name, None) is value for name, value in wanted.items()
    )


def blocks_of(model: Any, stored: Mapping[str, Stored]) -> Blocks:
    """The decoder blocks of a model, matched with the tensors of its folder.

    Args:
        model: A ``PreTrainedModel``, with or without weights, or a ``PeftModel``.
        stored: The tensors on disk by name.

    Raises:
        BadInput: The model has no decoder blocks, or a matrix of theirs has no tensor on disk.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    prefix = f"{getattr(plain, 'base_model_prefix', '')}."
    homes = homes_of(plain, stored)
    matrices = []
    for name, module, layer in linear_modules(plain):
        if module is None:
            continue
        if f"{name}.weight" not in homes.tensors:
            raise BadInput(
                f"The matrix {name} of the model has no tensor on disk.",
                why="Its file names differ from the architecture's.",
                fix="Load the model with transformers and save_pretrained it to another folder.",
            )
        tensor = homes.tensors[f"{name}.weight"]
        matrices.append(Matrix(name, tensor, layer, type(module).__name__ == "Conv1D"))
    home = f"{decoder_blocks(plain)[0]}."
    of_experts = [
        Matrix(module, tensor, int(module.removeprefix(home).partition(".")[0]), False, part)
        for tensor, (module, part) in homes.parts.items()
        if module.startswith(home)
    ]
    # What shares an input comes together: gate and up of an expert, then its down.
    of_experts.sort(key=_expert_order)
    matrices = sorted([*matrices, *of_experts], key=lambda matrix: matrix.layer)
    # Files and modules differ: experts are one parameter in memory, many tensors on disk.
    places = (home, home.removeprefix(prefix), prefix + home)
    inside = [name for name, item in stored.items() if len(item.shape) >= 2 and name.startswith(places)]
    owned = {matrix.tensor for matrix in matrices}
    rest = [name for name in inside if name not in owned]
    routers = [name for name in rest if is_router(name.rpartition(".")[0])]
    refused = [name for name in rest if name not in routers]
    return Blocks(tuple(matrices), tuple(routers), tuple(refused), tuple(inside))


def _expert_order(matrix: Matrix) -> tuple[str, int, bool, int]:
    assert matrix.part is not None
    owner, _, last = matrix.part.parameter.rpartition(".")
    return owner, matrix.part.expert, last == "down_proj", matrix.part.start


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
