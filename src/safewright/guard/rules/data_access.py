"""Data access: which role may read which columns, and what may be changed, through SQL or tools that name tables."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from safewright.errors import BadInput, nearest
from safewright.guard.nouns import Check, CheckStatus
from safewright.guard.parsing.sql import Query, Statement, Use
from safewright.guard.rules.base import Family, Rule
from safewright.guard.views import View

PARSED = Rule("data_access.parsed", "integrity", "What the query does can be read from its text.")
TABLES = Rule("data_access.tables", "confidentiality", "The role may read every table that is used.")
COLUMNS = Rule("data_access.columns", "confidentiality", "The role may read every column that is used.")
WRITES = Rule("data_access.writes", "integrity", "The principal may change the tables that are changed.")
BOUNDED = Rule("data_access.bounded", "integrity", "An update or deletion says which rows it means.")
DEFINITION = Rule(
    "data_access.definition",
    "availability",
    "Tables and permissions are changed by privileged principals only.",
)
SINGLE = Rule("data_access.single", "integrity", "A call that changes data holds one statement.")
REACH = Rule("data_access.reach", "confidentiality", "The query reaches nothing outside of the database.")

REACHING = (
    "pg_read_*", "pg_ls_*", "pg_stat_file", "lo_import", "lo_export", "dblink*", "*_to_xml*", "xp_*", "sp_oa*",
    "load_file", "load_extension", "readfile", "writefile", "edit", "fileio_*", "read_csv*", "readcsv*",
    "read_parquet*", "readparquet*", "read_json*", "read_text", "read_blob", "openrowset", "opendatasource",
    "openquery", "sys_exec", "sys_eval", "utl_*", "dbms_*", "http*", "pg_terminate_backend", "pg_cancel_backend",
    "set_config", "pg_sleep*", "sleep", "benchmark", "sniff_csv", "parquet_*", "sqlite_scan*", "postgres_scan*",
    "mysql_scan*",
)  # fmt: skip
"""Functions that read files, open connections, end other people's work or only wait."""
HARMLESS = frozenset((
    "strftime", "julianday", "datetime", "date", "time", "unixepoch", "printf", "format", "ifnull", "iif", "instr",
    "hex", "quote", "total", "random", "typeof", "char", "unicode", "zeroblob", "likelihood", "likely", "unlikely",
    "last_insert_rowid", "changes", "json_each", "json_tree", "json_array_length", "json_valid", "json_type", "now",
    "age", "to_number", "regexp_like", "nvl2", "decode", "percentile_cont", "percentile_disc",
))  # fmt: skip
"""Functions that the SQL parser does not know, and that read nothing but their arguments."""


@dataclass(frozen=True)
class RoleAccess:
    """``[data_access.roles.NAME]``: what a role may read and change.

    Args:
        reads: Columns by table; ``*`` is all of them.
        writes: Tables it may change.
        define: Whether it may create, change and drop tables.
    """

    reads: Mapping[str, frozenset[str]] = field(default_factory=dict)
    writes: frozenset[str] = frozenset()
    define: bool = False


@dataclass(frozen=True)
class CallShape:
    """``[[data_access.calls]]``: a tool whose arguments name tables.

    Args:
        tool: A pattern of its name.
        table: The argument that names a table, several, or columns by table.
        columns: The argument that names columns; where a call leaves it out, all are meant.
        writes: Whether it changes the table.
    """

    tool: str
    table: str = "table"
    columns: str = ""
    writes: bool = False


@dataclass(frozen=True)
class Settings:
    """Section ``[data_access]`` of a policy file.

    Args:
        roles: Who may read and change what. A role that is not here may read everything where it is privileged, and is
            asked about where it is not; where no role is here, every table may be read.
        tables: The columns that exist, by table: they tell whose a column is where a query does not say.
        calls: Tools that name tables in their arguments.
        schemas: Names before a table's that mean nothing.
        functions: Functions of the database that read nothing but their arguments.
        statements: How many statements a call that changes data may hold.
    """

    enabled: bool = True
    roles: Mapping[str, RoleAccess] = field(default_factory=dict)
    tables: Mapping[str, frozenset[str]] = field(default_factory=dict)
    calls: tuple[CallShape, ...] = ()
    schemas: tuple[str, ...] = ("main", "public", "dbo")
    functions: tuple[str, ...] = ()
    statements: int = 1

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Settings:
        """The settings in a section.

        Raises:
            BadInput: A key is unknown or a value of another type.
        """
        from safewright.guard.policy import fill

        where = "[data_access]"
        given = dict(values)
        roles = _table(given.pop("roles", {}), f"{where} roles")
        tables = _table(given.pop("tables", {}), f"{where} tables")
        calls = given.pop("calls", [])
        if not isinstance(calls, (list, tuple)):
            raise BadInput(f"{where}: calls is no list of tables.", fix="[[data_access.calls]]")
        plain = fill(cls, given, where)
        if plain.statements < 1:
            raise BadInput(f"{where}: statements is {plain.statements}.", fix="At least 1.")
        return cls(
            plain.enabled,
            {name: _role(value, f"{where} roles.{name}") for name, value in roles.items()},
            _columns(tables, f"{where} tables"),
            tuple(fill(CallShape, _table(each, f"{where} calls"), f"{where} calls") for each in calls),
            plain.schemas,
            tuple(name.lower() for name in plain.functions),
            plain.statements,
        )


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call."""
    query = view.query
    if query is not None:
        yield from _query(view, query, settings)
        return
    for shape in settings.calls:
        if fnmatch.fnmatchcase(view.action.tool, shape.tool):
            yield from _call(view, shape, settings)
            return


def _query(view: View, query: Query, settings: Settings) -> Iterator[Check]:
    strange = [each.verb for each in query.statements if each.kind == "unknown"]
    said = query.unparsed or (f"statement not understood: {', '.join(strange)}" if strange else "")
    advice = "Write one plain SQL statement that can be read in full." if said else ""
    yield PARSED.says("unknown" if said else "pass", said or ", ".join(query.verbs), advice)
    if query.unparsed:
        return
    reads = [use for each in query.statements for use in each.uses]
    yield from _reads(view, reads, settings)
    yield from _changes(view, query.statements, settings)
    yield from _reach(view, query.statements, settings)


# Reading


def _reads(view: View, uses: list[Use], settings: Settings) -> Iterator[Check]:
    if not settings.roles or not uses:
        return
    access, status, why = _access(view, settings)
    if access is None:
        yield TABLES.says(status, why, "" if status == "pass" else "It is not known what this user may read.")
        return
    tables, columns, unclear = _outside(uses, access.reads, settings)
    advice = "Leave out the data that this user may not read, or ask somebody who may." if tables else ""
    yield TABLES.says("fail" if tables else "pass", ", ".join(sorted(tables)), advice)
    if columns:
        advice = "Name only columns that this user may read."
        yield COLUMNS.says("fail", ", ".join(sorted(columns)), advice)
    elif unclear:
        advice = "Write each column with the name of its table."
        yield COLUMNS.says("unknown", f"of which table: {', '.join(sorted(unclear))}", advice)
    else:
        yield COLUMNS.says("pass")


def _access(view: View, settings: Settings) -> tuple[RoleAccess | None, CheckStatus, str]:
    """What the principal's role may do; without that, what follows from there being none."""
    principal = view.action.principal
    if principal is None:
        return None, "unknown", "no principal"
    found = settings.roles.get(principal.role) or settings.roles.get(principal.role.strip().lower())
    if found is not None:
        return found, "pass", ""
    if view.privilege == "privileged":
        return None, "pass", f"{principal.role} is privileged"
    return None, "unknown", f"nothing is said of the role {principal.role!r}"


def _outside(
    uses: list[Use], reads: Mapping[str, frozenset[str]], settings: Settings
) -> tuple[set[str], set[str], set[str]]:
    """The tables and columns outside of what may be read, and the columns of which that cannot be told."""
    tables: set[str] = set()
    columns: set[str] = set()
    unclear: set[str] = set()
    for use in uses:
        names = tuple(dict.fromkeys(_plain(table, settings) for table in use.tables))
        missing = [name for name in names if name not in reads]
        if missing and (len(names) == 1 or not use.column):
            tables.update(missing)
            continue
        if not use.column:
            continue
        homes = _homes(names, use, settings)
        if homes is None:
            unclear.add(use.column)
            continue
        for table, column in homes:
            allowed = reads.get(table, frozenset())
            if "*" in allowed or column in allowed:
                continue
            known = settings.tables.get(table)
            if column == "*" and known is not None and known <= allowed:
                continue
            columns.add(f"{table}.{column}")
    return tables, columns, unclear


def _homes(names: tuple[str, ...], use: Use, settings: Settings) -> list[tuple[str, str]] | None:
    """The table and column that a use means; None where it cannot be told.

    Where the policy lists all candidates' columns, the innermost table that has the column is meant. Where it does not,
    a name with one candidate is that table's, and any other is unclear.
    """
    if use.column == "*":
        return [(name, "*") for name in names]
    for name in names:
        known = settings.tables.get(name)
        if known is None:
            break
        if use.column in known:
            return [(name, use.column)]
    else:
        if use.row:
            return [(name, "*") for name in names]
        # No table has it: a result's name, or a name that does not exist.
        return [] if use.alias else [(names[0], use.column)]
    if use.row:
        return [(name, "*") for name in names]
    if len(names) == 1 and not use.alias:
        return [(names[0], use.column)]
    return None


def _plain(table: str, settings: Settings) -> str:
    first, dot, rest = table.partition(".")
    return rest if dot and first in settings.schemas else table


# Changing


def _changes(view: View, statements: tuple[Statement, ...], settings: Settings) -> Iterator[Check]:
    changing = [each for each in statements if each.kind not in ("read", "session")]
    if not changing:
        return
    privileged = view.privilege == "privileged"
    many = len([each for each in statements if each.kind != "session"])
    if many > settings.statements:
        yield SINGLE.says("unknown", f"{many} statements", "Send one statement at a time.")
    else:
        yield SINGLE.says("pass")
    access, status, why = _access(view, settings)
    defining = [each.verb for each in changing if each.kind in ("define", "permit")]
    if defining:
        may = privileged or (access is not None and access.define)
        advice = "" if may else "This user may not change tables or permissions."
        yield DEFINITION.says("pass" if may else "fail", ", ".join(defining), advice)
    targets = [
        _plain(table, settings)
        for each in changing
        if each.kind in ("write", "delete")
        for table, _ in each.changes
    ]
    if targets:
        if settings.roles and access is not None:
            outside = sorted({table for table in targets if table not in access.writes})
            status, why = ("fail" if outside else "pass"), ", ".join(outside)
        elif not settings.roles:
            status, why = (
                ("unknown" if view.privilege == "least" else "pass"),
                ", ".join(sorted(set(targets))),
            )
        advice = "" if status == "pass" else "This user may not change these data."
        yield WRITES.says(status, why, advice)
    if any(each.kind in ("write", "delete") for each in changing):
        loose = [each.verb for each in changing if each.unbounded or each.verb == "truncate"]
        status = ("unknown" if privileged else "fail") if loose else "pass"
        advice = "Say in a WHERE which rows are meant." if loose else ""
        yield BOUNDED.says(status, ", ".join(loose), advice)


def _reach(view: View, statements: tuple[Statement, ...], settings: Settings) -> Iterator[Check]:
    functions = {name for each in statements for name in each.functions}
    plain = {name.lstrip("?") for name in functions} - set(settings.functions)
    reaching = sorted(
        name for name in plain if any(fnmatch.fnmatchcase(name, pattern) for pattern in REACHING)
    )
    if reaching:
        status: CheckStatus = "unknown" if view.privilege == "privileged" else "fail"
        yield REACH.says(status, ", ".join(reaching), "Use the database's tables only.")
        return
    # Where tables are shut, a function that somebody stored could open them.
    strange = sorted(
        name[1:]
        for name in functions
        if name.startswith("?") and name[1:] in plain and name[1:] not in HARMLESS and settings.roles
    )
    if strange and _access(view, settings)[0] is not None:
        yield REACH.says("unknown", f"unknown: {', '.join(strange)}", "Use standard functions of SQL only.")
    elif functions:
        yield REACH.says("pass")


# Tools that name tables in their arguments


def _call(view: View, shape: CallShape, settings: Settings) -> Iterator[Check]:
    named = _named(view.action.arguments, shape)
    if named is None:
        yield PARSED.says(
            "unknown", f"{shape.table} names no table", "Name the tables and columns that are needed."
        )
        return
    if not shape.writes:
        yield from _reads(view, [Use((table,), column) for table, column in named], settings)
        return
    changes = tuple((table, ()) for table, _ in named)
    yield from _changes(view, (Statement("write", "write", changes=changes),), settings)


def _named(arguments: Mapping[str, Any], shape: CallShape) -> list[tuple[str, str]] | None:
    """The columns that a call names, by table."""
    tables = arguments.get(shape.table)
    if isinstance(tables, Mapping) and tables:
        found = []
        for table, columns in tables.items():
            names = _listed(columns)
            if names is None:
                return None
            found += [(str(table).lower(), name) for name in names]
        return found
    names = _listed(tables)
    if tables is None or not names or "*" in names:
        return None
    columns = _listed(arguments.get(shape.columns)) if shape.columns else ["*"]
    if columns is None or (len(names) > 1 and columns != ["*"]):
        return None
    return [(table, column) for table in names for column in columns]


def _listed(value: Any) -> list[str] | None:
    """Names in a text (with commas) or list, in lower case; all where there is none; None where it is no such thing."""
    if value is None:
        return ["*"]
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(each, str) for each in given):
        return None
    return [each.strip().lower() for each in given if each.strip()] or ["*"]


# Settings


def _role(value: Any, where: str) -> RoleAccess:
    given = _table(value, where)
    for name in given:
        if name not in ("reads", "writes", "define"):
            raise BadInput(f"{where} has no key {name!r}.", fix=nearest(name, ("reads", "writes", "define")))
    writes, define = given.get("writes", []), given.get("define", False)
    if not isinstance(writes, (list, tuple)) or not all(isinstance(each, str) for each in writes):
        raise BadInput(f"{where}: writes is no list of tables.")
    if not isinstance(define, bool):
        raise BadInput(f"{where}: define is {define!r}.", fix="true or false.")
    return RoleAccess(
        _columns(_table(given.get("reads", {}), f"{where}.reads"), f"{where}.reads"),
        frozenset(each.lower() for each in writes),
        define,
    )


def _columns(tables: Mapping[str, Any], where: str) -> dict[str, frozenset[str]]:
    found = {}
    for table, columns in tables.items():
        if not isinstance(columns, (list, tuple)) or not all(isinstance(each, str) for each in columns):
            raise BadInput(f"{where}.{table} is no list of columns.", fix='["*"] is all of them.')
        found[table.lower()] = frozenset(each.lower() for each in columns)
    return found


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} is no table.", fix="See docs/guard.md for an example.")
    return value


FAMILY = Family(
    "data_access",
    "Tables, columns and statements",
    Settings,
    check,
    (PARSED, TABLES, COLUMNS, WRITES, BOUNDED, DEFINITION, SINGLE, REACH),
)
