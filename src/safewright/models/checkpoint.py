"""Weights on disk by tensor name: read in pieces, written in place, never a whole shard in memory."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, NumericalFailure, nearest
from safewright.models.weights import tensors, weight_files
from safewright.runs import write_json
from safewright.runs.atomic import disk_errors

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"

_TORCH = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_SAFE = {name: code for code, name in _TORCH.items()}


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint: ``dtype`` is torch's name for it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int

    @property
    def floating(self) -> bool:
        """Whether its numbers are ordinary floating point (8-bit formats carry scales elsewhere)."""
        return self.dtype in ("float64", "float32", "float16", "bfloat16")


class Checkpoint:
    """The tensors of a model folder, read with plain reads: mapped pages would count as memory.

    Args:
        folder: The model's folder.
        files: Its files that count; those transformers would load where None.

    Raises:
        BadInput: The folder has no safetensors files, or one of them is damaged.
    """

    def __init__(self, folder: Path, files: Iterable[Path] | None = None) -> None:
        self.folder = folder
        self.stored: dict[str, Stored] = {}
        self._handles: dict[str, int] = {}
        for file in weight_files(folder) if files is None else files:
            if file.suffix != ".safetensors":
                raise BadInput(
                    f"{file} is not a safetensors file.",
                    why="Its tensors cannot be read one by one, and reading it would run code.",
                    fix="Load it with transformers and save_pretrained it to another folder.",
                )
            with open(file, "rb") as handle:
                begin = 8 + int.from_bytes(handle.read(8), "little")
            for name, entry in tensors(file):
                if entry["dtype"] not in _TORCH:
                    raise BadInput(f"The tensor {name} of {file} has the unknown dtype {entry['dtype']!r}.")
                start, stop = (begin + offset for offset in entry["data_offsets"])
                dtype = _TORCH[entry["dtype"]]
                self.stored[name] = Stored(name, dtype, tuple(entry["shape"]), file.name, start, stop)

    def __getitem__(self, name: str) -> Stored:
        if name not in self.stored:
            raise BadInput(f"{self.folder} holds no tensor {name}.", fix=nearest(name, self.stored))
        return self.stored[name]

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor."""
        import torch

        found = self[name]
        return (
            self._bytes(found, found.start, found.stop).view(getattr(torch, found.dtype)).reshape(found.shape)
        )

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of a tensor."""
        import torch

        found = self[name]
        width = (found.stop - found.start) // found.shape[0]
        data = self._bytes(found, found.start + start * width, found.start + stop * width)
        return data.view(getattr(torch, found.dtype)).reshape(stop - start, *found.shape[1:])

    def _bytes(self, found: Stored, start: int, stop: int) -> torch.Tensor:
        import torch

        if found.file not in self._handles:
            self._handles[found.file] = os.open(self.folder / found.file, os.O_RDONLY)
        buffer = torch.empty(stop - start, dtype=torch.uint8)
        array: Any = buffer.numpy()
        view = memoryview(array)
        done = 0
        while done < len(view):
            # One read call moves at most 2 GiB.
            got = os.preadv(self._handles[found.file], [view[done : done + 2**30]], start + done)
            if got == 0:
                raise BadInput(f"{self.folder / found.file} ended early.", fix="Copy or download it again.")
            done += got
        return buffer

    def close(self) -> None:
        """Close the files."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()


@dataclass(frozen=True)
class Planned:
    """One tensor of a checkpoint to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def nbytes(self) -> int:
        """Its size on disk."""
        import torch

        return prod(self.shape) * int(getattr(torch, self.dtype).itemsize)


class Shards:
    """Safetensors files of known layout, allocated at once and filled in any order.

    Every tensor has its place from the start, so several processes may fill one folder, and a folder that
    was left half-way is taken up by writing the tensors that lack.
    """

    def __init__(self, folder: Path, planned: Iterable[Planned]) -> None:
        self.folder = folder
        self.files: dict[str, list[Planned]] = {}
        for item in planned:
            self.files.setdefault(item.file, []).append(item)
        self._places: dict[str, tuple[Planned, int]] = {}
        self._headers: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._handles: dict[str, int] = {}
        for file, items in self.files.items():
            header: dict[str, object] = {"__metadata__": {"format": "pt"}}
            offset = 0
            for item in items:
                code = _SAFE[item.dtype]
                stop = offset + item.nbytes
                header[item.name] = {"dtype": code, "shape": list(item.shape), "data_offsets": [offset, stop]}
                offset = stop
            text = json.dumps(header, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            self._headers[file] = len(text).to_bytes(8, "little") + text
            self._sizes[file] = len(self._headers[file]) + offset
            offset = len(self._headers[file])
            for item in items:
                self._places[item.name] = (item, offset)
                offset += item.nbytes

    @property
    def nbytes(self) -> int:
        """Size of all files together."""
        return sum(self._sizes.values())

    def allocate(self) -> set[str]:
        """Create the files that are not there as planned, and the index; the names of fresh files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = set()
        for file, header in self._headers.items():
            path = self.folder / file
            if path.exists() and path.stat().st_size == self._sizes[file]:
                with open(path, "rb") as handle:
                    if handle.read(len(header)) == header:
                        continue
            fresh.add(file)
            with disk_errors(self.folder), open(path, "wb") as handle:
                handle.write(header)
                handle.flush()
                # Reserves the space, so that a full disk shows now and not in the middle.
                if self._sizes[file] > len(header):
                    os.posix_fallocate(handle.fileno(), 0, self._sizes[file])
                os.fsync(handle.fileno())
        if len(self.files) > 1:
            total = sum(item.nbytes for items in self.files.values() for item in items)
            places = {item.name: file for file, items in self.files.items() for item in items}
            write_json(self.folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
        return fresh

    def write(self, name: str, start: int, rows: torch.Tensor) -> None:
        """Put ``rows`` of a tensor at row ``start`` (a scalar or vector counts as rows too)."""
        import torch

        item, offset = self._places[name]
        if item.file not in self._handles:
            self._handles[item.file] = os.open(self.folder / item.file, os.O_WRONLY)
        rows = rows.to(getattr(torch, item.dtype)).contiguous()
        if rows.is_floating_point() and not bool(torch.isfinite(rows.float().sum())):
            bad = int((~torch.isfinite(rows.float())).sum())
            if bad:
                raise NumericalFailure(
                    f"{bad} numbers of the new {name} are not finite in {item.dtype}.",
                    why="The model would answer nothing but noise.",
                    fix="Save in a dtype that holds larger numbers (float32 or bfloat16).",
                )
        data = rows.reshape(-1).view(torch.uint8)
        width = item.nbytes // item.shape[0] if item.shape else item.nbytes
        array: Any = data.numpy()
        view, done = memoryview(array), 0
        while done < len(view):
            place = offset + start * width + done
            with disk_errors(self.folder):
                done += os.pwrite(self._handles[item.file], view[done : done + 2**30], place)

    def checksum(self, name: str) -> int:
        """CRC-32 of a written tensor's bytes, after they reached the disk."""
        item, offset = self._places[name]
        with disk_errors(self.folder):
            os.fdatasync(self._handles[item.file])
        return _crc(self.folder / item.file, offset, item.nbytes)

    def holds(self, name: str, checksum: int) -> bool:
        """Whether a tensor's bytes on disk have this checksum."""
        item, offset = self._places[name]
        return _crc(self.folder / item.file, offset, item.nbytes) == checksum

    def close(self) -> None:
        """Flush and close the files."""
        for handle in self._handles.values():
            os.fsync(handle)
            os.close(handle)
        self._handles.clear()


def _crc(file: Path, offset: int, size: int) -> int:
    value = 0
    with open(file, "rb") as handle:
        handle.seek(offset)
        while size > 0:
            piece = handle.read(min(size, 2**24))
            if not piece:
                break
            value, size = zlib.crc32(piece, value), size - len(piece)
    return value


def read_file(file: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Tensors of one safetensors file by name; those it does not hold are left out.

    Raises:
        BadInput: The file is missing or damaged.
    """
    if not file.is_file():
        raise BadInput(f"The file {file} is missing.", fix="Make or copy its folder again.")
    checkpoint = Checkpoint(file.parent, [file])
    try:
        return {name: checkpoint.read(name) for name in names if name in checkpoint.stored}
    finally:
        checkpoint.close()
