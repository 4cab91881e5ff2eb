"""Results in the order they were asked for, out of a stream that gives them as they get ready."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_order(stream: Iterable[Sequence[tuple[int, T]]], count: int) -> list[T]:
    """All ``count`` results of a stream, by their indexes."""
    found: dict[int, T] = {}
    for ready in stream:
        found.update(ready)
    return [found[index] for index in range(count)]
