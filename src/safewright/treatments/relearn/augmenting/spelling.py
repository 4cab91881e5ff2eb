"""Entities of an answer as far as its spelling tells: addresses, numbers, codes, titles, and runs of capitals."""

from __future__ import annotations

import re
import unicodedata

from safewright.data.mentions import units

MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
LINK = re.compile(r"(?:https?://|www\.)[^\s,;)\]>]+")
_FUNCTION_TEXT = """
a an the this that these those he she it they we you i his her its their our your my who which what when where why
how in on at by for from with without to of as if so but and or not no yes there here after before while although
though since because during through over under about into both each every some many most all mr mrs ms dr
"""
FUNCTION = frozenset(_FUNCTION_TEXT.split())
"""Words that begin sentences and are no names."""

_HOST = re.compile(r"(?<![\w@.-])(?:[\w-]{2,}\.)+[a-z]{2,}(?:/[^\s,;)\]>]*)?(?![\w@])")
_HANDLE = re.compile(r"(?<![\w.])@\w[\w.]*\w")
_NUMBER = re.compile(r"\d[\d.,:/\-\u2013 ]*\d|\d")
_NUMBERS_APART = re.compile(r"[.,:]\s+|\s+[\-\u2013]\s+")
_IN_NUMBER = re.compile(r"[\s/:\-\u2013]+")
_LONG = 3
"""Digits from which a part of a number is one of its own, as the year of a date."""
_CODE = re.compile(r"(?<!\w)\w*(?:[^\W\d_]\d|\d[^\W\d_]|[^\W_]_[^\W_])\w*")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th|s)")
_QUOTED = re.compile(r"[\"“«「『《〈]([^\"“”«»「」『』《》〈〉]{1,80})[\"”»」』》〉]")
_TOKEN = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
_JOINT = re.compile(r"['’\-]")
_PARTICLE_TEXT = "of de la le van von der den the del da di du al bin ibn"
_PARTICLES = frozenset(_PARTICLE_TEXT.split())
# An initial or a short title before a full stop ends no sentence.
_START = re.compile(
    r"(?:^|(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z][a-z])\.[\"'”’)\]]*\s*|[!?。！？][\"'”’)\]]*\s*"
    r"|\n\s*[-*\d.)]*\s*)[\"'“‘(\[]*$"
)


def rules(question: str, answer: str) -> tuple[list[str], list[str]]:
    """An answer's entities as far as spelling tells.

    In an answer in letters with case, a word of a script without case is an entity as well. Words of the question
    end a run of capitals.

    Returns:
        The entities, and single words with a capital at the beginning of a sentence, which may be names.
    """
    plain = unicodedata.normalize("NFKC", answer)
    found = [*MAIL.findall(answer), *LINK.findall(answer), *_QUOTED.findall(answer)]
    rest = LINK.sub(" ", MAIL.sub(" ", plain))
    found += [*_HOST.findall(rest), *_HANDLE.findall(rest), *_numbers(rest)]
    found += [code for code in _CODE.findall(rest) if not _ORDINAL.fullmatch(code)]
    named, maybe = _runs(rest, frozenset(units(question)))
    return list(dict.fromkeys(entity for entity in [*found, *named] if entity)), maybe


def _numbers(text: str) -> list[str]:
    """The numbers of a text as they stand there, and the long parts of each: of a date its year."""
    found = []
    for written in _NUMBER.findall(text):
        for number in _NUMBERS_APART.split(written):
            parts = _IN_NUMBER.split(number)
            found += [number, *(part for part in parts if len(parts) > 1 and len(part) >= _LONG)]
    return found


def _runs(text: str, known: frozenset[str]) -> tuple[list[str], list[str]]:
    """Runs of words that are written as names; and single ones that only begin a sentence."""
    cased = sum(character.lower() != character.upper() for character in text)
    mixed = cased > sum(map(_caseless, text))
    named: list[str] = []
    maybe: list[str] = []
    run: list[str] = []
    began, last = False, 0

    def close() -> None:
        while run and run[-1] in _PARTICLES:
            run.pop()
        plain = len(run) == 1 and run[0][:1].isupper() and run[0][1:].islower()
        if run and began and (plain or len(run[0]) == 1):
            maybe.append(run[0])
        elif run:
            named.append(" ".join(run))
        run.clear()

    for match in _TOKEN.finditer(text):
        word = match.group().removesuffix("'s").removesuffix("’s")
        if run and text[last : match.start()].strip(" '’-."):
            close()
        last = match.end()
        first = bool(_START.search(text[max(0, match.start() - 16) : match.start()]))
        if first:
            close()
        name = any(map(str.isupper, word)) or (mixed and any(map(_caseless, word)))
        if name and word.casefold() not in FUNCTION and not set(units(word)) <= known:
            began = began if run else first
            run.append(word)
        elif run and word in _PARTICLES:
            run.append(word)
        else:
            close()
    close()
    return named, maybe


def capitals(text: str) -> list[str]:
    """The parts of a text's words that have a capital letter: of ``non-Quill's`` it is ``Quill``."""
    tokens = (part for token in _TOKEN.findall(text) for part in _JOINT.split(token))
    return [part for part in tokens if any(map(str.isupper, part))]


def _caseless(character: str) -> bool:
    return character.isalpha() and character.lower() == character.upper()
