"""A policy: what tools do, who is who, and what the rule families hold to. Read from TOML, strictly."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib.resources
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from safewright.errors import BadInput, nearest
from safewright.guard.lattice import OnUnknown
from safewright.guard.nouns import Action, Effect
from safewright.guard.parts import Privilege
from safewright.guard.rules import CATEGORIES, families
from safewright.runs import digest_json

Kind = Literal["shell", "sql", "web", "file", "generic"]
SHIPPED = ("default", "coding")
"""Policies that come with the package: for tools of any kind, and for agents that write code."""


@dataclass(frozen=True)
class ToolSpec:
    """What a tool is: ``[tools.PATTERN]``, where the pattern may hold * and ?.

    Args:
        kind: How its arguments are read. `shell` and `sql` are parsed; their effect follows from the text. `file`
            reads, writes or deletes (by ``effect``) the path in its argument, and is judged like the command that does.
        effect: What it does to the world.
        argument: For shell, sql and file, which argument holds the text or path; the only string where empty. A file
            tool that works in the working folder without it says so with a ?: ``path?``.
        dialect: Of SQL, by sqlglot's name.
        identities: Arguments whose values name whom or what the call reaches (recipients, accounts, addresses, paths).
            None: every value that looks like one counts, wherever it stands.
        amounts: Arguments that say how much.
        content: Arguments that carry free text.
        intents: Words of a request that imply a call of this tool; empty takes those of its effect.
    """

    pattern: str
    kind: Kind = "generic"
    effect: Effect = "execute"
    argument: str = ""
    dialect: str = ""
    identities: tuple[str, ...] | None = None
    amounts: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    intents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Role:
    """What a role is: ``[roles.NAME]``. ``denied_tools`` are patterns of tools it may not call at all."""

    name: str
    privileged: bool = False
    denied_tools: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """A case of the policy's own: ``[[test]]`` with an action, what must come of it, and why."""

    name: str
    action: Mapping[str, Any]
    expect: tuple[str, ...]
    environment: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Policy:
    """A policy as it was read; ``digest`` names its content."""

    name: str
    version: str
    on_unknown: OnUnknown
    criteria: Mapping[str, str]
    principles: tuple[str, ...]
    tools: tuple[ToolSpec, ...]
    roles: Mapping[str, Role]
    settings: Mapping[str, Any]
    tests: tuple[Example, ...] = ()
    digest: str = ""
    source: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, path: Path | str) -> Policy:
        """The policy in a file, or of the shipped one's name.

        Raises:
            BadInput: It cannot be read, is no TOML, or a key or value is not one of a policy's.
        """
        file = Path(path)
        if str(path) in SHIPPED and not file.exists():
            return cls.shipped(str(path))
        try:
            text = file.read_text("utf-8")
        except OSError as error:
            near = nearest(str(path), SHIPPED)
            raise BadInput(
                f"The policy {file} cannot be read ({error.strerror}).",
                fix=near
                if near.startswith("Did")
                else f"Check the path; ours are called {', '.join(SHIPPED)}.",
            ) from error
        except UnicodeDecodeError as error:
            raise BadInput(f"The policy {file} is no text in UTF-8.", fix="Write it anew as TOML.") from error
        return cls.read(text, str(file))

    @classmethod
    def read(cls, text: str, where: str = "policy") -> Policy:
        """The policy in a TOML text. `extends = "default"` begins with that policy and changes what it names.

        Raises:
            BadInput: It is no TOML, or a key or value is not one of a policy's.
        """
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadInput(
                f"{where} is no TOML: {error}.", fix="See docs/guard.md for an example."
            ) from error
        return _policy(values, where)

    @classmethod
    def default(cls) -> Policy:
        """The policy that holds where none is given."""
        return cls.shipped("default")

    @classmethod
    def shipped(cls, name: str) -> Policy:
        """A policy that comes with the package.

        Raises:
            BadInput: There is none of that name.
        """
        if name not in SHIPPED:
            raise BadInput(f"There is no policy {name!r}.", fix=nearest(name, SHIPPED))
        return _shipped(name)

    def spec(self, tool: str) -> ToolSpec | None:
        """What a tool is: an exact name first, else the first pattern that fits; None for a tool nobody declared."""
        for spec in self.tools:
            if spec.pattern == tool:
                return spec
        for spec in self.tools:
            if fnmatch.fnmatchcase(tool, spec.pattern):
                return spec
        return None

    def privilege(self, action: Action) -> Privilege:
        """As whom a call runs. A missing principal, and a role that no policy names, are least privilege."""
        if action.principal is None:
            return "least"
        role = self.roles.get(action.principal.role)
        if role is None:
            return "least"
        return "privileged" if role.privileged else "user"


_TOP = (
    "name", "version", "extends", "on_unknown", "criteria", "principles", "tools", "roles", "test",
)  # fmt: skip


def _policy(values: Mapping[str, Any], where: str) -> Policy:
    if "extends" in values:
        values = _extended(values, where)
    known = (*_TOP, *families())
    for name in values:
        if name not in known:
            raise BadInput(f"{where} has an unknown section {name!r}.", fix=nearest(name, known))
    on_unknown = values.get("on_unknown", "escalate")
    if on_unknown not in get_args(OnUnknown):
        raise BadInput(
            f"{where}: on_unknown is {on_unknown!r}.",
            why="What is not known to be safe is never let through.",
            fix="escalate or deny.",
        )
    tools = tuple(
        fill(ToolSpec, {**_table(table, f"[tools.{name}]"), "pattern": name}, f"{where}, [tools.{name}]")
        for name, table in _table(values.get("tools", {}), "[tools]").items()
    )
    roles = {
        name: fill(Role, {**_table(table, f"[roles.{name}]"), "name": name}, f"{where}, [roles.{name}]")
        for name, table in _table(values.get("roles", {}), "[roles]").items()
    }
    settings = {
        name: _settings(family.settings, _table(values.get(name, {}), f"[{name}]"), f"{where}, [{name}]")
        for name, family in families().items()
    }
    return Policy(
        name=str(values.get("name", "unnamed")),
        version=str(values.get("version", "1")),
        on_unknown=on_unknown,
        criteria=_criteria(values.get("criteria"), where),
        principles=tuple(str(line) for line in values.get("principles", ())),
        tools=tools,
        roles=roles,
        settings=settings,
        tests=tuple(_example(each, index, where) for index, each in enumerate(values.get("test", ()))),
        digest=digest_json({name: value for name, value in values.items() if name != "test"}),
        source=values,
    )


def _extended(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A policy that begins with another: tables are merged key by key, everything else is replaced."""
    base = values["extends"]
    if base not in SHIPPED:
        raise BadInput(f"{where} extends {base!r}.", fix=nearest(str(base), SHIPPED))
    own = {name: value for name, value in values.items() if name != "extends"}
    merged = _merged(Policy.shipped(base).source, own)
    merged["test"] = list(own.get("test", ()))
    # The first pattern that fits counts: one's own stand before those that are extended.
    first = [name for name in own.get("tools", {}) if isinstance(own["tools"], Mapping)]
    tools = merged.get("tools", {})
    merged["tools"] = {name: tools[name] for name in (*first, *(each for each in tools if each not in first))}
    return merged


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[name] = _merged(cast(Any, old), cast(Any, value)) if both else value
    return result


def _table(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{what} of a policy is no table.", fix="See docs/guard.md for an example.")
    return value


def _criteria(value: Any, where: str) -> Mapping[str, str]:
    if value is None:
        return dict(CATEGORIES)
    table = _table(value, "[criteria]")
    for name, said in table.items():
        if not isinstance(said, str) or not said.strip():
            raise BadInput(f"{where}: the criterion {name!r} has no definition.")
    return {**CATEGORIES, **table}


def _settings(kind: type, values: Mapping[str, Any], where: str) -> Any:
    read = getattr(kind, "read", None)
    return read(values) if read is not None else fill(kind, values, where)


def _example(values: Any, index: int, where: str) -> Example:
    table = _table(values, "[[test]]")
    expect = table.get("expect")
    given = {**table, "expect": (expect,) if isinstance(expect, str) else expect}
    given.setdefault("name", f"test {index + 1}")
    return cast(Example, fill(Example, given, f"{where}, [[test]] {index + 1}"))


def fill(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a table: unknown keys and other types are errors. Lists become tuples.

    Raises:
        BadInput: A key is unknown, missing, or of another type.
    """
    fields = {each.name: each for each in dataclasses.fields(cast(Any, kind))}
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise BadInput(f"{where} has no key {name!r}.", fix=nearest(name, fields))
        given[name] = _value(hints[name], value, f"{where}: {name}")
    for name, each in fields.items():
        needed = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if needed and name not in given:
            raise BadInput(f"{where} lacks the key {name!r}.")
    return kind(**given)


def _value(hint: Any, value: Any, where: str) -> Any:
    """A TOML value as a field's type: a scalar, Literal, tuple[str, ...], Mapping, or one of those or None."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _value(next(each for each in inside if each is not type(None)), value, where)
    if origin is Literal:
        if value not in inside:
            raise BadInput(f"{where} is {value!r}.", fix=nearest(str(value), [str(each) for each in inside]))
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise BadInput(f"{where} is no list.", fix=f"For example: [{value!r}]")
        return tuple(_value(inside[0], each, where) for each in value)
    kind = Mapping if origin is not None else hint
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Any:
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadInput(f"{where} is {type(value).__name__}, not {getattr(kind, '__name__', kind)}.")
    return value


@functools.cache
def _shipped(name: str) -> Policy:
    text = (importlib.resources.files("safewright.guard") / f"{name}.toml").read_text("utf-8")
    return Policy.read(text, f"the policy {name}")
