"""Several processes at one training: which one this is, and what the main one tells the others.

Processes that ``--launch`` started share a folder of messages. The main one owns the run and all that is
written; the others follow: they are told what the main one computed, in the order in which both ask for it.
Messages are plain JSON and lie in files, so they need no process group, and have no time limit: the main
process may work for hours before the training begins.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.runs import to_json, write_json

FOLDER = "SAFEWRIGHT_LAUNCH"
"""The environment's name for the folder of messages."""

ENDED = "result.json"
"""Written there by the main process last: ``{"code": exit code}``."""


def rank() -> int:
    """The number of this process; 0 is the main one, which owns all that is written."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def together() -> int:
    """How many processes ``--launch`` started; 1 where something else started this one and its like."""
    return world_size() if folder() is not None else 1


def is_main() -> bool:
    """Whether this process writes results."""
    return rank() == 0


def folder() -> Path | None:
    """The folder of messages; None where ``--launch`` did not start this process."""
    place = os.environ.get(FOLDER)
    return Path(place) if place else None


def require_launched() -> None:
    """Pass where there is one process, or ``--launch`` started them.

    Raises:
        BadInput: Something else did: nothing says which process may write.
    """
    if world_size() > 1 and folder() is None:
        raise BadInput(
            f"This is one of {world_size()} processes, and safewright did not start them.",
            why="Each would take itself for the one that owns the run.",
            fix="Give the command once, with --launch.",
        )


def barrier() -> None:
    """Wait until every process is here; nothing where there is one."""
    if world_size() > 1:
        import torch.distributed as group

        if group.is_initialized():
            group.barrier()


@dataclass
class Messages:
    """The messages of a folder, in order: each process counts those it has sent or read."""

    place: Path
    count: int = 0

    def tell(self, value: Any) -> None:
        """Send a message to all others."""
        write_json(self._file(), {"told": value})
        self.count += 1

    def hear(self) -> Any:
        """The next message, once it is there.

        Raises:
            SystemExit: The main process has ended, and nothing more will come.
        """
        file, pause = self._file(), 0.01
        while not file.exists():
            if (self.place / ENDED).exists() and not file.exists():
                raise SystemExit(0)
            time.sleep(pause)
            pause = min(0.2, 1.2 * pause)
        self.count += 1
        return json.loads(file.read_text("utf-8"))["told"]

    def _file(self) -> Path:
        return self.place / f"message-{self.count}.json"


_open: dict[str, Messages] = {}


def messages() -> Messages:
    """The messages of the folder that ``--launch`` gave this process."""
    place = folder()
    if place is None:
        raise RuntimeError("this process was not started by --launch")
    return _open.setdefault(str(place), Messages(place))


def from_main(work: Callable[[], Any]) -> Any:
    """What ``work`` gives on the main process, in plain JSON, on every process.

    Every process must come here equally often and in the same order.
    """
    if together() == 1:
        return to_json(work())
    if not is_main():
        return messages().hear()
    found = to_json(work())
    messages().tell(found)
    return found


class LeadingRun:
    """The main process's run, which tells followers what its steps and journals gave."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def step(self, key: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """See `safewright.runs.Run.step`."""
        return from_main(lambda: self._run.step(key, work))

    def rows(self, stream: str, fields: Any = ()) -> Any:
        """See `safewright.runs.Run.rows`."""
        return from_main(lambda: self._run.rows(stream, fields))

    def write_rows(self, name: str, rows: Any) -> Any:
        """See `safewright.runs.Run.write_rows`."""
        return from_main(lambda: self._run.write_rows(name, rows))


@dataclass
class FollowingRun:
    """A follower's view of the run: it knows where things are, is told what the main process's steps gave, and
    writes nothing."""

    dir: Path
    plan: Mapping[str, Any] = field(default_factory=dict)

    def step(self, key: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """What the main process's step gave; ``work`` is not done here."""
        return messages().hear()

    def rows(self, stream: str, fields: Any = ()) -> Any:
        """The rows of a journal as the main process read them."""
        return messages().hear()

    def write_rows(self, name: str, rows: Any) -> Any:
        """The digest of what the main process wrote."""
        return messages().hear()

    def own(self, *names: str) -> Path:
        """The path of the last name."""
        return self.dir.joinpath(*names[-1:])

    def write(self, name: str, obj: Any) -> Path:
        """Where the main process writes it."""
        return self.dir / name

    def append(self, stream: str, row: Mapping[str, Any]) -> None:
        """Nothing: the main process journals it."""

    def event(self, kind: str, **facts: Any) -> None:
        """Nothing: the main process notes it."""


def settle(device: str) -> None:
    """Let this process compute on a GPU of its own where there are several processes."""
    if world_size() > 1 and device.startswith("cuda"):
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
