"""Single requests, gathered into batches for an engine that answers many at once."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

from safewright.errors import BadInput
from safewright.models.chat import encode
from safewright.models.engine import Loaded
from safewright.runs import digest_json
from safewright.types import Chat, Decoding, Generation

WINDOW = 0.02
"""Seconds without a new request after which those at hand are answered, though more would fit."""

Said = tuple[Generation, int]
"""A generation, and how many tokens its prompt had."""


@dataclasses.dataclass(frozen=True)
class _Request:
    chat: Chat
    how: Decoding
    future: Future[Said]


class Batcher:
    """A model that answers requests from an event loop, many at once, in a thread of its own.

    Nobody polls: the thread works while there are requests. What is at hand goes to the engine together,
    which sorts it by length. Requests above temperature 0 that meet in a batch are drawn with one seed, made
    of theirs: the same requests together give the same answers.

    Args:
        loaded: The engine.
        size: Requests that are enough to begin.
    """

    def __init__(self, loaded: Loaded, size: int) -> None:
        self._loaded, self._size = loaded, size
        self._waiting: list[_Request] = []
        self._changed = threading.Condition()
        self._working = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="safewright-engine")

    async def ask(self, chat: Chat, how: Decoding) -> Said:
        """What the model says; what stops the engine is raised.

        A failing item is a `Generation` with ``stop`` ``error``.
        """
        return await asyncio.wrap_future(self.submit(chat, how))

    def submit(self, chat: Chat, how: Decoding) -> Future[Said]:
        """The same, from any thread."""
        request = _Request(chat, how, Future())
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()
            if not self._working:
                self._working = True
                self._pool.submit(self._work)
        return request.future

    def _work(self) -> None:
        while requests := self._gather():
            groups: dict[Decoding, list[_Request]] = {}
            for request in requests:
                groups.setdefault(dataclasses.replace(request.how, seed=0), []).append(request)
            for how, group in groups.items():
                self._answer(group, dataclasses.replace(how, seed=_common_seed(group)))

    def _gather(self) -> list[_Request]:
        """The requests at hand, once they are enough or no more come; none ends the work."""
        with self._changed:
            while 0 < len(self._waiting) < self._size:
                before = len(self._waiting)
                self._changed.wait(WINDOW)
                if len(self._waiting) == before:
                    break
            found, self._waiting = self._waiting, []
            self._working = bool(found)
        return [request for request in found if request.future.set_running_or_notify_cancel()] or (
            self._gather() if found else []
        )

    def _answer(self, group: Sequence[_Request], how: Decoding) -> None:
        open_ = dict(enumerate(group))
        try:
            lengths = [self._length(request.chat) for request in group]
            with closing(self._loaded.stream([request.chat for request in group], how)) as stream:
                for ready in stream:
                    for index, said in ready:
                        open_.pop(index).future.set_result((said, lengths[index]))
            if open_:
                raise RuntimeError(f"{len(open_)} of {len(group)} requests got no answer")
        except BadInput as error:
            # One that cannot be asked must not cost the others their answers.
            rest = list(open_.values())
            if len(group) == 1:
                rest[0].future.set_exception(error)
            else:
                for request in rest:
                    self._answer([request], how)
        except BaseException as error:
            for request in open_.values():
                request.future.set_exception(error)
            if not isinstance(error, Exception):
                raise

    def _length(self, chat: Chat) -> int:
        tokenizer = getattr(self._loaded, "tokenizer", None)
        return len(encode(tokenizer, chat)) if tokenizer is not None else 0


def _common_seed(group: Sequence[_Request]) -> int:
    """The seed of a batch: its requests' own where they agree, else one made of all."""
    seeds = sorted(request.how.seed for request in group)
    if seeds[0] == seeds[-1]:
        return seeds[0]
    return int(digest_json(seeds).removeprefix("sha256:")[:15], 16)
