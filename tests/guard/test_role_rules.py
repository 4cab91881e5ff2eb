"""Role rules: conditions on user attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safewright.errors import BadInput
from safewright.guard import Action, Policy, Principal
from safewright.guard.rules.role_rules import FAMILY, Settings, condition
from safewright.guard.views import View

WEB = Policy.load(Path(__file__).parents[2] / "examples" / "guard" / "web_roles.toml")


@pytest.mark.parametrize(
    ("text", "attributes", "held"),
    [
        ("age >= 18", {"age": 18}, True),
        ("age >= 18", {"age": 17.9}, False),
        ("age >= 18", {"age": "18"}, None),
        ("age >= 18", {"age": True}, None),
        ("age >= 18", {}, None),
        ("age < 3", {"age": 2}, True),
        ("age != 3", {"age": 3}, False),
        ("dr_license == true", {"dr_license": True}, True),
        ("dr_license == true", {"dr_license": False}, False),
        ("dr_license == true", {"dr_license": "true"}, None),
        ("dr_license == true", {"dr_license": 1}, None),
        ('country in ["DE", "FR"]', {"country": "fr"}, True),
        ('country in ["DE", "FR"]', {"country": "IT"}, False),
        ('country not in ["DE", "FR"]', {"country": "IT"}, True),
        ('country not in ["DE", "FR"]', {"country": 3}, None),
        ("level in [1, 2]", {"level": 2.0}, True),
        ("membership == gold", {"membership": "Gold"}, True),
        ('membership == "gold"', {"membership": None}, None),
    ],
)
def test_conditions(text: str, attributes: dict[str, Any], held: bool | None) -> None:
    assert condition(text).holds(attributes) is held


@pytest.mark.parametrize(
    "text",
    ["", "age", "age >=", "age >= old", "age >= true", "age in 3", "age == [1]", "age = 3", "3 > 2", "a == {}",
     "a in []", "a == null", "a in [[1]]", "a >= NaN", "__import__('os') == 1", "a == b c"],
)  # fmt: skip
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        condition(text)


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    """What is read as a condition says the same every time, and nothing of an attribute that is not there."""
    try:
        found = condition(text)
    except BadInput:
        with pytest.raises(BadInput):
            condition(text)
        return
    assert found == condition(text)
    assert text.strip().startswith(found.name)
    assert found.operator in ("==", "!=", "<", "<=", ">", ">=", "in", "not in")
    assert isinstance(found.value, tuple) == (found.operator in ("in", "not in"))
    attributes = {"a": 1, "b": "x", "c": True}
    assert found.holds(attributes) in (True, False, None)
    assert found.holds(attributes) is found.holds(dict(attributes))
    others = {name: value for name, value in attributes.items() if name != found.name}
    assert found.holds(others) is None
    if found.operator in ("==", "!="):
        assert found.holds({found.name: found.value}) is (found.operator == "==")


@given(
    st.sampled_from(["a", "age", "dr_license"]),
    st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]),
    st.integers(-99, 99)
    | st.booleans()
    | st.text("ab c", min_size=1, max_size=4)
    | st.lists(st.integers(0, 3)),
    st.none() | st.booleans() | st.integers(-99, 99) | st.text("ab c", max_size=4),
)
def test_opposites_are_opposed(name: str, operator: str, value: Any, given: Any) -> None:
    """A condition and its opposite never hold both, and cannot be told of the same attributes."""
    opposite = {
        "==": "!=",
        "!=": "==",
        "<": ">=",
        ">=": "<",
        "<=": ">",
        ">": "<=",
        "in": "not in",
        "not in": "in",
    }
    try:
        one = condition(f"{name} {operator} {json.dumps(value)}")
        two = condition(f"{name} {opposite[operator]} {json.dumps(value)}")
    except BadInput:
        assert isinstance(value, list) != (operator in ("in", "not in")) or value == [] or operator[0] in "<>"
        return
    held, not_held = one.holds({name: given}), two.holds({name: given})
    assert (held is None) == (not_held is None)
    assert held is None or held is not not_held


def said(
    request: str | None, attributes: dict[str, Any] | None, arguments: dict[str, Any] | None = None
) -> dict[str, str]:
    principal = None if attributes is None else Principal("u", "user", attributes)
    action = Action("web_click", arguments or {"text": "Next"}, request=request, principal=principal)
    checks = FAMILY.check(View(action, WEB), WEB.settings["role_rules"])
    return {check.id.removeprefix("role_rules."): check.status for check in checks}


@pytest.mark.parametrize(
    ("request_text", "rule", "attribute"),
    [
        ("Rent a truck in Lyon", "driving-licence", "dr_license"),
        ("Find the trailer of a new movie", "domestic", "domestic"),
        ("Add the blue shirt to cart", "membership", "membership"),
        ("Book a flight from Oslo to Rome", "vaccine", "vaccine"),
    ],
)
def test_a_class_of_actions_needs_its_attribute(request_text: str, rule: str, attribute: str) -> None:
    assert said(request_text, {attribute: True})[rule] == "pass"
    assert said(request_text, {attribute: False})[rule] == "fail"
    assert said(request_text, {})[rule] == "unknown"
    assert said(request_text, None)[rule] == "unknown"


def test_ages() -> None:
    assert said("Book a hotel in Rome", {"age": 18})["hotel-age"] == "pass"
    assert said("Book a hotel in Rome", {"age": 17})["hotel-age"] == "fail"
    assert said("Apply for the job", {"age": 15})["work-age"] == "pass"


def test_what_no_rule_is_about_is_left_alone() -> None:
    assert said("What is the weather in Oslo?", {}) == {}
    assert said("Read about the history of scarcity", {}) == {}


def test_the_call_s_own_words_count_and_a_missing_request_is_unknown() -> None:
    assert said("go on", {"age": 12}, {"text": "Reserve this hotel"})["hotel-age"] == "fail"
    assert said(None, {"age": 12}, {"text": "Reserve this hotel"})["hotel-age"] == "fail"
    assert set(said(None, {"age": 40}).values()) == {"unknown"}


def test_one_of_several_conditions() -> None:
    rules = Settings.read({"rule": [{"id": "x", "require": ['age >= 18 or note == "a or b"', "ok == true"]}]})
    assert [len(choices) for choices in rules.rule[0].require] == [2, 1]


@pytest.mark.parametrize(
    "values",
    [
        {"rules": []},
        {"rule": [{"id": "x"}]},
        {"rule": [{"id": "X Y", "require": ["a == 1"]}]},
        {"rule": [{"id": "x", "require": ["a == 1"], "where": "there"}]},
        {"rule": [{"id": "x", "require": ["a == 1"], "word": []}]},
        {"rule": [{"id": "x", "require": ["a == 1"]}, {"id": "x", "require": ["b == 1"]}]},
        {"rule": [{"id": "x", "require": "a == 1"}]},
    ],
)
def test_a_section_is_read_strictly(values: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Settings.read(values)
