"""How many threads compute: sums are split by thread, so the number decides the last bits of a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads, and with as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
