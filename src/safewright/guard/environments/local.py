"""This machine, asked with `lstat` and the like, and nothing else."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Sequence
from typing import TypeVar

from safewright.guard.nouns import Entry
from safewright.guard.working import Workers

T = TypeVar("T")
PROBE_SECONDS = 2.0


class LocalEnvironment:
    """The file system of this machine. Each question may take two seconds (a dead mount hangs); then it has failed."""

    def __init__(self, seconds: float = PROBE_SECONDS) -> None:
        self._seconds, self._workers = seconds, Workers()

    def _ask(self, job: Callable[..., T], *arguments: object) -> T:
        try:
            return self._workers.run(self._seconds, job, *arguments)
        except TimeoutError as error:
            raise OSError("The file system did not answer in time.") from error

    def stat(self, path: str) -> Entry | None:
        """What is at an absolute path, not followed.

        Raises:
            OSError: It cannot be told.
        """
        return self._ask(_stat, path)

    def listdir(self, path: str) -> Sequence[str] | None:
        """The names in a folder; None where it is none, or may not be read."""
        return self._ask(_listdir, path)

    def groups(self, user: str) -> frozenset[str]:
        """The groups of a user of this machine; none where it has no such user."""
        return self._ask(_groups, user)

    def free_bytes(self, path: str) -> int | None:
        """What is left on the file system of a path."""
        return self._ask(_free, path)

    def home(self, user: str) -> str | None:
        """The home of a user of this machine."""
        return self._ask(_home, user)


def _stat(path: str) -> Entry | None:
    import grp
    import pwd

    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return Entry("link", owner, group, mode, os.readlink(path), found.st_size)
    if stat.S_ISDIR(found.st_mode):
        return Entry("dir", owner, group, mode, None, found.st_size)
    return Entry("file" if stat.S_ISREG(found.st_mode) else "other", owner, group, mode, None, found.st_size)


def _listdir(path: str) -> Sequence[str] | None:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def _groups(user: str) -> frozenset[str]:
    import grp
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return frozenset()
    own = {each.gr_name for each in grp.getgrall() if user in each.gr_mem}
    try:
        own.add(grp.getgrgid(entry.pw_gid).gr_name)
    except KeyError:
        own.add(str(entry.pw_gid))
    return frozenset(own)


def _free(path: str) -> int | None:
    while path != "/" and not os.path.lexists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


def _home(user: str) -> str | None:
    import pwd

    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return None
