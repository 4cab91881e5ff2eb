"""Answers on their way out: what a client may see of them, and the whole of them in the log."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.models.serving.events import End, Event, Opening, Piece
from safewright.models.serving.requests import Asked
from safewright.models.streaming import ReasoningFilter
from safewright.runs import to_json
from safewright.runs.atomic import checked_path, disk_errors, dump_json


class Telling:
    """One answer: text goes in, its visible part comes out; what was both is known at the end.

    Args:
        ident: The name of the answer, in replies and in the log.
        asked: What was asked.
        visible: The markers of reasoning.
        model: Which model the log names.
    """

    def __init__(self, ident: str, asked: Asked, visible: Mapping[str, str], model: str) -> None:
        self.ident, self.asked, self.created = ident, asked, int(time.time())
        self._visible, self._model = dict(visible), model
        self._filter = ReasoningFilter(visible, prompt_known=True)
        self._decoding: Mapping[str, Any] = {}
        self._raw: list[str] = []
        self._thought: list[str] = []
        self._bounded = False  # a server's reasoning is over
        self._sent: list[str] = []
        self.no_answer = True
        self.end: End | None = None

    def take(self, event: Event) -> str:
        """The visible text that an event completes."""
        if isinstance(event, Opening):
            self._filter = ReasoningFilter(self._visible, opened=event.opened, prompt_known=event.known)
            self._decoding = event.decoding
            return ""
        if isinstance(event, End):
            return self._close(event)
        self._raw.append(self._bound(event) + event.raw)
        if not event.thought:
            return self._send(self._filter.feed(event.text))
        if not self._thought:  # a server that splits reasoning off has seen to the template's own block
            self._filter = ReasoningFilter(self._visible, prompt_known=True)
        self._thought.append(event.text)
        return ""

    def _bound(self, piece: Piece) -> str:
        """The marker between reasoning and answer that a server has taken out."""
        if piece.thought and not self._thought:
            return self._visible["open"]
        if self._thought and not piece.thought and not self._bounded:
            self._bounded = True
            return self._visible["close"]
        return ""

    def _close(self, end: End) -> str:
        self.end = end
        rest, self.no_answer = self._filter.close(cut=end.stop != "stop")
        return "" if end.stop == "error" else self._send(rest)  # nobody gets the end of what broke off

    def _send(self, text: str) -> str:
        if text:
            self._sent.append(text)
        return text

    @property
    def answer(self) -> str:
        """The visible answer of an ended telling; empty where there is none."""
        return self._filter.answer

    def facts(self) -> dict[str, Any]:
        """What a client is told besides the answer."""
        return {"no_answer": self.no_answer}

    def usage(self) -> dict[str, int]:
        """The tokens it took, as OpenAI clients read them; 0 where nobody counted."""
        prompt, answer = ((self.end and self.end.prompt_tokens) or 0), ((self.end and self.end.tokens) or 0)
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def row(self) -> dict[str, Any]:
        """The log's line: the whole text, and what of it was shown.

        ``broken`` is empty for an answer that was told to its end.
        """
        broken = (self.end.error if self.end.stop == "error" else "") if self.end else "the client went away"
        thought = [*self._thought, self._filter.reasoning]
        return {
            "id": self.ident,
            "time": self.created,
            "model": self._model,
            "messages": to_json(self.asked.chat),
            "decoding": dict(self._decoding),
            "stream": self.asked.stream,
            "raw": "".join(self._raw),
            "reasoning": "".join(thought[:-1]) + thought[-1],
            "answer": self._filter.answer if self.end else "",
            "shown": "".join(self._sent)
            if self.asked.stream
            else (self.answer if self.end and not broken else ""),
            "closed": self._filter.closed and (self._bounded or not self._thought),
            "no_answer": self.no_answer,
            "stop": self.end.stop if self.end else "error",
            "tokens": self.usage(),
            "broken": broken,
        }

    def whole(self) -> dict[str, Any]:
        """The reply to a request that is no stream."""
        message = {"role": "assistant", "content": self.answer}
        return {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "message": message, "finish_reason": self._finish()}],
            "usage": self.usage(),
            "safewright": self.facts(),
        }

    def chunk(self, delta: Mapping[str, Any]) -> str:
        """One event of a stream."""
        return self._event([{"index": 0, "delta": delta, "finish_reason": None}])

    def last_chunks(self) -> str:
        """The events that end a stream."""
        choice = {"index": 0, "delta": {}, "finish_reason": self._finish()}
        events = self._event([choice], safewright=self.facts())
        if self.asked.counts:
            events += self._event([], usage=self.usage())
        return f"{events}data: [DONE]\n\n"

    def _event(self, choices: list[Any], **more: Any) -> str:
        return sse({**self._head("chat.completion.chunk"), "choices": choices, **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.ident, "object": kind, "created": self.created, "model": self.asked.model}

    def _finish(self) -> str:
        return "length" if self.end and self.end.stop == "length" else "stop"


def sse(payload: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(payload)}\n\n"


class Log:
    """A file with a line of JSON for every answer, only ever added to, and read by its owner alone.

    Raises:
        BadInput: The file cannot be written, or another server writes it.
        Incomplete: The disk is full.
    """

    def __init__(self, file: Path) -> None:
        self.file = checked_path(file)
        try:
            with disk_errors(self.file):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except BadInput as error:
            raise BadInput(
                error.what, why="Whole answers have to be kept.", fix="Give --log another file."
            ) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            raise BadInput(f"Another server writes {self.file}.", fix="Give --log another file.") from error
        end = os.lseek(self._handle, 0, os.SEEK_END)
        if end and os.pread(self._handle, 1, end - 1) != b"\n":
            os.write(self._handle, b"\n")  # a line torn by a kill must not become the head of the next one

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a line; it is there, whole, when this returns.

        Raises:
            Incomplete: The disk is full; nothing of the line is left.
        """
        line = (dump_json(row, canonical=True) + "\n").encode("utf-8")
        start = os.lseek(self._handle, 0, os.SEEK_END)
        with disk_errors(self.file):
            try:
                while line:
                    line = line[os.write(self._handle, line) :]
            except BaseException:
                os.ftruncate(self._handle, start)
                raise

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)
