"""Whether a text names an entity, however it is written: case, accents, width, digit groups, e-mail spelling.

The same rule finds a secret in an answer, keeps it out of training data, and cuts an answer before it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safewright.errors import BadInput

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = rf"[^\W_{_CJK}]"
"""A letter or digit of a script that sets spaces."""
_UNIT = re.compile(rf"[{_CJK}]|\d+|[^\W\d_{_CJK}]+")
_GAP = r"[\W_]"
_IN_NUMBER = r"[\s.,()/'\u2019-]{0,2}"
LONG_NUMBER = 5
"""Digits from which a number is found in any grouping; shorter ones would be found in "1, 2 and 3"."""
_NUMBER_START, _NUMBER_END = r"(?<!\d)(?<!\d[.,])", r"(?![.,]?\d)"
_IN_ADDRESS = rf"{_GAP}{{0,4}}(?:(?:{_GAP}(?:at|dot){_GAP}){_GAP}{{0,3}})?"
_GONE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"), "")


@functools.lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    """One character as it is compared: compatible form, lower case, no Latin accents; nothing where invisible."""
    parts = unicodedata.normalize("NFKD", character.translate(_GONE)).casefold()
    bare = "".join(part for part in parts if not "\u0300" <= part <= "\u036f")
    return unicodedata.normalize("NFC", bare)


def _folded(text: str) -> str:
    return "".join(map(_fold, unicodedata.normalize("NFC", text)))


def units(text: str) -> tuple[str, ...]:
    """The words, numbers and Chinese characters of a text, folded."""
    return tuple(_UNIT.findall(_folded(text)))


def same_entity(first: str, second: str) -> bool:
    """Whether two names differ in nothing but case, accents, width, spaces and punctuation."""
    return entity_key(first) == entity_key(second)


def entity_key(entity: str) -> str:
    """An entity in the one spelling by which equal ones are found."""
    return " ".join(units(entity))


@functools.lru_cache(maxsize=65536)
def _pattern(entity: str) -> re.Pattern[str] | None:
    """What an entity looks like in a folded text; None where it holds neither letter nor digit."""
    parts = units(entity)
    if not parts:
        return None
    address = "@" in _folded(entity)
    grouped = all(part.isdigit() for part in parts) and sum(map(len, parts)) >= LONG_NUMBER
    body = ""
    for before, part in zip(("", *parts), parts, strict=False):
        if before and address:
            body += _IN_ADDRESS
        elif before and grouped:
            body += _IN_NUMBER
        elif before:
            # Letters next to digits ("B12", "B 12") and Chinese characters may stand without a space.
            tight = part.isdigit() != before.isdigit() or _is_cjk(part) or _is_cjk(before)
            body += rf"{_GAP}{{0,3}}" if tight else rf"{_GAP}{{1,3}}"
        long = part.isdigit() and (grouped or len(part) >= LONG_NUMBER)
        body += _IN_NUMBER.join(part) if long else re.escape(part)
    start = "" if _is_cjk(parts[0]) else rf"(?<!{_WORD})"
    end = "" if _is_cjk(parts[-1]) else rf"(?!{_WORD})"
    if parts[0].isdigit():
        start += _NUMBER_START
    if parts[-1].isdigit():
        end += _NUMBER_END
    return re.compile(start + body + end)


def _is_cjk(unit: str) -> bool:
    return bool(re.match(rf"[{_CJK}]", unit))


def mentions(text: str, entity: str) -> bool:
    """Whether a text names an entity.

    The entity's words must stand in the text as whole words, one after the other; Chinese is found as a
    substring. Case, accents, width, and the punctuation between words do not matter; digits match in any
    grouping (``555-0199``, ``5550199``), and an e-mail address also spelt with ``at`` and ``dot``.
    """
    pattern = _pattern(entity)
    return pattern is not None and pattern.search(_folded(text)) is not None


def mentioned(text: str, entities: Iterable[str]) -> list[str]:
    """The entities that a text names, in the order given, equal ones once."""
    folded = _folded(text)
    found: dict[str, str] = {}
    for entity in entities:
        pattern = _pattern(entity)
        if pattern is not None and pattern.search(folded) is not None:
            found.setdefault(entity_key(entity), entity)
    return list(found.values())


def first_mention(text: str, entities: Iterable[str]) -> int | None:
    """Where the first of the entities begins, as a place in the text in NFC; None where none is named."""
    places: list[int] = []
    for place, character in enumerate(unicodedata.normalize("NFC", text)):
        places += [place] * len(_fold(character))
    folded = _folded(text)
    starts = [
        found.start()
        for entity in entities
        if (pattern := _pattern(entity)) is not None and (found := pattern.search(folded)) is not None
    ]
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
