"""Hidden states between two decoder blocks, on disk: what a killed prepare goes on from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput
from safewright.runs import digest_file, write_json
from safewright.runs.atomic import disk_errors

if TYPE_CHECKING:
    import torch


class Activations:
    """The inputs of decoder blocks, one file per block, batch after batch as they are computed.

    A file counts once the state names it with its digest: a kill leaves a whole file or none.

    Args:
        folder: Where they are.
        rank: Of the process they belong to; each has its own sequences.
        configuration: Digest of what decides them; those of another are of no use.
        shapes: (sequences, tokens, channels) of every batch.
        dtype: Of the hidden states.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        configuration: str,
        shapes: Sequence[tuple[int, int, int]],
        dtype: torch.dtype,
    ) -> None:
        self.folder, self.rank, self.configuration = folder, rank, configuration
        self.shapes, self.dtype = list(shapes), dtype
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob(f".{rank}-*.part"):
            torn.unlink()
        self._kept = self._state()

    @property
    def nbytes(self) -> int:
        """Size of one file."""
        return activation_bytes(self.shapes, self.dtype)

    @property
    def layers(self) -> list[int]:
        """The blocks whose inputs are here, whole and unaltered."""
        return sorted(
            layer
            for layer, digest in self._kept.items()
            if self._file(layer).is_file() and digest_file(self._file(layer)) == digest
        )

    def read(self, layer: int) -> Iterator[torch.Tensor]:
        """The inputs of a block, batch by batch."""
        import torch

        with open(self._file(layer), "rb") as handle:
            for shape in self.shapes:
                held = torch.empty(shape, dtype=self.dtype)
                array: Any = held.view(torch.uint8).numpy()
                if handle.readinto(memoryview(array).cast("B")) != held.nbytes:
                    raise BadInput(f"{handle.name} ended early.", fix="Give the command with --overwrite.")
                yield held

    @contextmanager
    def written(self, layer: int) -> Iterator[Any]:
        """Within it, ``write(batch)`` adds to the inputs of a block; they count once it is left."""
        import torch

        part, digest = self.folder / f".{self.rank}-{layer:03d}.part", hashlib.sha256()
        with disk_errors(self.folder), open(part, "wb") as handle:

            def write(batch: torch.Tensor) -> None:
                array: Any = batch.to(self.dtype).contiguous().cpu().view(torch.uint8).numpy()
                view = memoryview(array).cast("B")
                handle.write(view)
                digest.update(view)

            yield write
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(self._file(layer))
        self._kept[layer] = f"sha256:{digest.hexdigest()}"
        self._note()

    def drop(self, layer: int) -> None:
        """Delete the inputs of blocks up to this one: their outputs are here."""
        gone = [known for known in self._kept if known <= layer]
        for known in gone:
            del self._kept[known]
        if gone:
            self._note()
        for known in gone:
            self._file(known).unlink(missing_ok=True)

    def _file(self, layer: int) -> Path:
        return self.folder / f"{self.rank}-{layer:03d}.bin"

    def _note(self) -> None:
        kept = {str(layer): digest for layer, digest in sorted(self._kept.items())}
        write_json(
            self.folder / f"state-{self.rank}.json", {"configuration": self.configuration, "inputs": kept}
        )

    def _state(self) -> dict[int, str]:
        try:
            found = json.loads((self.folder / f"state-{self.rank}.json").read_bytes())
            if found["configuration"] != self.configuration:
                return {}
            return {int(layer): str(digest) for layer, digest in found["inputs"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # nothing to go on from


def activation_bytes(shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype) -> int:
    """Bytes of hidden states of these shapes."""
    return sum(count * tokens * width for count, tokens, width in shapes) * int(dtype.itemsize)
