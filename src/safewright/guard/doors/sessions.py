"""What was called and what came back, session by session, for doors that are not told the history with every call.

A history is never shortened: taint, budgets and provenance are read from it, and a shorter one would forgive. Where a
session outgrows its bounds, it is full, and a door denies.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.guard.nouns import Turn, read_turn

MOST_SESSIONS = 1000
MOST_TURNS = 2000
MOST_BYTES = 16 * 1024 * 1024
KEPT_SECONDS = 7 * 24 * 3600.0
"""A session without a call for so long is over."""


@dataclass
class Session:
    """One session: its turns, oldest first, what the user asked for last, and how much it holds."""

    turns: list[Turn] = field(default_factory=list)
    request: str | None = None
    size: int = 0
    used: float = 0.0
    at: int = 0
    """Bytes of its file that were read."""


class Sessions:
    """The histories of the sessions a door serves.

    Args:
        folder: Where they are written down as well, a file each (private to the user), so that they outlive a process;
            None keeps them in memory only.
        most_sessions: How many may be alive at a time.
        most_turns: Calls, results and messages of one session.
        most_bytes: JSON bytes of one session.
        kept_s: How long a session lives without being used.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        most_sessions: int = MOST_SESSIONS,
        most_turns: int = MOST_TURNS,
        most_bytes: int = MOST_BYTES,
        kept_s: float = KEPT_SECONDS,
    ) -> None:
        self._folder = folder
        self._most = (most_sessions, most_turns, most_bytes)
        self._kept = kept_s
        self._sessions: dict[str, Session] = {}
        self._lock = threading.RLock()
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep(folder)

    def history(self, session: str) -> tuple[Turn, ...]:
        """What went before in a session, oldest first; nothing for one not seen yet.

        Raises:
            BadInput: It is full, or what was written down of it cannot be read.
        """
        with self._lock:
            return tuple(self._open(session).turns)

    def request(self, session: str) -> str | None:
        """What the user asked for last in a session; None where nobody said.

        Raises:
            BadInput: As for `history`.
        """
        with self._lock:
            return self._open(session).request

    def asked(self, session: str, text: str) -> None:
        """Note what the user asked for."""
        self.add(session, (Turn("user", text),))

    def called(
        self, session: str, tool: str, arguments: Mapping[str, Any], result: str | None, id: str = ""
    ) -> None:
        """Note a call that was made and, where it is known, what came back."""
        turns = [Turn("call", tool=tool, arguments=dict(arguments), id=id)]
        if result is not None:
            turns.append(Turn("result", result, tool=tool, id=id))
        self.add(session, turns)

    def returned(self, session: str, tool: str, result: str, id: str = "") -> None:
        """Note what came back from a call that was noted before."""
        self.add(session, (Turn("result", result, tool=tool, id=id),))

    def add(self, session: str, turns: Sequence[Turn]) -> None:
        """Add turns to a session.

        Raises:
            BadInput: It is full, or what was written down of it cannot be read.
            OSError: They cannot be written down.
        """
        lines = [json.dumps(dataclasses.asdict(turn), ensure_ascii=True) for turn in turns]
        with self._lock:
            entry = self._open(session)
            if self._folder is None:
                for turn, line in zip(turns, lines, strict=True):
                    self._take(entry, turn, len(line))
                return
            file = self._file(session)
            self._write(file, "".join(f"{line}\n" for line in lines).encode("ascii"))
            self._read(entry, file)

    def forget(self, session: str) -> None:
        """A session is over."""
        with self._lock:
            self._sessions.pop(session, None)
            if self._folder is not None:
                self._file(session).unlink(missing_ok=True)

    def __len__(self) -> int:
        with self._lock:
            return len(self._sessions)

    def _open(self, session: str) -> Session:
        most_sessions, most_turns, most_bytes = self._most
        now = time.monotonic()
        entry = self._sessions.get(session)
        if entry is None:
            if len(self._sessions) >= most_sessions:
                self._expire(now)
            if len(self._sessions) >= most_sessions:
                raise BadInput(
                    f"{most_sessions:,} sessions are open, as many as may be.",
                    fix="End sessions that are over, or start another guard.",
                )
            entry = self._sessions[session] = Session()
        if self._folder is not None:  # another process may have added to it
            self._read(entry, self._file(session))
        entry.used = now
        if len(entry.turns) > most_turns or entry.size > most_bytes:
            raise BadInput(
                "The session is too long for its history to be kept whole.",
                why="A shortened history would forget what was read in it.",
                fix="Start a new session.",
            )
        return entry

    def _expire(self, now: float) -> None:
        old = [name for name, entry in self._sessions.items() if now - entry.used > self._kept]
        for name in old:
            self.forget(name)

    @staticmethod
    def _take(entry: Session, turn: Turn, size: int) -> None:
        entry.turns.append(turn)
        entry.size += size
        if turn.kind == "user":
            entry.request = turn.text

    def _file(self, session: str) -> Path:
        name = hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return (self._folder or Path()) / f"{name}.jsonl"

    def _read(self, entry: Session, file: Path) -> None:
        """Take in what was added to a session's file since it was read last."""
        try:
            with file.open("rb") as stream:
                # What another process is still writing may be read in part.
                fcntl.flock(stream, fcntl.LOCK_SH)
                stream.seek(0, os.SEEK_END)
                if stream.tell() < entry.at:
                    raise BadInput(f"The history {file} was shortened.", fix="Start a new session.")
                stream.seek(entry.at)
                added = stream.read()
        except FileNotFoundError as error:
            if entry.at:
                raise BadInput(f"The history {file} was deleted.", fix="Start a new session.") from error
            return
        except OSError as error:
            raise BadInput(f"The history {file} cannot be read: {error}.") from error
        if added and not added.endswith(b"\n"):
            raise BadInput(f"The history {file} ends in the middle of a line.", fix="Start a new session.")
        try:
            turns = [(read_turn(json.loads(line)), len(line)) for line in added.splitlines()]
        except (ValueError, BadInput) as error:
            raise BadInput(f"The history {file} is damaged.", fix="Start a new session.") from error
        for turn, size in turns:
            self._take(entry, turn, size)
        entry.at += len(added)

    @staticmethod
    def _write(file: Path, lines: bytes) -> None:
        """Add lines in one write, alone: other processes read and write the same file."""
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.write(descriptor, lines) != len(lines):
                raise OSError(f"{file} could not be written whole")
        finally:
            os.close(descriptor)

    def _sweep(self, folder: Path) -> None:
        """Delete what was written down of sessions that are long over."""
        now = time.time()
        for file in folder.glob("*.jsonl"):
            try:
                if now - file.stat().st_mtime > self._kept:
                    file.unlink(missing_ok=True)
            except OSError:
                continue
