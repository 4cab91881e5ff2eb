"""Weights on disk: read in pieces, written in any order, and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from safewright.errors import BadInput, NumericalFailure
from safewright.models.checkpoint import Checkpoint, Planned, Shards, read_file
from tests import tiny

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_those_of_the_library(tmp_path: Path, dtype: str) -> None:
    whole = (torch.arange(35).reshape(7, 5) % 3).to(getattr(torch, dtype))
    save_file({"a": whole, "b": whole[0].clone(), "c": whole[0, 1].clone()}, tmp_path / "model.safetensors")
    held = Checkpoint(tmp_path)
    assert torch.equal(held.read("a"), whole)
    assert torch.equal(held.rows("a", 2, 5), whole[2:5])
    assert torch.equal(held.rows("b", 1, 3), whole[0, 1:3])
    assert held.read("c").shape == ()
    assert held["a"].floating == dtype.startswith(("float", "bfloat"))
    held.close()
    assert torch.equal(held.read("a"), whole)
    held.close()


def test_shards_are_read_by_the_index(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "model", shard="20KB")
    held = Checkpoint(folder)
    assert len({item.file for item in held.stored.values()}) > 2
    for file in folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert torch.equal(held.read(name), tensor)
    with pytest.raises(BadInput, match=r"no tensor model\.nrm\.weight.*model\.norm\.weight"):
        held["model.nrm.weight"]
    held.close()


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match="not a safetensors file"):
        Checkpoint(tmp_path)
    with pytest.raises(BadInput, match="is missing"):
        read_file(tmp_path / "gone.safetensors", ["a"])


def test_a_file_that_got_shorter_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(8, 8)}, file)
    held = Checkpoint(tmp_path)
    with open(file, "r+b") as handle:
        handle.truncate(file.stat().st_size - 16)
    with pytest.raises(BadInput, match="ended early"):
        held.read("a")
    held.close()


PLANNED = [
    Planned("a", "float32", (6, 4), "model-1.safetensors"),
    Planned("b", "bfloat16", (3,), "model-1.safetensors"),
    Planned("s", "float32", (), "model-2.safetensors"),
    Planned("c", "float16", (2, 3, 4), "model-2.safetensors"),
]


def test_tensors_are_written_in_any_order(tmp_path: Path) -> None:
    a, c = torch.randn(6, 4), torch.randn(2, 3, 4).half()
    shards = Shards(tmp_path, PLANNED)
    assert shards.allocate() == {"model-1.safetensors", "model-2.safetensors"}
    shards.write("c", 0, c)
    shards.write("a", 4, a[4:])
    shards.write("s", 0, torch.tensor([2.5]))
    shards.write("a", 0, a[:4])
    shards.write("b", 0, torch.ones(3))
    sums = {name: shards.checksum(name) for name in "abcs"}
    shards.close()
    first, second = (load_file(tmp_path / f"model-{i}.safetensors") for i in (1, 2))
    assert torch.equal(first["a"], a)
    assert torch.equal(second["c"], c)
    assert second["s"] == 2.5
    assert first["b"].dtype == torch.bfloat16
    assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) == shards.nbytes
    again = Shards(tmp_path, PLANNED)
    assert again.allocate() == set()
    assert all(again.holds(name, crc) for name, crc in sums.items())
    again.write("b", 0, torch.zeros(3))
    again.close()
    assert not again.holds("b", sums["b"])
    assert again.holds("a", sums["a"])


def test_a_file_of_another_layout_is_made_anew(tmp_path: Path) -> None:
    Shards(tmp_path, PLANNED).allocate()
    (tmp_path / "model-2.safetensors").write_bytes(b"torn")
    assert Shards(tmp_path, PLANNED).allocate() == {"model-2.safetensors"}


@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e6), ("float32", float("nan"))])
def test_what_is_no_number_is_never_written(tmp_path: Path, dtype: str, value: float) -> None:
    shards = Shards(tmp_path, [Planned("w", dtype, (2, 2), "model.safetensors")])
    shards.allocate()
    with pytest.raises(NumericalFailure, match=f"2 numbers of the new w are not finite in {dtype}"):
        shards.write("w", 0, torch.tensor([[1.0, value], [value, 2.0]]))
    shards.close()
