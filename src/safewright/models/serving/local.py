"""Answers of a model that runs here, one at a time; whoever asks meanwhile waits in turn."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from safewright.errors import BadInput, SafewrightError
from safewright.models import chat as chats_
from safewright.models.engine import with_recipe
from safewright.models.hf import HfModel
from safewright.models.overlong import overlong_counts
from safewright.models.serving.events import End, Event, Opening, Piece
from safewright.models.serving.requests import Asked, Refused
from safewright.models.streaming import Detokenizer
from safewright.types import Decoding, Generation

MOST_WAITING = 64
"""Requests that may wait for their turn; later ones are sent away."""


class LocalSource:
    """A `Source` over the reference engine.

    Args:
        model: The model; only this source may ask it meanwhile.
        name: What clients call it.
        most_tokens: Tokens of an answer where neither request nor recipe says otherwise.
        ending: Whether the server is to end: answers under way are then broken off.
    """

    def __init__(
        self, model: HfModel, name: str, *, most_tokens: int, ending: Callable[[], bool] = lambda: False
    ) -> None:
        self._model, self.name, self._default = model, name, Decoding(max_new_tokens=most_tokens)
        self.ending = ending
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="safewright-serve")
        self._waiting = 0
        self._unseen = unseen_tokens(model.tokenizer, model.visible)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"root": self._model.ref.digest, "max_model_len": self._model.limit}

    @property
    def model(self) -> str:
        return f"{self._model.ref.where}@{self._model.ref.digest}"

    @property
    def visible(self) -> Mapping[str, str]:
        return self._model.visible

    async def events(self, asked: Asked) -> AsyncGenerator[Event]:
        how = with_recipe(self._default, self._model.ref, asked.chosen)
        if how.temperature > 0 and "seed" not in asked.chosen:
            how = dataclasses.replace(how, seed=secrets.randbelow(2**31))
        if self._waiting >= MOST_WAITING:
            raise Refused(503, f"{self._waiting} requests are waiting already. Ask again later.", code="busy")
        loop, ready = asyncio.get_running_loop(), asyncio.Queue[Event | Exception]()
        left = threading.Event()

        def work() -> None:
            def put(event: Event | Exception) -> None:
                loop.call_soon_threadsafe(ready.put_nowait, event)

            try:
                self._answer(asked, how, put, lambda: left.is_set() or self.ending())
            except Exception as error:  # noqa: BLE001 - whoever asked gets to know
                put(error)

        self._waiting += 1
        turn = self._turns.submit(work)
        try:
            while True:
                event = await ready.get()
                if isinstance(event, Exception):
                    raise _told(event)
                yield event
                if isinstance(event, End):
                    return
        finally:
            self._waiting -= 1
            left.set()
            turn.cancel()

    def _answer(
        self, asked: Asked, how: Decoding, put: Callable[[Event], None], ended: Callable[[], bool]
    ) -> None:
        if ended():
            raise Refused(503, "The server is ending.", code="ending")
        model = self._model
        prompted, begun = model.prompted, False
        whole, seen = Detokenizer(model.tokenizer), Detokenizer(model.tokenizer, self._unseen)

        def open_() -> None:
            nonlocal begun
            if not begun:
                prompt = chats_.render(model.tokenizer, asked.chat)
                opening = chats_.started(asked.chat)
                opened = chats_.opens_reasoning(prompt, model.visible, opening=opening)
                put(Opening(opened, True, dataclasses.asdict(how)))
            begun = True

        def say(raw: str, text: str) -> None:
            if raw or text:
                put(Piece(raw, text))

        def heard(tokens: list[int]) -> bool:
            open_()
            new = [token for token in tokens if token not in model.stops]
            say(whole.feed(new), seen.feed(new))
            return not ended()

        found = model.follow(asked.chat, how, heard)
        if found.stop == "overlong":
            raise Refused(400, _overlong(found), param="messages", code="context_length_exceeded")
        if found.stop == "error" and not begun:
            raise Refused(500, found.error)
        open_()
        say(whole.close(), seen.close())
        if ended():
            return put(End("error", error="the answer was broken off before its end"))
        put(End(found.stop, model.prompted - prompted, found.tokens, found.error))

    async def aclose(self) -> None:
        self._turns.shutdown(wait=True, cancel_futures=True)
        self._model.close()


def unseen_tokens(tokenizer: Any, visible: Mapping[str, str]) -> frozenset[int]:
    """Special tokens that are not text. Those that markers consist of are: without them no marker is found."""
    pairs = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    return frozenset(token for token, text in pairs if not any(text in marker for marker in visible.values()))


def _overlong(found: Generation) -> str:
    """In words that clients look for, ours among them."""
    prompt, context = overlong_counts(found) or ("too many", "less")
    return f"This model's context length is {context} tokens, but the messages resulted in {prompt} tokens."


def _told(error: Exception) -> Exception:
    """What the client is told of an error; one of ours in the program itself stays what it is."""
    if isinstance(error, BadInput):
        return Refused(400, str(error), param="messages")
    if isinstance(error, SafewrightError):
        return Refused(500, str(error))
    return error
