"""A scripted model in the place of a judge's model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from safewright.types import Chat, Decoding, Generation, ModelRef, Stop, TokenScores

Reply = str | Generation


def said(text: str, *, stop: Stop = "stop", closed: bool = True, error: str = "") -> Generation:
    """A generation of ten tokens that says ``text``."""
    return Generation(text, "", text if closed else "", closed, stop, 10, error)


class Scripted:
    """A `Loaded` that answers by a function of the chat and the number of the call for it."""

    able = frozenset({"generate"})
    conventions: dict[str, Any]

    def __init__(self, reply: Callable[[Chat], Reply]) -> None:
        self.ref = ModelRef("live", "scripted", "sha256:" + "0" * 64)
        self.conventions = {"engine": "scripted"}
        self.reply = reply
        self.chats: list[Chat] = []
        self.calls = 0
        self.threads: set[int] = set()
        self.closed = False

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        self.calls += 1
        self.threads.add(threading.get_ident())
        found = []
        for chat in chats:
            self.chats.append([dict(message) for message in chat])
            reply = self.reply(chat)
            found.append(said(reply) if isinstance(reply, str) else reply)
        return found

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Iterator[list[tuple[int, Generation]]]:
        places = [place for place in range(len(chats)) if place not in done]
        yield list(zip(places, self.generate([chats[place] for place in places], how), strict=True))

    def logprobs(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[TokenScores]:
        raise NotImplementedError

    def hidden(self, chats: Sequence[Chat], layers: Sequence[int], pool: str) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scripted() -> Callable[[Callable[[Chat], Reply]], Scripted]:
    return Scripted


@pytest.fixture
def generation() -> Callable[..., Generation]:
    return said
