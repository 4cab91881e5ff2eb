"""Memory as a file to carry: exports with a signature, snapshots, what to forget, and whether all is as it was."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from safewright.errors import BadInput
from safewright.guard.memory import rows
from safewright.guard.memory.evidence import settled
from safewright.guard.memory.learning import MOST_ITEMS, OPERATOR, Item, Name, Taught
from safewright.guard.memory.rows import Row
from safewright.guard.memory.statements import LONGEST_NAME, refused
from safewright.guard.memory.store import SqliteMemory, fit
from safewright.guard.nouns import Effect
from safewright.guard.parts import Key, Privilege
from safewright.guard.sqlite import Unavailable
from safewright.runs.atomic import disk_errors, dump_json, write_text

FORMAT = "safewright-guard-memory"


def export(memory: SqliteMemory, target: Path | str, *, everything: bool = False) -> int:
    """Write the active checks of a namespace (or ``everything`` but what only tainted sessions brought) to a file,
    signed with the memory's key; how many entries.

    Raises:
        BadInput: The file cannot be written.
        Unavailable: The memory cannot be read.
    """
    found: list[dict[str, Any]] = []
    after = 0
    while page := memory.entries(after=after):
        after = page[-1].id
        for row in page:
            items = [
                {
                    "category": item.category,
                    "name": item.name,
                    "statement": item.statement,
                    "state": item.state,
                    "pos": item.pos,
                    "neg": item.neg,
                    "origin": item.origin,
                }
                for _, item in sorted(row.items.items())
                if item.state == "active" or (everything and item.shown) or item.origin == OPERATOR
            ]
            if items:
                key = row.key
                found.append(
                    {
                        "key": key.text,
                        "natural": key.natural,
                        "effect": key.effect,
                        "privilege": key.privilege,
                        "criteria": key.criteria,
                        "hits": row.hits,
                        "checks": items,
                    }
                )
    body = {"format": FORMAT, "version": rows.SCHEMA_VERSION, "made": rows.now(), "entries": found}
    write_text(target, dump_json({**body, "signature": _signed(memory.sealer.key, body)}))
    os.chmod(target, 0o600)
    return len(found)


def import_(
    memory: SqliteMemory,
    source: Path | str,
    *,
    key: Path | str | None = None,
    unsigned: bool = False,
    by: str,
) -> tuple[int, int]:
    """Add what an export holds; entries and checks added. Nothing that memory holds is changed or dropped by it.

    Args:
        memory: Where to.
        source: The export.
        key: The key of the memory it was made from; this memory's own where None.
        unsigned: Whether to take it without a valid signature: its checks then begin without evidence.
        by: Who decided.

    Raises:
        BadInput: It is no export, its signature is not of that key, a check may not be remembered, or the memory is
            frozen.
        Unavailable: The memory cannot be written.
    """
    if memory.freeze:
        raise BadInput("The memory is frozen.", fix="Open it without freeze.")
    body = _read(source)
    secret = memory.sealer.key if key is None else _key(Path(key))
    signature = str(body.pop("signature", ""))
    trusted = hmac.compare_digest(signature.encode("utf-8", "replace"), _signed(secret, body).encode())
    if not trusted and not unsigned:
        raise BadInput(
            f"{source} was not signed with {'this memory' if key is None else str(key)}'s key, or was changed since.",
            why="Whoever writes a memory decides what the guard asks.",
            fix="Give the key of the memory it came from with --key, or take it without evidence: --unsigned.",
        )
    entries = [_entry(each, trusted) for each in body["entries"]]
    added = checks = 0
    for found, items in entries:

        def add(row: Row, items: Mapping[Name, Item] = items) -> tuple[Row, Taught]:
            new = {name: item for name, item in items.items() if name not in row.items}
            new = dict(list(new.items())[: max(0, MOST_ITEMS - len(row.items))])
            after = {**row.items, **new}
            events = tuple(("imported", name) for _, name in new)
            return replace(row, items=after, settled=0 if new else row.settled), Taught(after, events)

        taught = memory.edit(found, None, add, by)
        added, checks = added + bool(taught.events), checks + len(taught.events)
    return added, checks


def _key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"The key {path} cannot be read: {error.strerror}.", fix="Check the path.") from error


def _read(source: Path | str) -> dict[str, Any]:
    try:
        body = json.loads(Path(source).read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"{source} cannot be read: {error.strerror}.", fix="Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{source} is no export of a memory: {error}.") from error
    if (
        not isinstance(body, dict)
        or body.get("format") != FORMAT
        or not isinstance(body.get("entries"), list)
    ):
        raise BadInput(f"{source} is no export of a memory.", fix="safewright guard memory export")
    if body.get("version") != rows.SCHEMA_VERSION:
        raise BadInput(f"{source} has the version {body.get('version')}, not {rows.SCHEMA_VERSION}.")
    return body


def _entry(values: Any, trusted: bool) -> tuple[Key, dict[Name, Item]]:
    try:
        key = Key(
            *(str(values["key"]), str(values["natural"]), values["effect"], values["privilege"]),
            str(values["criteria"]),
        )
        if key.effect not in get_args(Effect) or key.privilege not in get_args(Privilege):
            raise ValueError(f"{key.effect}, {key.privilege}")
        items = [_item(each, trusted) for each in values["checks"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"An entry of the export cannot be read: {error!r}.") from error
    return fit(key), {(item.category, item.name): item for item in items}


def _item(values: Mapping[str, Any], trusted: bool) -> Item:
    category, name, statement = str(values["category"]), str(values["name"]), str(values["statement"])
    for text, longest in ((category, LONGEST_NAME), (name, LONGEST_NAME), (statement, 200)):
        if why := refused(text, longest):
            raise BadInput(f"The check {name[:LONGEST_NAME]!r} of the export may not be remembered: {why}.")
    item = Item(category, name, statement)
    if not trusted:
        return item
    pos, neg = int(values["pos"]), int(values["neg"])
    if min(pos, neg) < 0:
        raise ValueError(f"pos {pos}, neg {neg}")
    dropped = values["state"] == "tombstoned"
    state: Any = "tombstoned" if dropped else "active" if settled(pos, neg) else "quarantined"
    return replace(item, pos=pos, neg=neg, state=state, origin=OPERATOR if dropped else item.origin)


def _signed(key: bytes, body: Mapping[str, Any]) -> str:
    return hmac.new(key, b"export" + dump_json(body, canonical=True).encode(), hashlib.sha256).hexdigest()


def snapshot(memory: SqliteMemory, target: Path | str) -> None:
    """Copy the memory and its key as they are now, while others write.

    Raises:
        BadInput: Something is there already, or the place cannot be written.
        Unavailable: The memory cannot be read, or the disk is full.
    """
    place = Path(target)
    memory.database.backup(place)
    with disk_errors(place):
        handle = os.open(rows.key_path(place), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(memory.sealer.key)


def prune(
    memory: SqliteMemory,
    *,
    entries: tuple[int, ...] = (),
    days: float | None = None,
    hits: int | None = None,
    by: str,
    dry: bool = False,
) -> list[Row]:
    """Forget entries: those named, and those not seen for some days or with fewer hits (both, where both are given).

    Raises:
        BadInput: Nothing says which, or the memory is frozen.
        Unavailable: The memory cannot be written.
    """
    if not entries and days is None and hits is None:
        raise BadInput("Nothing says what to forget.", fix="Name entries, or give --days or --hits.")
    if memory.freeze:
        raise BadInput("The memory is frozen.", fix="Open it without freeze.")
    clauses, values = [], list[Any]()
    if days is not None:
        limit = datetime.now(UTC) - timedelta(days=days)
        clauses.append("updated < ?")
        values.append(limit.isoformat(timespec="milliseconds"))
    if hits is not None:
        clauses.append("hits < ?")
        values.append(hits)
    chosen = f"({' AND '.join(clauses)})" if clauses else "0"
    if entries:
        chosen += f" OR id IN ({','.join('?' * len(entries))})"
        values += entries
    where, given = f"ns = ? AND ({chosen})", (memory.namespace, *values)
    # A damaged row can be forgotten too, so seals are not examined here.
    if dry:
        with memory.database.reading() as connection:
            return rows.read_rows(connection, None, where, given)
    with memory.database.writing() as connection:
        gone = rows.read_rows(connection, None, where, given)
        if gone:
            version = rows.bump(connection)
            connection.execute("UPDATE meta SET value = ? WHERE name = 'pruned'", (str(version),))
        for row in gone:
            connection.execute("DELETE FROM entry WHERE id = ?", (row.id,))
            rows.add_event(connection, memory.sealer, memory.namespace, row.id, "pruned", row.key.text, by)
    return gone


def verify(memory: SqliteMemory) -> list[str]:
    """What is not as the guard wrote it, in the whole file: entries with their checks, vectors, events."""
    problems: list[str] = []
    sealer = memory.sealer
    try:
        with memory.database.reading() as connection:
            embedding = rows.meta(connection, "embedding")
            for (entry,) in connection.execute("SELECT id FROM entry ORDER BY id").fetchall():
                (row,) = rows.read_rows(connection, None, "id = ?", (entry,))
                said = f"entry {row.id} ({row.key.text[:60]})"
                if not rows.sealed(sealer, row):
                    problems.append(f"{said}: it is not as the guard wrote it.")
                if row.key_hash != rows.key_hash(row.key):
                    problems.append(f"{said}: its key's digest is not its key's.")
                if row.model != embedding or len(row.vector) != 4 * row.dimension:
                    problems.append(f"{said}: its vector is of {row.model}, {len(row.vector)} bytes.")
            for each in connection.execute(
                "SELECT id, time, ns, entry_id, kind, detail, who, mac FROM event"
            ):
                if each[-1] != sealer.seal("event", *each[1:-1]):
                    problems.append(f"event {each[0]}: it is not as the guard wrote it.")
    except Unavailable as error:
        problems.append(str(error))
    return problems + [f"the file: {problem}" for problem in memory.database.integrity()]
