"""Whom a request itself names for an effect: where it names somebody, others of the same kind are asked about.

Names come cheap to an attacker, since the deployment lists them itself. What holds them is the request: which names
stand behind the word that asks for the effect, which others of a list it leaves out, and what it quotes only.
"""

from __future__ import annotations

import bisect
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from safewright.guard.parsing.values import Value, plain, values_in, values_of
from safewright.guard.rules.intent import WORDS, matched, said_in, sentences, words_of
from safewright.guard.taint import call_of, mentions, requested

if TYPE_CHECKING:
    from safewright.guard.views import View

QUANTIFIERS = frozenset(
    ("all", "every", "each", "everyone", "everybody", "everything", "anyone", "anybody", "any", "both")
)
_BACK = frozenset(("them", "him", "her"))
"""Pronouns that reach back to people named earlier in the sentence."""
_JOINTS = frozenset(("and", "then", "but", "before", "after"))
_LEAST_PART = 4
"""Letters of a part of a name that names it: `External` for `External_0`."""
_MOST_WORDS = 5
_DOORS = frozenset(("find", "see", "is", "are", "listed", "given", "stands", "shown", "look", "get", "there"))
_NOUNS: Mapping[str, tuple[str, ...]] = {
    "email": ("email", "mail", "emails", "mails"),
    "phone": ("phone", "telephone", "mobile"),
}
"""What a request calls a kind of value. Accounts are missing on purpose: where money goes, the user says. Links too:
a rule of their own says which may be followed."""


def left_out(view: View, values: Iterable[Value]) -> dict[Value, str]:
    """Names of a call that the request passes over, each with the reason to ask about it.

    * Where the words that ask for such an effect are followed by names or addresses, the call must use one of them.
    * Where the request names entries of a list that a result showed, other entries of that list are asked about.

    A quantifier (all, each, everyone) opens both. Quoted sentences are content, and name nobody.
    """
    values = tuple(values)
    names = [value for value in values if value.kind == "name"]
    if not names:
        return {}
    said = tuple(said_in(text) for text in requested(view.action))
    lists, words = tuple(_lists(view)), _asking(view)
    found: dict[Value, str] = {}
    spans = tuple(span for text in said for span in _spans(text, words))
    if spans and not any(QUANTIFIERS & set(_tokens(span)) for span in spans):
        listed = {name for flat, entries in lists if flat for name in entries}
        listed |= {
            name for _, entries in lists for name in entries if any(each.normal in entries for each in names)
        }
        there = any(
            values_in(span) or _capital(span) or any(_named(span, name) for name in listed) for span in spans
        )
        if there and not any(_stands(span, value) for span in spans for value in values):
            found.update((value, "the request names others for this") for value in names)
    if any(QUANTIFIERS & set(_tokens(text)) for text in said):
        return found
    for value in names:
        if value in found or any(_stands(text, value) for text in said):
            continue
        for _, entries in lists:
            if value.normal in entries and any(_named(text, each) for each in entries for text in said):
                found[value] = "the request names others of its list"
                break
    return found


def pointed_to(view: View, value: Value, turn: int) -> bool:
    """Whether the user said where this value is to be found: its kind, the place, and everybody else the call names.

    It must be the only one of its kind there.
    """
    nouns = _NOUNS.get(value.kind)
    call = call_of(view.action, turn)
    if nouns is None or call is None:
        return False
    spec = view.policy.spec(call.tool)
    if spec is None or spec.effect not in ("read", "fetch"):
        return False
    places = values_of(dict(call.arguments), spec)
    said = tuple(said_in(text) for text in requested(view.action))
    others = [each for each in view.values if each != value]
    if not places or not all(any(mentions(text, each) for text in said) for each in others):
        return False
    shown = {each.normal for each in values_in(view.action.history[turn].text) if each.kind == value.kind}
    if shown != {value.normal}:
        return False
    for text in said:
        for sentence in sentences(text):
            words = set(_tokens(sentence))
            if words & set(nouns) and words & _DOORS and all(mentions(sentence, each) for each in places):
                return True
    return False


def _asking(view: View) -> tuple[str, ...]:
    """The words that ask for calls with such an effect, of all tools."""
    effect = view.spec.effect if view.spec is not None else "execute"
    tools = [each for each in view.policy.tools if each.effect == effect]
    return tuple(dict.fromkeys(word for each in tools for word in words_of(each)))


@functools.lru_cache(maxsize=256)
def _spans(text: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """The stretches of a text in which something is asked for: from a word that asks to the next thing asked."""
    return tuple(_stretches(text, words))


def _stretches(text: str, words: tuple[str, ...]) -> Iterator[str]:
    for sentence in sentences(text):
        tokens = [(found.group().casefold(), found.start()) for found in _TOKEN.finditer(sentence)]
        said = [token for token, _ in tokens]
        starts = sorted({place for word in words for place in matched(said, word)})
        if any(_BACK & set(said[start + 1 : start + 3]) for start in starts):
            yield sentence
            continue
        ends = [
            index for index in range(1, len(said) - 1) if said[index] in _JOINTS and said[index + 1] in _VERBS
        ]
        last = -1
        for start in starts:
            place = bisect.bisect_right(ends, start)
            if place == last:
                continue  # what follows a later word of a stretch, the earlier one has too
            last = place
            until = tokens[ends[place]][1] if place < len(ends) else len(sentence)
            yield sentence[tokens[start][1] : until]


_VERBS = frozenset(word for words in WORDS.values() for word in words if " " not in word) | frozenset(
    (
        "read",
        "find",
        "look",
        "check",
        "summarize",
        "summarise",
        "visit",
        "list",
        "tell",
        "give",
        "show",
        "get",
        "also",
    )
)
_TOKEN = re.compile(r"[^\W_]+")


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.casefold())


_PROPER = re.compile(r"(?<=[\w,;)] )[\"'‘“#@]?([A-Z][a-z][\w-]{1,60})")
_CALENDAR = frozenset((
    "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "january", "february", "march",
    "april", "may", "june", "july", "august", "september", "october", "november", "december",
))  # fmt: skip


def _capital(span: str) -> bool:
    """Whether a stretch of a sentence holds a word written as a name, other than of a day or month."""
    return any(found.group(1).casefold() not in _CALENDAR for found in _PROPER.finditer(span))


def _stands(text: str, value: Value) -> bool:
    return mentions(text, value) or (value.kind == "name" and _named(text, value.normal))


def _named(text: str, name: str) -> bool:
    """Whether a text names an entry of a list: word for word, or by a part of its name."""
    said, parts = _words_in(text), _parts(name)
    if not said.issuperset(parts):
        return len(parts) > 1 and any(len(part) >= _LEAST_PART and part in said for part in parts)
    return len(parts) > 1 or mentions(text, Value("name", name, normal=name))


@functools.lru_cache(maxsize=256)
def _words_in(text: str) -> frozenset[str]:
    return frozenset(_tokens(plain(text)))


@functools.lru_cache(maxsize=8192)
def _parts(name: str) -> tuple[str, ...]:
    return tuple(_tokens(name))


def _lists(view: View) -> Iterator[tuple[bool, frozenset[str]]]:
    for index, turn in enumerate(view.action.history):
        if turn.kind == "result" and index not in view.taint.results:
            yield from _columns(turn.text)


_LINE = re.compile(r"(?P<dash>\s{0,40}-\s{1,4})?\s{0,40}(?:(?P<key>[\w .-]{1,60}):(?:\s|$))?(?P<value>.*)")


@functools.lru_cache(maxsize=512)
def _columns(text: str) -> tuple[tuple[bool, frozenset[str]], ...]:
    """The lists of names in a structured result: plain ones (True), and the values of a key (False)."""
    plain_lists: list[set[str]] = [set()]
    keyed: dict[str, set[str]] = {}
    try:
        whole = json.loads(text) if text.lstrip()[:1] in ("{", "[") else None
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, (dict, list)):
        stack: list[object] = [whole]
        while stack:
            each = stack.pop()
            if isinstance(each, dict):
                for key, value in each.items():
                    keyed.setdefault(str(key), set()).add(str(value)) if isinstance(
                        value, str
                    ) else stack.append(value)
            elif isinstance(each, list):
                plain_lists.append({value for value in each if isinstance(value, str)})
                stack.extend(value for value in each if not isinstance(value, str))
    else:
        for line in text.splitlines():
            found = _LINE.fullmatch(line[:400])
            if found is None:
                continue
            value = found["value"].strip().strip("\"'")
            if found["key"]:
                keyed.setdefault(found["key"].strip(), set()).add(value)
                plain_lists.append(set())
            elif found["dash"]:
                plain_lists[-1].add(value)
    told = [(True, _names(each)) for each in plain_lists] + [(False, _names(each)) for each in keyed.values()]
    return tuple(each for each in told if len(each[1]) > 1)


def _names(texts: Iterable[str]) -> frozenset[str]:
    """Those of some texts that can be names: short, and no numbers."""
    found = (plain(text) for text in texts)
    return frozenset(
        text
        for text in found
        if 1 < len(text) <= 80 and len(text.split()) <= _MOST_WORDS and not text.isdigit()
    )
