"""Several processes at one training: which one this is, and what the main one tells the others."""

from __future__ import annotations

import os


def rank() -> int:
    """The number of this process; 0 is the main one, which owns all that is written."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes results."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here; nothing where there is one."""
    if world_size() > 1:
        import torch.distributed as group

        if group.is_initialized():
            group.barrier()
