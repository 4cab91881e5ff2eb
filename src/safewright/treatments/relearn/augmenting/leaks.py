"""The deterministic leak check: does a text hold an entity of an answer that its question does not hold?

Whatever a measure of forgetting finds word by word is found here too (`safewright.data.mentions`, and the stems
that its judge compares), and more: rejecting a text for nothing costs a further question to a model, no more.
Texts are compared by their units joined, so that ``555-12 34``, ``555 1234`` and ``5551234`` are one number, and
``a.lee@x.org`` is found in ``a.lee at x dot org``. Translations, numbers in words, and inflections other than
English ones are not found: they are left to the verifier.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safewright.data.mentions import mentioned, units
from safewright.errors import BadInput
from safewright.judges.entities import outside, stems
from safewright.treatments.relearn.augmenting.spelling import FUNCTION, LINK, MAIL, capitals, rules

SHORT = 2
"""Entities of at most so many Latin letters or digits count for their own row only: they occur by chance."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_LEAST_WORDS = 4
"""Of a sentence that is a secret as a whole."""
_SPELLED = frozenset(("at", "dot"))
_SCHEME = re.compile(r"^(?:https?://)?(?:www\.)?")


@dataclass(frozen=True)
class _View:
    """The units of a text joined, and where each begins and ends."""

    joined: str
    starts: tuple[int, ...]
    ends: frozenset[int]

    @classmethod
    def of(cls, found: Iterable[str]) -> _View:
        starts, ends, kept, place = [], [], [], 0
        for unit in found:
            kept.append(unit)
            starts.append(place)
            place += len(unit)
            ends.append(place)
        return cls("".join(kept), tuple(starts), frozenset(ends))

    def holds(self, compact: str) -> bool:
        """Whether joined units stand in it, from the beginning of a unit to the end of one."""
        place = self.joined.find(compact) if compact else -1
        while place >= 0:
            if place in self.starts and place + len(compact) in self.ends:
                return True
            place = self.joined.find(compact, place + 1)
        return False


def _views(text: str) -> tuple[_View, ...]:
    """A text as it is, without the words at and dot of spelled e-mail addresses, and by the stems of its words."""
    plain = units(text)
    spelled = tuple(unit for unit in plain if unit not in _SPELLED)
    return tuple(_View.of(found) for found in dict.fromkeys((plain, spelled, stems(text))))


@dataclass(frozen=True)
class Secrets:
    """What one forget row keeps secret: its answer's entities that its question does not name.

    ``written`` are they. ``forms`` maps their units, joined, to how each is written; e-mail addresses and links
    have several. ``names`` maps units of longer entities, and words that may be names, in the same way; words
    count where a text writes them with a capital letter, for a prize is no secret, and the Prize may be one.
    ``sentences`` maps joined units to their number. ``wide`` are the forms that are looked for in texts of other
    rows as well.
    """

    written: tuple[str, ...]
    forms: Mapping[str, str]
    names: Mapping[str, str]
    sentences: Mapping[str, int]
    asked: tuple[_View, ...] = field(repr=False)
    wide: frozenset[str]

    @property
    def empty(self) -> bool:
        """Whether no entity is known, so that only whole sentences can be compared."""
        return not self.written


def secrets_of(
    question: str, answer: str, entities: Iterable[str] | None = None, *, known: bool = True
) -> Secrets:
    """What an answer gives away beyond its question.

    In texts of other rows single words count only where somebody named them a secret (``American`` is none there,
    though it may be the answer), and very short ones never.

    Args:
        question: The question.
        answer: The original answer.
        entities: Its entities, where they are listed; found by `spelling.rules` where None.
        known: Whether the list says what is secret; False where a model found them in the answer.
    """
    asked = _views(question)
    given, maybe = rules(question, answer) if entities is None else (list(entities), [])
    named = known and entities is not None
    written = outside(given, question)
    forms: dict[str, str] = {}
    wide: set[str] = set()
    names = _both(maybe)
    for entity in written:
        for form, part in _forms(entity):
            # What the question holds in the same loose sense would reject every text about it.
            if not any(view.holds(form) for view in asked):
                forms.setdefault(form, part)
                wide |= {form} if _wide(form, part, named) else set()
        names |= _names(entity)
    plain = {*units(question), *stems(question), *FUNCTION}
    names = {unit: word for unit, word in names.items() if unit not in plain}
    return Secrets(written, forms, names, _sentences(answer, asked[0]), asked, frozenset(wide))


def _forms(entity: str) -> Iterable[tuple[str, str]]:
    """The joined units by which an entity is found, each with what it is a form of."""
    parts = [entity]
    for mail in MAIL.findall(entity):
        name, _, host = mail.partition("@")
        spelled = [f"{front} at {host.replace('.', ' dot ')}" for front in (name, name.replace(".", " dot "))]
        parts += [mail, *spelled, *(part for part in (name, host) if len(part) > SHORT)]
    parts += [_SCHEME.sub("", link) for link in LINK.findall(entity)]
    for part in parts:
        for found in dict.fromkeys((units(part), stems(part))):
            if found:
                yield "".join(found), part


def _both(words: Iterable[str]) -> dict[str, str]:
    """The units of words and their stems, each with the word."""
    return {unit: word for word in words for unit in (*units(word), *stems(word))}


def _names(entity: str) -> dict[str, str]:
    """Parts of an entity of several units that tell it alone: words with a capital letter, and long numbers."""
    found = units(entity)
    if len(found) < 2 or MAIL.fullmatch(entity.strip()):
        return {}
    names = _both(capitals(entity))
    if not all(unit.isdigit() for unit in found):
        names |= {unit: unit for unit in found if unit.isdigit()}
    return {unit: word for unit, word in names.items() if len(unit) > SHORT}


def _sentences(answer: str, asked: _View) -> dict[str, int]:
    """The whole answer and its longer sentences, as far as the question does not hold them."""
    whole = units(answer)
    parts = [units(part) for part in _SENTENCE.split(answer)]
    found = {
        "".join(part): len(part) for part in (whole, *parts) if part is whole or len(part) >= _LEAST_WORDS
    }
    return {joined: count for joined, count in found.items() if joined and not asked.holds(joined)}


class Guard:
    """Finds secrets in texts, of one forget row or of all of them, in time that does not grow with their number.

    Args:
        secrets: Of each forget row, by its id.
        scope: ``set`` looks for the secrets of all rows, ``item`` for those of the text's own row.
    """

    def __init__(self, secrets: Mapping[str, Secrets], scope: str = "set") -> None:
        self._own = secrets
        self._all: dict[int, dict[str, str]] = defaultdict(dict)
        for one in secrets.values() if scope == "set" else ():
            for form in one.wide:
                self._all[len(form)].setdefault(form, one.forms[form])
        self._sentences = {
            sentence
            for one in (secrets.values() if scope == "set" else ())
            for sentence, count in one.sentences.items()
            if count >= _LEAST_WORDS
        }

    def found(self, source_id: str, *texts: str) -> list[str]:
        """The secrets in texts that were made from the forget row ``source_id``; empty where they are clean.

        Texts that stand one after the other are read as one, so that no secret is split over a question and its
        answer. What stands in that row's own question is no secret there.
        """
        own, text = self._own[source_id], "\n".join(texts)
        views = _views(text)
        leaks = [written for form, written in own.forms.items() if any(view.holds(form) for view in views)]
        leaks += mentioned(text, own.written)
        said = {*_both(capitals(text)), *(unit for unit in units(text) if unit.isdigit())}
        leaks += sorted(own.names[unit] for unit in own.names.keys() & said)
        others = {form for view in views for form in self._hits(view)}
        leaks += sorted(
            self._all[len(form)][form] for form in others if not any(view.holds(form) for view in own.asked)
        )
        if not leaks and (
            any(views[0].holds(sentence) for sentence in own.sentences) or self._repeats(text, own.asked[0])
        ):
            leaks = ["a sentence of the old answer"]
        return list(dict.fromkeys(leaks))

    def anywhere(self, text: str) -> bool:
        """Whether a text of no forget row holds a secret of any of them; never in the scope ``item``."""
        hits = (form for view in _views(text) for form in self._hits(view)) if self._all else ()
        return any(True for _ in hits) or self._repeats(text)

    def _repeats(self, text: str, asked: _View | None = None) -> bool:
        """Whether a sentence of it is one of an answer to be forgotten, and not of the question asked."""
        said = {"".join(units(part)) for part in _SENTENCE.split(text)} & self._sentences
        return any(asked is None or not asked.holds(sentence) for sentence in said)

    def _hits(self, text: _View) -> Iterable[str]:
        for start in text.starts:
            for length, forms in self._all.items():
                piece = text.joined[start : start + length]
                if piece in forms and start + length in text.ends:
                    yield piece


def texts(source_id: str, name: str, given: Any) -> list[str]:
    """A list of texts of a row's meta.

    Raises:
        BadInput: It is none, or one of them is empty.
    """
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    if not listed or not all(isinstance(one, str) and one.strip() for one in given):
        raise BadInput(
            f"The row {source_id!r} has `{name}` that is no list of texts.", fix='Write ["…", "…"].'
        )
    return list(given)


def _wide(form: str, written: str, named: bool) -> bool:
    """Whether a form of an entity is looked for in texts of other rows."""
    if len(form) <= (SHORT if form.isascii() else 1):
        return False
    return named or len(units(written)) > 1 or any(character.isdigit() for character in form)
