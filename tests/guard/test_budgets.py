"""Budgets of a session, counted from its history."""

from __future__ import annotations

from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.guard import Action, Guard, Policy, Principal, Turn
from safewright.guard.rules.budgets import FAMILY, Settings
from safewright.guard.views import View

TOOLS = """
extends = "default"
[intent]
enabled = false
[provenance]
enabled = false
[exfiltration]
enabled = false
[tools.send_mail]
effect = "send"
identities = ["to", "cc"]
[tools.pay]
effect = "pay"
identities = ["to"]
amounts = ["amount"]
[tools.note]
effect = "write"
[tools.look]
effect = "read"
"""


def policy(budgets: str) -> Policy:
    return Policy.read(f"{TOOLS}\n[budgets]\n{budgets}\n")


def call(tool: str, **arguments: Any) -> Turn:
    return Turn("call", tool=tool, arguments=arguments)


def found(
    budgets: str, tool: str, arguments: dict[str, Any], history: tuple[Turn, ...] = (), **others: Any
) -> dict[str, str]:
    under = policy(budgets)
    view = View(Action(tool, arguments, history=history, **others), under)
    return {check.id.split(".")[1]: check.status for check in FAMILY.check(view, under.settings["budgets"])}


def test_calls_and_tools() -> None:
    assert found("calls = 2", "look", {}, (call("look"),))["calls"] == "pass"
    assert (
        found("calls = 2", "look", {}, (call("look"), Turn("result", "x"), call("note")))["calls"] == "fail"
    )
    only = 'tool = [{pattern = "lo*", calls = 1}]'
    assert found(only, "look", {}, (call("note"),))["tool"] == "pass"
    assert found(only, "look", {}, (call("look"),))["tool"] == "fail"
    assert found("calls = 2", "look", {}, (call("look"),), siblings=(call("look"),))["calls"] == "fail"


def test_writes_count_by_effect_and_text() -> None:
    history = (
        call("note"),
        call("look"),
        call("sql", query="SELECT a FROM t"),
        call("sql", query="DROP TABLE t"),
    )
    assert found("writes = 3", "note", {}, history)["writes"] == "pass"
    assert found("writes = 2", "note", {}, history)["writes"] == "fail"
    assert "writes" not in found("writes = 0", "look", {}, history)


def test_a_budget_of_nothing_allows_nothing() -> None:
    assert found("sends = 0", "send_mail", {"to": "a@b.example"})["sends"] == "fail"


@pytest.mark.parametrize(
    ("amount", "history", "status"),
    [
        (40, (), "pass"),
        (60.5, (call("pay", amount=39.5),), "pass"),
        (60.5, (call("pay", amount=40),), "fail"),
        ("60.5", (call("pay", amount="40"),), "fail"),
        (-150, (), "fail"),
        (90, (call("pay", amount=-20),), "fail"),
        ("much", (), "unknown"),
        (True, (), "unknown"),
        ("1,000", (), "unknown"),
        (10, (call("pay", amount="some"),), "unknown"),
        (10, (call("note", amount=9999),), "pass"),
    ],
)
def test_money(amount: Any, history: tuple[Turn, ...], status: str) -> None:
    assert found("money = 100", "pay", {"to": "x", "amount": amount}, history)["money"] == status


def test_money_of_one_call_and_a_missing_amount() -> None:
    assert found("money_per_call = 10", "pay", {"amount": 11})["money"] == "fail"
    assert found("money_per_call = 10", "pay", {"amount": 10})["money"] == "pass"
    assert found("money = 10", "pay", {"to": "x"})["money"] == "unknown"


PEOPLE = ["ann@a.example", "bob@b.example", "eve@e.example"]


def test_recipients_of_a_session() -> None:
    history = (call("send_mail", to=["ann@a.example"]), call("send_mail", to="Bob@b.example, ann@a.example"))
    assert found("recipients = 2", "send_mail", {"to": "bob@b.example"}, history)["recipients"] == "pass"
    assert found("recipients = 2", "send_mail", {"to": "eve@e.example"}, history)["recipients"] == "fail"
    assert found("recipients = 3", "send_mail", {"to": "eve@e.example"}, history)["recipients"] == "pass"
    inside = 'recipients = 2\nallowed = ["*@e.example"]'
    assert found(inside, "send_mail", {"to": "eve@e.example"}, history)["recipients"] == "pass"


def test_too_many_recipients_are_narrowed_to_those_whom_the_user_named() -> None:
    action = Action(
        "send_mail",
        {"to": PEOPLE, "cc": "eve@e.example, mallory@m.example", "body": "hello"},
        request="Write to ann@a.example and bob@b.example.",
        principal=Principal("u", "user"),
    )
    with Guard(policy("recipients_per_call = 2")) as guard:
        verdict = guard.check(action)
    assert verdict.decision == "modify"
    assert verdict.modified == {"to": PEOPLE[:2], "cc": "", "body": "hello"}


def test_nobody_is_chosen_by_the_guard() -> None:
    arguments = {"to": PEOPLE}
    assert (
        found("recipients_per_call = 2", "send_mail", arguments, request="Write to all.")["recipients"]
        == "fail"
    )
    named = "Write to ann@a.example, bob@b.example and eve@e.example."
    assert found("recipients_per_call = 2", "send_mail", arguments, request=named)["recipients"] == "fail"
    part = "Write to joann@a.example."
    assert found("recipients_per_call = 2", "send_mail", arguments, request=part)["recipients"] == "fail"
    copied = {"to": PEOPLE[1:], "cc": PEOPLE[:1]}  # nobody would be left to write to
    only = "Write to ann@a.example."
    assert found("recipients_per_call = 2", "send_mail", copied, request=only)["recipients"] == "fail"
    longer = "Write to ann@a.example.org."
    assert found("recipients_per_call = 2", "send_mail", arguments, request=longer)["recipients"] == "fail"


@pytest.mark.parametrize(
    "values",
    [{"calls": -1}, {"money": float("nan")}, {"calls": "3"}, {"call": 3}, {"tool": [{"pattern": "x"}]}, {"tool": "x"},
     {"calls": True}, {"tool": [{"pattern": "x", "calls": -2}]}],
)  # fmt: skip
def test_a_section_is_read_strictly(values: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Settings.read(values)
