"""The deterministic leak check: does a text hold an entity of an answer that its question does not hold?

Texts are compared by their words after NFKC, case folding, folding of digits (of whatever script) and of accents,
without punctuation; each character is a word in scripts without spaces. Words are joined, so that ``555-12 34``,
``555 1234`` and ``5551234`` are one number, and ``a.lee@x.org`` is found in ``a.lee at x dot org``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safewright.data.mentions import mentioned
from safewright.data.splits import words
from safewright.errors import BadInput

SHORT = 2
"""Entities of at most so many Latin letters or digits count for their own row only: they occur by chance."""

_ACCENTS = re.compile("[\u0300-\u036f]")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_LINK = re.compile(r"(?:https?://|www\.)[^\s,;)\]>]+")
_NUMBER = re.compile(r"\d[\d.,:/\-\u2013 ]*\d|\d")
_QUOTED = re.compile(r"[\"“«「『《〈]([^\"“”«»「」『』《》〈〉]{1,80})[\"”»」』》〉]")
_TOKEN = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
_PARTICLE_TEXT = "of de la le van von der den the del da di du al bin ibn"
_FUNCTION_TEXT = """
a an the this that these those he she it they we you i his her its their our your my who which what when where why
how in on at by for from with without to of as if so but and or not no yes there here after before while although
though since because during through over under about into both each every some many most all mr mrs ms dr
"""
_PARTICLES = frozenset(_PARTICLE_TEXT.split())
_FUNCTION = frozenset(_FUNCTION_TEXT.split())
# An initial or a short title before a full stop ends no sentence.
_START = re.compile(
    r"(?:^|(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z][a-z])\.[\"'”’)\]]*\s*|[!?。！？][\"'”’)\]]*\s*"
    r"|\n\s*[-*\d.)]*\s*)[\"'“‘(\[]*$"
)
_NO_NAME = re.compile(r"(?:ing|ed|ly)$")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_SPELLED = frozenset(("at", "dot"))


@dataclass(frozen=True)
class Text:
    """A text prepared for comparing: its words joined, and where each begins and ends."""

    joined: str
    starts: tuple[int, ...]
    ends: frozenset[int]
    cased: frozenset[str] = frozenset()
    """Words with a capital letter, folded: names among them, as far as case tells."""

    @classmethod
    def of(cls, text: str, *, spelled: bool = False) -> Text:
        """Prepare ``text``; with ``spelled`` the words at and dot are left out, as in a spelled e-mail address."""
        starts, ends, place, kept = [], [], 0, []
        for word in fold(text):
            if spelled and word in _SPELLED:
                continue
            starts.append(place)
            place += len(word)
            ends.append(place)
            kept.append(word)
        return cls("".join(kept), tuple(starts), frozenset(ends), frozenset(_capital(text)))

    def holds(self, compact: str) -> bool:
        """Whether the joined words of an entity stand in it, from the beginning of a word to the end of one."""
        place = self.joined.find(compact) if compact else -1
        while place >= 0:
            if place in self.starts and place + len(compact) in self.ends:
                return True
            place = self.joined.find(compact, place + 1)
        return False


def fold(text: str) -> list[str]:
    """The words in which texts are compared."""
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    plain = "".join(str(unicodedata.digit(c)) if c.isdigit() and not c.isascii() else c for c in plain)
    return words(plain)


@dataclass(frozen=True)
class Secrets:
    """What one forget row keeps secret: its answer's entities that its question does not hold.

    ``entities`` maps the joined words of each to how it is written. ``names`` are single words of longer entities,
    and words that may be names; they count where a text writes them with a capital letter, for a prize is no
    secret, and the Prize may be one. ``sentences`` are joined words too. ``wide`` are the entities that are
    looked for in texts of other rows as well.
    """

    entities: Mapping[str, str]
    names: frozenset[str]
    sentences: tuple[str, ...]
    question: Text = field(repr=False)
    wide: frozenset[str]

    @property
    def empty(self) -> bool:
        """Whether no entity is known, so that only whole sentences can be compared."""
        return not self.entities


def secrets_of(
    question: str, answer: str, entities: Iterable[str] | None = None, *, known: bool = True
) -> Secrets:
    """What an answer gives away beyond its question.

    In texts of other rows single words count only where somebody named them a secret (``American`` is none there,
    though it may be the answer), and very short ones never.

    Args:
        question: The question.
        answer: The original answer.
        entities: Its entities, where they are listed; found by `rules` where None.
        known: Whether the list says what is secret; False where a model found them in the answer.
    """
    asked = Text.of(question)
    given, maybe = rules(question, answer) if entities is None else (list(entities), [])
    found: dict[str, str] = {}
    names = {word for token in maybe for word in fold(token)}
    for entity in given:
        for part in (entity, *_mail_parts(entity)):
            compact = "".join(fold(part))
            if compact and not asked.holds(compact):
                found.setdefault(compact, part)
        tokens = [token for token in _TOKEN.findall(entity) if token[:1].isupper()]
        several = len(fold(entity)) > 1
        names |= {w for token in tokens if several for w in fold(token) if len(w) > SHORT}
    names -= {word for word in names if asked.holds(word)}
    sentences = ("".join(fold(part)) for part in (answer, *_SENTENCE.split(answer)) if _long(part))
    own = tuple(dict.fromkeys(s for s in sentences if not asked.holds(s)))
    whole = "".join(fold(answer))
    if whole and whole not in own and not asked.holds(whole):
        own = (whole, *own)
    named = known and entities is not None
    wide = frozenset(entity for entity, part in found.items() if _wide(entity, part, named))
    return Secrets(found, frozenset(names - _FUNCTION), own, asked, wide)


def rules(question: str, answer: str) -> tuple[list[str], list[str]]:
    """An answer's entities as far as spelling tells: addresses, numbers, quoted titles, and runs of capitals.

    Words of the question end a run.

    Returns:
        The entities, and single words with a capital at the beginning of a sentence, which may be names.
    """
    found = [*_MAIL.findall(answer), *_LINK.findall(answer), *_QUOTED.findall(answer)]
    rest = _LINK.sub(" ", _MAIL.sub(" ", unicodedata.normalize("NFKC", answer)))
    found += [number.strip(" .,:/-") for number in _NUMBER.findall(rest)]
    known = set(fold(question))
    maybe: list[str] = []
    run: list[str] = []
    began, last = False, 0

    def close() -> None:
        while run and run[-1] in _PARTICLES:
            run.pop()
        if run and not (began and len(run) == 1):
            found.append(" ".join(run))
        elif run and not _NO_NAME.search(run[0]):
            maybe.append(run[0])
        run.clear()

    for match in _TOKEN.finditer(rest):
        word = match.group().removesuffix("'s").removesuffix("’s")
        if run and rest[last : match.start()].strip(" '’-."):
            close()
        last = match.end()
        first = bool(_START.search(rest[max(0, match.start() - 16) : match.start()]))
        if first:
            close()
        named = word[:1].isupper() and word.casefold() not in _FUNCTION
        if named and not set(fold(word)) <= known:
            began = began if run else first
            run.append(word)
        elif run and word in _PARTICLES:
            run.append(word)
        else:
            close()
    close()
    return list(dict.fromkeys(entity for entity in found if entity)), maybe


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
            for entity in one.wide:
                self._all[len(entity)].setdefault(entity, one.entities[entity])

    def found(self, source_id: str, text: str) -> list[str]:
        """The secrets in a text that was made from the forget row ``source_id``; empty where it is clean.

        What stands in that row's own question is no secret there.
        """
        own = self._own[source_id]
        views = (Text.of(text), Text.of(text, spelled=True))
        leaks = [one for held, one in own.entities.items() if any(view.holds(held) for view in views)]
        # Whatever a measure of forgetting would find in it, too.
        leaks += mentioned(text, own.entities.values())
        leaks += sorted(own.names & views[0].cased)
        others = {entity for view in views for entity in self._hits(view)}
        leaks += sorted(self._all[len(one)][one] for one in others if not own.question.holds(one))
        if not leaks and any(view.holds(sentence) for view in views for sentence in own.sentences):
            leaks = ["a sentence of the old answer"]
        return list(dict.fromkeys(leaks))

    def anywhere(self, text: str) -> bool:
        """Whether a text of no forget row holds a secret of any of them; never in the scope ``item``."""
        return any(True for _ in self._hits(Text.of(text)))

    def _hits(self, text: Text) -> Iterable[str]:
        for start in text.starts:
            for length, entities in self._all.items():
                piece = text.joined[start : start + length]
                if piece in entities and start + length in text.ends:
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


def _wide(entity: str, written: str, named: bool) -> bool:
    """Whether an entity is looked for in texts of other rows."""
    if len(entity) <= (SHORT if entity.isascii() else 1):
        return False
    return named or len(fold(written)) > 1 or any(character.isdigit() for character in entity)


def _mail_parts(entity: str) -> list[str]:
    """The name and the host of an e-mail address."""
    if not _MAIL.fullmatch(entity.strip()):
        return []
    name, _, host = entity.strip().partition("@")
    return [part for part in (name, host) if len(part) > SHORT]


def _long(sentence: str) -> bool:
    return len(fold(sentence)) >= 4


def _capital(text: str) -> Iterable[str]:
    for token in _TOKEN.findall(text):
        if token[:1].isupper():
            yield from fold(token.removesuffix("'s").removesuffix("’s"))
