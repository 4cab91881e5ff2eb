"""What is read from an SQL text, against SQLite's own account of it: its authorizer names every column that is read."""

from __future__ import annotations

import random
import sqlite3

import pytest

from safewright.guard import Action, Policy, Principal
from safewright.guard.parsing.sql import parse_sql
from safewright.guard.rules.data_access import FAMILY
from safewright.guard.views import View

TABLES = {
    "patient": ("id", "ward", "age", "name"),
    "lab": ("id", "pid", "result", "age"),
    "cost": ("pid", "cost", "ward"),
}
COLUMNS = "\n".join(f"{table} = {list(columns)}" for table, columns in TABLES.items())
POLICY = Policy.read(
    'extends = "default"\n[tools.sql]\nkind = "sql"\ndialect = "sqlite"\n[roles.clerk]\n'
    f"[data_access.tables]\n{COLUMNS}\n"
    '[data_access.roles.clerk.reads]\npatient = ["id", "ward"]\nlab = ["id", "pid", "result"]\n'
)
OPEN = {("patient", "id"), ("patient", "ward"), ("lab", "id"), ("lab", "pid"), ("lab", "result")}


WRAPPINGS = ("{}", "MAX({})", "COALESCE({}, 0)", "CASE WHEN {} > 1 THEN 1 END", "COUNT({})")


def really_read(query: str) -> set[tuple[str, str]] | None:
    """The columns that SQLite reads for a query; None where it refuses it."""
    seen: set[tuple[str, str]] = set()

    def note(code: int, one: str | None, other: str | None, *_: object) -> int:
        if code == sqlite3.SQLITE_READ and one in TABLES:
            seen.add((one, (other or "").lower()))
        return sqlite3.SQLITE_OK

    base = sqlite3.connect(":memory:")
    try:
        for table, columns in TABLES.items():
            base.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        base.set_authorizer(note)
        try:
            base.execute(query).fetchall()
        except sqlite3.Error:
            return None
    finally:
        base.close()
    return seen


class Writer:
    """Queries of many shapes over three tables, whose columns share names."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.count = rng, 0

    def alias(self) -> str:
        self.count += 1
        return self.rng.choice([f"q{self.count}", self.rng.choice(list(TABLES))])

    def column(self, sources: list[tuple[str, tuple[str, ...]]]) -> str:
        alias, columns = self.rng.choice(sources)
        name = self.rng.choice(columns)
        if self.rng.random() < 0.15:
            name = self.rng.choice([f'"{name}"', name.upper(), f"[{name}]", f"`{name}`"])
        return f"{alias}.{name}" if self.rng.random() < 0.6 else name

    def source(self, depth: int) -> tuple[str, str, tuple[str, ...]]:
        alias = self.alias()
        if depth > 0 and self.rng.random() < 0.45:
            inner, columns = self.select(depth - 1)
            return f"({inner}) AS {alias}", alias, columns
        table = self.rng.choice(list(TABLES))
        bare = self.rng.random() < 0.4
        return (table, table, TABLES[table]) if bare else (f"{table} {alias}", alias, TABLES[table])

    def select(
        self, depth: int, outer: list[tuple[str, tuple[str, ...]]] | None = None
    ) -> tuple[str, tuple[str, ...]]:
        sources, text = [], ""
        for number in range(self.rng.choice([1, 1, 2, 2, 3])):
            said, alias, columns = self.source(depth)
            if any(alias == other for other, _ in sources):
                continue
            if number == 0 or not text:
                text = said
            else:
                kind = self.rng.choice([", ", " JOIN ", " LEFT JOIN ", " NATURAL JOIN ", " CROSS JOIN "])
                text += kind + said
                if kind in (" JOIN ", " LEFT JOIN "):
                    known = [*sources, (alias, columns)]
                    text += f" ON {self.column(known)} = {self.column(known)}"
            sources.append((alias, columns))
        results: list[str] = []
        parts: list[str] = []
        for number in range(self.rng.randint(1, 3)):
            draw = self.rng.random()
            if draw < 0.08:
                parts.append("*")
                results += [name for _, columns in sources for name in columns]
            elif draw < 0.16:
                alias, columns = self.rng.choice(sources)
                parts.append(f"{alias}.*")
                results += columns
            else:
                inner = self.column(sources)
                wrapped = self.rng.choice(
                    ["{}", "MAX({})", "COALESCE({}, 0)", "CASE WHEN {} > 1 THEN 1 END", "COUNT({})"]
                )
                name = self.rng.choice([f"c{number}", "age", "cost"])
                parts.append(f"{wrapped.format(inner)} AS {name}")
                results.append(name)
        visible = sources + (outer or [])
        query = f"SELECT {', '.join(parts)} FROM {text}"
        if self.rng.random() < 0.5:
            query += f" WHERE {self.column(visible)} > 1"
            if depth > 0 and self.rng.random() < 0.6:
                inner, _ = self.select(depth - 1, visible)
                query += self.rng.choice(
                    [f" AND EXISTS ({inner})", f" OR (SELECT COUNT(*) FROM ({inner})) > 0"]
                )
        if self.rng.random() < 0.25:
            query += f" GROUP BY {self.rng.choice([self.column(sources), results[0]])}"
            if self.rng.random() < 0.5:
                query += f" HAVING {self.rng.choice([self.column(sources), results[-1]])} > 0"
        if self.rng.random() < 0.25:
            query += f" ORDER BY {self.rng.choice([self.column(sources), results[-1]])}"
        return query, tuple(dict.fromkeys(results))

    def query(self) -> str:
        text, _ = self.select(self.rng.randint(0, 2))
        if self.rng.random() < 0.25:
            name = self.rng.choice(["w", "lab", "cost"])
            inner, columns = self.select(1)
            text = f"WITH {name} AS ({inner}) SELECT {self.rng.choice([*columns, '*'])} FROM {name}"
        return text


def decided(query: str) -> str:
    view = View(Action("sql", {"query": query}, principal=Principal("c", "clerk")), POLICY)
    statuses = {check.status for check in FAMILY.check(view, POLICY.settings["data_access"])}
    return "fail" if "fail" in statuses else "unknown" if "unknown" in statuses else "pass"


def test_no_column_that_sqlite_reads_is_missed() -> None:
    """A query that passes reads nothing that is shut; and most queries that read nothing shut do pass."""
    writer = Writer(random.Random(2502))
    run = passed = harmless = 0
    for _ in range(2000):
        query = writer.query()
        seen = really_read(query)
        if seen is None:
            continue
        run += 1
        shut = {(table, column) for table, column in seen if column and (table, column) not in OPEN}
        shut |= {(table, column) for table, column in seen if not column and table == "cost"}
        outcome = decided(query)
        if shut:
            assert outcome != "pass", (query, shut)
        else:
            harmless += 1
            passed += outcome == "pass"
    assert run > 500
    assert harmless > 60
    assert passed / harmless > 0.6


@pytest.mark.parametrize(
    "query",
    [
        "SELECT (SELECT age FROM patient LIMIT 1)",
        "SELECT ward FROM patient WHERE (SELECT MAX(p.age) FROM patient p WHERE p.id = patient.id) > 60",
        "SELECT w.x FROM (WITH cost AS (SELECT age AS x FROM patient) SELECT x FROM cost) w",
        "SELECT 1 FROM patient ORDER BY age",
        "SELECT COUNT(*) FROM patient GROUP BY age",
        "SELECT id FROM patient WHERE name LIKE 'a%'",
        "SELECT id FROM patient INTERSECT SELECT age FROM lab",
        "SELECT ROW_NUMBER() OVER (PARTITION BY age ORDER BY id) FROM patient",
        "SELECT MAX(id) FILTER (WHERE age > 3) FROM patient",
        "WITH RECURSIVE t(n) AS (SELECT age FROM patient UNION SELECT n + 1 FROM t WHERE n < 3) SELECT n FROM t",
        "VALUES ((SELECT age FROM patient))",
        "SELECT id FROM patient WHERE (id, 3) IN (SELECT id, age FROM lab)",
        'SELECT "age" FROM "patient"',
        "SELECT [age] FROM [patient]",
        "SELECT `age` FROM patient",
        "SELECT ward AS age FROM patient WHERE age > 3",
    ],
)
def test_shut_columns_in_unusual_places(query: str) -> None:
    seen = really_read(query)
    assert seen is not None
    assert any(column in ("age", "name") for _, column in seen)
    assert decided(query) == "fail"
    assert not parse_sql(query, "sqlite").unparsed
