"""A cache whose entries are built once, even when many processes ask at the same time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safewright.runs.atomic import sync_folder


def single_flight(path: Path, build: Callable[[Path], None]) -> Path:
    """The finished entry at ``path``, built by the first caller while the others wait.

    Args:
        path: Where the entry lives. Its name must carry the digest of everything it depends on.
        build: Fills the empty folder it is given. It may fail or be killed: then nothing appears at
            ``path`` and the next caller starts afresh.

    Returns:
        ``path``, complete.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # The kernel drops the lock when its holder dies, so a killed build never blocks the next one.
    with open(path.parent / f".{path.name}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path
        draft = path.parent / f".{path.name}.part"
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir()
        build(draft)
        for file in draft.rglob("*"):
            if file.is_file():
                _sync_file(file)
        os.replace(draft, path)
        sync_folder(path.parent)
    return path


def _sync_file(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
