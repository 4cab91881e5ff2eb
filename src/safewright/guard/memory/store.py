"""The memory that the engine asks: SQLite behind `parts.Memory`."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from safewright.errors import BadInput
from safewright.guard.forking import forkable
from safewright.guard.memory import rows
from safewright.guard.memory.index import Index
from safewright.guard.memory.learning import OPERATOR, Item, Taught, merged, overruled, overwritten
from safewright.guard.memory.rows import Row, Sealer
from safewright.guard.memory.statements import LONGEST_KEY, concrete, refused, secret
from safewright.guard.memory.vectors import Embedding, Vectors, open_embedding
from safewright.guard.parts import Found, Key, Lesson
from safewright.guard.sqlite import PATIENCE_SECONDS, Database, Unavailable

NEIGHBOURS = 3
THRESHOLD = 0.80
MOST_RETRIES = 64
REMEMBERED_TEXTS = 1_024


class SqliteMemory:
    """Checks by kind of call, in one file that many processes share. Open it with `open_memory`."""

    def __init__(
        self,
        path: Path | str,
        *,
        namespace: str,
        preset: str,
        freeze: bool,
        embedding: str | Embedding | None,
        neighbours: int,
        threshold: float,
        must_exist: bool,
        sound: bool,
        patience: float,
    ) -> None:
        if preset not in ("hardened", "faithful"):
            raise BadInput(f"preset is {preset!r}.", fix="hardened or faithful.")
        if not namespace or refused(namespace, 80):
            raise BadInput(f"The namespace is {namespace!r}.", fix="A short printable name.")
        self.namespace, self.preset, self.freeze = namespace, preset, freeze
        self.neighbours = neighbours if preset == "hardened" else 1
        self.threshold = threshold if preset == "hardened" else None
        self.trouble = ""
        """What is wrong with the file; the memory then answers nothing, and the guard denies."""
        self.embedded = 0
        """Texts that were embedded."""
        self._here = threading.local()
        self.turned_away: OrderedDict[str, int] = OrderedDict()
        """Checks that were not taken in, and why, with how often; the latest kinds only."""
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._index, self._lock = Index(namespace), threading.Lock()
        forkable(self)
        self.path = Path(path)
        self._database: Database | None = None
        try:
            self._open(embedding, must_exist, patience)
        except Unavailable as error:
            if sound:
                raise
            self.trouble = str(error)

    def _open(self, embedding: str | Embedding | None, must_exist: bool, patience: float) -> None:
        new = not self.path.exists() or self.path.stat().st_size == 0
        self._database = Database(
            self.path,
            what="guard memory",
            application=rows.APPLICATION,
            schema=rows.SCHEMA,
            synchronous="NORMAL",
            read_only=self.freeze,
            must_exist=must_exist,
            patience=patience,
        )
        try:
            new = new or self._unwritten()
            self.sealer = Sealer(rows.load_key(self.path, make=new and not self.freeze))
            self._embedding = self._agreed(embedding)
        except BaseException:
            self._database.close()
            raise

    def _unwritten(self) -> bool:
        """Whether nothing was sealed yet: whoever makes the file was ended, or is not done, before it made the key."""
        with self.database.reading() as connection:
            sealed = "SELECT EXISTS (SELECT 1 FROM entry) OR EXISTS (SELECT 1 FROM event)"
            return not connection.execute(sealed).fetchone()[0]

    def forked(self) -> None:
        """In a child process: nobody here finishes what a thread of the parent's was doing."""
        self._lock = threading.Lock()
        self._index = Index(self.namespace)

    def _agreed(self, wanted: str | Embedding | None) -> Embedding:
        """The embedding of the file: the one it was begun with, or none.

        Raises:
            BadInput: The file has another schema, or was begun with another embedding.
        """
        with self.database.reading() as connection:
            schema, model = rows.meta(connection, "schema"), rows.meta(connection, "embedding")
        if schema != str(rows.SCHEMA_VERSION):
            raise BadInput(
                f"The memory {self.path} has the schema {schema}; this version reads {rows.SCHEMA_VERSION}.",
                fix="Export it with the version that wrote it, and import that into a new memory.",
            )
        if wanted is None and model is not None and not model.startswith("hashed-"):
            # A file does not get to say where texts are sent.
            raise BadInput(
                f"The memory {self.path} was begun with the embedding {model!r}.",
                fix=f"Say so: open_memory(…, embedding={model!r}).",
            )
        found = open_embedding(wanted if wanted is not None else model)
        if model is None and not self.freeze:
            with self.database.writing() as connection:
                connection.execute("INSERT OR IGNORE INTO meta VALUES ('embedding', ?)", (found.name,))
                model = rows.meta(connection, "embedding")
        if model is not None and model != found.name:
            raise BadInput(
                f"The memory {self.path} was begun with the embedding {model!r}, not {found.name!r}.",
                why="Vectors of two embeddings cannot be compared.",
                fix="Export it, and import that into a new memory: importing embeds anew.",
            )
        return found

    @property
    def database(self) -> Database:
        """The file.

        Raises:
            Unavailable: It could not be opened.
        """
        if self._database is None:
            raise Unavailable(self.trouble)
        return self._database

    @property
    def version(self) -> int:
        """Grows with every change, whoever made it."""
        with self.database.reading() as connection:
            return int(rows.meta(connection, "version") or 0)

    @property
    def embedded_here(self) -> int:
        """Texts that were embedded by this thread."""
        return int(getattr(self._here, "embedded", 0))

    @property
    def indexed(self) -> int:
        """Vectors held in memory."""
        return len(self._index)

    def retrieve(self, key: Key) -> Sequence[Found]:
        """The entries most like a key, best first: its own, then its neighbours.

        Hardened: at most 3, of the same side effect, privilege and criteria, none below a cosine of 0.80. Faithful:
        the nearest one, whatever it is.

        Raises:
            Unavailable: The file cannot be read, or is not as the guard wrote it.
        """
        self._require_sound()
        vector = self._vector(key.text)
        kind = (key.effect, key.privilege, key.criteria) if self.preset == "hardened" else None
        # The lock is taken before the file is looked at, so the index never goes back to an older state.
        with self._lock, self.database.reading() as connection:
            version, pruned = (int(rows.meta(connection, name) or 0) for name in ("version", "pruned"))
            self._index.refresh(connection, version, pruned)
            own = rows.read_rows(
                connection, self.sealer, "ns=? AND key_hash=?", (self.namespace, rows.key_hash(key))
            )
            near = self._index.search(vector, kind, self.neighbours + len(own), self.threshold)
            found = [_found(row, 1.0) for row in own]
            for entry, score in near:
                if len(found) < self.neighbours and all(entry != each.entry for each in found):
                    read = rows.read_rows(connection, self.sealer, "id=?", (entry,))
                    found += [_found(row, score) for row in read]
        return tuple(found)

    def learn(self, lesson: Lesson) -> None:
        """Take in what a verdict taught.

        Hardened: it is written to the entry of exactly this key, never to a neighbour's. Faithful: to the entry it was
        judged to belong to, whose list it replaces.

        Raises:
            Unavailable: The file cannot be written, or is not as the guard wrote it.
        """
        if self.freeze:
            return
        self._require_sound()
        if self.preset == "faithful":
            standing = [c for c in lesson.checks if c.origin != "pinned" and c.status != "deleted"]
            if not standing:
                return
        key, found = lesson.key, None
        if self.preset == "faithful" and lesson.found is not None:
            key, found = lesson.found.key, lesson.found.entry
        key = fit(key)
        who, values = self.sealer.session(lesson.session), concrete(lesson.arguments)

        def teach(row: Row) -> tuple[Row, Taught]:
            if self.preset == "faithful":
                taught = overwritten(row.items, lesson.checks)
            else:
                taught = merged(row.items, lesson.checks, who, tainted=lesson.tainted, values=values)
            counted = int(not (lesson.tainted and self.preset == "hardened"))
            # A call that a rule stopped before the list was looked at says nothing of the list.
            judged = counted if any(each.origin != "pinned" for each in lesson.checks) else 0
            settled = 0 if taught.edited else row.settled + judged
            return replace(row, items=taught.items, hits=row.hits + counted, settled=settled), taught

        taught = self.edit(key, found, teach)
        for why in taught.turned_away:
            self._turn_away(why)

    def override(
        self, entry: int | str, names: Sequence[str], *, by: str, tombstone: bool = False
    ) -> list[str]:
        """A human overrode a block that checks caused: it counts against them.

        Args:
            entry: The entry's id, or its key's text (a verdict's and an audit record's ``key``).
            names: The checks that caused the block.
            by: Who decided.
            tombstone: Whether the checks are dropped for good, which one person may decide.

        Returns:
            The names that memory holds.

        Raises:
            BadInput: Nobody is named, or the memory is frozen.
            Unavailable: The file cannot be written.
        """
        if self.freeze:
            raise BadInput("The memory is frozen.", fix="Open it without freeze.")
        if refused(by, 80):
            raise BadInput(f"An override by {by!r} is nobody's.", fix="Say who decided.")
        done: list[str] = []
        for row in self.entries(entry):
            if not any(item.name in names for item in row.items.values()):
                continue

            def overrule(row: Row) -> tuple[Row, Taught]:
                items, events = dict(row.items), []
                for name, item in row.items.items():
                    if item.name in names and item.state != "tombstoned":
                        changed = overruled(item)
                        if tombstone:
                            changed = replace(changed, state="tombstoned", origin=OPERATOR)
                        items[name] = changed
                        events.append(("tombstoned" if tombstone else "overridden", item.name))
                return replace(row, items=items, settled=0), Taught(items, tuple(events))

            taught = self.edit(row.key, row.id, overrule, by)
            done += [name for _, name in taught.events]
        return done

    def entries(self, entry: int | str | None = None, *, most: int = 1_000, after: int = 0) -> list[Row]:
        """Entries of the namespace, with their checks: one by its id, those of a key's text, or all, in pages.

        Raises:
            Unavailable: The file cannot be read, or is not as the guard wrote it.
        """
        where, values = "ns = ? AND id > ?", list[Any]((self.namespace, after))
        if entry is not None:
            where += " AND id = ?" if isinstance(entry, int) else " AND key_text = ?"
            values.append(entry)
        with self.database.reading() as connection:
            return rows.read_rows(connection, self.sealer, where + " ORDER BY id LIMIT ?", (*values, most))

    def events(self, entry: int | None = None, *, most: int = 1_000) -> list[dict[str, Any]]:
        """What changed, latest first."""
        where, values = "ns = ?", list[Any]((self.namespace,))
        if entry is not None:
            where += " AND entry_id = ?"
            values.append(entry)
        names = ("time", "entry_id", "kind", "detail", "who")
        with self.database.reading() as connection:
            found = connection.execute(
                f"SELECT {', '.join(names)} FROM event WHERE {where} ORDER BY id DESC LIMIT ?",
                (*values, most),
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in found]

    def health(self) -> str:
        """What stands in the way of the memory's work; empty where nothing does."""
        return self.trouble or self.database.health()

    def close(self) -> None:
        """Close it."""
        if self._database is not None:
            self._database.close()

    def edit(
        self,
        key: Key,
        entry: int | None,
        change: Callable[[Row], tuple[Row, Taught]],
        by: str = "",
    ) -> Taught:
        """Change an entry, made where there is none: read, think, write if it is still the version that was read."""
        vector = np.ascontiguousarray(self._vector(key.text), "<f4").tobytes()
        for _ in range(MOST_RETRIES):
            try:
                with self.database.writing() as connection:
                    return self._edit_once(connection, key, entry, vector, change, by)
            except _Edited:
                continue
        raise Unavailable(f"Entry {entry or key.text!r} was edited by others {MOST_RETRIES} times.")

    def _edit_once(
        self,
        connection: sqlite3.Connection,
        key: Key,
        entry: int | None,
        vector: bytes,
        change: Callable[[Row], tuple[Row, Taught]],
        by: str,
    ) -> Taught:
        questions: list[tuple[str, int | str]] = [("key_hash=?", rows.key_hash(key))]
        if entry is not None:
            questions.insert(0, ("id=?", entry))
        found: list[Row] = []
        for where, value in questions:  # one that was pruned since it was retrieved may be there again
            found = found or rows.read_rows(
                connection, self.sealer, f"ns=? AND {where}", (self.namespace, value)
            )
        changed = rows.bump(connection)
        if found:
            row = found[0]
        else:
            row = rows.insert_row(connection, self.namespace, key, self._embedding.name, vector, changed)
        after, taught = change(row)
        if not rows.write_row(
            connection, self.sealer, replace(after, updated=rows.now()), row.items, changed
        ):
            raise _Edited
        for kind, name in (() if found else (("created", ""),)) + taught.events:
            rows.add_event(connection, self.sealer, self.namespace, row.id, kind, name, by)
        return taught

    def _vector(self, text: str) -> Vectors:
        """The vector of a text; one that was embedded lately is not embedded again."""
        with self._lock:
            known = self._vectors.get(text)
        if known is None:
            found: Vectors = np.asarray(self._embedding.embed([text])[0], np.float32)
            self._here.embedded = self.embedded_here + 1
            with self._lock:
                self.embedded += 1
                known = self._vectors[text] = found
                while len(self._vectors) > REMEMBERED_TEXTS:
                    self._vectors.popitem(last=False)
        return known

    def _turn_away(self, why: str) -> None:
        with self._lock:
            self.turned_away[why] = self.turned_away.pop(why, 0) + 1
            while len(self.turned_away) > 100:
                self.turned_away.popitem(last=False)

    def _require_sound(self) -> None:
        if self.trouble:
            raise Unavailable(self.trouble)


class _Edited(Exception):  # noqa: N818 - never leaves this file
    """Another version stands there now; what was written of this one is taken back."""


def open_memory(
    path: Path | str,
    *,
    namespace: str = "default",
    preset: str = "hardened",
    freeze: bool = False,
    embedding: str | Embedding | None = None,
    neighbours: int = NEIGHBOURS,
    threshold: float = THRESHOLD,
    must_exist: bool = False,
    sound: bool = False,
    patience: float = PATIENCE_SECONDS,
) -> SqliteMemory:
    """Open a memory file, made where it is missing.

    Args:
        path: The file. Beside it lies its key (``PATH.key``), which seals its rows.
        namespace: Whose memory it is; others' entries are neither seen nor changed.
        preset: `hardened`, or `faithful`: the nearest entry without a threshold, lists overwritten.
        freeze: Whether it is only read; not a byte of the file then changes.
        embedding: `hashed`, ``st:MODEL``, ``http://host:port/v1#MODEL``, or an `Embedding`.
        neighbours: Entries retrieved at most.
        threshold: Cosine below which an entry is another kind of call.
        must_exist: Whether a missing file is an error.
        sound: Whether a damaged file is an error. Else it opens, and answers nothing: `SqliteMemory.trouble` says what
            is wrong, and a guard denies with `memory_unavailable`.
        patience: Seconds a writer waits for others.

    Raises:
        BadInput: It is no memory, of another schema, or was begun with another embedding.
        Unavailable: It is damaged, and ``sound`` was asked for; or it is locked for too long.
    """
    return SqliteMemory(
        path,
        namespace=namespace,
        preset=preset,
        freeze=freeze,
        embedding=embedding,
        neighbours=neighbours,
        threshold=threshold,
        must_exist=must_exist,
        sound=sound,
        patience=patience,
    )


def _found(row: Row, score: float) -> Found:
    checks = sorted((item for item in row.items.values() if item.shown), key=_order)
    return Found(
        row.id,
        row.key,
        score,
        tuple(item.remembered() for item in checks),
        row.hits,
        row.stable,
        row.version,
    )


def _order(item: Item) -> tuple[str, str]:
    return (item.category, item.name)


def fit(key: Key) -> Key:
    """A key that may be shown to a model again: its words, where they are not plain ones, are replaced.

    Raises:
        BadInput: Its text is too long or not printable.
    """
    if not key.text.strip() or len(key.text) > LONGEST_KEY or not key.text.isprintable():
        raise BadInput("The key of this call is too long or not printable, so nothing is remembered of it.")
    if refused(key.natural, LONGEST_KEY) or secret(key.natural):
        return replace(key, natural=f"a call whose effect is: {key.effect}")
    return key
