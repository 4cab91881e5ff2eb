"""A container, asked through a runner: a fixed list of words per question, never text that an agent wrote."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from typing import Any

from safewright.guard.nouns import Entry

Runner = Callable[[Sequence[str], float], tuple[int, str]]
"""Runs a list of words in the container within some seconds: exit code and output. For Docker: ``docker exec NAME`` and
the words, without a shell. It raises `OSError` where it cannot, or not in time."""
PROBE_SECONDS = 2.0
_KINDS: dict[str, Any] = {
    "regular file": "file",
    "regular empty file": "file",
    "directory": "dir",
    "symbolic link": "link",
}


class ContainerEnvironment:
    """A container's file system. Paths are single words after ``--``; relative ones are refused."""

    def __init__(self, runner: Runner, seconds: float = PROBE_SECONDS) -> None:
        self._runner, self._seconds = runner, seconds

    def _ask(self, *words: str) -> tuple[int, str]:
        code, text = self._runner(words, self._seconds)
        if code in (125, 126, 127) or code < 0:
            raise OSError(f"The container could not be asked: {text[:200]}")
        return code, text

    def stat(self, path: str) -> Entry | None:
        """What is at an absolute path, not followed.

        Raises:
            OSError: It cannot be told.
        """
        code, text = self._ask("stat", "--printf", r"%F\n%U\n%G\n%a\n%s\n", "--", _absolute(path))
        if code != 0:
            if "No such file" in text or "Not a directory" in text:
                return None
            raise OSError(f"{path} cannot be looked at: {text[:200]}")
        lines = text.split("\n")
        if len(lines) < 5 or not lines[3].strip("01234567") == "" or not lines[4].isdigit():
            raise OSError(f"The container gave an answer that cannot be read: {text[:200]}")
        kind = _KINDS.get(lines[0], "other")
        target = None
        if kind == "link":
            code, said = self._ask("readlink", "--", path)
            target = said.rstrip("\n") if code == 0 else None
        return Entry(kind, lines[1], lines[2], int(lines[3], 8), target, int(lines[4]))

    def listdir(self, path: str) -> Sequence[str] | None:
        """The names in a folder; None where it is none, or may not be read."""
        code, text = self._ask(
            "find", _absolute(path), "-mindepth", "1", "-maxdepth", "1", "-printf", r"%f\0"
        )
        return sorted(name for name in text.split("\0") if name) if code == 0 else None

    def groups(self, user: str) -> frozenset[str]:
        """The groups of a user."""
        if not user or user.startswith("-"):
            return frozenset()
        code, text = self._ask("id", "-Gn", "--", user)
        return frozenset(text.split()) if code == 0 else frozenset()

    def free_bytes(self, path: str) -> int | None:
        """What is left on the file system of a path."""
        code, text = self._ask("df", "--output=avail", "-B1", "--", _absolute(path))
        lines = text.split()
        return int(lines[-1]) if code == 0 and lines and lines[-1].isdigit() else None

    def home(self, user: str) -> str | None:
        """The home of a user."""
        if not user or user.startswith("-"):
            return None
        code, text = self._ask("getent", "passwd", user)
        parts = text.strip().split(":")
        return parts[5] if code == 0 and len(parts) >= 7 else None


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise OSError(f"{path!r} is no absolute path.")
    return posixpath.normpath(path)
