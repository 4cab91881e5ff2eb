"""What a forked process must make anew: a lock that another thread held at that moment stays shut in the child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something with locks."""

    def forked(self) -> None:
        """Begin anew in a child: no thread of the parent's is there, and nothing of theirs may be finished."""


_ALIVE: weakref.WeakSet[Forkable] = weakref.WeakSet()


def forkable(each: Forkable) -> None:
    """Tell something, for as long as it lives, when it finds itself in a forked process."""
    _ALIVE.add(each)


def _forked() -> None:
    for each in list(_ALIVE):
        each.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
