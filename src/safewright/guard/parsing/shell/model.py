"""What a shell script is read as: commands with resolved words, and the effects they intend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

EffectKind = Literal[
    "read",
    "write",
    "append",
    "create",
    "delete",
    "move",
    "chmod",
    "chown",
    "link",
    "mount",
    "kill",
    "trace",
    "priority",
    "lock",
    "account",
    "password",
    "become",
    "cron",
    "service",
    "power",
    "kernel",
    "firewall",
    "package",
    "log",
    "encrypt",
    "exhaust",
    "fetch",
    "send",
    "execute",
    "unknown",
]
"""What a command does to its target.

`write` replaces what was there, `append` adds to it, `create` only makes what was not there; `execute` runs a program
from its target; `fetch` reads from the network and `send` writes to it; `exhaust` takes without bound what others need;
`unknown` is a command whose effects nobody declared.
"""
Thing = Literal["path", "process", "account", "service", "host", "package", "system"]
UNKNOWN = "\ufdd0"
"""Stands in a word for a part that cannot be told from the text."""
SCALAR = "\ufdd1"
"""Stands in a word for a part that is not known but can hold neither a slash nor a blank: a number, a date."""


@dataclass(frozen=True)
class Effect:
    """One thing a command would do.

    Args:
        kind: What.
        target: To what: an absolute path, one that begins with ``~`` (the principal's home) or is relative to the
            working folder; a process id or name; an account, service, host or package. ``resolved`` says whether it is
            known, ``pattern`` whether it is a glob.
        thing: What the target is.
        verb: The command that does it.
        recursive: Whether everything below the target is meant.
        privileged: Whether it runs as root through sudo or su, whoever calls.
        detail: A mode, an owner, a signal, an account's change; what of it matters.
        source: For copies: what is copied; it ends with a slash where its content is meant.
    """

    kind: EffectKind
    target: str = ""
    thing: Thing = "path"
    verb: str = ""
    recursive: bool = False
    privileged: bool = False
    detail: str = ""
    resolved: bool = True
    pattern: bool = False
    source: str = ""

    @property
    def object_class(self) -> str:
        """The target's kind without its name: ``system-path``, ``home-path``, ``process``, …"""
        return class_of(self.target) if self.thing == "path" else self.thing


@dataclass(frozen=True)
class Command:
    """A simple command with its words resolved, wrappers such as sudo and env taken off.

    Args:
        verb: The program's base name; empty where it cannot be told.
        arguments: The words after it.
        privileged: Whether sudo, su or the like runs it as root.
        wrappers: What was taken off, outermost first (``sudo``, ``timeout``, ``xargs``, ``bash -c``).
        effects: What it would do.
        loops: How often at most it runs; None without a bound.
        cwd: The working folder, as far as the script tells; ``.`` is where it began.
    """

    verb: str
    arguments: tuple[str, ...] = ()
    privileged: bool = False
    wrappers: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()
    loops: int | None = 1
    cwd: str = "."
    background: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of what it touches, sorted."""
        return tuple(sorted({effect.object_class for effect in self.effects}))


@dataclass(frozen=True)
class Script:
    """A shell text as it was read.

    Args:
        text: The text.
        commands: Its simple commands, in order, those of substitutions, functions and inner shells among them.
        unparsed: Why (a part of) it could not be parsed; empty where all of it could.
        unresolved: What could not be told from the text: a verb, a sourced file, a program for another interpreter.
    """

    text: str = ""
    commands: tuple[Command, ...] = ()
    unparsed: tuple[str, ...] = ()
    unresolved: tuple[str, ...] = ()
    variables: tuple[str, ...] = field(default=())

    @property
    def effects(self) -> tuple[Effect, ...]:
        """All effects, in order."""
        return tuple(effect for command in self.commands for effect in command.effects)

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verbs, in order."""
        return tuple(command.verb for command in self.commands)

    @property
    def privileged(self) -> bool:
        """Whether any command runs as root by sudo, su or the like."""
        return any(command.privileged for command in self.commands)


SYSTEM = (
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/boot",
    "/opt",
    "/srv",
    "/var",
    "/run",
    "/root",
)
KERNEL = ("/proc", "/sys")


def class_of(path: str) -> str:
    """The class of a path: unknown, root, device, kernel, temp, home, system, work or other."""
    if UNKNOWN in path:
        return "unknown-path"
    if path == "/" or path.startswith("/*"):
        return "root-path"
    if path.startswith("/dev/"):
        return "device-path"
    if under(path, KERNEL):
        return "kernel-path"
    if under(path, ("/tmp", "/var/tmp", "/dev/shm")):
        return "temp-path"
    if path.startswith("~") or under(path, ("/home",)):
        return "home-path"
    if under(path, SYSTEM):
        return "system-path"
    return "other-path" if path.startswith("/") else "work-path"


def under(path: str, roots: tuple[str, ...]) -> bool:
    """Whether a normalised path is one of some folders or lies below one."""
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)
