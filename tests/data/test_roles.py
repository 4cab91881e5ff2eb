"""Rows of several roles, merged into one set."""

from __future__ import annotations

import dataclasses

import pytest

from safewright.data import load_data
from safewright.data.roles import check_roles, merged
from safewright.errors import BadInput
from tests import tiny


def test_rows_of_several_roles_are_told_apart_by_id_and_meta() -> None:
    parts = {role: load_data(tiny.rows(3), role) for role in ("forget", "retain")}
    both = merged(parts)
    assert [row.id for row in both.rows] == [f"{role}/r00{i}" for role in parts for i in range(3)]
    assert [row.meta["set"] for row in both.rows] == ["forget"] * 3 + ["retain"] * 3
    said = both.describe()
    assert said["rows"] == said["of"] == 6
    assert said["parts"]["retain"]["digest"] == parts["retain"].digest
    assert "source" not in said["parts"]["retain"]
    assert both.digest != merged(dict(reversed(parts.items()))).digest


def test_a_row_of_another_role_is_refused() -> None:
    row = dataclasses.replace(tiny.rows(1)[0], meta={"set": "retain"})
    with pytest.raises(BadInput, match=r"r000.*forget.*retain"):
        merged({"forget": load_data([row], "forget")})


def test_unknown_and_missing_roles_are_named() -> None:
    with pytest.raises(BadInput, match=r"forgt.*(?s:.*)forget"):
        check_roles({"forgt": 1}, ("forget",), ("forget", "retain"), "it")
    with pytest.raises(BadInput, match=r"--data forget=rows.jsonl"):
        check_roles({"retain": 1}, ("forget",), ("forget", "retain"), "it")
