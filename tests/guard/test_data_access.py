"""Data access: who may read and change which tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.guard import Action, Guard, Policy, Principal
from safewright.guard.nouns import read_action
from safewright.guard.rules.data_access import FAMILY, Settings
from safewright.guard.views import View

EXAMPLES = Path(__file__).parents[2] / "examples" / "guard"
ICU = Policy.load(EXAMPLES / "icu_access.toml")


def found(
    query: str, role: str | None = "nursing", policy: Policy = ICU, tool: str = "sql"
) -> dict[str, str]:
    principal = None if role is None else Principal("p", role)
    view = View(Action(tool, {"query": query}, principal=principal), policy)
    return {check.id: check.status for check in FAMILY.check(view, policy.settings["data_access"])}


def worst(statuses: Iterable[str | None]) -> str:
    return next(status for status in ("fail", "unknown", "pass") if status in {*statuses, "pass"})


@pytest.mark.parametrize("name", ["icu_access.toml", "web_roles.toml", "web_forms.toml"])
def test_the_examples_policies_decide_their_own_cases(name: str) -> None:
    policy = Policy.load(EXAMPLES / name)
    assert policy.tests
    with Guard(policy) as guard:
        for case in policy.tests:
            assert guard.check(read_action(case.action)).found in case.expect, case.name


@pytest.mark.parametrize(
    ("role", "query", "status"),
    [
        ("nursing", "SELECT celllabel FROM intakeoutput", "pass"),
        ("physician", "SELECT celllabel FROM intakeoutput", "fail"),
        ("administration", "SELECT drugname FROM medication", "pass"),
        ("administration", "SELECT dosage FROM medication", "fail"),
        ("administration", "SELECT m.* FROM medication m", "fail"),
        ("administration", "SELECT gender FROM patient", "fail"),
        ("administration", "SELECT COUNT(*) FROM patient WHERE age > 60", "fail"),
        ("administration", "SELECT COUNT(*) FROM patient", "pass"),
        ("administration", "SELECT cost FROM cost", "pass"),
        ("nursing", "SELECT medication FROM medication", "pass"),
        ("administration", "SELECT medication FROM medication", "fail"),
        ("nursing", "SELECT age FROM patient UNION SELECT cost FROM cost", "fail"),
        ("nursing", "SELECT no_such_column FROM patient", "fail"),
        ("nursing", "SELECT age FROM archive.patient", "fail"),
        ("nursing", "SELECT age FROM main.patient", "pass"),
        (
            "nursing",
            "SELECT labname, COUNT(*) AS n FROM lab JOIN patient USING (patientunitstayid) GROUP BY 1 HAVING n > 2",
            "pass",
        ),
    ],
)
def test_tables_and_columns(role: str, query: str, status: str) -> None:
    checks = found(query, role)
    assert worst([checks.get("data_access.tables"), checks.get("data_access.columns")]) == status


@pytest.mark.parametrize(("role", "status"), [(None, "unknown"), ("visitor", "unknown"), ("root", "pass")])
def test_without_a_known_role_nothing_is_assumed(role: str | None, status: str) -> None:
    assert found("SELECT age FROM patient", role)["data_access.tables"] == status


@pytest.mark.parametrize(("column", "status"), [("x", "unknown"), ("a.x", "pass"), ("a.y", "fail")])
def test_a_column_of_which_table_the_text_does_not_say_is_unknown_without_a_list_of_columns(
    column: str, status: str
) -> None:
    policy = Policy.read(
        '[tools.sql]\nkind="sql"\n[roles.r]\n[data_access.roles.r.reads]\na = ["x", "k"]\nb = ["y", "k"]\n'
    )
    assert found(f"SELECT {column} FROM a, b", "r", policy)["data_access.columns"] == status


@pytest.mark.parametrize(
    ("query", "check", "role", "status"),
    [
        ("DELETE FROM t", "bounded", "user", "fail"),
        ("DELETE FROM t", "bounded", "root", "unknown"),
        ("DELETE FROM t WHERE id = 4", "bounded", "user", "pass"),
        ("UPDATE t SET a = 1 WHERE 1 = 1", "bounded", "user", "fail"),
        ("DROP TABLE t", "definition", "user", "fail"),
        ("DROP TABLE t", "definition", "root", "pass"),
        ("GRANT ALL ON t TO bob", "definition", "user", "fail"),
        ("SELECT 1; DELETE FROM t WHERE id = 4", "single", "user", "unknown"),
        ("UPDATE t SET a = 1 WHERE id = 3", "writes", None, "unknown"),
        ("UPDATE t SET a = 1 WHERE id = 3", "writes", "user", "pass"),
        ("SELECT pg_read_file('/etc/hostname')", "reach", "user", "fail"),
        ("SELECT LOAD_FILE('/etc/hostname')", "reach", "root", "unknown"),
        ("SELEKT", "parsed", "root", "unknown"),
        ("CALL tidy()", "parsed", "root", "unknown"),
        ("SELECT a FROM t", "parsed", "user", "pass"),
    ],
)
def test_changes_under_the_default_policy(query: str, check: str, role: str | None, status: str) -> None:
    assert found(query, role, Policy.default())[f"data_access.{check}"] == status


@pytest.mark.parametrize(
    ("query", "check", "status"),
    [
        ("INSERT INTO note (a) VALUES (1)", "writes", "pass"),
        ("INSERT INTO bill (a) VALUES (1)", "writes", "fail"),
        ("SELECT stored_thing(a) FROM note", "reach", "unknown"),
    ],
)
def test_writes_are_those_of_the_role(query: str, check: str, status: str) -> None:
    policy = Policy.read(
        'extends="default"\n[data_access.roles.user]\nwrites=["note"]\n[data_access.roles.user.reads]\nnote=["*"]\n'
    )
    assert found(query, "user", policy)[f"data_access.{check}"] == status


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"tables": {"patient": ["age", "gender"]}}, "pass"),
        ({"tables": {"patient": ["age"], "cost": ["cost"]}}, "fail"),
        ({"tables": "patient"}, "pass"),
        ({"tables": ["patient", "cost"]}, "fail"),
        ({"tables": {"patient": 3}}, "unknown"),
        ({"tables": None}, "unknown"),
        ({}, "unknown"),
        ({"tables": "*"}, "unknown"),
    ],
)
def test_tools_that_name_tables(arguments: dict[str, Any], status: str) -> None:
    view = View(Action("read_tables", arguments, principal=Principal("n", "nursing")), ICU)
    got = {check.status for check in FAMILY.check(view, ICU.settings["data_access"])}
    assert worst(got) == status


@pytest.mark.parametrize(
    "values",
    [
        {"rolls": {}},
        {"roles": {"a": {"read": {}}}},
        {"roles": {"a": {"reads": {"t": "x"}}}},
        {"roles": {"a": {"define": "yes"}}},
        {"tables": {"t": [1]}},
        {"calls": [{"table": "t"}]},
        {"statements": 0},
    ],
)
def test_a_section_is_read_strictly(values: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Settings.read(values)
