"""What a treatment is given: its models, data and options, where to write, and where to remember."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safewright.data import LoadedData
from safewright.runs import Run
from safewright.runs.progress import Progress
from safewright.types import Check, ModelRef, Row


@dataclass(frozen=True)
class Job:
    """One treatment, or one stage of it, at work.

    ``out`` is the folder that was named: where the result will stand, or what a stage reads. A treatment
    fills the folder ``draft``, which becomes ``out`` at once when it is whole. ``run`` journals what must
    survive a kill. ``device`` and ``threads`` are fixed for the whole run, ``workers`` may change between a
    kill and the next try.
    """

    models: Mapping[str, ModelRef]
    data: Mapping[str, LoadedData]
    config: Any
    out: Path | None
    draft: Path
    run: Run
    seed: int
    device: str
    threads: int
    workers: int
    progress: Progress

    def rows(self, role: str) -> tuple[Row, ...]:
        """The rows of a role; none where it was not given."""
        return self.data[role].rows if role in self.data else ()


@dataclass(frozen=True)
class Made:
    """What a treatment made: ``kind`` of the folder in ``draft``, the checks it passed, and its report."""

    kind: str
    checks: tuple[Check, ...] = ()
    report: Mapping[str, Any] | None = None
