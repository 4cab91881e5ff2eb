"""An environment that is described: a JSON object of paths, for tests, for rows of a benchmark, for policy tests."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, cast

from safewright.errors import BadInput, nearest
from safewright.guard.nouns import Entry

_FIELDS = ("type", "owner", "group", "mode", "target", "size")


class MemoryEnvironment:
    """A tree of entries in memory.

    Args:
        entries: By absolute path. Folders above an entry are there too, root's and 0o755, unless they are given.
        members: The groups of a user; a user is always in the group of its own name.
        homes: The homes of users where they are not ``/home/NAME``.
        free: What is left on the file system; None where that is not known.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        *,
        members: Mapping[str, frozenset[str]] | None = None,
        homes: Mapping[str, str] | None = None,
        free: int | None = None,
    ) -> None:
        self.entries = {posixpath.normpath(path): entry for path, entry in entries.items()}
        for path in list(self.entries):
            while posixpath.dirname(path) != path:  # "/", and "//", which POSIX keeps apart
                path = posixpath.dirname(path)
                self.entries.setdefault(path, Entry("dir"))
        self._members, self._homes, self._free = members or {}, homes or {}, free

    @classmethod
    def read(cls, values: Any) -> MemoryEnvironment:
        """The environment in a JSON object (`read_environment`)."""
        return read_environment(values)

    def stat(self, path: str) -> Entry | None:
        """What is at an absolute path."""
        return self.entries.get(posixpath.normpath(path))

    def listdir(self, path: str) -> Sequence[str] | None:
        """The names in a folder."""
        path = posixpath.normpath(path)
        entry = self.entries.get(path)
        if entry is None or entry.type != "dir":
            return None
        return sorted(
            posixpath.basename(each)
            for each in self.entries
            if each != "/" and posixpath.dirname(each) == path
        )

    def groups(self, user: str) -> frozenset[str]:
        """The groups of a user."""
        return frozenset({user}) | self._members.get(user, frozenset())

    def free_bytes(self, path: str) -> int | None:
        """What is left."""
        return self._free

    def home(self, user: str) -> str | None:
        """The home of a user."""
        return self._homes.get(user, "/root" if user == "root" else f"/home/{user}")


def read_environment(values: Any) -> MemoryEnvironment:
    """The environment in a JSON object: ``{path: {type, owner, group, mode, target?}}``; a mode may be ``"0755"``.

    Raises:
        BadInput: It is no such object.
    """
    if not isinstance(values, Mapping):
        raise BadInput(
            "An environment is no JSON object.", fix='{"/home/u/a": {"type": "file", "owner": "u"}}'
        )
    entries = {}
    for path, given in values.items():
        if not isinstance(path, str) or not path.startswith("/"):
            raise BadInput(
                f"An environment has the path {path!r}.", why="Paths of an environment are absolute."
            )
        if not isinstance(given, Mapping):
            raise BadInput(f"{path} of an environment is no JSON object.")
        for name in given:
            if name not in _FIELDS:
                raise BadInput(
                    f"{path} of an environment has no field {name!r}.", fix=nearest(str(name), _FIELDS)
                )
        kind = given.get("type", "file")
        if kind not in ("file", "dir", "link", "other"):
            raise BadInput(
                f"{path} of an environment has the type {kind!r}.", fix="file, dir, link or other."
            )
        target = given.get("target")
        texts = (given.get("owner", "root"), given.get("group", given.get("owner", "root")))
        if not all(isinstance(each, str) for each in texts) or not isinstance(target, (str, type(None))):
            raise BadInput(f"{path} of an environment has an owner, group or target that is no text.")
        size = given.get("size", 0)
        if not isinstance(size, int):
            raise BadInput(f"{path} of an environment has the size {size!r}.")
        default = 0o755 if kind == "dir" else 0o644
        entries[path] = Entry(cast(Any, kind), *texts, _mode(path, given.get("mode", default)), target, size)
    return MemoryEnvironment(entries)


def _mode(path: str, value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value.removeprefix("0o"), 8)
        except ValueError as error:
            raise BadInput(
                f"{path} of an environment has the mode {value!r}.", fix='Octal digits: "0644".'
            ) from error
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o7777:
        raise BadInput(
            f"{path} of an environment has the mode {value!r}.", fix='A number, or octal digits: "0644".'
        )
    return value


__all__ = ["MemoryEnvironment", "read_environment"]
