"""A model of which one part is in memory: its embeddings, or one decoder block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput
from safewright.models.blocks import decoder_blocks, require_plain
from safewright.models.checkpoint import Checkpoint
from safewright.models.opening import require_filled

if TYPE_CHECKING:
    import torch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a decoder block is called with besides the hidden states."""


class Resident:
    """A model folder as transformers would load it, without its weights; parts are read when they are needed.

    Args:
        folder: The model's folder.
        dtype: The dtype it is run in; ``auto`` is its own.
        device: Where it is run.

    Raises:
        BadInput: The weights are quantised, the architecture is unknown, or the files do not fill it.
    """

    def __init__(self, folder: Path, dtype: str = "auto", device: str = "cpu") -> None:
        require_plain(folder)
        self.folder, self.device = folder, device
        self.checkpoint = Checkpoint(folder)
        self.model = _empty(folder, dtype, self.checkpoint)
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(device)
        self.home, self.blocks = decoder_blocks(self.model)
        self._state: dict[str, torch.Tensor] = dict(self.model.state_dict(keep_vars=True))
        self._sources = self._matched()
        self._full: list[tuple[Any, str, Any]] = []
        inside = {id(module) for block in self.blocks for module in block.modules()}
        self._outside = [
            (name, module)
            for name, module in self.model.named_modules()
            if id(module) not in inside and module._parameters
        ]

    @property
    def depth(self) -> int:
        """How many decoder blocks there are."""
        return len(self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the hidden states."""
        found: torch.dtype = self.model.dtype
        return found

    @property
    def width(self) -> int:
        """Channels of the hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    def prefix(self, layer: int) -> str:
        """The name of a block."""
        return f"{self.home}.{layer}"

    @contextmanager
    def block(self, layer: int) -> Iterator[Any]:
        """A decoder block with its weights, which are let go of afterwards."""
        block = self.blocks[layer]
        before = len(self._full)
        try:
            self._fill(self.prefix(layer), block)
            yield block
        finally:
            self._let_go(before)

    @contextmanager
    def outside(self, *, ids: bool = False) -> Iterator[None]:
        """Within it, what is called outside the blocks has its weights; they are let go of afterwards.

        Args:
            ids: Whether the model will be given token ids. Some bring them to the device of the embeddings before
                they call them (Llama 4), which must be there then; without, nobody needs that much memory.
        """
        before = len(self._full)
        handles = [
            module.register_forward_pre_hook(lambda module, _, name=name: self._fill(name, module, own=True))
            for name, module in self._outside
        ]
        try:
            for name, module in self._outside if ids else ():
                if module is self.model.get_input_embeddings():
                    self._fill(name, module, own=True)
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._let_go(before)

    def arguments(
        self, given: Mapping[str, Any], last: int | None = None
    ) -> tuple[torch.Tensor, list[Arguments]]:
        """What the first block is given, and what every block is called with besides, for inputs of the model.

        Args:
            given: What the model is called with.
            last: The last block asked about; all of them where None.
        """
        import torch

        caught: list[tuple[Any, Arguments]] = []
        count = self.depth if last is None else last + 1
        real = list(self.blocks)
        try:
            for place, block in enumerate(real):
                self.blocks[place] = _catcher_kind()(block, caught, count)
            with torch.inference_mode():
                self.model(**given, use_cache=False)
        except _CaughtError:
            pass
        finally:
            for place, block in enumerate(real):
                self.blocks[place] = block
        return caught[0][0], [arguments for _, arguments in caught]

    def close(self) -> None:
        """Close the files."""
        self.checkpoint.close()

    def _matched(self) -> dict[str, list[tuple[str, str | None]]]:
        """The tensors on disk that make each parameter, with the pattern of transformers that joins them.

        Raises:
            BadInput: Parameters have none, tensors have no place, or shapes differ.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        transforms = get_model_conversion_mapping(self.model)
        renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
        converters = [each for each in transforms if isinstance(each, WeightConverter)]
        self._converters = {pattern: each for each in converters for pattern in each.source_patterns}
        found: dict[str, list[tuple[str, str | None]]] = {}
        made, beyond, mismatched = set(), [], []
        base = self.model.base_model_prefix
        for name in sorted(self.checkpoint.stored, key=dot_natural_key):
            target, pattern = rename_source_key(name, renamings, converters, base, self._state)
            if target not in self._state and name in self._state:
                target, pattern = name, None
            if target not in self._state:
                beyond.append(name)
                continue
            found.setdefault(target, []).append((name, pattern))
            made.add(target)
            if pattern is None and self.checkpoint[name].shape != tuple(self._state[target].shape):
                mismatched.append(name)
            if pattern is not None:
                # One tensor on disk may make several parameters.
                whole = self._converters[pattern].target_patterns
                made |= {target.replace(whole[0], other) for other in whole}
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        shared = {id(parameters[name]) for name in made if name in parameters}
        missing = [name for name, value in parameters.items() if name not in made and id(value) not in shared]
        require_filled(self.folder, missing=missing, mismatched=mismatched, unexpected=beyond)
        names: dict[int, str] = {}
        for name, value in parameters.items():
            if name in found:
                names.setdefault(id(value), name)
        # A tied parameter may be on disk under the other one's name.
        self._tied = {
            name: names[id(value)]
            for name, value in parameters.items()
            if name not in made and id(value) in names
        }
        return found

    def _fill(self, prefix: str, module: Any, own: bool = False) -> None:
        """Read the weights of a module; ``own``: without those of modules inside it."""
        if own and not any(p.device.type == "meta" for p in module._parameters.values() if p is not None):
            return
        values: dict[str, torch.Tensor] = {}
        stem = f"{prefix}." if prefix else ""
        wanted = [name for name in self._sources if name.startswith(stem)]
        if own:
            ends = {f"{stem}{name}" for name in (*module._parameters, *module._buffers)}
            wanted = [name for name in wanted if name in ends]
        for target in wanted:
            values |= self._read(target)
        for name, value in module.named_parameters(recurse=not own):
            if f"{stem}{name}" not in values and value.device.type == "meta":
                values |= {f"{stem}{name}": self._read(self._tied[f"{stem}{name}"]).popitem()[1]}
        for name, value in values.items():
            self._put(name, value)

    def _read(self, target: str) -> dict[str, torch.Tensor]:
        """The parameter ``target`` from its tensors on disk, and those made with it, as transformers makes them."""
        sources = self._sources[target]
        dtype = self._state[target].dtype
        name, pattern = sources[0]

        def read(name: str) -> torch.Tensor:
            value = self.checkpoint.read(name)
            return value.to(dtype) if value.is_floating_point() else value

        if pattern is None:
            return {target: read(name)}
        converter: Any = deepcopy(
            self._converters[pattern]
        )  # it takes what reads a tensor as well as futures
        for name, pattern in sources:
            converter.add_tensor(target, name, pattern, lambda name=name: read(name))
        made = converter.convert(target, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def _put(self, name: str, value: torch.Tensor) -> None:
        import torch

        home, _, last = name.rpartition(".")
        module = self.model.get_submodule(home)
        value = value.to(self.device)
        if last in module._buffers:
            module._buffers[last] = value
            return
        self._full.append((module, last, module._parameters[last]))
        module._parameters[last] = torch.nn.Parameter(value, requires_grad=False)

    def _let_go(self, before: int) -> None:
        for module, last, empty in self._full[before:]:
            module._parameters[last] = empty
        del self._full[before:]


class _CaughtError(Exception):
    """The last block was reached: nothing after it is needed."""


@cache
def _catcher_kind() -> Any:
    """What stands in a block's place, keeps what it is called with, and computes nothing."""
    import torch

    class Catcher(torch.nn.Module):
        def __init__(self, block: Any, caught: list[tuple[Any, Arguments]], count: int) -> None:
            super().__init__()
            # In a list, so that it is no part of this one.
            self._of, self._caught, self._count = [block], caught, count

        def forward(self, *given: Any, **named: Any) -> Any:
            if given:
                hidden, given = given[0], given[1:]
            else:
                hidden = named.pop("hidden_states")
            self._caught.append((hidden, (given, named)))
            if len(self._caught) == self._count:
                raise _CaughtError
            return hidden

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                # Models ask a block of which kind its attention is.
                return getattr(self._of[0], name)

    return Catcher


def _empty(folder: Path, dtype: str, checkpoint: Checkpoint) -> Any:
    """The architecture of a folder without weights, in evaluation mode; its buffers are real."""
    import accelerate
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        wanted: Any = config.get_text_config().dtype if dtype == "auto" else getattr(torch, dtype)
        if wanted is None:
            saved = next((item.dtype for item in checkpoint.stored.values() if item.floating), "float32")
            wanted = getattr(torch, saved)
        make: Any = transformers.AutoModelForCausalLM  # untyped in transformers
        # Buffers such as rotary frequencies are computed, and in no file.
        with accelerate.init_empty_weights(include_buffers=False):
            model = make.from_config(config, dtype=wanted)
    except (ValueError, KeyError) as error:
        raise BadInput(f"The architecture of {folder} is unknown: {error}.") from error
    model.tie_weights()
    return model.eval()
