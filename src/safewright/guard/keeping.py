"""What was read from a text, kept for the next call of its session: as many texts as fit, not so and so many."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from safewright.guard.forking import forkable

T = TypeVar("T")

MOST_KEPT = 24 * 1024 * 1024
"""Characters of the texts of which one reading is kept: more than the longest session that a door holds."""
LEAST = 64
"""Characters that a text counts for besides its own."""


class Kept(Generic[T]):
    """A reading whose results are kept by its arguments, the first of which is a text; the least used go first.

    A history is read again on every call, from its beginning. A cache of a fixed number of texts forgets, in a history
    of one text more, each of them just before it is asked for again.
    """

    def __init__(self, function: Callable[..., T]) -> None:
        self._function = function
        self._found: OrderedDict[tuple[Any, ...], T] = OrderedDict()
        self._lock, self.size = threading.Lock(), 0
        functools.update_wrapper(self, function)
        forkable(self)

    def forked(self) -> None:
        """In a child process: the lock may have been held, and a change half made."""
        self._lock, self._found, self.size = threading.Lock(), OrderedDict(), 0

    def __call__(self, *arguments: Any) -> T:
        """The reading's result."""
        with self._lock:
            if arguments in self._found:
                self._found.move_to_end(arguments)
                return self._found[arguments]
        result = self._function(*arguments)
        with self._lock:
            if arguments not in self._found:
                self._found[arguments] = result
                self.size += _size(arguments)
            while self.size > MOST_KEPT:
                oldest, _ = self._found.popitem(last=False)
                self.size -= _size(oldest)
        return result


def _size(arguments: tuple[Any, ...]) -> int:
    return len(arguments[0]) + LEAST


def kept(function: Callable[..., T]) -> Kept[T]:
    """Keep what a reading finds, for as many texts as fit (`Kept`)."""
    return Kept(function)
