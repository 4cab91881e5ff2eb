"""Raw output as it is written, and what of it a reader may see: reasoning is taken out on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safewright.models.chat import THINK


class ReasoningFilter:
    """`safewright.models.chat.split_reasoning` over text that arrives in pieces of any size.

    Whatever the pieces, the outcome is that of `split_reasoning` on the whole: ``answer``, ``reasoning`` and
    ``closed`` after `close`. No character of a block is ever let through, also where a marker is split over
    pieces. What `feed` and `close` return, put together, is the answer; only where words came before a block
    that then never closed, those words were let through already, and there is no answer all the same.

    Args:
        visible: ``{"open": marker, "close": marker}``; `THINK` where None or empty.
        opened: Whether the prompt itself already opened the block, as some templates do.
        prompt_known: Whether ``opened`` was read off the prompt. If it was not, text without any marker so far
            may be reasoning of a block that the template opened: it is kept back until a marker or the end
            tells.
    """

    def __init__(
        self, visible: Mapping[str, str] | None = None, *, opened: bool = False, prompt_known: bool = False
    ) -> None:
        self._open, self._close = (visible or THINK)["open"], (visible or THINK)["close"]
        self._inside: bool | None = True if opened else (False if prompt_known else None)
        self._repeated = opened  # a model may write the marker that its prompt ended with once more
        self._rest = ""  # what may be the beginning of a marker, or anything while nothing is known
        self._thought, self._answer = _Parts(), _Parts()
        self._ended = False

    def feed(self, chunk: str) -> str:
        """The visible text that ``chunk`` completes; may be empty."""
        self._rest += chunk
        return self._advance(last=False)

    def close(self, *, cut: bool = False) -> tuple[str, bool]:
        """The end of the output: the visible text that was kept back, and whether there is no answer.

        There is none where a block was never closed, or nothing visible was written.

        Args:
            cut: Whether the output did not come to its own end. Where the prompt is not known, text without any
                marker is then reasoning: the marker that ends it may have been yet to come.
        """
        if cut and self._inside is None and self._open not in self._rest and self._close not in self._rest:
            self._inside = True
        shown = self._advance(last=True)
        self._ended = True
        return shown, not self.answer

    @property
    def reasoning(self) -> str:
        """The text inside the blocks so far."""
        return self._thought.text

    @property
    def closed(self) -> bool:
        """Whether every block that was opened is closed again."""
        return not self._inside

    @property
    def answer(self) -> str:
        """The text outside the blocks so far; empty where the output ended inside one."""
        return "" if self._ended and not self.closed else self._answer.text

    @property
    def shown(self) -> str:
        """All visible text that was let through."""
        return self._answer.text

    def _advance(self, *, last: bool) -> str:
        if self._inside is None:
            self._inside = self._begins_inside(last)
        if self._inside is None or (self._repeated and not self._skip_repeated(last)):
            return ""
        shown = []
        while True:
            marker = self._close if self._inside else self._open
            before, found, after = self._rest.partition(marker)
            parts = self._thought if self._inside else self._answer
            if not found:
                kept = len(before) if last else may_begin(before, marker)
                shown.append("" if self._inside else parts.add(before[:kept]))
                if self._inside:
                    parts.add(before[:kept])
                self._rest = before[kept:]
                return "".join(shown)
            added = parts.add(before)
            shown.append("" if self._inside else added)
            parts.end()
            self._inside, self._rest = not self._inside, after

    def _begins_inside(self, last: bool) -> bool | None:
        """Whether the output began inside a block; None while that may turn out either way."""
        text = self._rest
        opens, closes = text.find(self._open), text.find(self._close)
        if not last:  # a marker whose end is yet to come may begin before one that is there
            opens = _first(opens, may_begin(text, self._open), len(text))
            closes = _first(closes, may_begin(text, self._close), len(text))
            first = min((place for place in (opens, closes) if place >= 0), default=-1)
            if first < 0 or not (text.startswith(self._open, first) or text.startswith(self._close, first)):
                return None
        return closes >= 0 and (opens < 0 or closes < opens)

    def _skip_repeated(self, last: bool) -> bool:
        """Drop an opening marker at the very start; False while it may still become one."""
        text = self._rest.lstrip()
        if not last and self._open.startswith(text) and text != self._open:
            return False
        self._rest, self._repeated = text.removeprefix(self._open), False
        return True


class _Parts:
    """Text as it grows: parts without space at their ends, those with words in them joined by newlines."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._space = ""  # white space that belongs to the part only if words follow it
        self._begun = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def add(self, text: str) -> str:
        """What ``text`` adds to the whole."""
        text = self._space + text if self._begun else text.lstrip()
        words = text.rstrip()
        self._space = text[len(words) :] if self._begun or words else ""
        if not words:
            return ""
        new = words if self._begun or not self._pieces else "\n" + words
        self._begun = True
        self._pieces.append(new)
        return new

    def end(self) -> None:
        """End a part; what comes is of the next."""
        self._space, self._begun = "", False


def may_begin(text: str, marker: str) -> int:
    """Where at the end of a text a marker may have begun, of which the rest is yet to come; else its length."""
    for start in range(max(0, len(text) - len(marker) + 1), len(text)):
        if marker.startswith(text[start:]):
            return start
    return len(text)


def _first(found: int, possible: int, end: int) -> int:
    """The first place of a marker that is there (-1: nowhere) or may be on its way (``end``: not)."""
    if possible == end:
        return found
    return possible if found < 0 else min(found, possible)


class Detokenizer:
    """Text from tokens that arrive one by one; the pieces put together are the text of all of them.

    A token alone does not say its text: some are parts of one character, some begin with a space or not by
    what stands before them. So each piece is what a token adds to the text of the few before it.

    Args:
        tokenizer: Whose tokens they are.
        drop: Tokens without a text of their own.
    """

    def __init__(self, tokenizer: Any, drop: frozenset[int] = frozenset()) -> None:
        self._tokenizer, self._drop = tokenizer, drop
        self._tokens: list[int] = []
        self._from = self._told = 0  # tokens before the window; tokens whose text was given

    def feed(self, tokens: Sequence[int]) -> str:
        """The text that further tokens complete; empty while a character is not whole."""
        self._tokens += [token for token in tokens if token not in self._drop]
        before, now = self._text(self._told), self._text(len(self._tokens))
        if now.endswith(_BROKEN) or len(now) <= len(before):
            return ""
        self._from, self._told = self._told, len(self._tokens)
        return now[len(before) :]

    def close(self) -> str:
        """The text of tokens that were waiting for more."""
        before, now = self._text(self._told), self._text(len(self._tokens))
        self._from = self._told = len(self._tokens)
        return now[len(before) :]

    def _text(self, end: int) -> str:
        return str(self._tokenizer.decode(self._tokens[self._from : end], skip_special_tokens=False))


_BROKEN = "\ufffd"
"""What stands for bytes that are no character (yet)."""
