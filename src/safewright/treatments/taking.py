"""What a treatment took of the machine, beside what had been estimated."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safewright.runs import Run

TOOK = "took.json"
"""In a run's folder: ``estimated`` and ``measured``, each with ``seconds``, ``memory_bytes``, ``disk_bytes``."""


def note(run: Run, out: Path, seconds: float, workers: int, estimated: Mapping[str, Any]) -> None:
    """Write down what the work took since it was last started.

    Memory is the largest this process ever had, with that of its largest child for every worker. Disk is what the
    result and the run's folder hold.
    """
    measured = {
        "seconds": round(seconds, 3),
        "memory_bytes": peak_bytes(workers),
        "disk_bytes": held_bytes(out) + held_bytes(run.dir),
    }
    run.write(TOOK, {"estimated": dict(estimated), "measured": measured})


def peak_bytes(workers: int = 1) -> int:
    """The largest resident memory of this process, and of so many children as large as its largest one."""
    unit = 1 if sys.platform == "darwin" else 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if workers > 1 else 0
    return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + workers * children)


def held_bytes(folder: Path) -> int:
    """What the files below a folder take on disk."""
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())
