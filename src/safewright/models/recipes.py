"""Recipes: how a model must be asked and read; and which values decoding may have at all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, nearest
from safewright.models.weights import read_json
from safewright.runs import from_json
from safewright.types import Decoding, Recipe

RECIPE_FILE = "safewright_recipe.json"
PREPARE_STEPS: frozenset[str] = frozenset()
"""Named prompt steps a recipe may ask for."""

LOWEST_TEMPERATURE = 1e-4
"""Logits divided by less overflow, and what is then drawn is noise; 0 is greedy and divides by nothing."""


def check_decoding(chosen: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """Decoding options that make sense, as the types `Decoding` declares.

    The one place that knows the ranges: recipes, measures' options and engines all come here.

    Args:
        chosen: Some or all fields of `Decoding`, by name.
        where: What sets them (a file), for the message.

    Raises:
        BadInput: An unknown option, or a value of the wrong type or out of range (NaN and infinity too).
    """
    checked: dict[str, Any] = {}
    for key, value in chosen.items():
        if key not in _RANGES:
            raise BadInput(
                f"{where or 'Decoding'} sets the unknown decoding option {key!r}.", fix=nearest(key, _RANGES)
            )
        kind, fits, must = _RANGES[key]
        if kind is bool:
            right = isinstance(value, bool)
        else:
            right = isinstance(value, (int, float)) and not isinstance(value, bool)
            right = right and not (kind is int and not isinstance(value, int))
        if not right or not fits(value):
            raise BadInput(f"{where + ': ' if where else ''}{key} is {value!r}.", fix=f"It must be {must}.")
        checked[key] = kind(value)
    return checked


_RANGES: dict[str, tuple[Any, Any, str]] = {
    "max_new_tokens": (int, lambda n: n >= 1, "a whole number, at least 1"),
    "temperature": (
        float,
        lambda t: t == 0 or (t >= LOWEST_TEMPERATURE and t <= 1e6 and math.isfinite(t)),
        f"0 (greedy), or a number from {LOWEST_TEMPERATURE:g} to 1e6",
    ),
    "top_p": (float, lambda p: 0 < p <= 1, "a number above 0 and at most 1"),
    "top_k": (int, lambda k: k >= 0, "a whole number, 0 (all tokens) or more"),
    "seed": (int, lambda _: True, "a whole number"),
    "least_room": (int, lambda n: n >= 1, "a whole number, at least 1"),
    "special_twice": (bool, lambda _: True, "true or false"),
}


def checked(how: Decoding) -> Decoding:
    """A decoding whose values make sense; see `check_decoding`."""
    return Decoding(**check_decoding(dataclasses.asdict(how)))


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe beside a model's weights, None where there is none.

    Raises:
        BadInput: Unknown fields, an unknown prompt step, a decoding option or marker that cannot be.
    """
    file = folder / RECIPE_FILE
    if not file.exists():
        return None
    plain = read_json(file)
    try:
        recipe = from_json(Recipe, plain)
    except BadInput as error:
        raise BadInput(f"{file}: {error.what}", why=error.why, fix=error.fix) from error
    if recipe.prepare is not None and recipe.prepare not in PREPARE_STEPS:
        raise BadInput(
            f"{file} asks for the prompt step {recipe.prepare!r}.", fix=nearest(recipe.prepare, PREPARE_STEPS)
        )
    if recipe.visible and set(recipe.visible) != {"open", "close"}:
        raise BadInput(f"{file}: visible must have exactly the keys open and close.")
    for key, marker in recipe.visible.items():
        if not marker.strip():
            raise BadInput(
                f"{file}: the marker visible.{key} is {marker!r}.",
                why="Without words in it, it cannot be found in an answer.",
                fix="Write the marker as the model writes it, such as <think>.",
            )
    return dataclasses.replace(recipe, decoding=check_decoding(recipe.decoding, where=str(file)))
