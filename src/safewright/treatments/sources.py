"""The weights a repair reads: the aligned folder beside the fine-tuned folder or adapter, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, NumericalFailure
from safewright.models.adapters import EMBEDDINGS, Adapter, Factors
from safewright.models.blocks import Blocks, Matrix, blocks_of, homes_of, require_plain, skeleton
from safewright.models.checkpoint import Checkpoint
from safewright.models.references import base_folder, local_folder, tokenizer_folder
from safewright.types import ModelRef

if TYPE_CHECKING:
    import torch

TILE = 64
"""Rows multiplied together. Fixed, and counted from the matrix's first row: neither the size of reads nor
the number of workers changes a bit of the result."""


def fill(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows as a whole tile in the arithmetic's dtype: zero rows below the last ones."""
    import torch

    if rows.shape[0] == TILE:
        return rows.to(dtype)
    tile = torch.zeros(TILE, rows.shape[1], dtype=dtype, device=rows.device)
    tile[: rows.shape[0]] = rows
    return tile


@dataclass(frozen=True)
class Sources:
    """Where the weights are: the aligned folder, and the fine-tuned folder or adapter."""

    aligned: Path
    tuned: Path
    adapter: bool
    row_chunk: int = 4096

    def __post_init__(self) -> None:
        if self.row_chunk < 1:
            raise BadInput(f"row_chunk is {self.row_chunk}.", fix="It must be at least 1.")

    @classmethod
    def of(cls, models: Mapping[str, ModelRef], row_chunk: int = 4096) -> Sources:
        """The sources of a job's models ``aligned`` and ``tuned``.

        Raises:
            BadInput: A model has no folder, or the adapter belongs to another base than the aligned model.
        """
        aligned, tuned = models["aligned"], models["tuned"]
        require_folders(models)
        sources = cls(local_folder(aligned), local_folder(tuned), tuned.kind == "adapter", row_chunk)
        if sources.adapter:
            from safewright.models import resolve

            base = resolve(base_folder(tuned))
            if base.digest != aligned.digest:
                raise BadInput(
                    f"The adapter {tuned.where} was made for {tuned.base}, whose bytes differ from the aligned "
                    f"model {aligned.where}.",
                    why="What the adapter adds is measured against its own base.",
                    fix=f"Give that base: --model aligned={tuned.base}",
                )
        return sources

    def open(self) -> Opened:
        """The sources with their files open."""
        return Opened(self)


class Opened:
    """Open sources: rows of the aligned and of the fine-tuned matrices, both (out, in)."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.aligned = Checkpoint(sources.aligned)
        model = self.skeleton = skeleton(sources.aligned)
        self.blocks: Blocks = blocks_of(model, self.aligned.stored)
        self.adapter = Adapter(sources.tuned, model) if sources.adapter else None
        self._chunks: dict[tuple[int, str], tuple[int, torch.Tensor]] = {}
        self._others: dict[Path, Checkpoint] = {}
        self._kept: dict[Any, Any] = {}
        self.tuned = self.aligned
        if self.adapter is None:
            require_plain(sources.tuned)
            self.tuned = Checkpoint(sources.tuned)
            self._check_alike()

    def _check_alike(self) -> None:
        """Pass when both folders hold the same tensors in the same shapes, embeddings' rows apart."""
        mine, theirs = self.aligned.stored, self.tuned.stored
        where = f"{self.sources.aligned} and {self.sources.tuned}"
        for names, what in ((mine.keys() - theirs, "lacks"), (theirs.keys() - mine, "has the extra")):
            if names:
                raise BadInput(
                    f"{self.sources.tuned} {what} {len(names)} tensors, first {min(names)}.",
                    why="The fine-tuned model must be a fine-tune of the aligned one.",
                    fix=f"Check that {where} are of the same architecture.",
                )
        for name, item in mine.items():
            other = theirs[name]
            resized = any(part in name for part in EMBEDDINGS) and item.shape[1:] == other.shape[1:]
            if item.shape != other.shape and not resized:
                raise BadInput(
                    f"The tensor {name} has the shape {item.shape} in the aligned model, {other.shape} in the tuned.",
                    fix=f"Check that {where} are of the same architecture; only embeddings may be resized.",
                )
        for checkpoint in (self.aligned, self.tuned):
            for item in checkpoint.stored.values():
                if len(item.shape) >= 2 and not item.floating:
                    raise BadInput(
                        f"The tensor {item.name} of {checkpoint.folder} is {item.dtype}: a quantised weight.",
                        why="Its integers cannot be edited.",
                        fix="Load the model in bfloat16 (transformers: model.dequantize()) and save that.",
                    )

    def resized(self) -> list[str]:
        """Embeddings and heads whose number of rows the fine-tuning changed."""
        return [
            name for name, item in self.aligned.stored.items() if self.tuned.stored[name].shape != item.shape
        ]

    def shape(self, matrix: Matrix) -> tuple[int, int]:
        """(out, in) of a matrix."""
        rows, width = self.aligned[matrix.tensor].shape
        return (width, rows) if matrix.transposed else (rows, width)

    def factors(self, matrix: Matrix) -> Factors | None:
        """What the adapter adds to a matrix; None where there is no adapter, or not on this one."""
        return self.adapter.factors.get(matrix.module) if self.adapter else None

    def adapted(self) -> dict[str, Matrix | None]:
        """What the adapter changes, by module; None where the weight is not on disk (a tied head)."""
        known = {matrix.module: matrix for matrix in self.blocks.matrices}
        found: dict[str, Matrix | None] = {}
        if self.adapter is None:
            return found
        tensors = homes_of(self.skeleton, self.aligned.stored).tensors
        for module in self.adapter.factors:
            tensor = tensors.get(f"{module}.weight")
            outside = Matrix(module, tensor, -1, False) if tensor else None
            found[module] = known.get(module, outside)
        return found

    def aligned_rows(self, matrix: Matrix, start: int, stop: int) -> torch.Tensor:
        """Rows of the aligned matrix."""
        return self.rows_of(self.aligned, matrix, start, stop)

    def tuned_rows(self, matrix: Matrix, start: int, stop: int) -> torch.Tensor:
        """Rows of the fine-tuned matrix, in float32 where an adapter makes them."""
        if self.adapter is None:
            return self.rows_of(self.tuned, matrix, start, stop)
        rows = self.aligned_rows(matrix, start, stop)
        if self.factors(matrix) is None:
            return rows
        import torch

        adapter = self.adapter
        A, B, scaling = self.kept(("factors", matrix.module), lambda: adapter.read(matrix.module))
        wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
        new = rows.to(wide, copy=True)
        for first in range(start - start % TILE, stop, TILE):
            left, right = max(first, start), min(first + TILE, stop)
            step = fill(B[first : first + TILE], wide) @ A.to(wide)
            new[left - start : right - start] += scaling * step[left - first : right - first]
        return new

    def other(self, folder: Path) -> Checkpoint:
        """A further model's tensors."""
        if folder not in self._others:
            self._others[folder] = Checkpoint(folder)
        return self._others[folder]

    def kept(self, key: tuple[str, Any], make: Callable[[], Any]) -> Any:
        """What was made last for the kind of thing ``key`` begins with, or what ``make`` makes now."""
        kind, name = key
        if kind not in self._kept or self._kept[kind][0] != name:
            self._kept.pop(kind, None)
            self._kept[kind] = (name, make())
        return self._kept[kind][1]

    def rows_of(self, source: Checkpoint, matrix: Matrix, start: int, stop: int) -> torch.Tensor:
        """Rows of a tensor of one of the models, (out, in) where it is a matrix.

        Raises:
            NumericalFailure: A number is not finite.
        """
        import torch

        total = source[matrix.tensor].shape[1 if matrix.transposed else 0]
        pieces: list[torch.Tensor] = []
        place = start
        while place < stop:
            key = (id(source), matrix.tensor)
            first, held = self._chunks.get(key, (0, None))
            if held is None or not first <= place < first + held.shape[0]:
                if matrix.transposed:
                    first, held = 0, source.read(matrix.tensor).T
                else:
                    first, end = place, min(total, place + self.sources.row_chunk)
                    held = source.rows(matrix.tensor, first, end)
                if not bool(torch.isfinite(held.float().sum())):
                    bad = int((~torch.isfinite(held)).sum())
                    if bad:
                        raise NumericalFailure(
                            f"{matrix.tensor} of {source.folder} holds {bad} non-finite numbers.",
                            why="Every weight it touches would become one.",
                            fix="Train or download that model again.",
                        )
                self._chunks = {k: v for k, v in self._chunks.items() if k[1] == matrix.tensor}
                self._chunks[key] = (first, held)
            piece = held[place - first : min(stop - first, held.shape[0])]
            pieces.append(piece)
            place += piece.shape[0]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def close(self) -> None:
        """Close the files."""
        for checkpoint in (self.aligned, self.tuned, *self._others.values()):
            checkpoint.close()
        if self.adapter:
            self.adapter.checkpoint.close()


def require_folders(models: Mapping[str, ModelRef]) -> None:
    """Pass when every model is a folder of its own weights; the tuned one may be an adapter.

    Raises:
        BadInput: One is not.
    """
    for role, ref in models.items():
        if ref.kind not in ("hf", "adapter") or (role != "tuned" and ref.kind == "adapter"):
            raise BadInput(
                f"The {role} model {ref.where} is no model folder (it is of the kind {ref.kind!r}).",
                fix="Give a folder of save_pretrained; only the tuned model may be an adapter.",
            )


def check_tokenizers(models: Mapping[str, ModelRef]) -> None:
    """Pass when aligned and tuned models turn text into the same numbers.

    Tokens may have been added; those both know must keep their number.

    Raises:
        BadInput: A token has another number, or is gone.
    """
    import transformers

    words = {}
    for role in ("aligned", "tuned"):
        folder = tokenizer_folder(models[role])
        made: Any = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        words[role] = made.get_vocab()
    moved = sorted(
        (number, token) for token, number in words["aligned"].items() if words["tuned"].get(token) != number
    )
    if moved:
        number, token = moved[0]
        raise BadInput(
            f"The tokenizers differ: {len(moved)} tokens of the aligned model have another number in the tuned one "
            f"or none (first {token!r}, number {number}).",
            why="The same row of an embedding would stand for another word.",
            fix="Give the aligned model that was fine-tuned, or the tuned model's own tokenizer.",
        )


def third_model(models: Mapping[str, ModelRef], role: str, opened: Opened) -> Path:
    """The folder of a further model of the same architecture.

    Raises:
        BadInput: It is no folder, or its tensors differ in name or shape.
    """
    folder = local_folder(models[role])
    other = Checkpoint(folder)
    other.close()
    for name, item in opened.aligned.stored.items():
        found = other.stored.get(name)
        if found is None or found.shape != item.shape:
            raise BadInput(
                f"The {role} model {models[role].where} has the tensor {name} as {found.shape if found else 'none'}, "
                f"the aligned model as {item.shape}.",
                fix="Both must be of the same architecture.",
            )
    return folder
