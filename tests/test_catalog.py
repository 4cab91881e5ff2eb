"""The registry: one place per method, strict options, nearest names."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from safewright import catalog
from safewright.errors import BadInput, ExitCode, nearest


@dataclass(frozen=True)
class Config:
    """Options of a method that is never entered for good."""

    count: int = field(default=1, metadata={"help": "A count."})
    rate: float = 0.5
    on: bool = False
    name: str | None = None
    way: Literal["up", "down"] = "up"


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> catalog.Entry:
    catalog.entries()
    monkeypatch.setattr(catalog, "_entries", dict(catalog._entries))

    @catalog.treatment("made_up", version="1", config=Config, takes=("aligned", "tuned"), gives=("adapter",))
    def made_up(models: Any, data: Any, *, config: Config, out: Any, run: Any) -> None:
        """A treatment that does nothing.

        More about it.
        """

    return catalog.find("made_up")


def test_a_decorator_is_all_it_takes(entry: catalog.Entry) -> None:
    assert entry in catalog.entries("treatment")
    assert entry not in catalog.entries("measure")
    assert entry.summary == "A treatment that does nothing."
    assert entry.roles == ("aligned", "tuned")
    assert entry.gives == ("adapter",)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"count": "3"}, Config(count=3)),
        ({"rate": "1e-3"}, Config(rate=1e-3)),
        ({"rate": 1}, Config(rate=1.0)),
        ({"on": "true"}, Config(on=True)),
        ({"on": False}, Config(on=False)),
        ({"name": "x"}, Config(name="x")),
        ({"name": "none"}, Config(name=None)),
        ({"way": "down"}, Config(way="down")),
    ],
)
def test_options_are_read_by_their_types(entry: catalog.Entry, given: dict[str, Any], wanted: Config) -> None:
    assert catalog.read_options(entry, given) == wanted


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"cuont": 3}, "'count'"),
        ({"count": "three"}, "whole number"),
        ({"count": 2.5}, "whole number"),
        ({"count": True}, "whole number"),
        ({"rate": "fast"}, "a number"),
        ({"on": "perhaps"}, "true or false"),
        ({"way": "dwon"}, "'down'"),
        ({"name": 3}, "text"),
    ],
)
def test_wrong_options_are_named(entry: catalog.Entry, given: dict[str, Any], word: str) -> None:
    with pytest.raises(BadInput, match=word):
        catalog.read_options(entry, given)


def test_two_methods_of_one_name_are_an_error(entry: catalog.Entry) -> None:
    def other(config: Config) -> None:
        """Another."""

    other.__module__ = "somewhere.else"
    with pytest.raises(TypeError, match="two methods"):
        catalog.measure("made_up", version="1", config=Config)(other)


def test_a_method_without_words_is_an_error() -> None:
    def silent(config: Config) -> None: ...

    with pytest.raises(TypeError, match="docstring"):
        catalog.measure("silent", version="1", config=Config)(silent)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(BadInput, match="harmful_rate") as refused:
        catalog.find("harmfull_rate", "measure")
    assert refused.value.exit_code == ExitCode.BAD_INPUT
    assert nearest("zzz", ["b", "a"]) == "Valid names: a, b."


def test_plugins_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Point:
        def load(self) -> None:
            loaded.append("plugin")

    def points(*, group: str) -> list[Point]:
        assert group == "safewright.plugins"
        return [Point()]

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    monkeypatch.setattr(catalog, "_discovered", False)
    catalog.entries()
    assert loaded == ["plugin"]
