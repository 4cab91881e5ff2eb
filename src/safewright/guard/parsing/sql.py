"""SQL, read without a database: which tables and columns a text touches, what it changes, and what cannot be told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from safewright.errors import need_extra
from safewright.guard.nouns import Effect

MOST_BYTES = 16 * 1024
DEEPEST = 200
"""Parentheses within parentheses."""

MOST_DANGLING = 8
"""Joins one after another without a condition."""

Kind = Literal["read", "write", "delete", "define", "permit", "session", "unknown"]
"""What a statement does: `define` changes tables themselves, `permit` who may do what; `unknown` was not understood."""
EFFECTS: dict[Kind, Effect] = {
    "read": "read",
    "session": "read",
    "write": "write",
    "delete": "delete",
    "define": "admin",
    "permit": "admin",
    "unknown": "execute",
}
ORDER: tuple[Effect, ...] = ("read", "write", "delete", "execute", "admin")


@dataclass(frozen=True)
class Use:
    """A column that is read.

    Args:
        tables: Where it may be from, innermost query first: more than one where the text does not say.
        column: Its name; ``*`` all of them; empty where a table is only named, for example to count its rows.
        row: Whether the name is also that of the table, and may mean its whole row.
        alias: Whether the name is also that of a result of the same query, and may mean that.
    """

    tables: tuple[str, ...]
    column: str = ""
    row: bool = False
    alias: bool = False


@dataclass(frozen=True)
class Statement:
    """One statement.

    Args:
        verb: As SQL says it: select, insert, update, delete, merge, create, drop, …
        changes: The tables it changes, creates or drops, and the columns it names in them (none: all).
        unbounded: Whether it updates or deletes every row: no WHERE, or one that says nothing of a row.
    """

    verb: str
    kind: Kind
    uses: tuple[Use, ...] = ()
    changes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    unbounded: bool = False
    functions: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[str, ...]:
        """Every table it reads, sorted."""
        return tuple(sorted({table for use in self.uses for table in use.tables}))


@dataclass(frozen=True)
class Query:
    """An SQL text as it was read; ``unparsed`` says why it could not be, and is empty where it could."""

    text: str = ""
    statements: tuple[Statement, ...] = ()
    comments: tuple[str, ...] = ()
    unparsed: str = ""

    @property
    def effect(self) -> Effect:
        """The gravest effect of its statements."""
        found = [EFFECTS[statement.kind] for statement in self.statements]
        if self.unparsed or not found:
            found.append("execute")
        return max(found, key=ORDER.index)

    @property
    def verbs(self) -> tuple[str, ...]:
        """What its statements do, in order."""
        return tuple(statement.verb for statement in self.statements)


def parse_sql(query: str | None, dialect: str = "") -> Query:
    """What an SQL text touches and changes.

    Args:
        query: The text; None where a call gives none.
        dialect: By sqlglot's name; empty for standard SQL.

    Raises:
        Missing: The parser is not installed (``pip install "safewright[guard]"``).
    """
    if query is None:
        return Query(unparsed="no query is given")
    if len(query.encode("utf-8", "replace")) > MOST_BYTES:
        return Query(query, unparsed=f"longer than {MOST_BYTES:,} bytes")
    doubtful = _doubtful(query, dialect)
    if doubtful:
        return Query(query, unparsed=doubtful)
    if _depth(query) > DEEPEST:
        return Query(query, unparsed=f"nested deeper than {DEEPEST}")
    try:
        return _parsed(query, dialect)
    except RecursionError:
        return Query(query, unparsed="nested too deep")


def _doubtful(query: str, dialect: str) -> str:
    """Why databases would read a text differently; empty where nothing says so. Strings are not told apart here."""
    # MySQL runs what stands in such a comment; others do not.
    if "/*!" in query or "/*M!" in query:
        return "a comment that some databases run"
    # Some end a comment at a carriage return, some only at a new line.
    if "\r" in query.replace("\r\n", "\n"):
        return "a carriage return without a new line"
    if dialect:
        return ""
    if any(mark in query for mark in ("\\'", '\\"', "\\`")):
        return "a backslash before a quote, which dialects read differently; declare one"
    if _DASHES.search(query):
        return "-- without a blank behind it, which is no comment in some dialects; declare one"
    if _nested(query):
        return "a comment within a comment, which dialects read differently; declare one"
    return ""


_DASHES = re.compile(r"--[^\s-]")


def _nested(query: str) -> bool:
    start = query.find("/*")
    while start >= 0:
        inner, end = query.find("/*", start + 2), query.find("*/", start + 2)
        if inner >= 0 and (end < 0 or inner < end):
            return True
        start = inner
    return False


def _depth(query: str) -> int:
    """How deep parentheses lie in each other; those in strings count, too."""
    deepest = depth = 0
    for letter in query:
        if letter in "([":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in ")]":
            depth = max(0, depth - 1)
    return deepest


def _parsed(query: str, dialect: str) -> Query:
    try:
        import sqlglot
        from sqlglot.errors import SqlglotError
    except ImportError:
        raise need_extra("sqlglot", "guard") from None
    import logging

    # What it cannot parse it says on a logger; here that is an answer, not a warning.
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    try:
        if _dangling(sqlglot.tokenize(query, dialect=dialect or None)) > MOST_DANGLING:
            return Query(query, unparsed=f"more than {MOST_DANGLING} joins without a condition")
        trees = [tree for tree in sqlglot.parse(query, dialect=dialect or None) if tree is not None]
    except SqlglotError as error:
        said = str(error).split("\n", 1)[0].split(" Line ")[0]
        return Query(query, unparsed=f"no SQL that is understood: {said[:200]}")
    except ValueError as error:  # an unknown dialect, a number without end
        return Query(query, unparsed=f"not readable: {str(error)[:200]}")
    if not trees:
        return Query(query, unparsed="no statement")
    from safewright.guard.parsing.sql_scopes import read_statement

    comments = tuple(
        comment.strip() for tree in trees for node in tree.walk() for comment in node.comments or ()
    )
    return Query(query, tuple(read_statement(tree) for tree in trees), comments)


def _dangling(tokens: Sequence[Any]) -> int:
    """How many joins wait for their ON: the parser tries every way to pair them, and each doubles its time."""
    most = waiting = total = 0
    before = ""
    for token in tokens:
        word = token.text.upper()
        if word == "JOIN" and before not in ("CROSS", "NATURAL"):
            waiting, total = waiting + 1, total + 1
            most = max(most, waiting)
        elif word in ("ON", "USING"):
            waiting, total = 0, total - 1
        before = word
    return max(most, total)


@dataclass
class Gathered:
    """What is found while a statement is read."""

    uses: dict[Use, None] = field(default_factory=dict)
    changes: dict[str, dict[str, None]] = field(default_factory=dict)
    functions: dict[str, None] = field(default_factory=dict)
    kinds: list[Kind] = field(default_factory=list)
    unbounded: bool = False

    def use(self, tables: Any, column: str = "", *, row: bool = False, alias: bool = False) -> None:
        """Note that a column is read."""
        if tables:
            self.uses[Use(tuple(dict.fromkeys(tables)), column, row, alias)] = None

    def change(self, table: str, column: str = "") -> None:
        """Note that a table, or a column of it, is changed."""
        columns = self.changes.setdefault(table, {})
        if column:
            columns[column] = None
