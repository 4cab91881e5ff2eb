"""Names in an SQL tree: which table a column belongs to, through aliases, subqueries and common table expressions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from safewright.guard.parsing.sql import Gathered, Kind, Statement

Columns = frozenset[str] | None
"""The columns of something derived; None where they are not known."""


@dataclass
class Scope:
    """What the names of one query may mean: its tables by alias, and what is derived from other queries."""

    tables: dict[str, str] = field(default_factory=dict)
    derived: dict[str, Columns] = field(default_factory=dict)
    results: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Where:
    """Where in a statement a node stands."""

    scopes: tuple[Scope, ...] = ()
    ctes: Mapping[str, Columns] = field(default_factory=dict)
    results: bool = False
    """Whether names of results may be used here (GROUP BY, HAVING)."""
    ordering: bool = False
    """Whether names of results win here (ORDER BY)."""


_KINDS: dict[type, tuple[str, Kind]] = {
    exp.Insert: ("insert", "write"),
    exp.Update: ("update", "write"),
    exp.Merge: ("merge", "write"),
    exp.Delete: ("delete", "delete"),
    exp.TruncateTable: ("truncate", "delete"),
    exp.Create: ("create", "define"),
    exp.Drop: ("drop", "define"),
    exp.Alter: ("alter", "define"),
    exp.Comment: ("comment", "define"),
    exp.Grant: ("grant", "permit"),
    exp.Transaction: ("begin", "session"),
    exp.Commit: ("commit", "session"),
    exp.Rollback: ("rollback", "session"),
}
if hasattr(exp, "Revoke"):
    _KINDS[exp.Revoke] = ("revoke", "permit")
_GRAVITY: tuple[Kind, ...] = ("session", "read", "write", "delete", "define", "permit", "unknown")


def read_statement(tree: Any) -> Statement:
    """What one statement reads and changes."""
    verb, kind = _KINDS.get(type(tree), ("", "unknown"))
    if isinstance(tree, (exp.Query, exp.Values)):
        verb, kind = "select", "read"
    elif isinstance(tree, exp.Describe):
        verb, kind = "describe", "read"
    found = Gathered()
    if kind == "unknown":
        said = tree.name if isinstance(tree, exp.Command) else type(tree).__name__
        # EXPLAIN ANALYZE runs what it explains, CALL whatever somebody stored: not understood is not harmless.
        return Statement(str(said).lower() or "unknown", "unknown")
    found.kinds.append(kind)
    _Reader(found).visit(tree, _Where())
    return Statement(
        verb,
        max(found.kinds, key=_GRAVITY.index),
        tuple(found.uses),
        tuple((table, tuple(columns)) for table, columns in found.changes.items()),
        found.unbounded,
        tuple(sorted(found.functions)),
    )


class _Reader:
    def __init__(self, found: Gathered) -> None:
        self.found = found

    def visit(self, node: Any, where: _Where) -> None:
        """Read a node and what is below it."""
        if isinstance(node, list):
            for each in node:
                self.visit(each, where)
        elif not isinstance(node, exp.Expression):
            return
        elif isinstance(node, exp.Select):
            self._select(node, where)
        elif isinstance(node, (exp.SetOperation, exp.Subquery)):
            self._derived(node, where)
        elif isinstance(node, (exp.Insert, exp.Update, exp.Delete, exp.Merge)):
            self._change(node, where)
        elif type(node) in _KINDS:
            self._defined(node, where)
        elif isinstance(node, exp.Command):
            self.found.kinds.append("unknown")
        elif isinstance(node, exp.Column):
            self._column(node, where)
        elif isinstance(node, exp.Table):
            self._source(node, Scope(), where)  # named outside of FROM: described, for example
        elif isinstance(node, exp.Star):
            if not isinstance(node.parent, exp.Count):
                self._all(where.scopes[:1])
        else:
            self._function(node)
            self._children(node, where)

    def _children(self, node: Any, where: _Where, skip: Iterable[str] = ()) -> None:
        for name, value in node.args.items():
            if name not in skip:
                self.visit(value, where)

    def _function(self, node: Any) -> None:
        if isinstance(node, exp.Anonymous):
            self.found.functions[f"?{node.name.lower()}"] = None
        elif isinstance(node, exp.Func):
            self.found.functions[node.sql_name().lower()] = None

    # Queries

    def _with(self, node: Any, where: _Where) -> _Where:
        clause = _arg(node, "with")
        if clause is None:
            return where
        ctes = dict(where.ctes)
        for cte in clause.expressions:
            name = cte.alias.lower()
            columns = _names(cte.args.get("alias")) or _projected(cte.this)
            inner = {**ctes, name: columns} if clause.args.get("recursive") else dict(ctes)
            # Without RECURSIVE, a query that is named as the table it reads does read that table.
            self.visit(cte.this, _Where(where.scopes, inner))
            ctes[name] = columns
        return _Where(where.scopes, ctes)

    def _derived(self, node: Any, where: _Where) -> None:
        """A union, or a query in parentheses; what is ordered by is a result of its."""
        where = self._with(node, where)
        plain = _Where(where.scopes, where.ctes)
        for name in ("this", "expression"):
            self.visit(node.args.get(name), plain)
        around = Scope(derived={"": None})
        for join in node.args.get("joins") or ():
            self._source(join.this, around, plain)
        outside = _Where((around, *where.scopes), where.ctes)
        self._children(
            node, outside, skip=("this", "expression", "with", "with_", "alias", "joins", "expressions")
        )
        for join in node.args.get("joins") or ():
            self._joined(join, around, outside)

    def _select(self, node: Any, where: _Where) -> None:
        where = self._with(node, where)
        scope = Scope(
            results=frozenset(
                each.alias.lower() for each in node.expressions if isinstance(each, exp.Alias) and each.alias
            )
        )
        start = _Where((scope, *where.scopes), where.ctes)
        source = _arg(node, "from")
        joins = node.args.get("joins") or ()
        if source is not None:
            self._source(source.this, scope, start)
        for join in joins:
            self._source(join.this, scope, start)
        for lateral in node.args.get("laterals") or ():
            self._source(lateral, scope, start)
        for join in joins:
            self._joined(join, scope, start)
        into = node.args.get("into")
        if into is not None:
            self.found.kinds.append("define")
            for table in into.find_all(exp.Table):
                self.found.change(_full(table))
        for name, value in node.args.items():
            if name in ("with", "with_", "from", "from_", "joins", "laterals", "into"):
                continue
            self.visit(
                value,
                _Where(start.scopes, start.ctes, name in ("group", "having", "qualify"), name == "order"),
            )

    def _joined(self, join: Any, scope: Scope, where: _Where) -> None:
        if str(join.args.get("method") or "").upper() == "NATURAL":
            self._all((scope,))  # it compares columns that the text does not name
        for name in join.args.get("using") or ():
            for table in scope.tables.values():
                self.found.use((table,), name.name.lower(), alias=True)
        self._children(join, where, skip=("this", "using"))

    def _source(self, node: Any, scope: Scope, where: _Where) -> None:
        """Add what stands in FROM or JOIN to a scope, and read what is inside it."""
        alias = node.alias_or_name.lower() if hasattr(node, "alias_or_name") else ""
        if isinstance(node, exp.Table):
            self._table(node, alias, scope, where)
        elif isinstance(node, exp.Lateral):
            inner = node.this
            self.visit(inner, where)
            scope.derived[alias] = _names(node.args.get("alias"))
        elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Table):
            self._source(node.this, scope, where)  # a join in parentheses
            for join in node.args.get("joins") or ():
                self._source(join.this, scope, where)
                self._joined(join, scope, where)
        else:
            if isinstance(node, exp.Query):
                self.visit(node, where)
                scope.derived[alias] = _names(node.args.get("alias")) or _projected(node)
            else:
                self._function(node)
                self._children(node, where, skip=("alias",))
                scope.derived[alias] = _names(node.args.get("alias"))
        if node.args.get("pivots"):
            self._all((scope,))  # its results are named after values

    def _table(self, node: Any, alias: str, scope: Scope, where: _Where) -> None:
        for join in node.args.get("joins") or ():
            self._source(join.this, scope, where)
        name = _full(node)
        if not name or not isinstance(node.this, (exp.Identifier, exp.Dot)):
            self._function(node.this)
            self._children(node.this, where)
            scope.derived[alias] = None
        elif name in where.ctes:
            scope.derived[alias] = where.ctes[name]
        else:
            scope.tables[alias or name] = name
            self.found.use((name,))
            renamed = _names(node.args.get("alias"))
            if renamed:
                # FROM patient AS p(a, b): the names of its columns stand for others.
                scope.derived[alias] = renamed
                self.found.use((name,), "*")
        for join in node.args.get("joins") or ():
            self._joined(join, scope, _Where((scope, *where.scopes), where.ctes))
        self._children(node, where, skip=("this", "db", "catalog", "alias", "joins"))

    # Columns

    def _all(self, scopes: Iterable[Scope]) -> None:
        for scope in scopes:
            for table in scope.tables.values():
                self.found.use((table,), "*")

    def _column(self, node: Any, where: _Where) -> None:
        name = "*" if isinstance(node.this, exp.Star) else node.name.lower()
        parts = [part.name.lower() for part in node.parts[:-1]]
        if parts:
            self._qualified(parts, name, where)
            return
        if name == "*":
            self._all(where.scopes[:1])
            return
        inner = where.scopes[0] if where.scopes else Scope()
        if where.ordering and name in inner.results:
            return
        candidates: list[str] = []
        row = derived = False
        for scope in where.scopes:
            for alias, table in scope.tables.items():
                candidates.append(table)
                row = row or alias == name
            if any(columns is None or name in columns for columns in scope.derived.values()):
                derived = True
            if any(columns is not None and name in columns for columns in scope.derived.values()):
                break  # an inner query's own result hides what is outside
        named = where.results and name in inner.results
        self.found.use(candidates, name, row=row, alias=derived or named)

    def _qualified(self, parts: list[str], name: str, where: _Where) -> None:
        for scope in where.scopes:
            if parts[-1] in scope.tables:
                table = scope.tables[parts[-1]]
                self.found.use((table,), name, alias=parts[-1] in scope.derived)
                return
            if parts[-1] in scope.derived:
                return
        for scope in where.scopes:
            if parts[0] in scope.tables:  # a field of a column: alias.column.field
                self.found.use((scope.tables[parts[0]],), parts[1] if len(parts) > 1 else name)
                return
            if parts[0] in scope.derived:
                return
        tables = [table for scope in where.scopes for table in scope.tables.values()]
        # A column that is a record (column.field), or a table that no FROM names.
        self.found.use(tables or (parts[-1],), parts[0] if tables else name)

    # Changes

    def _change(self, node: Any, where: _Where) -> None:
        where = self._with(node, where)
        self.found.kinds.append(_KINDS[type(node)][1])
        scope = Scope()
        inner = _Where((scope, *where.scopes), where.ctes)
        target = node.this
        names: list[str] = []
        if isinstance(target, exp.Schema):
            names = [each.name.lower() for each in target.expressions]
            target = target.this
        if not isinstance(target, exp.Table):
            self.found.kinds.append("unknown")
            return
        before = dict(self.found.uses)
        self._source(target, scope, inner)
        name = _full(target)
        if node.args.get("joins") is None and not target.args.get("joins"):
            self.found.uses = before  # a target is changed, not read
        for table in self._targets(node, scope) or [name]:
            self.found.change(table)
            for column in names:
                self.found.change(table, column)
        for source in self._sources(node):
            self._source(source, scope, inner)
        if isinstance(node, exp.Insert):
            scope.derived["excluded"] = None
        if isinstance(node, exp.Update):
            self._assignments(node.expressions, name, inner)
        skip = {"this", "with", "with_", "from", "from_", "using", "tables"}
        if isinstance(node, exp.Update):
            skip.add("expressions")
        for key, value in node.args.items():
            if key in skip:
                continue
            if key == "expression":  # INSERT … SELECT does not see its target
                self.visit(value, where)
            elif key == "whens":
                self._whens(value, name, inner)
            elif key == "conflict" and value is not None:
                self._assignments(value.expressions, name, inner)
                self._children(value, inner, skip=("expressions", "conflict_keys", "constraint"))
            else:
                self.visit(value, inner)
        if isinstance(node, (exp.Update, exp.Delete)) and not _bounded(node.args.get("where")):
            self.found.unbounded = True

    def _targets(self, node: Any, scope: Scope) -> list[str]:
        """DELETE a, b FROM …: the tables named by alias."""
        return [scope.tables.get(table.name.lower(), _full(table)) for table in node.args.get("tables") or ()]

    def _sources(self, node: Any) -> list[Any]:
        found = []
        source = _arg(node, "from")
        if source is not None:
            found.append(source.this)
        using = node.args.get("using")
        if isinstance(using, exp.Expression):
            found.append(using)
        elif isinstance(using, list):
            found += using
        return found

    def _assignments(self, nodes: Iterable[Any], table: str, where: _Where) -> None:
        for node in nodes:
            if isinstance(node, exp.EQ):
                for column in node.this.find_all(exp.Column, exp.Identifier):
                    if isinstance(column, exp.Column) or not isinstance(column.parent, exp.Column):
                        self.found.change(table, column.name.lower())
                self.visit(node.expression, where)
            else:
                self.visit(node, where)

    def _whens(self, whens: Any, table: str, where: _Where) -> None:
        for when in whens.find_all(exp.When):
            self.visit(when.args.get("condition"), where)
            then = when.args.get("then")
            if isinstance(then, exp.Update):
                self._assignments(then.expressions, table, where)
                self.visit(then.args.get("where"), where)
            elif isinstance(then, exp.Insert):
                self.visit(then.args.get("expression"), where)
            elif "delete" in str(then).lower():
                self.found.kinds.append("delete")

    def _defined(self, node: Any, where: _Where) -> None:
        self.found.kinds.append(_KINDS[type(node)][1])
        if isinstance(node, (exp.Transaction, exp.Commit, exp.Rollback)):
            return
        body = node.args.get("expression")
        tables = list(node.find_all(exp.Table))
        if isinstance(node, exp.Create) and body is not None:
            inside = {id(table) for table in body.find_all(exp.Table)}
            tables = [table for table in tables if id(table) not in inside]
            self.visit(body, self._with(node, where))
        for table in tables:
            self.found.change(_full(table))


def _arg(node: Any, name: str) -> Any:
    """An argument that some versions of the parser call by a name with an underscore behind it."""
    return node.args.get(f"{name}_") or node.args.get(name)


def _full(table: Any) -> str:
    """A table's name with those of its schema and catalogue, in lower case."""
    return ".".join(part.name.lower() for part in table.parts if part.name)


def _names(alias: Any) -> Columns:
    """The columns that an alias names: ``AS t(a, b)``."""
    columns = alias.args.get("columns") if isinstance(alias, exp.TableAlias) else None
    return frozenset(column.name.lower() for column in columns) if columns else None


def _projected(node: Any) -> Columns:
    """The results of a query by name; None where a star, or no query, leaves them open."""
    while isinstance(node, exp.Subquery):
        node = node.this
    while isinstance(node, exp.SetOperation):
        node = node.this
        while isinstance(node, exp.Subquery):
            node = node.this
    if not isinstance(node, exp.Select):
        return None
    names = set()
    for each in node.expressions:
        if isinstance(each, exp.Star) or (isinstance(each, exp.Column) and isinstance(each.this, exp.Star)):
            return None
        names.add(each.alias_or_name.lower())
    return frozenset(names)


def _bounded(where: Any) -> bool:
    """Whether a WHERE says something of a row: one that holds whatever is in it bounds nothing."""
    if where is None:
        return False
    condition = where.this
    stack = [condition]
    while stack:
        node = stack.pop()
        if isinstance(node, exp.Paren):
            stack.append(node.this)
        elif isinstance(node, exp.Or):
            stack += [node.this, node.expression]
        elif _says_nothing(node):
            return False
    return True


def _says_nothing(node: Any) -> bool:
    if isinstance(node, exp.Paren):
        return _says_nothing(node.this)
    if isinstance(node, exp.And):
        return _says_nothing(node.this) and _says_nothing(node.expression)
    if isinstance(node, exp.Or):
        return _says_nothing(node.this) or _says_nothing(node.expression)
    if not any(True for _ in node.find_all(exp.Column)):
        return True
    if isinstance(node, (exp.EQ, exp.GTE, exp.LTE)):
        same: bool = node.this == node.expression
        return same
    return isinstance(node, exp.Like) and set(node.expression.name) == {"%"}
