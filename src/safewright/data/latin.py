"""Which language a text in Latin letters is in: its commonest words, against those of English.

Two kinds of words: *function* words, which any running text holds, and *telling* words (apologies, "I can",
"no"), which are enough alone, because a refusal may consist of one of them. Words that are English too count
for nobody. Neighbours such as Danish and Norwegian, or Croatian and Serbian, are not told apart reliably;
what matters here is that neither is taken for English.
"""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHARE = 0.2
"""Share of a text's words that must be common words of the language: running text has 0.3 to 0.6."""

EVIDENCE = 6
"""Evidence from different words that is needed: a telling word gives 6, a function word 3, and one that
stands in names too ("de la Cruz") 1."""

LETTERS_SHARE = 0.2
"""Share of words with letters beyond a-z from which a text without English words is not English."""


@dataclass(frozen=True)
class Words:
    """The common words of a language: all of them, and how much each tells."""

    every: frozenset[str]
    evidence: Mapping[str, int]


def fold(word: str) -> str:
    """A word without its accents, as it is often typed."""
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


@functools.cache
def _read() -> dict[str, Any]:
    return tomllib.loads((importlib.resources.files("safewright.data") / "latin.toml").read_text("utf-8"))


@functools.cache
def word_lists() -> dict[str, Words]:
    """The lists by language, each word also without its accents."""
    read = _read()
    silent, in_names = set(read["english_too"].split()), set(read["in_names"].split())
    lists = {}
    for language, given in read.items():
        if not isinstance(given, dict):
            continue
        evidence: dict[str, int] = {}
        every: set[str] = set()
        for key, weight in (("function", EVIDENCE // 2), ("telling", EVIDENCE)):
            for word in given[key].split():
                for form in dict.fromkeys((word, fold(word))):
                    every.add(form)
                    if (len(form) > 1 or not form.isascii()) and form not in silent:
                        weighs = 1 if form in in_names else weight
                        evidence[form] = max(weighs, evidence.get(form, 0))
        lists[language] = Words(frozenset(every), evidence)
    return lists


def foreign_language(words: Sequence[str], english: int, strong: bool) -> tuple[str | None, int]:
    """The language other than English that these words are in, or None; and how many words are its at most.

    It must have `EVIDENCE` from different words (half of it in a text without a word that English has alone),
    `SHARE` of all words, and more words than English has.

    Args:
        words: The words of a text in Latin script, case folded.
        english: How many of them are common English ones.
        strong: Whether one of these is a word of English alone.

    Returns:
        The language, and the largest number of words that one language other than English has here.
    """
    best: tuple[int, int, str] | None = None
    most = 0
    different, alone = frozenset(words), frozenset(_read()["alone"].split())
    for language, known in word_lists().items():
        hits = sum(word in known.every for word in words)
        most = max(most, hits)
        evidence = sum(known.evidence.get(word, 0) for word in different)
        if different <= alone & known.every:
            evidence = EVIDENCE
        enough = evidence >= (EVIDENCE if strong else EVIDENCE // 2)
        if enough and (best is None or (hits, evidence) > best[:2]):
            best = (hits, evidence, language)
    if best is None or best[0] < SHARE * len(words) or best[0] <= english:
        return None, most
    return best[2], most


def accented(words: Sequence[str], strong: bool) -> bool:
    """Whether a text writes letters beyond a-z in more than stray words.

    Two words do, and a fifth of all; in a text without a word of English alone one is enough, unless it
    stands in a name, with a capital.

    Args:
        words: The words of a text in Latin script, in their case.
        strong: Whether one of these is a word of English alone.
    """
    found = {word for word in words if not word.isascii()}
    if not strong and any(word[0].islower() for word in found) and len(words) > 1:
        return True
    return len(found) >= 2 and sum(word in found for word in words) >= LETTERS_SHARE * len(words)
