"""What is known while a script is walked: variables, functions, the working folder, how often a body runs."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN, Command, Effect

HOME = "\ufdd2"
"""Stands for the principal's home folder."""
MARKERS = (UNKNOWN, SCALAR, HOME)
MOST_COMMANDS = 2_000
MOST_TEXT = 64 * 1024
MOST_SHIFTED = 12
"""Positional arguments that `shift` is followed over."""
MOST_INNER = 12
"""Scripts within scripts (``bash -c``, eval, substitutions of text) that are followed."""


class TooMuch(Exception):  # noqa: N818 - never leaves the parser
    """A bound was reached; what is left is not read."""


@dataclass
class Found:
    """What a walk has found so far, over all inner scripts."""

    commands: list[Command] = field(default_factory=list)
    unparsed: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str | None] = field(default_factory=dict)
    """Files that the script writes, and substitutions it reads as files: their text, None where it cannot be told."""
    searched: set[str] = field(default_factory=set)
    """Folders in which the script has programs looked for."""
    held: bool = False
    """Whether a lock is held on a descriptor."""
    steps: int = 0

    def step(self) -> None:
        """Count a command.

        Raises:
            TooMuch: There were too many.
        """
        self.steps += 1
        if self.steps > MOST_COMMANDS:
            raise TooMuch(f"more than {MOST_COMMANDS} commands")

    def followed(self, path: str, *, itself: bool) -> str:
        """Where a path leads by links that the script has made; the link itself where that is meant."""
        for _ in range(8):
            for link, target in self.links.items():
                if path.startswith(link + "/") or (path == link and not itself):
                    path = place(target + path[len(link) :], ".")
                    break
            else:
                return path
        return path

    def unclear(self, why: str) -> None:
        """Record what cannot be told."""
        if why not in self.unresolved:
            self.unresolved.append(why)


@dataclass
class State:
    """The shell's state where a command stands. A subshell gets a copy.

    ``values`` holds what a variable may be, one or several; a missing name is not assigned in the script.
    """

    found: Found
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    arrays: dict[str, tuple[str, ...]] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    cwds: tuple[str, ...] = (".",)
    before: tuple[str, ...] = (UNKNOWN,)
    positional: tuple[str, ...] | None = None
    others: tuple[tuple[str, ...] | None, ...] = ()
    """What the positional arguments may be as well, where a `shift` may or may not have happened."""
    references: dict[str, str] = field(default_factory=dict)
    """Names that stand for other variables (``declare -n``)."""
    privileged: bool = False
    other: bool = False
    wrappers: tuple[str, ...] = ()
    loops: int | None = 1
    paced: bool = False
    background: bool = False
    piped: bool = False
    bottomless: bool = False
    """Whether the input is one without an end: ``< /dev/zero``."""
    inner: int = 0
    calling: tuple[str, ...] = ()

    def copy(self) -> State:
        """A subshell's state."""
        new = State(**{name: getattr(self, name) for name in self.__dataclass_fields__})
        new.values, new.arrays = dict(self.values), dict(self.arrays)
        new.functions, new.aliases = dict(self.functions), dict(self.aliases)
        new.references = dict(self.references)
        return new

    def assign(self, name: str, value: str) -> None:
        """A variable's new value."""
        name = self.named(name)
        self.values[name] = (value,)
        self.arrays.pop(name, None)

    def named(self, name: str) -> str:
        """The variable that a name stands for: itself, unless it is a reference."""
        for _ in range(8):
            if name not in self.references:
                break
            name = self.references[name]
        return name

    def stand(self, possible: Iterable[tuple[str, ...] | None]) -> None:
        """What the positional arguments may be from now on."""
        first, *rest = dict.fromkeys(possible)
        self.positional, self.others = (first, tuple(rest)) if len(rest) <= MOST_SHIFTED else (None, ())

    def doubt(self, before: State) -> None:
        """What was done since then may not have been done."""
        for name, values in list(self.values.items()):
            old = before.values.get(name)
            if old is not None and old != values:
                self.values[name] = tuple(dict.fromkeys((*values, *old)))[:8]
        if self.cwds != before.cwds:
            self.cwds = tuple(dict.fromkeys((*self.cwds, *before.cwds)))[:4]
        if (self.positional, self.others) != (before.positional, before.others):
            self.stand((self.positional, *self.others, before.positional, *before.others))

    def merge(self, other: State) -> None:
        """What may hold after a part that may or may not have run, in ``other``."""
        for name, values in other.values.items():
            mine = self.values.get(name, (UNKNOWN,))
            if values != mine:
                both = tuple(dict.fromkeys((*mine, *values)))
                self.values[name] = both if len(both) <= 8 else (UNKNOWN,)
        for name, fields in other.arrays.items():
            if self.arrays.get(name, fields) != fields:
                fields = (UNKNOWN,)
            self.arrays[name] = fields
        self.functions.update(other.functions)
        self.aliases.update(other.aliases)
        self.references.update(other.references)
        if (self.positional, self.others) != (other.positional, other.others):
            self.stand((self.positional, *self.others, other.positional, *other.others))
        both = tuple(dict.fromkeys((*self.cwds, *other.cwds)))
        self.cwds = both if len(both) <= 4 else (UNKNOWN,)


_PROC_ROOT = re.compile(r"^/proc/(?:self|thread-self|\d+)/root(?=/|$)")


def place(path: str, cwd: str) -> str:
    """A path as the effects name it: normalised, absolute, below ``~``, or relative to where the script began."""
    if path.startswith(HOME):
        rest = path[1:]
        return _clean(_below_home(rest)) if rest.startswith("/") or not rest else UNKNOWN
    if path.startswith("/"):
        path = posixpath.normpath(path)
        path = path[1:] if path.startswith("//") else path
        while (shorter := _PROC_ROOT.sub("", path)) != path:
            path = shorter or "/"
        return _clean(path)
    if path.startswith(UNKNOWN):
        return UNKNOWN
    if cwd == ".":
        return _clean(posixpath.normpath(path))
    if cwd.startswith(UNKNOWN):
        return UNKNOWN
    if cwd == "~" or cwd.startswith("~/"):
        return _clean(_below_home(f"{cwd[1:]}/{path}"))
    joined = posixpath.normpath(posixpath.join(cwd, path))
    return _clean(joined[1:] if joined.startswith("//") else joined)


def _below_home(rest: str) -> str:
    """A path counted from the home; what leads out of it keeps its dots, for the home's own place is not known here."""
    rest = posixpath.normpath(rest.lstrip("/")) if rest.strip("/") else "."
    return "~" if rest == "." else "~/" + rest


def _clean(path: str) -> str:
    return path.replace(HOME, UNKNOWN)


def settled(path: str) -> bool:
    """Whether a placed path is known; a scalar part leaves it known enough."""
    return UNKNOWN not in path


def has_glob(path: str) -> bool:
    """Whether a path is a pattern."""
    return any(mark in path for mark in "*?[")


__all__ = ["HOME", "MARKERS", "Effect", "Found", "State", "TooMuch", "has_glob", "place", "settled"]
