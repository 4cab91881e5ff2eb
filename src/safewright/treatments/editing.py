"""Editing a model's weights on disk, matrix by matrix: what every post-hoc repair shares.

The fine-tuned weights are a folder, or the aligned model under an adapter. A treatment says how one matrix
changes; this module reads rows, writes shards in place, journals finished tensors, and goes on after a kill.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from safewright.errors import BadInput, Incomplete
from safewright.models.adapters import Adapter
from safewright.models.blocks import Matrix, chosen
from safewright.models.checkpoint import Planned, Shards
from safewright.models.recipes import RECIPE_FILE
from safewright.models.references import as_path, tokenizer_folder
from safewright.models.weights import read_json
from safewright.runs import write_bytes, write_json
from safewright.treatments.job import Job
from safewright.treatments.sources import TILE, Opened, Sources
from safewright.types import ModelRef

if TYPE_CHECKING:
    import torch

ADAPTER_FILE = "adapter_model.safetensors"


def tiles(rows: int) -> Iterable[tuple[int, int]]:
    """Starts and stops of the fixed tiles of a matrix."""
    return ((start, min(start + TILE, rows)) for start in range(0, rows, TILE))


def pieces(shape: tuple[int, ...]) -> Iterable[tuple[int, int]]:
    """Starts and stops of the parts in which a tensor is handled entry by entry: tiles, a vector whole."""
    return tiles(shape[0]) if len(shape) > 1 else ((0, shape[0]),)


Put = Callable[[int, "torch.Tensor"], None]
"""Takes rows of the new matrix, starting at a row number."""


class Edit(Protocol):
    """How one matrix changes. Sent to worker processes, so it holds plain values only."""

    def __call__(self, opened: Opened, matrix: Matrix, dtype: torch.dtype, put: Put) -> dict[str, Any]:
        """Put every row of the new matrix, in ``dtype``; what is said about it in the report."""
        ...

    def needs(self, matrix: Matrix) -> str:
        """A name for what is read for a matrix besides its weights; equal where that is shared."""
        ...


@dataclass(frozen=True)
class Output:
    """The folder to be written: dtypes by tensor name, and whose other tensors it holds."""

    folder: Path
    matrices: tuple[Matrix, ...]
    others: Literal["finetuned", "aligned"]
    planned: tuple[Planned, ...]
    refused: tuple[str, ...] = ()

    @property
    def edited(self) -> frozenset[str]:
        """Tensors that are edited."""
        return frozenset(matrix.tensor for matrix in self.matrices)


def plan_output(
    opened: Opened,
    folder: Path,
    *,
    modules: str = "all",
    others: Literal["finetuned", "aligned"] = "finetuned",
    save_dtype: str | None = None,
    allow_skip: bool = False,
    merged: bool = False,
) -> Output:
    """What will be written, once everything fits. Of an adapter, only what it changes is edited.

    Args:
        merged: Whether an adapter's steps end in a whole model.

    Raises:
        BadInput: Blocks hold matrices of unknown kind, the vocabulary was resized and the aligned model's
            embeddings are asked for, or a merged adapter changes a weight that is not on disk.
    """
    blocks = opened.blocks
    if blocks.refused and not allow_skip:
        stacked = any(len(opened.aligned[name].shape) > 2 for name in blocks.refused)
        raise BadInput(
            f"{len(blocks.refused)} matrices are of a kind that cannot be edited: "
            f"{', '.join(blocks.refused[:3])}{', …' if len(blocks.refused) > 3 else ''}"
            f"{' (all experts of a layer in one tensor of three dimensions)' if stacked else ''}.",
            why="Left as they are, their part of the fine-tuning step would keep its safety loss.",
            fix="Accept that knowingly with --set allow_skip=true.",
        )
    matrices = chosen(blocks.matrices, modules)
    if opened.adapter is not None:
        matrices = tuple(matrix for matrix in matrices if opened.factors(matrix) is not None)
        homeless = [module for module, matrix in opened.adapted().items() if matrix is None]
        if merged and homeless and others == "finetuned":
            raise BadInput(
                f"The adapter changes {homeless[0]}, whose weight is not stored on its own (a tied head).",
                why="Merged, the change would reach the embeddings too.",
                fix="Keep the adapter form (output=adapter, mode soft or exact), or use nonlinear=aligned.",
            )
    if others == "aligned" and opened.resized():
        raise BadInput(
            f"The fine-tuning resized {opened.resized()[0]}, but the aligned model's embeddings are asked for.",
            fix="Use nonlinear=finetuned.",
        )
    source = opened.aligned if others == "aligned" else opened.tuned
    planned = []
    for item in sorted(source.stored.values(), key=lambda t: (t.file, t.start)):
        dtype = save_dtype if save_dtype and item.floating else item.dtype
        file = item.file
        planned.append(Planned(item.name, dtype, item.shape, file))
    return Output(folder, matrices, others, tuple(planned), blocks.refused)


def write_model(job: Job, sources: Sources, output: Output, edit: Edit) -> list[dict[str, Any]]:
    """Write every tensor of ``output``; what the edits report, in the model's order.

    Each finished tensor is journalled with its checksum. A run that was killed writes the tensors that lack
    and ends with the same bytes.

    Raises:
        BadInput: The disk is too small.
        NumericalFailure: A weight is not finite.
    """

    shards = Shards(output.folder, output.planned)
    free = shutil.disk_usage(job.run.dir).free
    there = sum(f.stat().st_blocks * 512 for f in output.folder.glob("*.safetensors"))
    if free + there < shards.nbytes:
        raise Incomplete(
            f"The new model takes {shards.nbytes / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free.",
            fix="Free some space and give the same command again.",
        )
    fresh = shards.allocate()
    sizes = {item.name: item.nbytes for item in output.planned}
    done = {}
    for row in job.run.rows("tensors", ("name", "crc", "report")):
        files = [item.file for item in output.planned if item.name == row["name"]]
        if files and files[0] not in fresh and shards.holds(row["name"], row["crc"]):
            done[row["name"]] = row
    names = [item.name for item in output.planned if item.name not in done]
    total = len(output.planned)
    job.progress("writing", len(done), total)

    def finished(row: dict[str, Any]) -> None:
        job.run.append("tensors", row)
        done[row["name"]] = row
        job.progress("writing", len(done), total)

    by_tensor = {matrix.tensor: matrix for matrix in output.matrices}

    def together(name: str) -> str:
        """Matrices that need the same things come one after another."""
        return edit.needs(by_tensor[name]) if name in by_tensor else ""

    work = _Work(sources, output, edit, job.threads)
    if job.workers > 1 and len(names) > 1:
        # Largest first, so that no worker is left alone with the longest matrix.
        names.sort(key=lambda name: (-sizes[name], together(name)))
        try:
            with ProcessPoolExecutor(job.workers, _spawn(), _begin, (work,)) as pool:
                for row in pool.map(_tensor_in_worker, names):
                    finished(row)
        except BrokenProcessPool as error:
            raise Incomplete(
                "A worker process was killed.",
                why="Most often memory ran out; finished tensors are kept.",
                fix="Give the same command again, with fewer --workers.",
            ) from error
    else:
        with work.begun() as at_work:
            for name in sorted(names, key=together):
                finished(at_work.tensor(name))
    shards.close()
    found = [{"tensor": name, **done[name]["report"]} for name in _in_order(output)]
    # One order of keys, whether a line was written now or read back from the journal.
    return [dict(sorted(row.items())) for row in found]


def _in_order(output: Output) -> list[str]:
    edited = [matrix.tensor for matrix in output.matrices]
    return edited + [item.name for item in output.planned if item.name not in output.edited]


@dataclass
class _Work:
    """What one process needs to write tensors."""

    sources: Sources
    output: Output
    edit: Edit
    threads: int
    opened: Opened | None = None
    shards: Shards | None = None
    planned: dict[str, Planned] = field(default_factory=dict)

    def begun(self) -> _Work:
        """Open the files."""
        self.opened = self.sources.open()
        self.shards = Shards(self.output.folder, self.output.planned)
        self.planned = {item.name: item for item in self.output.planned}
        return self

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *error: object) -> None:
        if self.opened:
            self.opened.close()
        if self.shards:
            self.shards.close()

    def tensor(self, name: str) -> dict[str, Any]:
        """Write one tensor; its journal line."""
        import torch

        assert self.opened is not None
        assert self.shards is not None
        shards, planned = self.shards, self.planned[name]
        matrix = next((m for m in self.output.matrices if m.tensor == name), None)
        dtype = getattr(torch, planned.dtype)
        if matrix is None:
            report = self._copy(name)
        elif matrix.transposed:
            parts: dict[int, torch.Tensor] = {}
            report = self.edit(self.opened, matrix, dtype, parts.__setitem__)
            shards.write(name, 0, torch.cat([parts[start] for start in sorted(parts)]).T)
        else:
            report = self.edit(
                self.opened, matrix, dtype, lambda start, rows: shards.write(name, start, rows)
            )
        return {"name": name, "crc": shards.checksum(name), "report": report}

    def _copy(self, name: str) -> dict[str, Any]:
        """Take a tensor over as it is; how far fine-tuning had moved it."""
        assert self.opened is not None
        assert self.shards is not None
        aligned, tuned = self.opened.aligned, self.opened.tuned
        source = aligned if self.output.others == "aligned" else tuned
        item = source[name]
        if not item.shape or not item.floating:
            self.shards.write(name, 0, source.read(name).reshape(-1, *item.shape[1:]))
            return {"kind": "kept", "moved": 0.0}
        step = self._steps().get(name)
        if step is not None and self.output.others == "finetuned":
            return self._merge(step)
        plain = Matrix(name, name, -1, False)
        other = aligned if source is tuned else tuned
        compared = other is not source and other[name].shape == item.shape
        moved = 0.0
        for start, stop in pieces(item.shape):
            piece = self.opened.rows_of(source, plain, start, stop)
            self.shards.write(name, start, piece)
            if compared:
                gap = piece.double() - self.opened.rows_of(other, plain, start, stop).double()
                moved += float((gap * gap).sum())
        return {"kind": "kept", "moved": moved}

    def _steps(self) -> dict[str, Matrix]:
        """What an adapter changes, by tensor."""
        assert self.opened is not None
        return {matrix.tensor: matrix for matrix in self.opened.adapted().values() if matrix is not None}

    def _merge(self, matrix: Matrix) -> dict[str, Any]:
        """Write a matrix the adapter changes and nobody edits: as fine-tuned."""
        import torch

        assert self.opened is not None
        assert self.shards is not None
        rows = self.opened.shape(matrix)[0]
        moved, whole = 0.0, []
        for start, stop in tiles(rows):
            new = self.opened.tuned_rows(matrix, start, stop)
            gap = new.double() - self.opened.aligned_rows(matrix, start, stop).double()
            moved += float((gap * gap).sum())
            if matrix.transposed:
                whole.append(new)
            else:
                self.shards.write(matrix.tensor, start, new)
        if whole:
            self.shards.write(matrix.tensor, 0, torch.cat(whole).T)
        return {"kind": "kept", "moved": moved}


_worker: _Work | None = None


def _begin(work: _Work) -> None:
    """Make this process a worker; it ends when the process that began it does."""
    import os
    import time

    import torch

    global _worker
    torch.set_num_threads(work.threads)
    _worker = work.begun()
    parent = os.getppid()

    def watch() -> None:
        # A killed parent cannot tell its workers to stop, and they must not write into a resumed run.
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _tensor_in_worker(name: str) -> dict[str, Any]:
    assert _worker is not None
    return _worker.tensor(name)


def _spawn() -> Any:
    import multiprocessing

    return multiprocessing.get_context("spawn")


def copy_side_files(
    output: Output, sources: Sources, models: Mapping[str, ModelRef], save_dtype: str | None
) -> None:
    """Put configuration, tokenizer and recipe beside the new weights."""
    model = sources.aligned if output.others == "aligned" or sources.adapter else sources.tuned
    tokenizer = sources.aligned if output.others == "aligned" else tokenizer_folder(models["tuned"])
    for folder, keep in ((model, _is_model_file), (tokenizer, _is_tokenizer_file)):
        for file in sorted(folder.iterdir()):
            if file.is_file() and keep(file.name):
                write_bytes(output.folder / file.name, file.read_bytes())
    if save_dtype is not None:
        config = read_json(output.folder / "config.json")
        config.pop("torch_dtype", None)
        write_json(output.folder / "config.json", {**config, "dtype": save_dtype})


_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")


def _is_model_file(name: str) -> bool:
    """Configurations: small text files that transformers reads beside the weights."""
    return name in ("config.json", "generation_config.json", RECIPE_FILE)


def _is_tokenizer_file(name: str) -> bool:
    starts = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template", "tekken")
    plain = name.startswith(starts) or name.endswith((".tiktoken", ".model"))
    return plain and not name.endswith(_WEIGHTS)


def every_tensor(opened: Opened, output: Output) -> Output:
    """The same output with every floating-point tensor edited, whatever its shape."""
    known = {matrix.tensor: matrix for matrix in opened.blocks.matrices}
    floating = ("float64", "float32", "float16", "bfloat16")
    all_ = tuple(
        known.get(item.name, Matrix(item.name.removesuffix(".weight"), item.name, -1, False))
        for item in output.planned
        if item.dtype in floating and item.shape
    )
    return dataclasses.replace(output, matrices=all_)


@dataclass(frozen=True)
class Blend:
    """An `Edit` entry by entry: ``aligned + step (tuned - aligned) + pull (aligned - other)``."""

    step: float
    pull: float = 0.0
    other: Path | None = None

    def __call__(self, opened: Opened, matrix: Matrix, dtype: torch.dtype, put: Put) -> dict[str, Any]:
        import torch

        stored = opened.aligned[matrix.tensor].shape
        shape = stored[::-1] if matrix.transposed else stored
        if opened.tuned[matrix.tensor].shape != opened.aligned[matrix.tensor].shape:
            raise BadInput(
                f"The fine-tuning resized {matrix.tensor}: its rows have no counterpart in the aligned model.",
                fix="Use a repair that keeps the fine-tuned embeddings, such as safe_delta.",
            )
        other = None if self.other is None else opened.other(self.other)
        moved = gap = 0.0
        for start, stop in pieces(shape):
            aligned = opened.aligned_rows(matrix, start, stop)
            tuned = opened.tuned_rows(matrix, start, stop)
            wide = torch.float64 if aligned.dtype == torch.float64 else torch.float32
            aligned = aligned.to(wide)
            delta = tuned.to(wide) - aligned
            new = aligned + self.step * delta
            if other is not None:
                away = opened.rows_of(other, matrix, start, stop)
                new = new + self.pull * (aligned - away.to(wide))
            put(start, new.to(dtype))
            moved += float((delta * delta).sum(dtype=torch.float64))
            gap += float(((new - aligned - delta) ** 2).sum(dtype=torch.float64))
        return {"module": matrix.module, "layer": matrix.layer, "step": moved, "gap": gap}

    def needs(self, matrix: Matrix) -> str:
        return ""


def scale_adapter(
    opened: Opened, draft: Path, transform: Callable[[str, torch.Tensor], torch.Tensor]
) -> None:
    """Write the adapter with every B factor transformed (by module name), everything else as it was."""
    assert opened.adapter is not None
    adapter = opened.adapter
    tensors = {name: adapter.checkpoint.read(name) for name in adapter.checkpoint.stored}
    for module, factors in adapter.factors.items():
        tensors[factors.b_name] = transform(module, tensors[factors.b_name])
    write_adapter_folder(adapter, draft, tensors)


def write_adapter_folder(adapter: Adapter, draft: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """An adapter's folder with other factors: configuration, template and tokenizer are taken over."""
    from safetensors.torch import save

    draft.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(draft / ADAPTER_FILE, save(plain, metadata={"format": "pt"}))
    for file in sorted(adapter.folder.iterdir()):
        name = file.name
        if file.is_file() and (
            name == "adapter_config.json" or name == RECIPE_FILE or _is_tokenizer_file(name)
        ):
            write_bytes(draft / name, file.read_bytes())
    _absolute_base(adapter.folder, draft)


def _absolute_base(source: Path, draft: Path) -> None:
    """Keep an adapter's base in reach: a relative path is none from another folder."""
    config = read_json(draft / "adapter_config.json")
    base = str(config.get("base_model_name_or_path") or "")
    named = as_path(base)
    found = named if named.exists() else source / base
    if base and not named.is_absolute() and found.is_dir():
        config["base_model_name_or_path"] = str(found.resolve())
        write_json(draft / "adapter_config.json", config)


def merge_kinds(output: Output, opened: Opened) -> dict[str, int]:
    """How many tensors of two or more dimensions inside the blocks were edited, exempt and refused.

    Exempt are routers, and matrices that the user's choice of modules leaves out.
    """
    linear = {matrix.tensor for matrix in opened.blocks.matrices}
    edited = output.edited
    return {
        "edited": len(edited),
        "exempt": len(opened.blocks.routers) + len(linear - edited),
        "refused": len(output.refused),
        "in blocks": len(opened.blocks.inside),
        "tensors": len(output.planned),
    }


def reports(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], float]:
    """The reports of edited matrices, and the norm of what fine-tuning moved elsewhere."""
    edited = [dict(row) for row in rows if row.get("kind") != "kept"]
    return edited, float(sum(row["moved"] for row in rows if row.get("kind") == "kept")) ** 0.5
