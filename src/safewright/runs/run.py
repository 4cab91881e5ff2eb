"""A run's folder: its plan, its journals, and steps that are done once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from safewright.errors import BadInput, Incomplete
from safewright.runs.atomic import dump_json, to_json, write_json, write_text
from safewright.runs.digests import digest_json

NOTES = frozenset({"command", "created", "estimate"})
"""Keys of a plan that describe it without deciding its results; two plans may differ in them."""


def plan_digest(plan: Mapping[str, Any]) -> str:
    """The digest of what decides a run's results: the plan without its `NOTES`."""
    return digest_json({key: value for key, value in plan.items() if key not in NOTES})


def open_run(
    folder: Path | str, plan: Mapping[str, Any], *, resume: bool = True, overwrite: bool = False
) -> Run:
    """The run in ``folder``: begun, or taken up where it was left.

    Args:
        folder: Created where missing. One process at a time holds it.
        plan: Everything that decides the results (configuration, seeds, digests of models and data,
            versions, device), plus the `NOTES`.
        resume: Whether a folder with the same plan is taken up; otherwise it must be empty.
        overwrite: Whether a run that stands in the way is deleted. A folder that is not a run never is.

    Raises:
        BadInput: The folder holds another plan, or something that is not a run, or is in use.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path} is a file.", fix="Name a folder with --out.")
    path.mkdir(parents=True, exist_ok=True)
    lock = _lock(path)
    try:
        found = _read_plan(path)
        if found is not None and not overwrite:
            _require_same(path, found, plan, resume)
        elif found is not None:
            _clear(path)
        elif any(entry.name != LOCK for entry in path.iterdir()):
            raise BadInput(
                f"{path} is not empty and holds no run.",
                why="Its content would be mixed with results.",
                fix="Choose another folder with --out.",
            )
        if found is None or overwrite:
            write_json(path / "plan.json", plan)
    except BaseException:
        lock.close()
        raise
    return Run(path, plan, lock)


LOCK = ".lock"


def _lock(path: Path) -> Any:
    lock = open(path / LOCK, "w")  # noqa: SIM115 - held until the run is closed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise BadInput(
            f"{path} is in use by another process.",
            why="Two writers would mix their answers.",
            fix="Wait for it, or choose another folder with --out.",
        ) from error
    return lock


def _read_plan(path: Path) -> dict[str, Any] | None:
    file = path / "plan.json"
    if not file.exists():
        return None
    try:
        plan = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is damaged: {error}.", fix="Use --overwrite or another --out.") from error
    if not isinstance(plan, dict):
        raise BadInput(f"{file} is not a plan.", fix="Choose another folder with --out.")
    return plan


def _require_same(path: Path, found: Mapping[str, Any], plan: Mapping[str, Any], resume: bool) -> None:
    if not resume:
        raise BadInput(f"{path} already holds a run.", fix="Use --overwrite or another --out.")
    if plan_digest(found) != plan_digest(plan):
        fresh = to_json(plan)
        keys = sorted(
            key
            for key in (set(found) | set(fresh)) - NOTES
            if digest_json(found.get(key)) != digest_json(fresh.get(key))
        )
        raise BadInput(
            f"{path} holds a run with another plan: {', '.join(keys)} differ.",
            why="Answers of one plan are never reused for another.",
            fix="Use --overwrite to start it anew, or another --out.",
        )


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


class Run:
    """An open run folder. Use `open_run`; close it, or use it as a context manager."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], lock: Any) -> None:
        self.dir = folder
        self.plan = plan
        self._lock = lock
        self._streams: dict[str, int] = {}

    def append(self, stream: str, row: Mapping[str, Any]) -> None:
        """Add a row to the journal ``stream``.

        The row is handed to the system in one write before this returns, so it survives the death of
        the process at any later moment.

        Raises:
            Incomplete: The disk is full, or a quota is reached.
        """
        line = (dump_json(row, canonical=True) + "\n").encode("utf-8")
        handle = self._streams.get(stream)
        if handle is None:
            handle = self._open_stream(stream)
        with disk_errors(self.dir):
            start = os.lseek(handle, 0, os.SEEK_CUR)
            try:
                written = os.write(handle, line)
                while written < len(line):
                    written += os.write(handle, line[written:])
            except OSError:
                # Half a row must not become the head of the next one.
                os.ftruncate(handle, start)
                os.lseek(handle, start, os.SEEK_SET)
                raise

    def rows(self, stream: str) -> list[dict[str, Any]]:
        """All whole rows of a journal, oldest first.

        Raises:
            BadInput: A row other than a torn last one is damaged.
        """
        file = self._file(stream)
        if not file.exists():
            return []
        rows = []
        lines = file.read_bytes().split(b"\n")
        # What follows the last newline was torn by a kill or a full disk: it was never acknowledged.
        for number, line in enumerate(lines[:-1], start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise BadInput(
                    f"{file} line {number} is damaged: {error}.", fix="Use --overwrite to start the run anew."
                ) from error
        return rows

    def step(self, key: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """The JSON result of ``work``, computed once per content of ``key``.

        Args:
            key: Everything the result depends on (digests, options); its digest names the file.
            work: Computes a result that `to_json` accepts.
        """
        file = self.dir / "steps" / f"{digest_json(key).removeprefix('sha256:')}.json"
        if file.exists():
            return json.loads(file.read_text("utf-8"))["result"]
        result = to_json(work())
        with disk_errors(self.dir):
            write_json(file, {"key": to_json(key), "result": result})
        return result

    def event(self, kind: str, **facts: Any) -> None:
        """Note that something happened, with the time; events never decide results."""
        self.append("events", {"at": round(time.time(), 3), "kind": kind, **facts})

    def write(self, name: str, obj: Any) -> Path:
        """Write ``name`` inside the folder at once: text as it is, anything else as JSON."""
        path = self.dir / name
        with disk_errors(self.dir):
            if isinstance(obj, str):
                write_text(path, obj)
            else:
                write_json(path, obj)
        return path

    def close(self) -> None:
        """Flush the journals to the disk and let go of the folder."""
        for handle in self._streams.values():
            with disk_errors(self.dir):
                os.fsync(handle)
            os.close(handle)
        self._streams.clear()
        self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _file(self, stream: str) -> Path:
        return self.dir / "journal" / f"{stream}.jsonl"

    def _open_stream(self, stream: str) -> int:
        file = self._file(stream)
        with disk_errors(self.dir):
            file.parent.mkdir(exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            os.lseek(handle, _whole_length(handle), os.SEEK_SET)
            os.ftruncate(handle, os.lseek(handle, 0, os.SEEK_CUR))
        self._streams[stream] = handle
        return handle


def _whole_length(handle: int) -> int:
    """Bytes up to and including the last newline: a torn last line is cut off before appending."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - 65536)
        piece = os.pread(handle, end - start, start)
        cut = piece.rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


class disk_errors:  # noqa: N801 - reads as a statement: "with disk_errors(folder):"
    """Turns a full disk or a reached quota into `Incomplete`; other errors pass unchanged."""

    FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in self.FULL:
            raise Incomplete(
                f"No space left while writing to {self.folder} ({error.strerror}).",
                why="Everything written before is kept.",
                fix="Free some space and give the same command again: it goes on from here.",
            ) from error
