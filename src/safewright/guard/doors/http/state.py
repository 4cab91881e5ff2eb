"""What several workers of one server share: replays of answers, escalated calls, counters. One small SQLite file.

It holds the arguments of calls that wait for an operator, in the clear, because the operator decides by them; it is
readable by its owner only. Decisions themselves stand in the audit log.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.guard.doors.http.metrics import GAUGES, Sample

VERSION = 1
REPLAY_SECONDS = 24 * 3600.0
"""How long the answer to an Idempotency-Key is kept."""
ALIVE_SECONDS = 10.0
"""A worker that has not been seen for so long is dead: what its gauges showed no longer counts."""
MOST_PENDING = 1000
"""Escalated calls that may wait for an operator at once; further ones are denied without a place in the list."""

_TABLES = """
CREATE TABLE IF NOT EXISTS answer (
  owner TEXT, key TEXT, body TEXT NOT NULL, response TEXT, until REAL NOT NULL, PRIMARY KEY (owner, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answer_until ON answer (until);
CREATE TABLE IF NOT EXISTS escalation (
  id TEXT PRIMARY KEY, digest TEXT NOT NULL, call TEXT NOT NULL, reasons TEXT NOT NULL, audit_id TEXT,
  created REAL NOT NULL, expires REAL NOT NULL, state TEXT NOT NULL, asked INTEGER NOT NULL DEFAULT 1,
  decided REAL, decided_by TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS escalation_digest ON escalation (digest, state);
CREATE TABLE IF NOT EXISTS worker (name TEXT PRIMARY KEY, seen REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS count (
  worker TEXT, name TEXT, labels TEXT, value REAL NOT NULL, PRIMARY KEY (worker, name, labels)
) WITHOUT ROWID;
"""


class Busy(Exception):  # noqa: N818 - an answer
    """The same key is being answered by somebody else just now."""


class Another(Exception):  # noqa: N818
    """The same key came with another body before."""


@dataclass(frozen=True)
class Escalation:
    """A call that waits for an operator, or was decided by one.

    ``digest`` binds a decision to the exact call and policy. An approval holds for one call, until it expires.
    """

    id: str
    digest: str
    call: Mapping[str, Any]
    reasons: tuple[str, ...]
    audit_id: str | None
    created: float
    expires: float
    state: str
    asked: int = 1
    decided: float | None = None
    decided_by: str | None = None


def expired(found: Escalation) -> bool:
    """Whether a call waits no longer, or a decision holds no longer."""
    return found.state != "used" and found.expires <= time.time()


class State:
    """The shared state of a server's workers.

    Args:
        path: Its file; made where it is missing.

    Raises:
        BadInput: It cannot be opened, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.worker = path, f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._lock = threading.Lock()
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found not in (0, VERSION):
                raise BadInput(
                    f"{path} is a state of another version ({found}).", fix="Give another --state."
                )
            with self._change() as db:
                for statement in _TABLES.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={VERSION}")
        except (OSError, sqlite3.Error) as error:
            raise BadInput(
                f"The state {path} cannot be opened: {error}.", fix="Give another --state."
            ) from error

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._db.close()

    def probe(self) -> None:
        """Nothing, where the file can be written.

        Raises:
            sqlite3.Error: It cannot.
        """
        with self._change():
            pass

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def claim(self, owner: str, key: str, body: str, seconds: float) -> str | None:
        """The answer given before under a key; None where there is none, and it is the caller's to give.

        Args:
            owner: Who asks: keys of different owners never meet.
            body: Digest of what is asked.
            seconds: For how long nobody else may answer: who claims and dies is not waited for longer.

        Raises:
            Another: The key was used with another body.
            Busy: Somebody is answering it.
        """
        now = time.time()
        with self._change() as db:
            db.execute("DELETE FROM answer WHERE until < ?", (now,))
            row = db.execute(
                "SELECT body, response FROM answer WHERE owner = ? AND key = ?", (owner, key)
            ).fetchone()
            if row is None:
                db.execute("INSERT INTO answer VALUES (?, ?, ?, NULL, ?)", (owner, key, body, now + seconds))
                return None
        if row[0] != body:
            raise Another
        if row[1] is None:
            raise Busy
        return str(row[1])

    def answer(self, owner: str, key: str, response: str | None) -> None:
        """Keep the answer to a claimed key; None gives the claim up."""
        with self._change() as db:
            if response is None:
                db.execute(
                    "DELETE FROM answer WHERE owner = ? AND key = ? AND response IS NULL", (owner, key)
                )
                return
            db.execute(
                "UPDATE answer SET response = ?, until = ? WHERE owner = ? AND key = ?",
                (response, time.time() + REPLAY_SECONDS, owner, key),
            )

    def ask(
        self,
        digest: str,
        call: Mapping[str, Any],
        reasons: tuple[str, ...],
        audit_id: str | None,
        seconds: float,
    ) -> Escalation | None:
        """The place of an escalated call: a decided one where an operator has decided, else a pending one.

        An approval is used up by this. None where too many wait.
        """
        now = time.time()
        with self._change() as db:
            db.execute("DELETE FROM escalation WHERE expires < ?", (now - REPLAY_SECONDS,))
            found = db.execute(
                "SELECT id, state FROM escalation WHERE digest = ? AND expires > ? AND state != 'used' "
                "ORDER BY created DESC LIMIT 1",
                (digest, now),
            ).fetchone()
            if found is None:
                (waiting,) = db.execute(
                    "SELECT COUNT(*) FROM escalation WHERE state = 'pending' AND expires > ?", (now,)
                ).fetchone()
                if waiting >= MOST_PENDING:
                    return None
                name = uuid.uuid4().hex
                db.execute(
                    "INSERT INTO escalation VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', 1, NULL, NULL)",
                    (name, digest, json.dumps(call), json.dumps(reasons), audit_id, now, now + seconds),
                )
                return _one(db, name)
            name, state = found
            before = _one(db, name)
            if state == "approved":
                db.execute("UPDATE escalation SET state = 'used' WHERE id = ?", (name,))
            elif state == "pending":
                db.execute("UPDATE escalation SET asked = asked + 1 WHERE id = ?", (name,))
            return before

    def decide(
        self,
        name: str,
        digest: str,
        approve: bool,
        by: str,
        seconds: float,
        record: Callable[[Escalation], None],
    ) -> Escalation | None:
        """Approve or deny a pending call; None where it waits no longer, or is not the one with that digest.

        Args:
            seconds: For how long the decision holds.
            record: Writes it down; where that raises, nothing is decided.
        """
        now = time.time()
        with self._change() as db:
            found = _one(db, name)
            if found is None or found.digest != digest or found.state != "pending" or found.expires <= now:
                return None
            state = "approved" if approve else "denied"
            db.execute(
                "UPDATE escalation SET state = ?, decided = ?, decided_by = ?, expires = ? WHERE id = ?",
                (state, now, by, now + seconds, name),
            )
            decided = _one(db, name)
            if decided is not None:
                record(decided)
            return decided

    def escalation(self, name: str) -> Escalation | None:
        """One escalated call, by its id."""
        with self._lock:
            return _one(self._db, name)

    def pending(self, limit: int) -> list[Escalation]:
        """The calls that wait for an operator, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id FROM escalation WHERE state = 'pending' AND expires > ? ORDER BY created LIMIT ?",
                (time.time(), limit),
            ).fetchall()
            found = [_one(self._db, name) for (name,) in rows]
        return [each for each in found if each is not None]

    def count(self, values: Mapping[Sample, float]) -> None:
        """Show the other workers what this one has counted."""
        rows = [(self.worker, name, labels, value) for (name, labels), value in values.items()]
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO worker VALUES (?, ?)", (self.worker, time.time()))
            db.executemany("INSERT OR REPLACE INTO count VALUES (?, ?, ?, ?)", rows)

    def counted(self) -> tuple[list[tuple[str, str, float]], int]:
        """What all workers have counted, dead ones too, and how many are alive."""
        since = time.time() - ALIVE_SECONDS
        marks = ", ".join("?" for _ in GAUGES)
        with self._lock:
            rows = self._db.execute(
                "SELECT count.name, labels, SUM(value) FROM count JOIN worker ON worker.name = count.worker "
                f"WHERE seen >= ? OR count.name NOT IN ({marks}) GROUP BY count.name, labels",
                (since, *GAUGES),
            ).fetchall()
            (alive,) = self._db.execute("SELECT COUNT(*) FROM worker WHERE seen >= ?", (since,)).fetchone()
        return [(name, labels, float(value)) for name, labels, value in rows], int(alive)

    def leave(self) -> None:
        """Count as dead from now on."""
        with self._change() as db:
            db.execute("UPDATE worker SET seen = 0 WHERE name = ?", (self.worker,))


def _one(db: sqlite3.Connection, name: str) -> Escalation | None:
    row = db.execute("SELECT * FROM escalation WHERE id = ?", (name,)).fetchone()
    if row is None:
        return None
    found, digest, call, reasons, audit_id, created, expires, state, asked, decided, by = row
    told = tuple(json.loads(reasons))
    return Escalation(
        found, digest, json.loads(call), told, audit_id, created, expires, state, asked, decided, by
    )
