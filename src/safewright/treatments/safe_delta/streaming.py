"""``prepare`` block by block: one decoder block is in memory, and H of its inputs while they are summed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, Incomplete
from safewright.runs import digest_file, digest_json
from safewright.runs.atomic import disk_errors
from safewright.training import processes
from safewright.treatments.job import Job
from safewright.treatments.safe_delta.activations import Activations, activation_bytes
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.gathering import Moments, Watch, pooled
from safewright.treatments.safe_delta.prepared import Group, group_file
from safewright.treatments.safe_delta.resident import Arguments, Resident

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 4096
"""Tokens of one forward pass, padding included."""

ACTIVATIONS = "activations"
"""Where hidden states are kept inside the run while it lasts."""

Batch = Mapping[str, "torch.Tensor"]
Lines = Sequence[Sequence[int]]


def padded(lines: Lines, pad: int, device: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of sequences of like length, padded on the right, longest first."""
    import torch

    for width, places in planned(lines):
        group = [lines[i] for i in places]
        ids = torch.tensor([[*line, *[pad] * (width - len(line))] for line in group], device=device)
        mask = torch.tensor([[1] * len(line) + [0] * (width - len(line)) for line in group], device=device)
        yield {"input_ids": ids, "attention_mask": mask}


def planned(lines: Lines) -> list[tuple[int, list[int]]]:
    """The width of every batch, and the places of its lines."""
    order = _longest_first(lines)
    found, start = [], 0
    while start < len(order):
        width = len(lines[order[start]])
        count = max(1, BATCH_TOKENS // width)
        found.append((width, order[start : start + count]))
        start += count
    return found


def _longest_first(lines: Lines) -> list[int]:
    return sorted(range(len(lines)), key=lambda i: (-len(lines[i]), i))


def dealt(lines: Lines, rank: int, world: int) -> list[Sequence[int]]:
    """The lines of one of several processes: every so-manieth, longest first."""
    if world == 1:
        return list(lines)
    return [lines[i] for i in _longest_first(lines)[rank::world]]


@dataclass(frozen=True)
class Inputs:
    """The distinct inputs of one block, by leader, and the pools of its experts, without sums."""

    moments: dict[str, Moments]
    pools: dict[str, Moments]

    def __iter__(self) -> Iterator[tuple[str, Moments]]:
        return iter(self.moments.items())


def inputs_of(resident: Resident, modules: Sequence[str]) -> list[Inputs]:
    """Which inputs the named maps have, block by block, from shapes alone."""
    import torch

    token = torch.zeros(1, 1, dtype=torch.long, device=resident.device)
    with resident.outside():
        arguments = _arguments(resident, {"input_ids": token, "attention_mask": torch.ones_like(token)})
    found = []
    for layer, block in enumerate(resident.blocks):
        given, named = _on_meta(arguments[layer])
        hidden = torch.empty(1, 1, resident.width, dtype=resident.dtype, device="meta")
        with Watch(block, resident.prefix(layer), layer, _of(resident, layer, modules)) as watch:
            if watch.modules:
                with torch.inference_mode():
                    block(hidden, *given, **named)
        found.append(Inputs(watch.moments, watch.pools))
    return found


def _of(resident: Resident, layer: int, modules: Sequence[str]) -> list[str]:
    return [name for name in modules if name.startswith(f"{resident.prefix(layer)}.")]


def _on_meta(value: Any) -> Any:
    """The same with every tensor on ``meta``, where nothing is computed."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, tuple):
        return tuple(map(_on_meta, value))
    if isinstance(value, dict):
        return {key: _on_meta(item) for key, item in value.items()}
    return value


def _given(resident: Resident, batch: Batch) -> dict[str, Any]:
    """What the model is called with for a batch."""
    import inspect

    more: dict[str, Any] = {}
    if "position_ids" in inspect.signature(resident.model.forward).parameters:
        # Padding counts no position, on whichever side it stands.
        more["position_ids"] = (batch["attention_mask"].long().cumsum(1) - 1).clamp_min(0)
    return {**batch, **more}


def _arguments(resident: Resident, batch: Batch, last: int | None = None) -> list[Arguments]:
    """What every block up to ``last`` is called with for a batch, found without embeddings, which change none."""
    import torch

    given = _given(resident, batch)
    ids = given.pop("input_ids")
    width = resident.model.get_input_embeddings().weight.shape[1]
    nothing = torch.zeros(1, 1, 1, dtype=resident.dtype, device=ids.device)
    given["inputs_embeds"] = nothing.expand(*ids.shape, width)
    return resident.arguments(given, last)[1]


def embed(resident: Resident, batches: Sequence[Batch], write: Callable[[torch.Tensor], None]) -> None:
    """Give ``write`` what the first block is given for every batch.

    Raises:
        BadInput: Blocks are called with more than positions and masks decide: they cannot be run one by one.
    """
    with resident.outside(ids=True):
        for place, batch in enumerate(batches):
            hidden, arguments = resident.arguments(_given(resident, batch))
            if place == 0 and not _alike(arguments, _arguments(resident, batch)):
                raise BadInput(
                    f"The blocks of a {type(resident.model).__name__} are given more than hidden states, positions "
                    "and masks.",
                    why="They cannot be run one by one.",
                    fix="Use a model of another architecture.",
                )
            write(hidden)


def _alike(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    return type(one) is type(other)


def run_block(
    resident: Resident,
    block: Any,
    layer: int,
    batches: Sequence[Batch],
    inputs: Iterator[torch.Tensor],
    write: Callable[[torch.Tensor], None] | None,
    watch: Watch | None = None,
) -> None:
    """Run a block on all batches; its outputs go to ``write``, what it reads to ``watch``."""
    import torch

    for batch in batches:
        hidden = next(inputs).to(resident.device)
        given, named = _arguments(resident, batch, layer)[layer]
        if watch is not None:
            watch.mask = batch["attention_mask"].bool().reshape(-1)
        with torch.inference_mode():
            made = block(hidden, *given, **named)
        if write is not None:
            write(made[0] if isinstance(made, tuple) else made)


def require_space(
    inputs: Sequence[Inputs],
    parts: Sequence[str],
    shapes: Sequence[tuple[int, int, int]],
    dtype: torch.dtype,
    config: SafeDeltaConfig,
    folder: Path,
    states: Path,
) -> None:
    """Pass when the disk holds H of every layer input, and the hidden states between two blocks.

    Raises:
        Incomplete: It does not.
    """
    import torch

    widths = [moments.width for some in inputs for _, moments in some]
    entries = sum((len(parts) + config.keeps_spectrum(width)) * width**2 for width in widths)
    needed = entries * getattr(torch, config.store).itemsize + 2 * activation_bytes(shapes, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    # What a killed run left takes no further space.
    there = sum(file.stat().st_size for file in (*folder.glob("*.safetensors"), *states.glob("*.bin")))
    free = shutil.disk_usage(folder).free
    if free + there < needed:
        raise Incomplete(
            f"H of {len(widths)} layer inputs takes {needed / 2**30:.2f} GiB with hidden states, "
            f"{free / 2**30:.2f} GiB are free.",
            fix="Free some space and give the same command again.",
        )


def gather(
    job: Job, folder: Path, resident: Resident, modules: Sequence[str], parts: Mapping[str, Lines], pad: int
) -> list[Group]:
    """Write H of the inputs of the named maps into ``folder``, one file per input; what a kill left is taken up.

    Args:
        job: The job; several processes may work on it, each on its own part of the lines.
        folder: Where the files go.
        resident: The aligned model.
        modules: Names from `safewright.models.blocks.blocks_of`.
        parts: Token ids by ``fitted``, ``held`` and ``task``; each part has an H of its own.
        pad: A token the model has.

    Returns:
        The groups in the model's order.

    Raises:
        Incomplete: The disk is too small.
        NumericalFailure: An activation is not finite.
    """
    config: SafeDeltaConfig = job.config
    inputs = inputs_of(resident, modules)
    world = processes.together()
    rank = processes.rank() if world > 1 else 0
    main = rank == 0
    parts = {part: lines for part, lines in parts.items() if lines}
    counts = {part: len(lines) for part, lines in parts.items()}
    own = {part: dealt(lines, rank, world) for part, lines in parts.items()}
    every = [(len(some), width, resident.width) for p in parts.values() for width, some in planned(p)]
    if main:
        require_space(inputs, list(parts), every, resident.dtype, config, folder, job.run.own(ACTIVATIONS))
    keeper = Keeper(job, folder, inputs, counts)
    last = max((layer for layer, some in enumerate(inputs) if some.moments), default=-1)
    journal = job.run.rows("groups")
    first = processes.from_main(lambda: keeper.lacking(journal))
    if first is None:
        return keeper.groups()
    batches = {part: list(padded(lines, pad, resident.device)) for part, lines in own.items()}
    hidden = Activations(
        job.run.own(ACTIVATIONS),
        rank,
        digest_json([job.models["aligned"].digest, str(resident.dtype), own, pad, BATCH_TOKENS]),
        [(*batch["input_ids"].shape, resident.width) for some in batches.values() for batch in some],
        resident.dtype,
    )
    group = _Several(resident.device)
    start = group.common([layer for layer in hidden.layers if layer <= first])
    if start is None:
        with hidden.written(0) as write:
            embed(resident, [batch for some in batches.values() for batch in some], write)
        start = 0
    for layer in range(start, last + 1):
        job.progress("calibration", layer, last + 1)
        going_on = layer < last
        wanted = layer >= first and bool(inputs[layer].moments)
        with (
            resident.block(layer) as block,
            resident.outside(),
            hidden.written(layer + 1) if going_on else nullcontext() as write,
        ):
            states = hidden.read(layer)
            for part, some in batches.items():
                names = _of(resident, layer, modules) if wanted else []
                with Watch(block, resident.prefix(layer), layer, names) as watch:
                    run_block(resident, block, layer, some, states, write, watch if wanted else None)
                if wanted:
                    found = group.summed(inputs[layer], watch)
                    if main:
                        keeper.take(layer, part, found)
                    del found
                    watch.moments.clear()
                    watch.pools.clear()
                    _trim()
            # Before the state of the next block: what it goes on from must have been kept.
            if wanted and main:
                keeper.keep(layer)
        _trim()
        group.wait()
        if going_on:
            hidden.drop(layer)
    job.progress("calibration", last + 1, last + 1)
    group.end()
    return keeper.groups()


class Keeper:
    """Writes the files of groups, each once."""

    def __init__(self, job: Job, folder: Path, inputs: Sequence[Inputs], counts: Mapping[str, int]) -> None:
        self.job, self.folder, self.inputs, self.counts = job, folder, inputs, counts
        self.config: SafeDeltaConfig = job.config
        self._done: dict[str, Group] = {}
        self._taken: dict[str, dict[str, tuple[torch.Tensor, int, bool]]] = {}

    def lacking(self, rows: Sequence[Mapping[str, Any]]) -> int | None:
        """The first layer of which a group is not kept, by the rows of the journal; None where all are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        journal = {row["name"]: row for row in rows}
        for layer, inputs in enumerate(self.inputs):
            for name, _ in inputs:
                known = journal.get(name)
                file = self.folder / group_file(name, layer)
                if known and file.is_file() and digest_file(file) == known["digest"]:
                    self._done[name] = Group(**{**known, "modules": tuple(known["modules"])})
        lacking = [
            layer for layer, some in enumerate(self.inputs) if any(name not in self._done for name, _ in some)
        ]
        return min(lacking, default=None)

    def groups(self) -> list[Group]:
        """All groups, in the model's order."""
        return [self._done[name] for some in self.inputs for name, _ in some if name in self._done]

    def take(self, layer: int, part: str, found: Inputs) -> None:
        """Take a part's H over, in the precision it is kept in; the sums are let go of one by one."""
        import torch

        dtype = getattr(torch, self.config.store)
        pools: dict[str, torch.Tensor] = {}
        for name, own in found:
            moments, borrowed = pooled(own, found.pools)
            if not borrowed:
                matrix = own.release(self.counts[part]).to(dtype).cpu()
            else:
                own.total = None
                assert own.pool is not None
                if own.pool not in pools:
                    pools[own.pool] = moments.release(self.counts[part]).to(dtype).cpu()
                matrix = pools[own.pool]
            if name not in self._done:
                self._taken.setdefault(part, {})[name] = (matrix, moments.tokens, borrowed)

    def keep(self, layer: int) -> None:
        """Write the files of a layer's groups."""
        for name, moments in self.inputs[layer]:
            if name not in self._done:
                self._done[name] = self._write(name, layer, tuple(moments.modules))
        self._taken.clear()

    def _write(self, name: str, layer: int, modules: tuple[str, ...]) -> Group:
        import torch

        from safewright.treatments.safe_delta.curvature import Curvature

        config = self.config
        dtype = getattr(torch, config.store)
        H, tokens, borrowed = self._taken["fitted"].pop(name)
        # What is derived from H is derived from H as it is kept.
        curvature = Curvature(H)
        held = {"H": H}
        values = None
        if config.keeps_spectrum(H.shape[0]):
            values, vectors, _ = curvature.spectrum
            held |= {"values": values, "vectors": vectors[curvature.live]}
        for part, key in (("held", "H_held"), ("task", "G")):
            if part in self._taken:
                held[key] = self._taken[part].pop(name)[0]
        file = group_file(name, layer)
        part_file = self.folder / f".{file}.part"
        with disk_errors(self.folder):
            _save({key: value.to(dtype).contiguous().cpu() for key, value in held.items()}, part_file)
            with open(part_file, "rb") as handle:
                os.fsync(handle.fileno())
        part_file.replace(self.folder / file)
        group = Group(
            name=name,
            file=file,
            layer=layer,
            width=H.shape[0],
            modules=modules,
            tokens=tokens,
            rank=None if values is None else curvature.rank(),
            dead=len(curvature.dead),
            condition=None if values is None else _condition(values),
            outlier=_outlier(H),
            digest=digest_file(self.folder / file),
            pooled=borrowed,
        )
        self.job.run.append("groups", {**group.as_json()})
        return group


class _Several:
    """The processes that prepare together; nothing is done where there is one."""

    def __init__(self, device: str) -> None:
        self.world, self.begun = processes.together(), False
        if self.world > 1:
            import datetime

            import torch.distributed as group

            if not group.is_initialized():
                self.begun = True
                # The main process may factorise for long while the others wait.
                group.init_process_group(
                    "nccl" if device.startswith("cuda") else "gloo", timeout=datetime.timedelta(days=2)
                )

    def common(self, layers: Sequence[int]) -> int | None:
        """The last of the blocks whose inputs every process has."""
        if self.world == 1:
            return max(layers, default=None)
        import torch.distributed as group

        said: list[Any] = [None] * self.world
        group.all_gather_object(said, list(layers))
        return max(set.intersection(*map(set, said)), default=None)

    def summed(self, inputs: Inputs, watch: Watch) -> Inputs:
        """The sums of all processes, of the inputs of a block."""
        if self.world > 1:
            for held, known in ((watch.moments, inputs.moments), (watch.pools, inputs.pools)):
                for name, moments in known.items():
                    mine = held.setdefault(
                        name, Moments(list(moments.modules), moments.layer, moments.width, pool=moments.pool)
                    )
                    self._add(mine, watch)
        return Inputs(watch.moments, watch.pools)

    def _add(self, mine: Moments, watch: Watch) -> None:
        import torch
        import torch.distributed as group

        device = next(watch.block.parameters()).device
        if mine.total is None:
            wide = torch.float64 if device.type == "cpu" else torch.float32
            mine.total = torch.zeros(mine.width, mine.width, dtype=wide, device=device)
        tokens = torch.tensor([mine.tokens], dtype=torch.long, device=device)
        group.all_reduce(mine.total)
        group.all_reduce(tokens)
        mine.tokens = int(tokens)

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            processes.barrier()

    def end(self) -> None:
        """The last of the common work is done."""
        self.wait()
        if self.begun:
            import torch.distributed as group

            group.destroy_process_group()


def _save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Write a safetensors file; what the system says against it is an OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, file)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _trim() -> None:
    """Give freed memory back to the system: pieces of many megabytes would be kept, more with every block."""
    import ctypes

    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _condition(values: torch.Tensor) -> float:
    """Ratio of the largest to the smallest eigenvalue above float32's resolution."""
    import torch

    kept = values[values > values.max() * len(values) * torch.finfo(torch.float32).eps]
    return float(kept.max() / kept.min()) if len(kept) else 1.0


def _outlier(H: torch.Tensor) -> float:
    """The largest diagonal entry over the median one: massive activations show here."""
    diagonal = H.diagonal()[H.diagonal() > 0]
    return float(diagonal.max() / diagonal.median()) if len(diagonal) else 1.0
