"""The only registry: measures and treatments, found by looking into their two rooms.

A method is one file with one decorated function. The decorator stores what the rest of the house needs
(options, needs, roles); nothing is listed anywhere else. Third parties join by the entry-point group
``safewright.plugins``, whose value is a module with decorated functions.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from safewright.errors import BadInput, nearest

Function = TypeVar("Function", bound=Callable[..., Any])
Kind = Literal["measure", "treatment"]
ROOMS: Mapping[Kind, str] = {"measure": "safewright.measures", "treatment": "safewright.treatments"}
PLUGINS = "safewright.plugins"


@dataclass(frozen=True)
class Entry:
    """One method of the catalog.

    ``takes`` and ``optional`` name the roles of the models it is given; ``data`` the roles of its data.
    ``config`` is the dataclass of its options.
    """

    name: str
    kind: Kind
    version: str
    paper: str
    summary: str
    function: Callable[..., Any]
    config: type
    takes: tuple[str, ...]
    optional: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()
    sees: Literal["answer", "raw"] = "answer"
    judges: Literal["harmful", "refusal"] | None = None
    behaviour: bool = True
    gives: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """All model roles, required ones first."""
        return self.takes + self.optional

    def options(self) -> dict[str, dataclasses.Field[Any]]:
        """The fields of its configuration, by name."""
        return {field.name: field for field in dataclasses.fields(self.config)}


_entries: dict[str, Entry] = {}
_discovered = False


def measure(
    name: str,
    *,
    version: str,
    paper: str = "",
    config: type,
    takes: tuple[str, ...] = ("target",),
    optional: tuple[str, ...] = (),
    data: tuple[str, ...] = (),
    needs: set[str] | frozenset[str] = frozenset({"generate"}),
    sees: Literal["answer", "raw"] = "answer",
    judges: Literal["harmful", "refusal"] | None = None,
    behaviour: bool = True,
) -> Callable[[Function], Function]:
    """Enter a measure into the catalog.

    Args:
        name: What users call it, in lower case with underscores.
        version: Raised whenever the same inputs would give other numbers.
        paper: The arXiv number, where there is a paper.
        config: A frozen dataclass of its options; each field's help stands in ``metadata["help"]``.
        takes: Roles of the models it must be given.
        optional: Roles of models it can use.
        data: Roles of its rows.
        needs: What it asks of a model; see `safewright.models.load`.
        sees: Whether judges see the answer alone or the raw output.
        judges: The quality its judge has to decide; None when it needs no judge.
        behaviour: True for a function of the configuration that returns a
            `safewright.measures.Behaviour`; False for a white-box function
            ``(models, rows, *, config, run) -> Findings``.
    """

    def enter(function: Function) -> Function:
        _enter(
            Entry(
                name=name,
                kind="measure",
                version=version,
                paper=paper,
                summary=_summary(function),
                function=function,
                config=config,
                takes=takes,
                optional=optional,
                data=data,
                needs=frozenset(needs),
                sees=sees,
                judges=judges,
                behaviour=behaviour,
            )
        )
        return function

    return enter


def treatment(
    name: str,
    *,
    version: str,
    paper: str = "",
    config: type,
    takes: tuple[str, ...],
    optional: tuple[str, ...] = (),
    data: tuple[str, ...] = (),
    gives: tuple[str, ...] = ("weights",),
) -> Callable[[Function], Function]:
    """Enter a treatment into the catalog: ``(models, data, *, config, out, run) -> TreatmentResult``.

    Args:
        name: What users call it.
        version: Raised whenever the same inputs would give another model.
        paper: The arXiv number, where there is a paper.
        config: A frozen dataclass of its options.
        takes: Roles of the models it must be given.
        optional: Roles of models it can use.
        data: Roles of its rows.
        gives: What it can write: ``weights``, ``adapter`` or both.
    """

    def enter(function: Function) -> Function:
        _enter(
            Entry(
                name=name,
                kind="treatment",
                version=version,
                paper=paper,
                summary=_summary(function),
                function=function,
                config=config,
                takes=takes,
                optional=optional,
                data=data,
                gives=gives,
                behaviour=False,
            )
        )
        return function

    return enter


def _summary(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function)
    if not text:
        raise TypeError(f"{function.__qualname__} needs a docstring: its first line is shown by the catalog")
    return text.splitlines()[0]


def _enter(entry: Entry) -> None:
    if not dataclasses.is_dataclass(entry.config):
        raise TypeError(f"{entry.name}: config must be a dataclass")
    known = _entries.get(entry.name)
    if known is not None and known.function.__module__ != entry.function.__module__:
        raise TypeError(
            f"two methods are called {entry.name}: {known.function.__module__} and {entry.function.__module__}"
        )
    _entries[entry.name] = entry


def entries(kind: Kind | None = None) -> list[Entry]:
    """All methods, or those of one kind, by name."""
    _discover()
    return [_entries[name] for name in sorted(_entries) if kind is None or _entries[name].kind == kind]


def find(name: str, kind: Kind | None = None) -> Entry:
    """The method called ``name``.

    Raises:
        BadInput: There is none, with the nearest name.
    """
    names = [entry.name for entry in entries(kind)]
    if name not in names:
        raise BadInput(f"There is no {kind or 'method'} called {name!r}.", fix=nearest(name, names))
    return _entries[name]


def _discover() -> None:
    global _discovered
    if _discovered:
        return
    for room in ROOMS.values():
        if importlib.util.find_spec(room) is None:
            continue
        package = importlib.import_module(room)
        for module in pkgutil.iter_modules(package.__path__, prefix=f"{room}."):
            importlib.import_module(module.name)
    for plugin in importlib.metadata.entry_points(group=PLUGINS):
        plugin.load()
    _discovered = True


def read_options(entry: Entry, given: Mapping[str, Any]) -> Any:
    """The configuration of a method from option names and values.

    Values may be text (from ``--set key=value``) or already typed (from TOML or Python).

    Raises:
        BadInput: An unknown option, with the nearest name, or a value that does not fit.
    """
    fields = entry.options()
    for key in given:
        if key not in fields:
            raise BadInput(f"{entry.name} has no option {key!r}.", fix=nearest(key, fields))
    hints = typing.get_type_hints(entry.config)
    return entry.config(
        **{key: read_value(f"{entry.name}.{key}", hints[key], value) for key, value in given.items()}
    )


def read_value(name: str, kind: Any, value: Any) -> Any:
    """``value`` as ``kind`` (bool, int, float, str, an optional or a choice of these).

    Raises:
        BadInput: It does not fit, with what would.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or value == "none":
            return None
        return read_value(name, next(a for a in args if a is not type(None)), value)
    if origin is Literal:
        if value not in args:
            raise BadInput(f"{name} is {value!r}.", fix=nearest(str(value), map(str, args)))
        return value
    wrong = BadInput(f"{name} is {value!r}.", fix=f"It must be {_KINDS.get(kind, kind)}.")
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        found = value if isinstance(value, bool) else words.get(str(value).lower())
        if found is None:
            raise wrong
        return found
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise wrong
        if kind is int and isinstance(value, float):
            raise wrong
        try:
            return kind(value)
        except ValueError as error:
            raise wrong from error
    if kind is str and isinstance(value, str):
        return value
    raise wrong


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
