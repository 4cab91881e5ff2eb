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
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from safewright.errors import BadInput, nearest
from safewright.types import Quality

Function = TypeVar("Function", bound=Callable[..., Any])
Kind = Literal["measure", "treatment"]
ROOMS: Mapping[Kind, str] = {"measure": "safewright.measures", "treatment": "safewright.treatments"}
PLUGINS = "safewright.plugins"


LAUNCHES = ("cpu", "multi_gpu", "fsdp2", "zero3")
"""How ``--launch`` starts several processes; by the last two they share out one model's parameters."""


@dataclass(frozen=True)
class Stage:
    """A part of a treatment that can be asked for alone: ``(job) -> what it found``, in plain JSON.

    ``takes`` are the roles of the models it needs. ``writes``: it fills a new folder; otherwise it reads
    the folder given by ``--out``, or only reports. ``makes``: what it fills is a model, and it gives what the
    whole treatment gives. ``launches``: see `treatment`.

    ``measures`` are those of a stage that compares variants of the treatment. A treatment imports no measure, so
    such a stage makes nothing itself: its function is ``(own options, models, data, out) ->
    safewright.treatments.comparing.Comparison``, which says what is trained on what, and
    `safewright.compose.ablation` does it. ``config`` is the dataclass of its own options.
    """

    function: Callable[..., Any]
    takes: tuple[str, ...] = ()
    writes: bool = False
    makes: bool = False
    measures: tuple[str, ...] = ()
    config: type | None = None
    launches: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first line of what it says about itself."""
        return _summary(self.function)

    def options(self) -> dict[str, dataclasses.Field[Any]]:
        """The fields of its own configuration, by name."""
        return {field.name: field for field in dataclasses.fields(self.config)} if self.config else {}


@dataclass(frozen=True)
class Entry:
    """One method of the catalog.

    ``takes`` and ``optional`` name the roles of the models it is given; ``data`` the roles of its data,
    ``optional_data`` those it can do without. ``config`` is the dataclass of its options, ``judge`` the name
    of the judge it has where none is chosen.
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
    judges: Quality | None = None
    judge: str = "keyword"
    behaviour: bool = True
    gives: tuple[str, ...] = ()
    optional_data: tuple[str, ...] = ()
    stages: Mapping[str, Stage] = field(default_factory=dict)
    estimate: Callable[..., dict[str, float]] | None = None
    extra: str = "models"
    role_needs: Mapping[str, frozenset[str]] = field(default_factory=dict)
    rescore: Callable[..., Any] | None = None
    launches: tuple[str, ...] = ()

    @property
    def data_roles(self) -> tuple[str, ...]:
        """All roles of its rows, required ones first."""
        return self.data + self.optional_data

    def needs_of(self, role: str) -> frozenset[str]:
        """What it asks of the model in a role."""
        return self.role_needs.get(role, self.needs)

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
    optional_data: tuple[str, ...] = (),
    needs: set[str] | frozenset[str] = frozenset({"generate"}),
    role_needs: Mapping[str, set[str] | frozenset[str]] | None = None,
    sees: Literal["answer", "raw"] = "answer",
    judges: Quality | None = None,
    judge: str = "keyword",
    behaviour: bool = True,
    rescore: Callable[..., Any] | None = None,
) -> Callable[[Function], Function]:
    """Enter a measure into the catalog.

    Args:
        name: What users call it, in lower case with underscores.
        version: Raised whenever the same inputs would give other numbers.
        paper: The arXiv number, where there is a paper.
        config: A frozen dataclass of its options; each field's help stands in ``metadata["help"]``.
        takes: Roles of the models it must be given.
        optional: Roles of models it can use.
        data: Roles of its rows. With several roles it reads them as one set: see
            `safewright.data.roles.merged`.
        optional_data: Roles of rows it can use.
        needs: What it asks of a model; see `safewright.models.load`.
        role_needs: What it asks of the models in some roles, where that is something else.
        sees: Whether judges see the answer alone or the raw output.
        judges: The quality its judge has to decide; None when it needs no judge.
        judge: The judge it has where the user chooses none.
        behaviour: True for a function of the configuration that returns a
            `safewright.measures.Behaviour`; False for a white-box function
            ``(models, rows, *, config, run) -> Findings``.
        rescore: Scores stored records of other programs, with no model at hand:
            ``(path, config) -> (Findings, records, conventions)``.
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
                judge=judge,
                behaviour=behaviour,
                optional_data=optional_data,
                role_needs={role: frozenset(own) for role, own in (role_needs or {}).items()},
                rescore=rescore,
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
    optional_data: tuple[str, ...] = (),
    gives: tuple[str, ...] = ("weights",),
    stages: Mapping[str, Stage] | None = None,
    estimate: Callable[..., dict[str, float]] | None = None,
    extra: str = "models",
    launches: bool | tuple[str, ...] = False,
) -> Callable[[Function], Function]:
    """Enter a treatment into the catalog: ``(job: safewright.treatments.Job) -> safewright.treatments.Made``.

    Args:
        name: What users call it.
        version: Raised whenever the same inputs would give another model.
        paper: The arXiv number, where there is a paper.
        config: A frozen dataclass of its options.
        takes: Roles of the models it must be given.
        optional: Roles of models it can use.
        data: Roles of rows it must be given.
        optional_data: Roles of rows it can use.
        gives: What it can write: ``weights``, ``adapter`` or both.
        stages: Parts of it that can be asked for alone.
        estimate: ``(models, data, config, workers) -> {"disk_bytes", "memory_bytes", "seconds"}`` of the
            whole, before it starts.
        extra: The extra of this package that brings what it needs.
        launches: The kinds of ``--launch`` by which it may run on several processes at once; True is all of them,
            for what trains by `safewright.training`.
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
                optional_data=optional_data,
                stages=dict(stages or {}),
                estimate=estimate,
                extra=extra,
                launches=LAUNCHES if launches is True else launches or (),
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
        raise BadInput(f"There is no {kind or 'method'} called {name!r}.", fix=nearest(str(name), names))
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
    return read_config(entry.name, entry.config, given)


def read_config(name: str, config: type, given: Mapping[str, Any]) -> Any:
    """A configuration dataclass from option names and values; ``name`` is whose it is.

    Raises:
        BadInput: See `read_options`.
    """
    fields = {field.name for field in dataclasses.fields(config)}
    if not isinstance(given, Mapping):
        raise BadInput(
            f"The options of {name} are a {type(given).__name__}.",
            fix=f"Give a mapping of option names to values, or a {config.__name__}.",
        )
    for key in given:
        if key not in fields:
            raise BadInput(f"{name} has no option {key!r}.", fix=nearest(str(key), sorted(fields)))
    hints = typing.get_type_hints(config)
    return config(**{key: read_value(f"{name}.{key}", hints[key], value) for key, value in given.items()})


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
        return _choice(name, args, value)
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
        except (ValueError, OverflowError) as error:
            raise wrong from error
    if kind is str and isinstance(value, str):
        return value
    raise wrong


def _choice(name: str, choices: tuple[Any, ...], value: Any) -> Any:
    """The choice that ``value`` is, or is written as."""
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    written = {str(choice): choice for choice in choices}
    if isinstance(value, str) and value in written:
        return written[value]
    raise BadInput(f"{name} is {value!r}.", fix=nearest(str(value), written))


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
