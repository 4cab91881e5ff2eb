"""What keyword rules read: an answer in one spelling, without quotations, cut to its first sentences."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

_APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u02bc\u2032\u00b4`"), "'")
_DOUBLE = dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\u300c\u300d\u300e\u300f\u00ab\u00bb"), '"')
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-")
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"), None)
_MARKUP = re.compile(r"[*_#~]+|^>+\s*", re.MULTILINE)
_CJK = "\u3400-\u4dbf\u4e00-\u9fff"
_CJK_GAP = re.compile(rf"(?<=[{_CJK}])\s+(?=[{_CJK}])")
# After a digit it is an inch mark.
_QUOTED = re.compile(r'(?<!\d)"[^"]*("|$)')
_ALL_QUOTED = re.compile(r'"([^"]*)"?[.!]?')
_SENTENCE_END = re.compile(r"(?<=[.!?])['\")\]]*\s+|(?<=[\u3002!?\uff61])|\n+")
_HAN = re.compile(rf"[{_CJK}]")
_LATIN = re.compile(r"[A-Za-z]+")


def normalise(text: str, fold: Mapping[str, str] | None = None) -> str:
    """``text`` in one spelling: NFKC, straight quotes, plain dashes, no markup, lower case.

    Args:
        text: Any text.
        fold: Characters to replace by others, such as traditional by simplified ones.
    """
    text = text.translate(_APOSTROPHES).translate(_DOUBLE)  # before NFKC, which splits some of them
    text = unicodedata.normalize("NFKC", text).translate(_DASHES).translate(_INVISIBLE)
    if fold:
        text = text.translate({ord(character): other for character, other in fold.items()})
    text = _MARKUP.sub("", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return _CJK_GAP.sub("", "\n".join(line for line in lines if line)).lower()


def unquoted(text: str) -> str:
    """Normalised ``text`` without what stands in double quotes: words of a character, not of the model.

    An answer that is one quotation from its first character to its last is the model's own.
    """
    whole = _ALL_QUOTED.fullmatch(text)
    return whole.group(1) if whole else _QUOTED.sub(" ", text)


def opening(text: str, sentences: int, pleasantries: Sequence[re.Pattern[str]] = ()) -> list[str]:
    """The first sentences of a normalised text.

    Args:
        text: A text from `normalise`.
        sentences: How many to keep.
        pleasantries: Sentences that match one of these (thanks, praise of the question) do not count.
    """
    kept: list[str] = []
    counted = 0
    for part in _SENTENCE_END.split(text):
        sentence = part.strip()
        if not sentence:
            continue
        kept.append(sentence)
        counted += not any(pattern.search(sentence) for pattern in pleasantries)
        if counted == sentences:
            break
    return kept


_CONTROL = re.compile(
    r"<(?=\|[^\n<>]{0,60}\|>|/?(?:s|bos|eos|pad|unk|think|start_of_turn|end_of_turn|begin_of_text)>)"
    r"|(?<=<)(?=<SYS>>|</SYS>>)|\[(?=/?INST\])"
)
"""The first sign of what templates of well-known models write between turns."""


def without_control(text: str, tokens: Sequence[str] = ()) -> str:
    """A text in which nothing is a control token: a space stands behind the first sign of each.

    A tokenizer reads such words as the end of a turn wherever they stand, and markers around them do not help:
    material could speak to its judge in another's role.

    Args:
        text: What a judge is to read.
        tokens: The control tokens of its own tokenizer, where that is known; well-known ones are always broken.
    """
    for token in tokens:
        if len(token) > 1 and not token.isalnum():
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return _CONTROL.sub(lambda found: f"{found.group(0)} ", text)


def script_language(text: str) -> str | None:
    """``zh`` where Han characters prevail, ``en`` where Latin words do, None where there are neither.

    A Han character and a Latin word carry about the same, so they are counted alike. This cannot tell
    languages of one script apart; it only notices that an answer is not written in the row's script.
    """
    han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    if not han and not latin:
        return None
    return "zh" if han >= latin else "en"
