"""A measure's questions, grouped by row: what Inspect runs, scores and logs as one sample."""

from __future__ import annotations

import json
import threading
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from safewright import catalog
from safewright.data import LoadedData
from safewright.errors import BadInput
from safewright.measures.behaviour import Behaviour
from safewright.measures.plan import read_data
from safewright.runs import digest_json, to_json
from safewright.types import Question

Config = Mapping[str, Any] | Sequence[str] | str | None
"""Options of a measure: a mapping, ``key=value,key=value``, JSON, or the path of a TOML file."""

Given = Mapping[str, str] | Sequence[str] | str | None
"""Rows of a measure: what names them, or by role: a mapping, or ``ROLE=FILE,ROLE=FILE``."""

_lock = threading.Lock()
_gathered: WeakValueDictionary[str, Cases] = WeakValueDictionary()


@dataclass(frozen=True)
class Asked:
    """One question, with its place among all of the measure's and among those to its role."""

    question: Question
    place: int
    turn: int


@dataclass(frozen=True, eq=False)
class Cases:
    """A measure over some rows, before any model is asked; long contexts stay here, out of Inspect's log."""

    entry: catalog.Entry
    options: Any
    data: LoadedData | None

    @cached_property
    def behaviour(self) -> Behaviour:
        """The measure's functions."""
        found: Behaviour = self.entry.function(self.options)
        return found

    @cached_property
    def rows(self) -> Mapping[str, tuple[Asked, ...]]:
        """The questions by the id of their row, in the measure's order."""
        found: dict[str, list[Asked]] = {}
        turns: dict[str, int] = {}
        for place, question in enumerate(self.behaviour.ask(self.data.rows if self.data else [])):
            turn = turns.get(question.role, 0)
            turns[question.role] = turn + 1
            found.setdefault(row_of(question), []).append(Asked(question, place, turn))
        return {row: tuple(asked) for row, asked in found.items()}

    @cached_property
    def draws(self) -> int:
        """How often a question is asked at most: each epoch of Inspect draws as many again."""
        return 1 + max((a.question.sample for row in self.rows.values() for a in row), default=0)

    @cached_property
    def questions(self) -> int:
        """How many questions there are."""
        return sum(map(len, self.rows.values()))

    def __getitem__(self, row: str) -> tuple[Asked, ...]:
        """The questions of one row.

        Raises:
            BadInput: The data has no such row.
        """
        if row not in self.rows:
            raise BadInput(
                f"The data of {self.entry.name} has no row {row!r}.",
                why="What was logged was asked of other rows.",
                fix="Give the data that the log was made from.",
            )
        return self.rows[row]


def row_of(question: Question) -> str:
    """The id of the data row a question belongs to."""
    return str(question.meta.get("row", question.id))


def gather(measure: str, config: Config, data: Given) -> Cases:
    """The questions of a measure, gathered once per measure, options and data.

    Raises:
        BadInput: An unknown measure or option, one that is not asked in words, or rows that do not fit.
        Missing: The data cannot be fetched.
    """
    entry = catalog.find(measure, "measure")
    if not entry.behaviour:
        raise BadInput(
            f"{measure} looks into a model's weights, which Inspect cannot hand out.",
            fix=f"Use safewright measure {measure} MODEL.",
        )
    options = catalog.read_options(entry, read_config(entry, config))
    if not entry.data_roles and data is not None:
        raise BadInput(f"{measure} takes no data.", fix="Leave out data.")
    rows = read_data(entry, None, read_given(entry, data))  # a measure chooses among them itself
    key = digest_json([measure, options, rows.digest if rows else None, rows.source if rows else None])
    with _lock:
        found = _gathered.get(key)
        if found is None:
            found = _gathered[key] = Cases(entry, options, rows)
        return found


def read_given(entry: catalog.Entry, data: Given) -> Any:
    """The rows in one argument, by role where the measure reads several.

    Raises:
        BadInput: Text that names no role, or one twice.
    """
    if data is None or isinstance(data, Mapping):
        return data
    if len(entry.data_roles) < 2:
        return data if isinstance(data, str) else ",".join(map(str, data))
    # Inspect splits the values of its -T at commas.
    text = data if isinstance(data, str) else ",".join(map(str, data))
    found: dict[str, str] = {}
    name = ""
    for part in filter(None, text.split(",")):
        role, equals, rest = part.partition("=")
        if equals and role.strip() in entry.data_roles:
            name = role.strip()
            if name in found:
                raise BadInput(f"The data of {entry.name} gives {name} twice.")
            found[name] = rest
        elif not name:
            raise BadInput(
                f"The data of {entry.name} is {text!r}.",
                fix="Write " + ",".join(f"{role}=FILE" for role in entry.data_roles),
            )
        else:
            found[name] += f",{part}"  # a comma in a file's name
    return found


def read_config(entry: catalog.Entry, config: Config) -> dict[str, Any]:
    """The options in one argument, as names and values.

    Raises:
        BadInput: Text that is none of the forms of `Config`.
    """
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    # Inspect splits the values of its -T at commas.
    text = config.strip() if isinstance(config, str) else ",".join(map(str, config))
    try:
        if text.endswith(".toml"):
            return tomllib.loads(Path(text).read_text("utf-8"))
        if text.startswith("{"):
            found: dict[str, Any] = json.loads(text)
            return found
    except (OSError, ValueError) as error:
        raise BadInput(f"The config {text!r} of {entry.name} cannot be read: {error}.") from error
    options: dict[str, Any] = {}
    name = ""
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if equals:
            name = key.strip()
            options[name] = value
        elif not name:
            raise BadInput(
                f"The config of {entry.name} is {text!r}.",
                fix="Write key=value,key=value, JSON, or the path of a TOML file.",
            )
        else:
            options[name] += f",{part}"  # a value that is itself a list
    return options


def plain_options(options: Any) -> dict[str, Any]:
    """Options as `read_config` takes them again."""
    found: dict[str, Any] = to_json(options)
    return found
