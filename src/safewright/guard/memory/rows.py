"""Rows of the memory file, read and written with their seals."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.guard.memory.learning import Item, Name
from safewright.guard.parts import Key
from safewright.guard.sqlite import Unavailable
from safewright.runs.atomic import disk_errors

APPLICATION = 0x53574D31
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE entry (
  id INTEGER PRIMARY KEY AUTOINCREMENT, ns TEXT NOT NULL, key_text TEXT NOT NULL, key_hash TEXT NOT NULL,
  natural TEXT NOT NULL, side_effect TEXT NOT NULL, privilege TEXT NOT NULL, criteria_hash TEXT NOT NULL,
  emb_model TEXT NOT NULL, dim INTEGER NOT NULL, vec BLOB NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL,
  hits INTEGER NOT NULL, settled INTEGER NOT NULL, version INTEGER NOT NULL, changed INTEGER NOT NULL,
  mac BLOB NOT NULL, UNIQUE (ns, key_hash));
CREATE INDEX entry_changed ON entry (ns, changed);
CREATE TABLE check_item (
  entry_id INTEGER NOT NULL REFERENCES entry (id) ON DELETE CASCADE, category TEXT NOT NULL, name TEXT NOT NULL,
  statement TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('quarantined', 'active', 'tombstoned')),
  pos INTEGER NOT NULL, neg INTEGER NOT NULL, origin TEXT NOT NULL, seen BLOB NOT NULL, struck BLOB NOT NULL,
  pending TEXT NOT NULL, pending_by BLOB NOT NULL, PRIMARY KEY (entry_id, category, name)) WITHOUT ROWID;
CREATE TABLE event (
  id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, ns TEXT NOT NULL, entry_id INTEGER NOT NULL,
  kind TEXT NOT NULL, detail TEXT NOT NULL, who TEXT NOT NULL, mac BLOB NOT NULL);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('schema', '1'), ('version', '0'), ('pruned', '0')
"""
ENTRY = (
    "id, ns, key_text, key_hash, natural, side_effect, privilege, criteria_hash, emb_model, dim, created, updated,"
    " hits, settled, version, mac, vec"
)
ITEM = "category, name, statement, state, pos, neg, origin, seen, struck, pending, pending_by"


@dataclass(frozen=True)
class Row:
    """An entry as it stands in the file."""

    id: int
    ns: str
    key: Key
    key_hash: str
    model: str
    dimension: int
    created: str
    updated: str
    hits: int
    settled: int
    version: int
    vector: bytes
    mac: bytes
    items: Mapping[Name, Item]

    @property
    def stable(self) -> bool:
        """Whether its list has stopped changing: 4 visits, none of the last 3 an edit, and a check that is active."""
        return (
            self.hits >= 4
            and self.settled >= 3
            and any(item.state == "active" for item in self.items.values())
        )


class Sealer:
    """Seals rows with a key that lies beside the file, so that a row somebody wrote by other means is noticed."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def seal(self, *values: Any) -> bytes:
        """The seal of some values."""
        plain = json.dumps(
            [value.hex() if isinstance(value, bytes) else value for value in values],
            ensure_ascii=True,
            separators=(",", ":"),
        )
        return hmac.new(self.key, plain.encode(), hashlib.sha256).digest()

    def entry(self, row: Row) -> bytes:
        """The seal of an entry with all its checks: one changed, added or taken away breaks it."""
        items = [
            [
                *(item.category, item.name, item.statement, item.state, item.pos, item.neg, item.origin),
                *(item.seen.hex(), item.struck.hex(), item.pending, item.pending_by.hex()),
            ]
            for _, item in sorted(row.items.items())
        ]
        key = row.key
        return self.seal(
            *(row.id, row.ns, key.text, row.key_hash, key.natural, key.effect, key.privilege, key.criteria),
            *(row.model, row.dimension, hashlib.sha256(row.vector).hexdigest(), row.created, row.updated),
            *(row.hits, row.settled, row.version, items),
        )

    def session(self, session: str) -> bytes:
        """What stands for a session in witnesses."""
        from safewright.guard.memory.learning import WITNESS

        return self.seal("session", session)[:WITNESS]


def key_path(path: Path) -> Path:
    """Where the key of a memory file lies."""
    return path.with_name(path.name + ".key")


def load_key(path: Path, *, make: bool) -> bytes:
    """The key beside a memory file; made, for its owner only, where the file is new.

    Raises:
        BadInput: There is none and none may be made, or it is none.
    """
    place = key_path(path)
    try:
        key = place.read_bytes()
    except FileNotFoundError:
        if not make:
            raise BadInput(
                f"The key of the memory {path} is missing: {place}.",
                why="Without it nobody can tell what the guard wrote from what somebody else did.",
                fix="Put it back from a copy, or begin a new memory and import an export of this one.",
            ) from None
        return _made(place)
    except OSError as error:
        raise BadInput(f"The key {place} cannot be read: {error.strerror}.") from error
    if len(key) != 32:
        raise BadInput(f"{place} is no key: it has {len(key)} bytes, not 32.", fix="Put it back from a copy.")
    return key


def _made(place: Path) -> bytes:
    """A new key, whole or not there; another process may be first, and then it is theirs."""
    with disk_errors(place):
        handle, temporary = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(os.urandom(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, place)
            except FileExistsError:
                pass
        finally:
            Path(temporary).unlink(missing_ok=True)
        return place.read_bytes()


def key_hash(key: Key) -> str:
    """What makes two keys the same entry."""
    plain = json.dumps([key.text, key.effect, key.privilege, key.criteria])
    return hashlib.sha256(plain.encode("utf-8", "backslashreplace")).hexdigest()


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read_rows(
    connection: sqlite3.Connection, sealer: Sealer | None, where: str, values: tuple[Any, ...]
) -> list[Row]:
    """Entries with their checks, their seals examined.

    Raises:
        Unavailable: A row is not as the guard wrote it.
    """
    rows = []
    for found in connection.execute(f"SELECT {ENTRY} FROM entry WHERE {where}", values).fetchall():
        row = _row(connection, found)
        if sealer is not None and not sealed(sealer, row):
            raise Unavailable(
                f"Entry {row.id} of the memory is not as the guard wrote it; see memory verify."
            )
        rows.append(row)
    return rows


def sealed(sealer: Sealer, row: Row) -> bool:
    """Whether an entry is as the guard wrote it. A row that others wrote may hold values of any type."""
    try:
        return isinstance(row.mac, bytes) and hmac.compare_digest(row.mac, sealer.entry(row))
    except (AttributeError, TypeError, ValueError):
        return False


def _row(connection: sqlite3.Connection, found: tuple[Any, ...]) -> Row:
    (entry, ns, text, hashed, natural, effect, privilege, criteria, model, dimension, created, updated) = (
        found[:12]
    )
    hits, settled, version, mac, vector = found[12:]
    key = Key(text, natural, effect, privilege, criteria)
    selected: Any = connection.execute(f"SELECT {ITEM} FROM check_item WHERE entry_id = ?", (entry,))
    items = {(values[0], values[1]): Item(*values) for values in selected}
    return Row(
        id=entry,
        ns=ns,
        key=key,
        key_hash=hashed,
        model=model,
        dimension=dimension,
        created=created,
        updated=updated,
        hits=hits,
        settled=settled,
        version=version,
        vector=vector,
        mac=mac,
        items=items,
    )


def write_row(
    connection: sqlite3.Connection, sealer: Sealer, row: Row, before: Mapping[Name, Item], changed: int
) -> bool:
    """Write an entry over its last version; False where another version stands there now."""
    from dataclasses import replace

    done = connection.execute(
        "UPDATE entry SET updated=?, hits=?, settled=?, version=?, changed=?, mac=? WHERE id=? AND version=?",
        (
            *(row.updated, row.hits, row.settled, row.version + 1, changed),
            *(sealer.entry(replace(row, version=row.version + 1)), row.id, row.version),
        ),
    )
    if done.rowcount != 1:
        return False
    for name, item in row.items.items():
        if before.get(name) != item:
            connection.execute(
                f"INSERT OR REPLACE INTO check_item (entry_id, {ITEM}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    *(row.id, item.category, item.name, item.statement, item.state, item.pos, item.neg),
                    *(item.origin, item.seen, item.struck, item.pending, item.pending_by),
                ),
            )
    for name in before.keys() - row.items.keys():
        connection.execute(
            "DELETE FROM check_item WHERE entry_id=? AND category=? AND name=?", (row.id, *name)
        )
    return True


def insert_row(
    connection: sqlite3.Connection, ns: str, key: Key, model: str, vector: bytes, changed: int
) -> Row:
    """A new entry without checks; it is sealed when it is first written over."""
    moment, dimension, hashed = now(), len(vector) // 4, key_hash(key)
    done = connection.execute(
        "INSERT INTO entry (ns, key_text, key_hash, natural, side_effect, privilege, criteria_hash, emb_model, dim,"
        " vec, created, updated, hits, settled, version, changed, mac) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,0,0,0,?,x'')",
        (
            *(ns, key.text, hashed, key.natural, key.effect, key.privilege, key.criteria),
            *(model, dimension, vector, moment, moment, changed),
        ),
    )
    entry = done.lastrowid or 0
    return Row(entry, ns, key, hashed, model, dimension, moment, moment, 0, 0, 0, vector, b"", {})


def add_event(
    connection: sqlite3.Connection, sealer: Sealer, ns: str, entry: int, kind: str, detail: str, who: str = ""
) -> None:
    """Note a change, for good."""
    moment = now()
    mac = sealer.seal("event", moment, ns, entry, kind, detail, who)
    connection.execute(
        "INSERT INTO event (time, ns, entry_id, kind, detail, who, mac) VALUES (?,?,?,?,?,?,?)",
        (moment, ns, entry, kind, detail, who, mac),
    )


def meta(connection: sqlite3.Connection, name: str) -> str | None:
    """A value of the file's own."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def bump(connection: sqlite3.Connection) -> int:
    """The next version of the whole file."""
    connection.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'version'")
    return int(meta(connection, "version") or 0)
