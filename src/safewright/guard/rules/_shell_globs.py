"""Whether two patterns can mean the same path."""

from __future__ import annotations

import fnmatch
import functools
import re

_MOST = 512


def meets(path: str, pattern: str) -> bool:
    """Whether what a shell's word means can be something that a pattern of the policy names.

    A star of the word stays within one name and does not stand for a leading dot (``**`` goes below); a star of the
    pattern stands for anything.
    """
    if not any(mark in path for mark in "*?["):
        return fnmatch.fnmatchcase(path, pattern)
    one, two = _pieces(path[:_MOST]), _pieces(pattern[:_MOST])
    reached = {0}
    for index in range(len(one) + 1):
        reached = _stars(reached, two)
        if index == len(one):
            return len(two) in reached
        piece = one[index]
        after: set[int] = set()
        if piece in ("*", "**"):
            todo = set(reached)
            while todo:
                at = todo.pop()
                after.add(at)
                for far in _step(at, two, piece, first=index > 0 and one[index - 1] == "/"):
                    if far not in after:
                        todo.add(far)
        else:
            for at in reached:
                if at < len(two) and two[at] == "*":
                    after.add(at)
                    after.add(at + 1)
                elif at < len(two) and _fits(piece, two[at]):
                    after.add(at + 1)
        reached = after
    return False


def _stars(reached: set[int], two: tuple[str, ...]) -> set[int]:
    out = set(reached)
    for at in reached:
        while at < len(two) and two[at] == "*":
            at += 1
            out.add(at)
    return out


def _step(at: int, two: tuple[str, ...], piece: str, *, first: bool) -> set[int]:
    """Where a star of the word leads from a place in the pattern, by one more mark."""
    if at >= len(two):
        return set()
    mark = two[at]
    if mark == "*":
        return {at + 1}
    before = two[at - 1] if at else ""
    dotted = mark == "." and (before == "/" or (first and before == "*"))
    if (mark == "/" or dotted) and piece == "*":
        return set()
    return {at + 1}


@functools.lru_cache(maxsize=1024)
def _pieces(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\*\*?|\[[!^]?\]?[^\]/]*\]|.", text, re.S)) if text else ()


def _fits(piece: str, mark: str) -> bool:
    if piece.startswith("[") and len(piece) > 1:
        return len(mark) > 1 or mark == "?" or fnmatch.fnmatchcase(mark, piece.replace("[^", "[!", 1))
    if mark.startswith("[") and len(mark) > 1:
        return piece == "?" or fnmatch.fnmatchcase(piece, mark)
    return (piece == "?" and mark != "/") or (mark == "?" and piece != "/") or piece == mark
