"""SQL read without a database: tables, columns, changes; what cannot be read is never harmless."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safewright.errors import Missing
from safewright.guard import Guard
from safewright.guard.parsing.sql import MOST_BYTES, parse_sql


def uses(query: str, dialect: str = "") -> set[tuple[str, str]]:
    found = parse_sql(query, dialect)
    assert not found.unparsed, found.unparsed
    return {("|".join(use.tables), use.column) for each in found.statements for use in each.uses}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT age FROM patient", {("patient", ""), ("patient", "age")}),
        ('SELECT P."Age" FROM Patient AS p', {("patient", ""), ("patient", "age")}),
        ("SELECT * FROM lab", {("lab", ""), ("lab", "*")}),
        (
            "SELECT l.*, p.age FROM lab l, patient p",
            {("lab", ""), ("patient", ""), ("lab", "*"), ("patient", "age")},
        ),
        ("SELECT COUNT(*) FROM patient", {("patient", "")}),
        ("SELECT x FROM (SELECT dose AS x FROM drug) t", {("drug", ""), ("drug", "dose")}),
        ("WITH t AS (SELECT dose AS x FROM drug) SELECT x FROM t", {("drug", ""), ("drug", "dose")}),
        ("WITH cost AS (SELECT * FROM cost) SELECT a FROM cost", {("cost", ""), ("cost", "*")}),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY a", {("t", ""), ("t", "a"), ("u", ""), ("u", "b")}),
        ("SELECT a FROM t NATURAL JOIN u", {("t", ""), ("u", ""), ("t", "*"), ("u", "*"), ("t|u", "a")}),
        (
            "SELECT 1 FROM p WHERE EXISTS (SELECT 1 FROM lab WHERE lab.id = p.id AND note > 3)",
            {("p", ""), ("lab", ""), ("lab", "id"), ("p", "id"), ("lab|p", "note")},
        ),
        ("SELECT a AS b FROM t ORDER BY b", {("t", ""), ("t", "a")}),
        ("SELECT other.t.a FROM other.t", {("other.t", ""), ("other.t", "a")}),
        (
            "SELECT x FROM (a JOIN b ON a.i = b.i)",
            {("a", ""), ("b", ""), ("a", "i"), ("b", "i"), ("b|a", "x")},
        ),
        ("SELECT a FROM t GROUP BY a HAVING MAX(b) > 2", {("t", ""), ("t", "a"), ("t", "b")}),
        ("SELECT u.secret FROM t", {("t", ""), ("t", "u")}),
    ],
)
def test_columns_belong_to_tables(query: str, expected: set[tuple[str, str]]) -> None:
    assert uses(query) == expected


def test_a_row_by_its_table_s_name_is_noted() -> None:
    found = parse_sql("SELECT p FROM patient p", "postgres").statements[0]
    assert [use.row for use in found.uses if use.column == "p"] == [True]


@pytest.mark.parametrize(
    ("query", "dialect", "kind", "unbounded"),
    [
        ("UPDATE t SET a = 1", "", "write", True),
        ("UPDATE t SET a = 1 WHERE id = 3", "", "write", False),
        ("UPDATE t SET a = 1 WHERE 1 = 1", "", "write", True),
        ("UPDATE t SET a = 1 WHERE id = 3 OR TRUE", "", "write", True),
        ("UPDATE t SET a = 1 WHERE (id = id)", "", "write", True),
        ("DELETE FROM t WHERE name LIKE '%'", "", "delete", True),
        ("DELETE FROM t WHERE name LIKE 'a%'", "", "delete", False),
        ("DELETE FROM t", "", "delete", True),
        ("TRUNCATE TABLE t", "", "delete", False),
        ("INSERT INTO t (a) VALUES (1)", "", "write", False),
        ("DROP TABLE t", "", "define", False),
        ("ALTER TABLE t ADD COLUMN b INT", "", "define", False),
        ("CREATE TABLE u AS SELECT a FROM t", "", "define", False),
        ("SELECT a INTO u FROM t", "", "define", False),
        ("GRANT SELECT ON t TO bob", "", "permit", False),
        ("WITH x AS (DELETE FROM t RETURNING a) SELECT a FROM x", "postgres", "delete", True),
        ("EXPLAIN ANALYZE DELETE FROM t", "", "unknown", False),
        ("CALL tidy()", "", "unknown", False),
        ("SET ROLE boss", "postgres", "unknown", False),
        ("BEGIN", "", "session", False),
        ("SELECT 1", "", "read", False),
    ],
)
def test_kinds_of_statements(query: str, dialect: str, kind: str, unbounded: bool) -> None:
    found = parse_sql(query, dialect)
    assert not found.unparsed
    assert (found.statements[0].kind, found.statements[0].unbounded) == (kind, unbounded)


def test_changes_name_tables_and_columns() -> None:
    found = parse_sql("UPDATE t SET a = b, c = (SELECT MAX(q) FROM u) WHERE t.id = 1").statements[0]
    assert found.changes == (("t", ("a", "c")),)
    assert found.tables == ("t", "u")
    merged = parse_sql(
        "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = s.c WHEN NOT MATCHED THEN DELETE"
    )
    assert merged.unparsed or merged.statements[0].changes == (("t", ("b",)),)


def test_several_statements_and_comments() -> None:
    found = parse_sql("SELECT a FROM t -- as asked\n; DROP TABLE t")
    assert found.verbs == ("select", "drop")
    assert found.comments == ("as asked",)
    assert found.effect == "admin"


@pytest.mark.parametrize(
    "query",
    [
        None,
        "",
        "-- nothing",
        "SELECT a FROM",
        "SELECT FROM WHERE",
        "SELECT 'open FROM t",
        "SELECT a /*! , secret */ FROM t",
        r"SELECT a FROM t WHERE b = '\' OR 1 = 1 -- '",
        "SELECT * FROM a" + " JOIN b" * 40,
        "SELECT id--1, secret FROM t",
        "SELECT id /* /* */, secret FROM t -- */ */ FROM t",
        "SELECT id FROM t -- \r, secret\n",
        "SELECT " + "(" * 201 + "1" + ")" * 201,
        "SELECT " + "+".join(["1"] * 3000),
        "SELECT '" + "x" * MOST_BYTES + "'",
    ],
)
def test_what_cannot_be_read_says_so(query: str | None) -> None:
    found = parse_sql(query)
    assert found.unparsed
    assert found.effect == "execute"
    assert not found.statements


def test_a_declared_dialect_settles_what_is_a_comment() -> None:
    assert ("t", "secret") in uses("SELECT id--1, secret FROM t", "mysql")
    assert ("t", "secret") not in uses("SELECT id--1, secret\n FROM t", "postgres")
    assert ("t", "secret") in uses("SELECT id /* /* */, secret FROM t -- */ */ FROM t", "sqlite")


def test_an_unknown_dialect_is_not_guessed() -> None:
    assert parse_sql("SELECT 1", "no-such-dialect").unparsed


PIECES = st.sampled_from(
    (
        "SELECT", "FROM", "WHERE", "a", "t", "u", "*", "(", ")", ",", ".", ";", "'x'", "=", "1", "OR", "AND", "JOIN",
        "ON", "UPDATE", "SET", "DELETE", "INSERT", "INTO", "VALUES", "WITH", "AS", "UNION", "GROUP", "BY", "ORDER",
        "IN", "EXISTS", "NATURAL", "USING", "--", "/*", "*/", '"', "`", "[", "]", "::", "->", "CASE", "WHEN", "END",
        "LATERAL", "PIVOT", "MERGE",
    )
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(
    st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=25).map(" ".join)),
    st.sampled_from(["", "postgres"]),
)
def test_any_text_is_read_or_refused(query: str, dialect: str) -> None:
    found = parse_sql(query, dialect)
    assert bool(found.unparsed) != bool(found.statements)


NAMES = st.sampled_from(["a", "b", "c"])


@settings(max_examples=100, deadline=None)
@given(NAMES, NAMES, st.sampled_from(["open1", "open2"]), st.integers(0, 5), st.booleans())
def test_a_secret_column_is_never_lost(one: str, other: str, table: str, depth: int, star: bool) -> None:
    """Whatever a query wraps around it, the reading of `vault.secret` shows."""
    query = f"SELECT v.secret AS {one} FROM vault v JOIN {table} o ON o.{other} = v.{other}"
    for level in range(depth):
        query = f"SELECT {'*' if star else f'w{level}.{one}'} FROM ({query}) w{level}"
    assert ("vault", "secret") in uses(query)


def test_without_the_parser_no_guard_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    with pytest.raises(Missing, match="safewright\\[guard\\]"):
        parse_sql("SELECT 1")
    with pytest.raises(Missing, match="safewright\\[guard\\]"):
        Guard()
