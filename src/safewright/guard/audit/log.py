"""The audit log that the engine writes: SQLite behind `parts.Audit`, each record chained to the one before."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.guard.audit.record import canonical, failing, plain
from safewright.guard.forking import forkable
from safewright.guard.sqlite import PATIENCE_SECONDS, Database, Unavailable

APPLICATION = 0x53574131
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time TEXT NOT NULL, kind TEXT NOT NULL,
  tool TEXT NOT NULL, decision TEXT NOT NULL, session TEXT NOT NULL, about TEXT NOT NULL, body TEXT NOT NULL,
  hash TEXT NOT NULL);
CREATE INDEX audit_time ON audit (time);
CREATE INDEX audit_decision ON audit (decision, seq);
CREATE INDEX audit_tool ON audit (tool, seq);
CREATE INDEX audit_about ON audit (about) WHERE about != '';
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema', '1')
"""
GENESIS = "0" * 64
MOST_AT_ONCE = 512
COLUMNS = ("id", "time", "kind", "tool", "decision", "session", "about")


@dataclass
class _Waiting:
    """A record that waits to be written."""

    record: dict[str, Any]
    done: bool = False
    error: BaseException | None = None


class SqliteAudit:
    """Decisions, in the order they were made, in one file that many processes share. Open it with `open_audit`."""

    def __init__(
        self,
        path: Path | str,
        *,
        raw: bool | None,
        read_only: bool,
        must_exist: bool,
        sound: bool,
        patience: float,
    ) -> None:
        self.path = Path(path)
        self.patience = patience
        self.key, self.raw = b"", False
        self.trouble = ""
        """What is wrong with the file; nothing can then be written, and the guard denies."""
        self._database: Database | None = None
        self.batches = 0
        """Commits; records that waited together share one."""
        self._queue: list[_Waiting] = []
        self._queued, self._turn = threading.Lock(), threading.Lock()
        forkable(self)
        try:
            self._database = Database(
                path,
                what="audit log",
                application=APPLICATION,
                schema=SCHEMA,
                synchronous="FULL",
                read_only=read_only,
                must_exist=must_exist,
                patience=patience,
            )
            self.key, self.raw = self._settings(raw)
        except Unavailable as error:
            self.close()
            if sound:
                raise
            self.trouble = str(error)
        except BaseException:
            self.close()
            raise

    def forked(self) -> None:
        """In a child process: what waits is the parent's to write."""
        self._queue = []
        self._queued, self._turn = threading.Lock(), threading.Lock()

    @property
    def database(self) -> Database:
        """The file.

        Raises:
            Unavailable: It could not be opened, or is damaged.
        """
        if self._database is None or self.trouble:
            raise Unavailable(self.trouble)
        return self._database

    def _settings(self, raw: bool | None) -> tuple[bytes, bool]:
        """The log's own key for digests, and whether it keeps what calls say: a property of the file.

        Raises:
            BadInput: The file has another schema.
        """
        with self.database.reading() as connection:
            known = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        if known.get("schema") != str(SCHEMA_VERSION):
            raise BadInput(
                f"The audit log {self.path} has the schema {known.get('schema')}; this version reads {SCHEMA_VERSION}.",
                fix="Read it with the version that wrote it, or begin a new log.",
            )
        if not self.database.read_only:
            with self.database.writing() as connection:
                for name, value in (("key", secrets.token_hex(32)), ("raw", "1" if raw else "0")):
                    connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
                known = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        kept = known.get("raw") == "1"
        if raw is not None and raw != kept and not self.database.read_only:
            raise BadInput(
                f"The audit log {self.path} {'keeps' if kept else 'does not keep'} what calls say.",
                why="That was settled when it was begun, and holds for all who write it.",
                fix="Begin another log.",
            )
        return bytes.fromhex(known.get("key", "")), kept

    def append(self, record: Mapping[str, Any]) -> str:
        """Add a record; it is on disk when this returns. Threads that wait together share one commit.

        Raises:
            Unavailable: It could not be written: the disk is full, the file damaged, or locked for too long.
        """
        waiting = _Waiting({**plain(record), "id": secrets.token_hex(8)})
        with self._queued:
            self._queue.append(waiting)
        until = time.monotonic() + self.patience
        if not self._turn.acquire(timeout=self.patience):
            self._withdraw(waiting)
        else:
            try:
                while not waiting.done:
                    if time.monotonic() > until:
                        self._withdraw(waiting)
                        break
                    self._write_waiting()
            finally:
                self._turn.release()
        if waiting.error is not None:
            raise Unavailable(str(waiting.error)) from waiting.error
        return str(waiting.record["id"])

    def _withdraw(self, waiting: _Waiting) -> None:
        """Give up on a record, unless it was written just now."""
        with self._queued:
            if not waiting.done:
                self._queue = [each for each in self._queue if each is not waiting]
                waiting.error = waiting.error or TimeoutError(
                    f"The audit log {self.path} was busy for over {self.patience:g} s."
                )

    def _write_waiting(self) -> None:
        """Write what waits, in one transaction. An error is that of all whose records were in it."""
        with self._queued:
            batch, self._queue = self._queue[:MOST_AT_ONCE], self._queue[MOST_AT_ONCE:]
        if not batch:
            return
        try:
            with self.database.writing() as connection:
                last = connection.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
                seq, before = last if last is not None else (0, GENESIS)
                for each in batch:
                    seq, before = seq + 1, _insert(connection, each.record, seq + 1, before)
            self.batches += 1
        except Exception as error:  # noqa: BLE001 - handed to each who waits
            for each in batch:
                each.error = error
        for each in batch:
            each.done = True

    def resolve(self, record_id: str, outcome: str, *, by: str, note: str = "") -> str:
        """Write down that an operator approved or denied a call that was stopped: a record of its own, chained.

        Returns:
            The new record's id.

        Raises:
            BadInput: There is no such decision, it stopped nothing or is resolved already, or nobody is named.
            Unavailable: It could not be written.
        """
        if outcome not in ("approve", "deny"):
            raise BadInput(f"The outcome is {outcome!r}.", fix="approve or deny.")
        if not by.strip():
            raise BadInput("A resolution is somebody's.", fix="Say who decided.")
        record = self.get(record_id)
        if record is None or record.get("kind") != "decision":
            raise BadInput(
                f"The audit log holds no decision {record_id!r}.", fix="safewright guard audit tail"
            )
        if record.get("found") not in ("escalate", "deny"):
            raise BadInput(f"The decision {record_id} stopped nothing: it was {record.get('found')}.")
        resolution = {
            "kind": "resolution",
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "about": record_id,
            "tool": record.get("tool", ""),
            "session": record.get("session", ""),
            "decision": outcome,
            "by": by[:200],
            "note": note[:2_000],
            "checks": list(failing(record)),
            "key": record.get("key", ""),
        }
        waiting = {**plain(resolution), "id": secrets.token_hex(8)}
        with self.database.writing() as connection:
            if connection.execute("SELECT 1 FROM audit WHERE about = ?", (record_id,)).fetchone():
                raise BadInput(f"The decision {record_id} is resolved already.")
            last = connection.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
            _insert(connection, waiting, last[0] + 1, last[1])
        return str(waiting["id"])

    def get(self, record_id: str) -> dict[str, Any] | None:
        """A record by its id; None where there is none."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT body, hash FROM audit WHERE id = ?", (record_id,)).fetchone()
        return None if row is None else _record(*row)

    def resolution(self, record_id: str) -> dict[str, Any] | None:
        """What an operator decided about a record; None where nobody did."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT body, hash FROM audit WHERE about = ?", (record_id,)).fetchone()
        return None if row is None else _record(*row)

    def search(
        self,
        *,
        decision: str | None = None,
        tool: str | None = None,
        session: str | None = None,
        kind: str | None = None,
        since: str | None = None,
        until: str | None = None,
        after: int | None = None,
        before: int | None = None,
        most: int = 100,
        oldest_first: bool = False,
    ) -> list[dict[str, Any]]:
        """Records, latest first. ``after`` and ``before`` are ``seq`` numbers, for pages and for what is new."""
        clauses, values = ["1"], list[Any]()
        for clause, value in (
            ("decision = ?", decision),
            ("tool = ?", tool),
            ("session = ?", session),
            ("kind = ?", kind),
            ("time >= ?", since),
            ("time < ?", until),
            ("seq > ?", after),
            ("seq < ?", before),
        ):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        order = "ASC" if oldest_first else "DESC"
        query = f"SELECT body, hash FROM audit WHERE {' AND '.join(clauses)} ORDER BY seq {order} LIMIT ?"
        with self.database.reading() as connection:
            return [_record(*row) for row in connection.execute(query, (*values, most)).fetchall()]

    def records(self, page: int = 1_000) -> Iterator[dict[str, Any]]:
        """All records, oldest first, in pages: writers are not held up."""
        after = 0
        while found := self.search(after=after, most=page, oldest_first=True):
            yield from found
            after = int(found[-1]["seq"])

    def count(self) -> int:
        """Records in the log."""
        with self.database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM audit").fetchone()[0])

    def health(self) -> str:
        """What stands in the way of writing; empty where nothing does."""
        return self.trouble or self.database.health()

    def close(self) -> None:
        """Close it."""
        if self._database is not None:
            self._database.close()


def open_audit(
    path: Path | str,
    *,
    raw: bool | None = None,
    read_only: bool = False,
    must_exist: bool = False,
    sound: bool = False,
    patience: float = PATIENCE_SECONDS,
) -> SqliteAudit:
    """Open an audit log, made where it is missing.

    Args:
        path: The file.
        raw: Whether a new log keeps what calls say (arguments, request, history, a model's answers), which a replay
            needs. Settled when the log is begun; None takes what the file says, redacted where it is new.
        read_only: Whether it is only read.
        must_exist: Whether a missing file is an error.
        sound: Whether a damaged file is an error. Else it opens, and takes nothing: `SqliteAudit.trouble` says what is
            wrong, and a guard denies with `audit_unavailable`.
        patience: Seconds a record waits for other writers.

    Raises:
        BadInput: It is no audit log, or of another schema.
        Unavailable: It is damaged, and ``sound`` was asked for.
    """
    return SqliteAudit(
        path, raw=raw, read_only=read_only, must_exist=must_exist, sound=sound, patience=patience
    )


def chained(record: Mapping[str, Any]) -> str:
    """The hash of a record: SHA-256 over its canonical JSON without the hash itself."""
    body = {name: value for name, value in record.items() if name != "hash"}
    return hashlib.sha256(canonical(body).encode("utf-8")).hexdigest()


def columns_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a record can be searched for."""
    return tuple(str(record.get(name) or "") for name in COLUMNS)


def _insert(connection: sqlite3.Connection, record: dict[str, Any], seq: int, before: str) -> str:
    """Write a record as the next of the chain; its hash."""
    record.update(seq=seq, prev_hash=before)
    body = canonical(record)
    hashed = hashlib.sha256(body.encode("utf-8")).hexdigest()
    connection.execute(
        f"INSERT INTO audit (seq, {', '.join(COLUMNS)}, body, hash) VALUES (?,?,?,?,?,?,?,?,?,?)",
        (seq, *columns_of(record), body, hashed),
    )
    return hashed


def _record(body: str, hashed: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except (TypeError, ValueError, RecursionError) as error:
        raise Unavailable(
            f"A record of the audit log is damaged ({error}); see: safewright guard audit verify."
        ) from error
    return {**found, "hash": hashed}


def export(log: SqliteAudit, target: Path | str, records: Sequence[Mapping[str, Any]] | None = None) -> int:
    """Write records to a JSONL file, whole or not at all; how many.

    Raises:
        BadInput: The file cannot be written.
        Incomplete: The disk is full.
    """
    from safewright.runs.atomic import write_lines

    count = 0

    def counted() -> Iterator[Mapping[str, Any]]:
        nonlocal count
        for record in records if records is not None else log.records():
            count += 1
            yield record

    write_lines(target, counted())
    os.chmod(target, 0o600)
    return count
