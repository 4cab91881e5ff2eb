"""What may be written into memory: short printable sentences, never text that could be read as anything else.

What a model says of a call may repeat what an attacker put into it, and memory is shown to a model again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LONGEST_STATEMENT = 200
LONGEST_NAME = 80
LONGEST_KEY = 1_000

_FENCE = re.compile(r"```|~~~")
_TAG = re.compile(r"<[/!?A-Za-z|]|\[/?[A-Z]{3,}\]|&(?:#\d|[a-z]{2,8};)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,11}://|\bwww\.|\b(?:mailto|javascript|data):", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
_DIGITS = re.compile(r"\d[\d \-]{7,}\d")
_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}\.\w")
_SPLIT = re.compile(r"[\s\"'`,;|&()<>=\[\]{}]+")


def refused(text: str, longest: int = LONGEST_STATEMENT) -> str:
    """Why a text may not be remembered; empty where it may."""
    if not text.strip():
        return "empty"
    if len(text) > longest:
        return f"longer than {longest} characters"
    if not text.isprintable():
        return "not printable"
    for pattern, why in ((_FENCE, "a fence"), (_TAG, "a tag"), (_URL, "an address")):
        if pattern.search(text):
            return why
    return secret(text)


def secret(text: str) -> str:
    """What in a text looks like somebody's secret or identity; empty where nothing does."""
    if _ADDRESS.search(text):
        return "an e-mail address"
    if _DIGITS.search(text):
        return "a long number"
    for token in _TOKEN.findall(text):
        if any(char.isdigit() for char in token) and any(char.isalpha() for char in token):
            return "something like a key"
    return ""


def concrete(arguments: Mapping[str, Any], most: int = 500) -> tuple[str, ...]:
    """The concrete values in a call's arguments: those that no general sentence about such calls would hold.

    Plain words do not count (a check about copying may say *copy*); what holds a digit, a path separator or another
    sign does, whole and in pieces.
    """
    found: dict[str, None] = {}
    for text in _texts(arguments):
        for piece in (text.strip(), *_SPLIT.split(text)):
            piece = piece.strip(".:!?").casefold()
            if 4 <= len(piece) <= 500 and not _plain(piece):
                found[piece] = None
            if len(found) >= most:
                return tuple(found)
    return tuple(found)


def quotes(text: str, values: Iterable[str]) -> bool:
    """Whether a text repeats one of a call's concrete values."""
    folded = text.casefold()
    return any(value in folded for value in values)


def _plain(piece: str) -> bool:
    return piece.replace("-", "").isalpha()


def _texts(values: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(values, str):
        yield values[:16_384]
    elif isinstance(values, bool) or values is None or depth > 50:
        return
    elif isinstance(values, (int, float)):
        yield str(values)
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _texts(value, depth + 1)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _texts(value, depth + 1)
