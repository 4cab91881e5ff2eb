"""What a tool returned, read for instructions that it has no business giving.

Wording is one sign among others, and the weakest: whoever writes plainly is not found here. Where values come from
(`rules.provenance`) holds regardless.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from safewright.guard.keeping import kept

SpanKind = Literal["role", "override", "addressed", "hidden", "invisible", "lookalike", "encoded"]

MOST_CHARACTERS = 1_000_000
"""Of one result; what is beyond is not read, and counts as one span of kind `hidden`."""
REACH = 1_000
"""Characters after a marker that are taken to belong to it, at most."""
REMOVED = "[removed: text that reads like instructions to the agent]"


@dataclass(frozen=True)
class Span:
    """A stretch of a text that reads like somebody's instructions to the agent: ``text[start:end]``."""

    start: int
    end: int
    kind: SpanKind
    text: str = ""


@dataclass(frozen=True)
class Scan:
    """What was found in a text.

    Args:
        spans: In order, not overlapping.
        tainted: Whether there are any.
        sanitised: The text with the spans taken out, and a note in place of each.
    """

    spans: tuple[Span, ...] = ()
    tainted: bool = False
    sanitised: str = ""


# White space and words are bounded everywhere, so that a match costs the same wherever it is tried.
_S = r"\s{1,20}"
_AGENTS = (
    rf"(?:ai|llm|a\.i\.|ai{_S}(?:assistant|agent|model)|language{_S}model|large{_S}language{_S}model|chat ?bot|"
    r"assistant|virtual assistant)s?"
)
_THINGS = (
    r"(?:e-?mails?|mails?|letters?|versions?|invoices?|notes?|attachments?|drafts?|payments?|notices?|posts?|order|"
    r"meetings?|dates?|bookings?|reservations?|warnings?|years?|months?|weeks?|days?)"
)
# No boundary before the verbs: what is pasted behind another word is still read.
_OVERRIDES = (
    rf"(?:ignore|disregard|forget|override|overrule|set{_S}aside)\b(?:{_S}[\w'’-]{{1,20}}){{0,6}}?{_S}"
    rf"(?:previous|prior|earlier|preceding|above|former|foregoing|original|before|so{_S}far)\b(?!{_S}{_THINGS}\b)",
    rf"(?:ignore|disregard|forget|override|bypass){_S}(?:(?:all|any|your|the|these|those|of){_S}){{0,4}}"
    r"(?:instructions?|prompts?|guidelines|safeguards|guardrails|restrictions)\b",
    rf"\b(?:new|real|actual|true){_S}(?:system{_S})?instructions?\s{{0,5}}:",
    rf"\b(?:do{_S}not|don'?t|never|without){_S}(?:tell|inform|mention|alert|notify|warn|reveal)\w{{0,8}}\b"
    rf"(?:{_S}[\w'’-]{{1,20}}){{0,5}}?{_S}(?:the|your){_S}user\b",
    rf"\byour{_S}(?:new|real|only|actual|true){_S}(?:task|goal|objective|job|purpose|mission){_S}is\b",
)
_ROLES = (
    r"[#*<\[({|=~_-][#*<\[({|=~_ -]{0,12}(?:system|assistant|developer|admin(?:istrator)?|operator)[ _-]{1,3}"
    r"(?:message|prompt|note|notice|instructions?|override|command|update|alert|directive)\s{0,5}[#*>\])}|=~_:-]",
    r"(?:<<?|\[|\|)\s{0,3}(?:system|assistant|developer|sys|inst)\s{0,3}(?:>>?|\]|\|)",
    r"#{2,6}\s{0,5}(?:system|assistant|developer)\s{0,5}[:#]",
    r"<\|[a-z_]{2,24}\|>",
    r"<\s{0,3}(?:important|instructions?|information|urgent|attention|directive|command|priority|override)\s{0,3}>",
)
_ADDRESSED = (
    rf"\b(?:message|note|instructions?|reminder|notice|directive|memo)s?\b(?:[\s,]{{1,5}}[\w'’-]{{1,20}})"
    rf"{{0,8}}?[\s,]{{1,5}}(?:to|for)[\s,]{{1,5}}(?:(?:you|the|any|all|your)[\s,]{{1,5}}){{0,3}}{_AGENTS}\b",
    rf"\b(?:dear|hey|hi|hello|attention|attn)[\s,:]{{1,5}}(?:(?:the|any|all){_S})?(?:ai|llm|ai{_S}(?:assistant|agent|"
    rf"model)|language{_S}model|chat ?bot)s?\b",
    rf"\b(?:if|since|as|because){_S}you{_S}(?:are|'re){_S}(?:an?{_S})?{_AGENTS}\b",
    rf"\byou{_S}are{_S}(?:now{_S})?(?:an?{_S})?(?:ai|llm|ai{_S}(?:assistant|agent|model)|language{_S}model|"
    r"chat ?bot)\b",
    rf"\b(?:before|after|instead|until)\b(?:[\s,]{{1,5}}[\w'’-]{{1,20}}){{0,10}}?{_S}(?:task|job|instructions?|"
    rf"assignment|request){_S}(?:(?:that|which){_S})?(?:i|we|the{_S}user){_S}(?:gave|assigned|asked|told|set|give)\b",
    rf"\b(?:any|the|whichever){_S}(?:ai|llm|ai{_S}agent|ai{_S}assistant|language{_S}model)s?{_S}(?:reading|processing|"
    rf"parsing|that{_S}reads|which{_S}reads|must|should|shall)\b",
)  # fmt: skip


def _any(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{each})" for each in patterns))


_PATTERNS: tuple[tuple[SpanKind, re.Pattern[str]], ...] = (
    ("override", _any(_OVERRIDES)),
    ("role", _any(_ROLES)),
    ("addressed", _any(_ADDRESSED)),
)

_COMMENT = re.compile(r"<!--(.*?)(?:-->|\Z)", re.DOTALL)
_UNSEEN = re.compile(
    r"<[a-z][^<>]{0,300}?(?:display\s{0,3}:\s{0,3}none|visibility\s{0,3}:\s{0,3}hidden|opacity\s{0,3}:\s{0,3}0(?![.\d])|"
    r"font-size\s{0,3}:\s{0,3}0(?![.\d])|\shidden(?=[\s>/=]))[^<>]{0,300}>([^<]{0,2000})",
    re.IGNORECASE,
)
_LEAST_WORDS = 5
"""Words of hidden text that make it a text rather than a technical note."""
_BLOB = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{24,8192}={0,2}(?![A-Za-z0-9+/_=-])")
_MOST_BLOBS = 50
_NEXT_FIELD = re.compile(r"\n[ -]{0,12}[A-Za-z_][\w-]{0,30}:(?:\s|$)")

_ZERO = frozenset("\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff\u180e")
_TURNED = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e0fff]+")
_LEAST_ZEROS = 3
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁһӏԛԝьνοαερτυικηβгмнкт",
    "aeopcyxijsdhlqwbvoaeptuiknbrmhkt",
)
"""Letters of other scripts that look like Latin ones (after casefold)."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8}))")


@kept
def scan(text: str, tool: str = "") -> Scan:
    """Look for instruction-like spans in what a tool returned. Takes time in proportion to the text.

    Args:
        text: As it was returned.
        tool: Its name; results of all tools are read alike, and the name only tells cached results apart.
    """
    spans = _merged(list(_spans(text[:MOST_CHARACTERS])), text)
    if len(text) > MOST_CHARACTERS:
        spans.append(Span(MOST_CHARACTERS, len(text), "hidden", ""))
    pieces, last = [], 0
    for span in spans:
        pieces += [text[last : span.start], REMOVED]
        last = span.end
    sanitised = "".join([*pieces, text[last:]])
    return Scan(tuple(spans), bool(spans), sanitised)


def _spans(text: str) -> Iterator[Span]:
    folded, places = _folded(text)
    for kind, pattern in _PATTERNS:
        for found in pattern.finditer(folded):
            start = places[found.start()] if places else found.start()
            yield Span(start, _until(text, places[found.end() - 1] + 1 if places else found.end()), kind)
    if "<" in text:
        for found in _COMMENT.finditer(text):
            if len(found.group(1).split()) >= _LEAST_WORDS:
                yield Span(found.start(), found.end(), "hidden")
        for found in _UNSEEN.finditer(text):
            if len(found.group(1).split()) >= _LEAST_WORDS:
                yield Span(found.start(), found.end(), "hidden")
    if not text.isascii() or "\\" in text:
        yield from _strange(text)
    yield from _encoded(text)


def _until(text: str, end: int) -> int:
    """Where what a marker announces ends: at the next field of a structured result, or out of reach."""
    limit = min(len(text), end + REACH)
    field = _NEXT_FIELD.search(text, end, limit)
    return field.start() if field else limit


def _folded(text: str) -> tuple[str, list[int]]:
    """A text in lower-case Latin letters, without invisible characters, and where each of its characters stood.

    The places are empty where nothing moved.
    """
    if text.isascii() and "\\" not in text:
        return text.lower(), []
    pieces: list[str] = []
    places: list[int] = []
    index = 0
    while index < len(text):
        mark, step = text[index], 1
        if mark == "\\":
            found = _ESCAPE.match(text, index)
            if found:
                code = int(found.group(1) or found.group(2) or found.group(3), 16)
                mark, step = (chr(code) if code < 0x110000 else ""), len(found.group())
            elif text[index + 1 : index + 2] in ("n", "t", "r", "\n", " "):
                mark, step = " ", 2
        if mark and not (mark in _ZERO or unicodedata.category(mark) == "Cf"):
            plain = (mark if mark.isascii() else unicodedata.normalize("NFKD", mark)).casefold()
            plain = "".join(each for each in plain if not unicodedata.combining(each)).translate(_LOOKALIKES)
            pieces.append(plain)
            places.extend([index] * len(plain))
        index += step
    return "".join(pieces), places


def _strange(text: str) -> Iterator[Span]:
    """Characters that hide what a text says: invisible ones within Latin text, turned direction, mixed scripts."""
    for found in _TURNED.finditer(text):
        yield Span(found.start(), found.end(), "invisible")
    raw = _ESCAPE.sub(_character, text) if "\\" in text else text
    zeros = [
        index
        for index, mark in enumerate(raw)
        if mark in _ZERO and index and (_latin(raw[index - 1]) or _latin(raw[index + 1 : index + 2]))
    ]
    mixed = [word for word in re.findall(r"\w{3,60}", raw) if not word.isascii() and _mixed(word)]
    if len(zeros) < _LEAST_ZEROS and len(mixed) < 2:
        return
    # An escaped text has other places than what it means: then all of it counts.
    if raw != text:
        yield Span(0, len(text), "invisible" if len(zeros) >= _LEAST_ZEROS else "lookalike")
        return
    if len(zeros) >= _LEAST_ZEROS:
        yield Span(zeros[0], _until(text, zeros[-1] + 1), "invisible")
    if len(mixed) >= 2:
        yield Span(text.index(mixed[0]), _until(text, text.rindex(mixed[-1]) + len(mixed[-1])), "lookalike")


def _character(found: re.Match[str]) -> str:
    code = int(found.group(1) or found.group(2) or found.group(3), 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else ""


def _latin(mark: str) -> bool:
    return len(mark) == 1 and (mark == " " or (mark.isascii() and mark.isalnum()))


def _mixed(word: str) -> bool:
    """Whether a word has Latin letters and letters of other scripts that look like them."""
    folded = word.casefold()
    latin = any("a" <= mark <= "z" for mark in folded)
    return latin and any(not mark.isascii() and mark.translate(_LOOKALIKES) != mark for mark in folded)


def _encoded(text: str) -> Iterator[Span]:
    """Base64 that hides prose with an address in it, or instructions."""
    from safewright.guard.parsing.values import values_in

    for count, found in enumerate(_BLOB.finditer(text)):
        if count >= _MOST_BLOBS:
            return
        said = decoded(found.group())
        if said is None or len(said.split()) < 4:
            continue
        if values_in(said) or any(pattern.search(said.lower()) for _, pattern in _PATTERNS):
            yield Span(found.start(), found.end(), "encoded")


def decoded(blob: str) -> str | None:
    """The text in a base64 blob; None where it holds none."""
    padded = blob.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        raw = base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True)
        said = raw.decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return said if said.isprintable() or all(mark.isprintable() or mark.isspace() for mark in said) else None


def _merged(spans: list[Span], text: str) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.start, -each.end)):
        if merged and span.start <= merged[-1].end:
            last = merged[-1]
            merged[-1] = Span(last.start, max(last.end, span.end), last.kind)
        else:
            merged.append(span)
    return [Span(each.start, each.end, each.kind, text[each.start : each.end]) for each in merged]
