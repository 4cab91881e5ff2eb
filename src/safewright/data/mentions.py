"""Whether a text names an entity, however it is written: case, accents, width, digit groups, e-mail spelling.

The same rule finds a secret in an answer, keeps it out of training data, and cuts an answer before it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safewright.data.splits import _MARKS, _SINGLE
from safewright.errors import BadInput

_CLOSE = _SINGLE + r"\uac00-\ud7a3"
"""Characters that are units of their own: of scripts without spaces, and Korean, whose particles stand close."""
_LETTER = re.compile(rf"(?![{_CLOSE}_])[\w{_MARKS}]")
"""A letter, mark or digit of a script that sets spaces."""
_UNIT = re.compile(rf"[{_CLOSE}]|\d+|(?:(?![\d{_CLOSE}_])[\w{_MARKS}])+")
_GAP = r"[\W_]"
_IN_NUMBER = r"[\s.,()/'\u2019-]{0,2}"
LONG_NUMBER = 5
"""Digits from which a number is found in any grouping; shorter ones would be found in "1, 2 and 3"."""
_NUMBER_START, _NUMBER_END = r"(?<!\d)(?<!\d[.,])", r"(?![.,]?\d)"
_IN_ADDRESS = rf"{_GAP}{{0,4}}(?:(?:{_GAP}(?:at|dot){_GAP}){_GAP}{{0,3}})?"
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_STROKES = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe"})
"""Letters that Unicode does not take apart into a plain one and its stroke."""


@functools.lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    """One character as it is compared: compatible form, lower case, no Latin accents; nothing where invisible.

    Digits of every script are 0 to 9.
    """
    if unicodedata.category(character) == "Cf" or _UNSEEN.match(character):
        return ""
    parts = unicodedata.normalize("NFKD", character).casefold()
    bare = "".join(part for part in parts if not "\u0300" <= part <= "\u036f").translate(_STROKES)
    plain = unicodedata.normalize("NFC", bare)
    return "".join(str(unicodedata.digit(part)) if part.isdigit() else part for part in plain)


def _folded(text: str) -> str:
    return "".join(map(_fold, unicodedata.normalize("NFC", text)))


def units(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, folded; every character of a script that sets no spaces."""
    return tuple(_UNIT.findall(_folded(text)))


def same_entity(first: str, second: str) -> bool:
    """Whether two names differ in nothing but case, accents, width, spaces and punctuation."""
    return entity_key(first) == entity_key(second)


def entity_key(entity: str) -> str:
    """An entity in the one spelling by which equal ones are found."""
    return " ".join(units(entity))


@functools.lru_cache(maxsize=65536)
def _pattern(entity: str) -> re.Pattern[str]:
    """What an entity looks like in a folded text, whatever stands around it."""
    parts = units(entity)
    address = "@" in _folded(entity)
    grouped = all(part.isdigit() for part in parts) and sum(map(len, parts)) >= LONG_NUMBER
    body = ""
    for before, part in zip(("", *parts), parts, strict=False):
        if before and address:
            body += _IN_ADDRESS
        elif before and grouped:
            body += _IN_NUMBER
        elif before:
            # Letters next to digits ("B12", "B 12") and scripts without spaces may stand close.
            tight = part.isdigit() != before.isdigit() or _is_close(part) or _is_close(before)
            body += rf"{_GAP}{{0,3}}" if tight else rf"{_GAP}{{1,3}}"
        long = part.isdigit() and (grouped or len(part) >= LONG_NUMBER)
        body += _IN_NUMBER.join(part) if long else re.escape(part)
    start = _NUMBER_START if parts[0].isdigit() else ""
    end = _NUMBER_END if parts[-1].isdigit() else ""
    return re.compile(start + body + end)


def _place(folded: str, entity: str) -> int | None:
    """Where an entity begins in a folded text; None where it is not named."""
    parts = units(entity)
    # Most texts hold no word of most entities, and a pattern is not made in vain.
    if not parts or not all(part in folded for part in parts if not part.isdigit()):
        return None
    pattern, start = _pattern(entity), 0
    while found := pattern.search(folded, start):
        front, back = folded[: found.start()][-1:], folded[found.end() : found.end() + 1]
        inside = _LETTER.match(front) and not _is_close(parts[0])
        if not inside and not (_LETTER.match(back) and not _is_close(parts[-1])):
            return found.start()
        start = found.start() + 1
    return None


def _is_close(unit: str) -> bool:
    return bool(re.match(rf"[{_CLOSE}]", unit))


def mentions(text: str, entity: str) -> bool:
    """Whether a text names an entity.

    The entity's words must stand in the text as whole words, one after the other; Chinese, Japanese, Thai and
    Korean are found as substrings. Case, accents, width, and the punctuation between words do not matter; digits
    match in any grouping (``555-0199``, ``5550199``), and an e-mail address also spelt with ``at`` and ``dot``.
    """
    return _place(_folded(text), entity) is not None


def mentioned(text: str, entities: Iterable[str]) -> list[str]:
    """The entities that a text names, in the order given, equal ones once."""
    folded = _folded(text)
    found: dict[str, str] = {}
    for entity in entities:
        if _place(folded, entity) is not None:
            found.setdefault(entity_key(entity), entity)
    return list(found.values())


def first_mention(text: str, entities: Iterable[str]) -> int | None:
    """Where the first of the entities begins, as a place in the text in NFC; None where none is named."""
    places: list[int] = []
    for place, character in enumerate(unicodedata.normalize("NFC", text)):
        places += [place] * len(_fold(character))
    folded = _folded(text)
    starts = [start for entity in entities if (start := _place(folded, entity)) is not None]
    return places[min(starts)] if starts else None


def opening(text: str, entities: Sequence[str]) -> str:
    """The start of an answer up to the first entity, without the spaces before it.

    Empty where the answer begins with one; the whole answer where it names none.
    """
    place = first_mention(text, entities)
    if place is None:
        return text
    return unicodedata.normalize("NFC", text)[:place].rstrip()


def entities_of(meta: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    """The entities a row's meta gives, equal ones once; None where it gives none.

    Raises:
        BadInput: ``entities`` is no list of texts with a letter or digit in each.
    """
    value = meta.get("entities")
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise BadInput(
            f"{where}: `entities` is {value!r:.80}, not a list.", fix='Give ["first entity", "second"].'
        )
    distinct: dict[str, str] = {}
    for entity in value:
        if not isinstance(entity, str) or not units(entity):
            raise BadInput(
                f"{where}: the entity {entity!r:.80} is no text with a letter or digit in it.",
                why="It could never be found in an answer, and would count as forgotten.",
                fix="Remove it, or write it as it stands in the answer.",
            )
        distinct.setdefault(entity_key(entity), entity)
    return tuple(distinct.values())
