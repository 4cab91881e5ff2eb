"""The files that hold a model's tensors: which of them are read, and whether they are whole."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from safewright.errors import BadInput

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MODEL_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What transformers reads, in its order; each may be split into shards under an index."""

_SHARD = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?P<suffix>safetensors|bin)$")
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}
"""Width of the safetensors dtypes that every version agrees on; others are left to the library."""

_AGAIN = "Copy or download it again."


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model or adapter folder, just those that will be loaded.

    Raises:
        BadInput: Shards are there without their index, the index names a file that is not there, or
            the weights have names that nothing loads.
    """
    if (folder / "adapter_config.json").exists():
        return [folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()][:1]
    for name in MODEL_WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").exists():
            return _indexed(folder, folder / f"{name}.index.json")
    _orphans(folder)
    return []


def _indexed(folder: Path, index: Path) -> list[Path]:
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not (folder / shard).is_file():
            count = sum(1 for file in weight_map.values() if file == shard)
            raise BadInput(
                f"The shard {shard} of {folder} is missing.",
                why=f"It holds {count} of the model's {len(weight_map)} tensors.",
                fix=_AGAIN,
            )
    return [folder / shard for shard in shards]


def _weight_map(index: Path) -> dict[str, str]:
    """Which shard holds each tensor, as an index file says."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(f"{index} has no weight_map.", fix="Copy the folder again.")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(suffix):
            raise BadInput(
                f"{index} says that {tensor} is in {shard!r}, which is no *{suffix} file of this folder.",
                fix="Copy the folder again.",
            )
    return weight_map


def _orphans(folder: Path) -> None:
    """Pass when a folder without loadable weights has no other files that look like weights."""
    files = (file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    names = sorted(file.name for file in files if file.is_file())
    for name in names:
        found = _SHARD.match(name)
        if not found:
            continue
        stem, count, suffix = found["stem"], int(found["count"]), found["suffix"]
        all_ = [f"{stem}-{n:05d}-of-{count:05d}.{suffix}" for n in range(1, count + 1)]
        gone = [shard for shard in all_ if shard not in names]
        raise BadInput(
            f"The index {stem}.{suffix}.index.json of {folder} is missing"
            + (f", and so are {len(gone)} of {count} shards ({', '.join(gone[:3])})." if gone else "."),
            why="Without it nobody can say which tensors the model has, or load them.",
            fix=_AGAIN,
        )
    named = [name for name in names if name.endswith(".safetensors")]
    if named:
        raise BadInput(
            f"{folder} has no model.safetensors; it holds {', '.join(named[:3])}, a name nothing loads.",
            fix="Save the model with save_pretrained, or rename the file if it is the whole model.",
        )


def check_weights(folder: Path) -> None:
    """Pass when every weight file of a folder is whole and holds what its index says.

    What a pickled file (``.bin``) holds shows only when it is loaded.

    Raises:
        BadInput: A file is cut off, not what its name says, or lacks a tensor of the index.
    """
    held: dict[str, set[str]] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            held[file.name] = {name for name, _ in tensors(file)}
        else:
            _check_pickled(file)
    index = folder / "model.safetensors.index.json"
    if not index.exists() or "model.safetensors" in held or "adapter_model.safetensors" in held:
        return
    for tensor, shard in _weight_map(index).items():
        if shard in held and tensor not in held[shard]:
            raise BadInput(
                f"The shard {shard} of {folder} lacks the tensor {tensor} its index promises.", fix=_AGAIN
            )


def _check_pickled(file: Path) -> None:
    """Pass when a file of torch.save has a beginning and an end."""
    with open(file, "rb") as handle:
        start = handle.read(2)
    whole = zipfile.is_zipfile(file) if start == b"PK" else start[:1] == b"\x80"
    if not whole:
        raise BadInput(f"The weight file {file} is damaged or cut off.", fix=_AGAIN)


def tensors(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and header entry (dtype, shape, data_offsets) of each tensor in a safetensors file.

    Raises:
        BadInput: The file is damaged or cut off.
    """
    size = file.stat().st_size
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > size - 8:
            raise _damaged(file)
        try:
            header = json.loads(handle.read(length))
        except (ValueError, RecursionError) as error:
            raise _damaged(file) from error
    if not isinstance(header, dict):
        raise _damaged(file)
    header.pop("__metadata__", None)
    spans = []
    for name, entry in header.items():
        if not _well_formed(entry):
            raise _damaged(file, f"the entry of {name} in its header is malformed")
        spans.append((entry["data_offsets"][0], entry["data_offsets"][1], name))
    end = 0
    for first, last, name in sorted(spans):
        if first != end:
            raise _damaged(file, f"the bytes of {name} overlap others, or leave a gap")
        end = last
    if 8 + length + end != size:
        raise _damaged(file)
    yield from header.items()


def _damaged(file: Path, why: str = "") -> BadInput:
    return BadInput(f"The weight file {file} is damaged or cut off{': ' if why else ''}{why}.", fix=_AGAIN)


def _well_formed(entry: Any) -> bool:
    """Whether a header entry has a dtype, a shape, and a range of bytes of the size they call for."""
    if not isinstance(entry, dict):
        return False
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not _counts(shape) or not _counts(span) or len(span) != 2:
        return False
    if span[0] > span[1]:
        return False
    return dtype not in _BITS or math.prod(shape) * _BITS[dtype] == (span[1] - span[0]) * 8


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in one of a model folder's files.

    Raises:
        BadInput: It is none.
    """
    try:
        plain = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid JSON: {error}.", fix="Copy the folder again.") from error
    if not isinstance(plain, dict):
        raise BadInput(f"{file} is not a JSON object.", fix="Copy the folder again.")
    return plain
