"""Decoding values and recipes: checked in one place, wherever they come from."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.models import check_decoding, load, resolve, with_recipe
from safewright.types import Decoding, ModelRef, Recipe
from tests import tiny

WRONG: list[tuple[str, Any]] = [
    ("temperature", "hot"),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", 1e-30),
    ("temperature", 10**400),
    ("temperature", True),
    ("temperature", None),
    ("max_new_tokens", -1),
    ("max_new_tokens", 0),
    ("max_new_tokens", 2.5),
    ("max_new_tokens", "8"),
    ("max_new_tokens", True),
    ("top_p", 0),
    ("top_p", 1.5),
    ("top_p", math.nan),
    ("top_k", -1),
    ("top_k", 1.0),
    ("seed", "x"),
    ("seed", [1]),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_values_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"{key} is") as refused:
        check_decoding({key: value})
    assert refused.value.fix.startswith("It must be")


def test_values_in_range_come_back_as_their_types() -> None:
    given = {"max_new_tokens": 1, "temperature": 1, "top_p": 1, "top_k": 0, "seed": -3}
    found = check_decoding(given)
    assert found == given
    assert [type(value) for value in found.values()] == [int, float, float, int, int]
    assert check_decoding({"temperature": 0}) == {"temperature": 0.0}


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(BadInput, match="max_new_tokens"):
        check_decoding({"max_new_token": 3})


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.mark.parametrize(("key", "value"), [pair for pair in WRONG if pair[1] != 10**400])
def test_recipes_are_checked_when_they_are_read(folder: Path, key: str, value: object) -> None:
    (folder / "safewright_recipe.json").write_text(json.dumps({"decoding": {key: value}}))
    with pytest.raises(BadInput, match=r"safewright_recipe\.json.*" + key):
        resolve(folder)


@pytest.mark.parametrize(
    "recipe",
    [
        {"visible": {"open": "", "close": "</a>"}},
        {"visible": {"open": "<a>", "close": " \n"}},
        {"visible": {"open": 1, "close": "</a>"}},
        {"visible": "<a>"},
        {"decoding": [1]},
        {"decoding": None},
        {"prepare": 3},
    ],
)
def test_recipes_of_the_wrong_shape_name_their_file(folder: Path, recipe: dict[str, Any]) -> None:
    (folder / "safewright_recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(BadInput, match=r"safewright_recipe\.json"):
        resolve(folder)


def test_a_whole_number_is_a_temperature(folder: Path) -> None:
    (folder / "safewright_recipe.json").write_text(json.dumps({"decoding": {"temperature": 1, "top_p": 1}}))
    loaded = load(folder)
    how = with_recipe(Decoding(max_new_tokens=4), loaded.ref, {})
    assert loaded.generate([tiny.rows(1)[0].prompt], how)[0].tokens > 0


def test_what_the_user_chose_is_checked_too() -> None:
    ref = ModelRef("hf", "x", "sha256:0", recipe=Recipe(decoding={"temperature": 0.5}))
    assert with_recipe(Decoding(), ref, {"top_p": 0.9}) == Decoding(temperature=0.5, top_p=0.9)
    with pytest.raises(BadInput, match="temperature is nan"):
        with_recipe(Decoding(), ref, {"temperature": math.nan})


def test_engines_check_what_they_are_given(tiny_folder: Path) -> None:
    from safewright.models.endpoint import Endpoint

    served = Endpoint(ModelRef("served", "http://127.0.0.1:9/v1#x", "declared:0"))
    for engine in (load(tiny_folder), served):
        with pytest.raises(BadInput, match="temperature is nan"):
            engine.generate([tiny.rows(1)[0].prompt], Decoding(temperature=math.nan))
