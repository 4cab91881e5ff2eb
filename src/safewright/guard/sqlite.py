"""SQLite files that several threads and processes write at once: memory and the audit log stand on this.

Readers never wait in WAL mode. Writers wait for each other: within a process at a lock, between processes in SQLite,
for a bounded time. What goes wrong is one error, `Unavailable`, which says what it was.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from safewright.errors import BadInput
from safewright.guard.forking import forkable
from safewright.runs.atomic import checked_path, disk_errors

T = TypeVar("T")
HEADER = b"SQLite format 3\0"
PATIENCE_SECONDS = 5.0
"""How long a writer waits for others before it gives up."""

_WAITING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class Unavailable(OSError):  # noqa: N818 - read as: raise Unavailable
    """A database cannot be read or written now: locked for too long, full disk, damaged file."""


class Database:
    """A SQLite file in WAL mode.

    Args:
        path: The file; made, for its owner only, where it is missing and may be.
        what: What it is, for messages.
        application: The number that marks such a file.
        schema: Statements that make its tables, run where the file is new.
        synchronous: `NORMAL`: a power cut may lose the last commits, never the file. `FULL`: it loses none.
        read_only: Whether nothing is written, the file's bytes included.
        must_exist: Whether a missing file is an error.
        patience: Seconds a writer waits for others.

    Raises:
        BadInput: The path is no place for such a file, or holds something else.
        Unavailable: It is such a file, but cannot be read.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        what: str,
        application: int,
        schema: str,
        synchronous: Literal["NORMAL", "FULL"],
        read_only: bool = False,
        must_exist: bool = False,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.path = checked_path(path)
        self.what, self.read_only, self.patience = what, read_only, patience
        self._application, self._synchronous = application, synchronous
        self._idle: list[sqlite3.Connection] = []
        self._lock, self._writer = threading.Lock(), threading.Lock()
        self._process, self._closed, self._immutable = os.getpid(), False, False
        self._left_behind: list[sqlite3.Connection] = []
        forkable(self)
        new = self._placed(must_exist or read_only)
        with self._opened_errors():
            if read_only:
                self._try_read_only()
            else:
                self._prepare(schema, new)
            self._require_kind()

    def _placed(self, must_exist: bool) -> bool:
        """Make sure that the file is there; whether it is new."""
        path = self.path
        if path.is_dir():
            raise BadInput(f"{path} is a folder.", fix=f"Name a file for the {self.what}.")
        if not path.exists():
            if must_exist:
                raise BadInput(f"There is no {self.what} at {path}.", fix="Check the path.")
            with disk_errors(path):
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with disk_errors(path), open(path, "rb") as handle:
            begin = handle.read(len(HEADER))
        if begin and begin != HEADER:
            raise BadInput(
                f"{path} is no SQLite database, so it is no {self.what}.",
                why="It was never one, or its first bytes are damaged.",
                fix="Name another file, or put a snapshot of it back in its place.",
            )
        if not begin and must_exist:
            raise BadInput(f"{path} is empty, so it is no {self.what}.", fix="Check the path.")
        return not begin

    def _prepare(self, schema: str, new: bool) -> None:
        connection = self._taken()
        try:
            if new:
                mode = self._patiently(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
                if mode != "wal":
                    raise BadInput(
                        f"{self.path} is in a place where SQLite cannot share a file (no WAL).",
                        fix="Choose a local disk.",
                    )
            if not _empty(connection):
                return
            with self._transaction(connection, "IMMEDIATE"):
                if _empty(connection):  # else another process was first
                    for statement in schema.split(";\n"):
                        if statement.strip():
                            connection.execute(statement)
                    connection.execute(f"PRAGMA application_id={self._application}")
        finally:
            self._back(connection)

    def _require_kind(self) -> None:
        with self.reading() as connection:
            (found,) = connection.execute("PRAGMA application_id").fetchone()
        if found != self._application:
            raise BadInput(
                f"{self.path} is a SQLite database, but no {self.what}.",
                fix="Name another file.",
            )

    def _try_read_only(self) -> None:
        """Where even the side files of WAL cannot be made, the file is read as one that nobody changes."""
        connection = None
        try:
            connection = self._taken()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
            self._immutable = True
            connection = None
        finally:
            if connection is not None:
                self._back(connection)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the file throughout.

        Raises:
            Unavailable: The file cannot be read.
        """
        with self._errors():
            connection = self._taken()
            try:
                with self._transaction(connection, "DEFERRED"):
                    yield connection
            finally:
                self._back(connection)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection that alone may write, until it commits at the end of the block; nothing stays after an error.

        Raises:
            Unavailable: Others wrote for too long, the disk is full, the file is damaged or read only.
        """
        if self.read_only:
            raise Unavailable(f"The {self.what} {self.path} was opened for reading only.")
        with self._errors():
            if not self._writer.acquire(timeout=self.patience):
                raise Unavailable(
                    f"The {self.what} {self.path} was being written for over {self.patience:g} s."
                )
            try:
                connection = self._taken()
                try:
                    with self._transaction(connection, "IMMEDIATE"):
                        yield connection
                finally:
                    self._back(connection)
            finally:
                self._writer.release()

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection, kind: str) -> Iterator[None]:
        self._patiently(lambda: connection.execute(f"BEGIN {kind}"))
        try:
            yield
            self._patiently(lambda: connection.execute("COMMIT"))
        except BaseException:
            if connection.in_transaction:
                try:
                    connection.execute("ROLLBACK")
                except sqlite3.Error:
                    connection.close()  # the connection is lost; the file rolls back by itself
            raise

    def _patiently(self, step: Callable[[], T]) -> T:
        """A step that others may hold up; SQLite's own waiting does not cover every such case."""
        until = time.monotonic() + self.patience
        while True:
            try:
                return step()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _WAITING or time.monotonic() >= until:
                    raise
            time.sleep(random.uniform(0.001, 0.01))

    def forked(self) -> None:
        """In a child process connections are the parent's; closing them here would drop its locks."""
        self._left_behind += self._idle
        self._idle, self._process = [], os.getpid()
        self._lock, self._writer = threading.Lock(), threading.Lock()

    def _taken(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise Unavailable(f"The {self.what} {self.path} was closed.")
            if self._idle:
                return self._idle.pop()
        mode = "?mode=ro" + ("&immutable=1" if self._immutable else "") if self.read_only else "?mode=rw"
        connection = sqlite3.connect(
            self.path.absolute().as_uri() + mode,
            uri=True,
            timeout=self.patience,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA busy_timeout={int(1000 * self.patience)}")
            if not self.read_only:
                connection.execute(f"PRAGMA synchronous={self._synchronous}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _back(self, connection: sqlite3.Connection) -> None:
        try:
            usable = not connection.in_transaction and connection.total_changes >= 0
        except sqlite3.ProgrammingError:
            usable = False  # closed, since it could not even roll back
        with self._lock:
            if not usable:
                pass
            elif not self._closed and self._process == os.getpid():
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Unavailable(f"The {self.what} {self.path}: {error}") from error

    @contextmanager
    def _opened_errors(self) -> Iterator[None]:
        try:
            with self._errors():
                yield
        except BaseException:
            self.close()
            raise

    def health(self) -> str:
        """What stands in the way of reading and writing; empty where nothing does."""
        try:
            if self.read_only:
                with self.reading() as connection:
                    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            else:
                with self.writing():
                    pass
        except Unavailable as error:
            return str(error)
        return ""

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file itself."""
        try:
            with self.reading() as connection:
                found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
        except Unavailable as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def backup(self, target: Path | str) -> None:
        """Copy the file as it is now, while others write (SQLite's backup).

        Raises:
            BadInput: There is something at ``target``, or it cannot be written.
            Unavailable: The file cannot be read, or the disk is full.
        """
        place = checked_path(target)
        with disk_errors(place):
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            with self._errors():
                source, copy = self._taken(), sqlite3.connect(place, isolation_level=None)
                try:
                    source.backup(copy)
                    copy.execute("PRAGMA journal_mode=DELETE")
                    copy.execute("PRAGMA journal_mode=WAL")
                finally:
                    copy.close()
                    self._back(source)
        except BaseException:
            place.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Close what is not in use; what is closes when it is done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        if self._process == os.getpid():
            for connection in idle:
                connection.close()


def _empty(connection: sqlite3.Connection) -> bool:
    """Whether a database is nobody's yet."""
    (marked,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(marked == 0 and tables == 0)
