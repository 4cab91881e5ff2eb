"""A call as the rules see it: typed readings of its arguments, made when first asked for."""

from __future__ import annotations

import re
import shlex
import urllib.parse
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from safewright.guard.nouns import Action

if TYPE_CHECKING:
    from safewright.guard.parsing.forms import Form
    from safewright.guard.parsing.shell import Script
    from safewright.guard.parsing.sql import Query
    from safewright.guard.parsing.values import Value
    from safewright.guard.parts import Privilege
    from safewright.guard.policy import Policy, ToolSpec
    from safewright.guard.taint import Taint


_COMMANDS = {"read": "cat", "write": "tee", "delete": "rm -r"}
"""What a file tool of some effect does to its path."""


_SHELLS = ("bash", "sh", "zsh", "dash", "/bin/bash", "/bin/sh", "/usr/bin/bash", "/bin/zsh")
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def _joined(words: Sequence[Any]) -> str | None:
    """A command that comes as a list of words: one whose meaning is the same whether or not a shell joins them."""
    if not all(isinstance(each, str) for each in words):
        return None
    if len(words) == 3 and words[0] in _SHELLS and words[1] in ("-c", "-lc", "-cl"):
        return str(words[2])
    return " ".join(words) if all(_PLAIN.fullmatch(each) for each in words) else None


_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):(//)?", re.ASCII)


def _path(given: str) -> str | None:
    """The path that a file tool is given, by its address as well (``file:///etc/hosts``); None where it is no path."""
    if not given.strip():
        return None
    found = _URL.match(given)
    if found is None or (found[2] is None and found[1].lower() != "file"):
        return given
    if found[1].lower() != "file":
        return None
    rest = given[found.end() :]
    if found[2]:
        host, slash, rest = rest.partition("/")
        if host.lower() not in ("", "localhost") or not slash:
            return None
        rest = "/" + rest
    return urllib.parse.unquote(rest)


class View:
    """An action under a policy, with what its arguments are read as.

    Args:
        action: The call, valid by `nouns.validate`.
        policy: What holds.
    """

    def __init__(self, action: Action, policy: Policy) -> None:
        self.action = action
        self.policy = policy
        self.spec: ToolSpec | None = policy.spec(action.tool)
        self.privilege: Privilege = policy.privilege(action)

    @cached_property
    def text(self) -> str | None:
        """The command or query of a shell or sql tool, and the command that does what a file tool does.

        None for other tools, and where none is given.
        """
        if self.spec is None or self.spec.kind not in ("shell", "sql", "file"):
            return None
        given = self._given
        if self.spec.kind != "file" or given is None:
            return given
        path = _path(given)
        if path is None:
            return None
        return f"{_COMMANDS.get(self.spec.effect, _COMMANDS['write'])} -- {shlex.quote(path)}"

    @property
    def _given(self) -> str | None:
        if self.spec is None:
            return None
        arguments = self.action.arguments
        if self.spec.argument:
            name = self.spec.argument.removesuffix("?")
            value: Any = arguments.get(name)
            if self.spec.kind == "file" and value in (None, "") and name != self.spec.argument:
                return "."
            if self.spec.kind == "shell" and isinstance(value, (list, tuple)) and value:
                return _joined(value)
            return value if isinstance(value, str) else None
        texts = [value for value in arguments.values() if isinstance(value, str)]
        return texts[0] if len(texts) == 1 else None

    @cached_property
    def script(self) -> Script | None:
        """What a shell or file tool runs; None for other tools. What cannot be parsed says so (`Script.unparsed`)."""
        if self.spec is None or self.spec.kind not in ("shell", "file"):
            return None
        from safewright.guard.parsing.shell import parse_shell

        return parse_shell(self.text)

    @cached_property
    def query(self) -> Query | None:
        """What an sql tool's query reads and changes; None for other tools."""
        if self.spec is None or self.spec.kind != "sql":
            return None
        from safewright.guard.parsing.sql import parse_sql

        return parse_sql(self.text, self.spec.dialect)

    @cached_property
    def form(self) -> Form | None:
        """The page and the field a web tool would fill; None for other tools."""
        if self.spec is None or self.spec.kind != "web":
            return None
        from safewright.guard.parsing.forms import parse_form

        return parse_form(self.action.arguments)

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """The identity-like values of the arguments: recipients, addresses, accounts, paths."""
        from safewright.guard.parsing.values import values_of

        return values_of(self.action.arguments, self.spec)

    @cached_property
    def taint(self) -> Taint:
        """What of the history looks like somebody else's instructions, and which values came with it."""
        from safewright.guard.taint import trace

        return trace(self.action)
