"""What a run's folder holds, how it is recognised, and what of it may be deleted.

A run's ``plan.json`` carries a mark (``"safewright": "run/1"``), and the folder a lock file. A folder with
neither is somebody's own: nothing is created, changed or deleted in it. Overwriting a run deletes only what
a run is known to make: the fixed names below, its journals and steps, the names it registered before it
wrote them (`Run.own`), and runs inside it. Anything else in the folder stops the deletion before it starts.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from safewright.errors import BadInput

MARK = "safewright"
"""The key of a plan that says that it is a run's."""

FORMAT = "run/1"

LOCK = ".safewright.lock"
PLAN = "plan.json"
JOURNAL = "journal"
STEPS = "steps"
MADE = "made"
"""The journal of names a run registered as its own."""

FILES = frozenset({PLAN, "scorecard.json", "records.jsonl", "report.html", "audit.json"})
"""Files every run may have without registering them."""

OUTSIDE = frozenset({"report.html"})
"""Written after the run let go of its lock: its temporary file may be another process's work."""

_PART = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.part")
_STEP = re.compile(r"[0-9a-f]{64}\.json")


def is_plan(found: Any) -> bool:
    """Whether the content of a plan.json is a run's, and not that of something else."""
    return isinstance(found, dict) and str(found.get(MARK, "")).startswith("run/")


def marked(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as it is written."""
    return {MARK: FORMAT, **{key: value for key, value in plan.items() if key != MARK}}


def examine(path: Path, *, overwrite: bool) -> tuple[bool, dict[str, Any] | None]:
    """Whether a run stands in the folder ``path``, and its plan; the plan is None where it is damaged.

    Nothing is changed. A folder that is missing, empty, or was left by a kill before its plan was written
    holds no run, and may hold one.

    Raises:
        BadInput: It holds something that is no run; or a damaged one, and ``overwrite`` is not asked for;
            or a run with things of somebody else beside it, and ``overwrite`` is.
    """
    if not path.is_dir():
        return False, None
    if not _exists(path / PLAN):
        strange = foreign(path)
        if strange:
            raise BadInput(
                f"{path} is not empty and holds no run ({_some(strange)}).",
                why="Its content would be mixed with results.",
                fix="Choose another folder with --out.",
            )
        return False, None
    plan = _read_plan(path, overwrite)
    if overwrite:
        strange = foreign(path)
        if strange:
            raise BadInput(
                f"{path} holds what its run did not make: {_some(strange)}.",
                why="Overwriting deletes the run that is there; these would be in its way.",
                fix="Move them elsewhere, or choose another folder with --out.",
            )
    return True, plan


def _read_plan(path: Path, overwrite: bool) -> dict[str, Any] | None:
    file = path / PLAN
    damage = "it is not an object"
    found: Any = None
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        damage = str(error)
    if isinstance(found, dict):
        if is_plan(found):
            return found
        raise _not_ours(path, f"{file} is not the plan of a run: it lacks the key {MARK!r}.")
    if not _exists(path / LOCK):
        raise _not_ours(path, f"{file} is not the plan of a run: {damage}.")
    if overwrite:
        return None  # the lock says that a run was here: its damaged plan may go with it
    raise BadInput(f"{file} is damaged: {damage}.", fix="Use --overwrite or another --out.")


def _not_ours(path: Path, what: str) -> BadInput:
    return BadInput(
        what,
        why=f"{path} may be a folder of yours: nothing in it is touched.",
        fix="Choose another folder with --out.",
    )


def foreign(path: Path) -> list[str]:
    """What lies in a run's folder without being known as a run's, by its path inside; sorted."""
    return sorted(_foreign(path, made(path)))


def _foreign(path: Path, own: frozenset[str]) -> Iterator[str]:
    for entry in path.iterdir():
        name = entry.name
        if name in own:
            continue
        if _is_file(entry):
            if name != LOCK and name not in FILES and _part_of(name) not in FILES | own:
                yield name
        elif entry.is_symlink() or not entry.is_dir():
            yield name
        elif name == JOURNAL:
            yield from (f"{name}/{e.name}" for e in entry.iterdir() if not _is_journal(e))
        elif name == STEPS:
            yield from (f"{name}/{e.name}" for e in entry.iterdir() if not _is_step(e))
        elif _holds_run(entry):
            yield from (f"{name}/{inner}" for inner in foreign(entry))
        elif any(entry.iterdir()):
            yield f"{name}/"


def made(path: Path) -> frozenset[str]:
    """The names a run registered as its own; what cannot be read counts as not registered."""
    file = path / JOURNAL / f"{MADE}.jsonl"
    if not _is_file(file):
        return frozenset()
    names = set()
    for line in file.read_bytes().split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # then its entry counts as somebody else's, and is not deleted
        if isinstance(row, dict) and isinstance(row.get("name"), str):
            names.add(row["name"])
    return frozenset(names)


def sweep(path: Path) -> None:
    """Remove the temporary files that writes under the run's lock left behind when they were killed."""
    own = (FILES - OUTSIDE) | made(path)
    steps = path / STEPS
    for entry in [*path.iterdir(), *(steps.iterdir() if steps.is_dir() else ())]:
        name = _part_of(entry.name)
        if name and _is_file(entry) and (name in own or _STEP.fullmatch(name)):
            entry.unlink(missing_ok=True)


def clear(path: Path) -> None:
    """Delete what a run made in ``path``, but not its plan, which the next one replaces, nor its lock.

    The caller has asked `foreign` under the folder's lock, and got nothing.

    Raises:
        BadInput: A run inside is in use by another process; nothing is deleted then.
    """
    with ExitStack() as locks:
        for inner in _inner_runs(path):
            locks.enter_context(hold(inner))
        _clear(path, keep=(LOCK, PLAN))


def _clear(path: Path, keep: tuple[str, ...] = ()) -> None:
    own = made(path)
    # The journal names what was made: it goes last, so that a kill half-way leaves nothing unnamed.
    for entry in sorted(path.iterdir(), key=lambda e: e.name == JOURNAL):
        if entry.name in keep:
            continue
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink()
        elif entry.name in own:
            shutil.rmtree(entry)
        elif entry.name in (JOURNAL, STEPS):
            for file in sorted(entry.iterdir(), key=lambda e: e.name == f"{MADE}.jsonl"):
                file.unlink()
            entry.rmdir()
        else:
            _clear(entry)
            entry.rmdir()


def _inner_runs(path: Path) -> Iterator[Path]:
    own = made(path)
    for entry in path.iterdir():
        if entry.name not in own and not entry.is_symlink() and entry.is_dir() and _holds_run(entry):
            yield entry
            yield from _inner_runs(entry)


def _holds_run(path: Path) -> bool:
    if path.name in (JOURNAL, STEPS):
        return False
    if _is_file(path / LOCK):
        return True
    try:
        return is_plan(json.loads((path / PLAN).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return False


def hold(path: Path) -> BinaryIO:
    """The lock of a run's folder, held until the file is closed. An existing lock file is not changed.

    Raises:
        BadInput: Another process holds it, or this file system has no locks.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock: BinaryIO = os.fdopen(os.open(path / LOCK, flags, 0o666), "r+b", buffering=0)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise BadInput(
            f"{path} is in use by another process.",
            why="Two writers would mix their answers.",
            fix="Wait for it, or choose another folder with --out.",
        ) from error
    except OSError as error:
        lock.close()
        raise BadInput(
            f"{path} cannot be locked ({error.strerror}).",
            why="Without a lock two writers could mix their answers.",
            fix="Choose a folder on a local disk with --out.",
        ) from error
    return lock


def _is_journal(entry: Path) -> bool:
    return _is_file(entry) and entry.suffix == ".jsonl"


def _is_step(entry: Path) -> bool:
    return _is_file(entry) and bool(_STEP.fullmatch(_part_of(entry.name) or entry.name))


def _part_of(name: str) -> str:
    """The file whose temporary file ``name`` is; empty where it is none."""
    found = _PART.fullmatch(name)
    return found[1] if found else ""


def _is_file(entry: Path) -> bool:
    """Whether it is a file itself, and no link to one."""
    try:
        return stat.S_ISREG(entry.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _exists(entry: Path) -> bool:
    return os.path.lexists(entry)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
