"""A run's folder: its plan, its journals, and steps that are done once."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from safewright.errors import BadInput
from safewright.runs import folder as folders
from safewright.runs.atomic import (
    checked_path,
    disk_errors,
    dump_json,
    to_json,
    write_json,
    write_lines,
    write_text,
)
from safewright.runs.digests import digest_json

__all__ = ["NOTES", "Run", "disk_errors", "open_run", "plan_digest"]

NOTES = frozenset({"command", "created", "estimate", folders.MARK})
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
        overwrite: Whether a run that stands in the way is deleted. Only what a run makes is deleted
            (`safewright.runs.folder`); a folder that is not a run, or that holds anything else besides
            one, is refused as it is.

    Raises:
        BadInput: The folder holds another plan, or something that is not a run, is in use, or cannot be
            written.
        Incomplete: The disk is full.
    """
    path = checked_path(folder)
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise BadInput(f"{path} is a file.", fix="Name a folder with --out.")
        folders.examine(path, overwrite=overwrite)  # before anything is created in it
        path.mkdir(parents=True, exist_ok=True)
        lock = folders.hold(path)
        try:
            _begin(path, plan, resume, overwrite)
        except BaseException:
            lock.close()
            raise
    return Run(path, plan, lock)


def _begin(path: Path, plan: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
    """Make the locked folder one of this plan."""
    there, found = folders.examine(path, overwrite=overwrite)
    if there and not overwrite:
        _require_same(path, found or {}, plan, resume)
        folders.sweep(path)
        return
    if there:
        folders.clear(path)
    folders.sweep(path)
    write_json(path / folders.PLAN, folders.marked(plan))


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
        where = _places({key: found.get(key) for key in keys}, {key: fresh.get(key) for key in keys})
        raise BadInput(
            f"{path} holds a run with another plan: {', '.join(keys)} differ ({_some(where)}).",
            why="Answers of one plan are never reused for another.",
            fix="Use --overwrite to start it anew, or another --out.",
        )


def _places(there: Any, here: Any, path: str = "") -> list[str]:
    """Where two plans differ, as dotted names with both values."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return [
            place
            for key in dict.fromkeys([*there, *here])
            for place in _places(there.get(key), here.get(key), f"{path}.{key}" if path else str(key))
        ]
    if digest_json(there) == digest_json(here):
        return []
    return [f"{path}: {_short(there)} there, {_short(here)} here"]


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else dump_json(value, canonical=True)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _some(places: list[str]) -> str:
    shown = "; ".join(places[:3])
    return f"{shown}; and {len(places) - 3} more" if len(places) > 3 else shown


class Run:
    """An open run folder. Use `open_run`; close it, or use it as a context manager."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], lock: BinaryIO) -> None:
        self.dir = folder
        self.plan = plan
        self._lock = lock
        self._streams: dict[str, int] = {}
        self._writing = threading.Lock()
        self._made = set(folders.made(folder))

    def append(self, stream: str, row: Mapping[str, Any]) -> None:
        """Add a row to the journal ``stream``.

        The row is handed to the system in one write before this returns, so it survives the death of
        the process at any later moment.

        Raises:
            Incomplete: The disk is full, or a quota is reached.
        """
        line = (dump_json(row, canonical=True) + "\n").encode("utf-8")
        # Answers arrive in several threads, and two handles on one journal would write over each other.
        with self._writing, disk_errors(self.dir):
            handle = self._streams.get(stream)
            if handle is None:
                handle = self._open_stream(stream)
            start = os.lseek(handle, 0, os.SEEK_CUR)
            try:
                written = os.write(handle, line)
                while written < len(line):
                    written += os.write(handle, line[written:])
            except BaseException:
                # Half a row must not become the head of the next one.
                os.ftruncate(handle, start)
                os.lseek(handle, start, os.SEEK_SET)
                raise

    def rows(self, stream: str, fields: Collection[str] = ()) -> list[dict[str, Any]]:
        """All whole rows of a journal, oldest first.

        Args:
            stream: Its name.
            fields: What every row must have.

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
            rows.append(_object(line, fields, f"{file} line {number}"))
        return rows

    def step(self, key: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """The JSON result of ``work``, computed once per content of ``key``.

        Args:
            key: Everything the result depends on (digests, options); its digest names the file.
            work: Computes a result that `to_json` accepts.

        Raises:
            BadInput: The file of a finished step is damaged.
        """
        file = self.dir / folders.STEPS / f"{digest_json(key).removeprefix('sha256:')}.json"
        if file.exists():
            return _object(file.read_bytes(), ("result",), str(file))["result"]
        result = to_json(work())
        write_json(file, {"key": to_json(key), "result": result})
        return result

    def own(self, *names: str) -> Path:
        """Register files or folders that are about to be written inside the run's folder; the last one's path.

        Overwriting the run deletes them, folders with all that is in them. What is not registered, not
        written by `write` and not a run itself counts as somebody else's, and the run is not overwritten.

        Raises:
            BadInput: A name is taken by something the run did not make.
        """
        path = self.dir
        for name in names:
            if not name or Path(name).name != name or name in _RESERVED:
                raise ValueError(f"{name!r} is not the plain name of a result")
            path = self.dir / name
            if name in folders.FILES or name in self._made:
                continue
            if os.path.lexists(path):
                raise BadInput(
                    f"{path} is already there, and this run did not make it.",
                    why="A result would replace it.",
                    fix="Move it elsewhere, or choose another folder with --out.",
                )
            self.append(folders.MADE, {"name": name})
            self._made.add(name)
        return path

    def event(self, kind: str, **facts: Any) -> None:
        """Note that something happened, with the time; events never decide results."""
        self.append("events", {"at": round(time.time(), 3), "kind": kind, **facts})

    def write(self, name: str, obj: Any) -> Path:
        """Write ``name`` inside the folder at once: text as it is, anything else as JSON."""
        path = self.dir / name
        self.own(Path(name).parts[0])
        if isinstance(obj, str):
            write_text(path, obj)
        else:
            write_json(path, obj)
        return path

    def write_rows(self, name: str, rows: Iterable[Any]) -> str:
        """Write one line of JSON per row to ``name`` inside the folder, at once; the digest of its bytes."""
        self.own(name)
        return write_lines(self.dir / name, rows)

    def close(self) -> None:
        """Flush the journals to the disk and let go of the folder."""
        self.close_streams()
        self._lock.close()

    def close_streams(self) -> None:
        """Flush and close the journals; the folder stays held."""
        for handle in self._streams.values():
            with disk_errors(self.dir):
                os.fsync(handle)
            os.close(handle)
        self._streams.clear()

    def discard(self) -> None:
        """Delete everything the run made, and close it: for input that turned out to be unusable.

        Raises:
            BadInput: Something inside is in use by another process.
        """
        self.close_streams()
        folders.clear(self.dir)
        (self.dir / folders.PLAN).unlink(missing_ok=True)
        self._lock.close()
        (self.dir / folders.LOCK).unlink(missing_ok=True)
        if not any(self.dir.iterdir()):
            self.dir.rmdir()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _file(self, stream: str) -> Path:
        return self.dir / folders.JOURNAL / f"{stream}.jsonl"

    def _open_stream(self, stream: str) -> int:
        file = self._file(stream)
        with disk_errors(self.dir):
            file.parent.mkdir(exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            os.lseek(handle, _whole_length(handle), os.SEEK_SET)
            os.ftruncate(handle, os.lseek(handle, 0, os.SEEK_CUR))
        self._streams[stream] = handle
        return handle


_RESERVED = frozenset({".", "..", folders.PLAN, folders.LOCK, folders.JOURNAL, folders.STEPS})


def _object(text: bytes, fields: Collection[str], where: str) -> dict[str, Any]:
    """The JSON object in ``text``, with all ``fields``."""
    damage = "it is not an object"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        damage, found = str(error), None
    if isinstance(found, dict):
        lacking = [field for field in fields if field not in found]
        if not lacking:
            return found
        damage = f"it lacks {lacking[0]!r}"
    raise BadInput(f"{where} is damaged: {damage}.", fix="Use --overwrite to start the run anew.")


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
