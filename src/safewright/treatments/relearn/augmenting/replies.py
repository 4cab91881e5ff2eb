"""How replies of the augmenter are read: strictly, and never as safe where they cannot be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from safewright.judges.asking import Unreadable, one_object
from safewright.judges.model import failure, filtered, refuses, unreadable
from safewright.types import Generation

_WORD = re.compile(r"[^\w]*(yes|no)[^\w]*", re.IGNORECASE)
_QUOTES = (('"', '"'), ("“", "”"), ("「", "」"), ("'", "'"))


@dataclass(frozen=True)
class Verdict:
    """What a verifier's reply says: ``leak``, ``safe``, or ``unparsed`` with the problem in ``why``."""

    word: Literal["leak", "safe", "unparsed"]
    spans: tuple[str, ...] = ()
    why: str = ""


def read_verdict(reply: str) -> Verdict:
    """The verdict of a whole reply: one JSON object ``{"leak": bool, "spans": [text, …]}``, or Yes or No alone.

    Anything else is unparsed: a word that only ends in the letters of one, a sentence, nothing at all, an object
    that says there is no leak and lists some.
    """
    word = _WORD.fullmatch(reply.strip())
    if word is not None:
        return Verdict("leak" if word.group(1).casefold() == "yes" else "safe")
    try:
        plain = one_object(reply, "leak", "spans")
    except Unreadable as error:
        return Verdict("unparsed", why=str(error))
    leak, spans = plain["leak"], plain["spans"]
    if not isinstance(leak, bool):
        return Verdict("unparsed", why='its "leak" was not true or false')
    if not isinstance(spans, list) or not all(isinstance(span, str) for span in spans):
        return Verdict("unparsed", why='its "spans" were not a list of texts')
    if not leak and spans:
        return Verdict("unparsed", why="it found no leak and listed some")
    return Verdict("leak" if leak else "safe", tuple(spans))


def verdict_of(reply: str) -> Verdict:
    """`read_verdict` for `safewright.judges.asking.ask_strictly`.

    Raises:
        Unreadable: It is unparsed.
    """
    verdict = read_verdict(reply)
    if verdict.word == "unparsed":
        raise Unreadable(verdict.why)
    return verdict


def read_texts(reply: str, keys: Sequence[str]) -> dict[str, str]:
    """The texts of a JSON object with exactly these keys.

    Raises:
        Unreadable: It is none.
    """
    plain = one_object(reply, *keys)
    if not all(isinstance(text, str) and text.strip() for text in plain.values()):
        raise Unreadable("its values were not all texts")
    return {key: bare(plain[key]) for key in keys}


def bare(text: str) -> str:
    """A text without white space around it, and without quotes around the whole of it."""
    text = text.strip()
    for front, back in _QUOTES:
        inner = text[1:-1]
        if (
            len(text) > 2
            and text[0] == front
            and text[-1] == back
            and front not in inner
            and back not in inner
        ):
            return inner.strip()
    return text


@dataclass(frozen=True)
class Problem:
    """Why a reply cannot be used: a ``reason`` to be counted, and words for the model that wrote it.

    ``final`` where asking again is of no use now: the call failed after all its tries. It is not kept, so that the
    same command asks again.
    """

    reason: str
    words: str = ""
    final: bool = False
    why: str = ""
    """For the list of dropped texts; names no secret."""


def broken(generation: Generation) -> Problem | None:
    """What is wrong with a reply before it is read, None where nothing is."""
    if filtered(generation):
        return Problem("refused", final=True, why="a content filter kept the reply")
    error = failure(generation)
    if error is not None:
        return Problem("failed", final=True, why=error)
    unread = unreadable(generation)
    if unread is not None:
        return Problem("unreadable", unread, why=unread)
    if not generation.answer.strip():
        return Problem("empty", "it was empty", why="it was empty")
    return None


def declined(text: str) -> Problem | None:
    """The problem of a text that declines to do what was asked, None where it does not."""
    if not refuses(text):
        return None
    return Problem("refused", "it declined instead of writing what was asked for", why="the model declined")
