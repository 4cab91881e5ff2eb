"""A served prompt that leaves its answer too little room: when it is overlong, and which numbers are known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from safewright.models import overlong_counts
from safewright.models._http import counted_prompt
from safewright.types import Decoding
from tests.models.fault_server import FaultServer, Reply, complains, said
from tests.models.test_endpoint import chats, opened, server

__all__ = ["server"]


def strict(length: int, context: int, words: str) -> Any:
    """A server of one context that complains in ``words`` when prompt and answer do not fit."""

    def behave(request: dict[str, Any], number: int) -> Reply:
        wanted = request["max_tokens"]
        if length + wanted > context:
            return complains(
                400, words.format(context=context, wanted=wanted, length=length, least=context - wanted + 1)
            )
        return said("cut", finish="length", tokens=wanted, prompt=length)

    return behave


COUNTED = (
    "This model's maximum context length is {context} tokens. However, you requested {wanted} output tokens "
    "and your prompt contains {length} input tokens."
)
BOUNDED = (
    "This model's maximum context length is {context} tokens. However, you requested {wanted} output tokens "
    "and your prompt contains at least {least} input tokens."
)


@pytest.mark.parametrize("words", [COUNTED, BOUNDED])
@pytest.mark.parametrize(
    ("length", "room", "asked", "ends"),
    [
        (70, 1, [30], "length"),
        (80, 1, [30, 1, 20], "length"),
        (80, 20, [30, 1, 20], "length"),
        (81, 20, [30, 1], "overlong"),
        (99, 20, [30, 1], "overlong"),
        (99, 1, [30, 1], "length"),
        (60, 64, [30], "length"),
        (75, 64, [30, 1], "overlong"),
    ],
)
def test_an_answer_gets_the_room_it_needs_or_the_prompt_is_overlong(
    server: FaultServer, words: str, length: int, room: int, asked: list[int], ends: str
) -> None:
    server.behave = strict(length, 100, words)
    how = Decoding(max_new_tokens=30, least_room=room)
    for generate in (opened(server).generate, lambda *a: asyncio.run(opened(server).agenerate(*a))):
        server.requests.clear()
        (found,) = generate(chats(1), how)
        assert [request["max_tokens"] for request in server.requests] == asked
        assert found.stop == ends
        assert overlong_counts(found) == ((length, 100) if ends == "overlong" else None)
        assert found.answer == ("" if ends == "overlong" else "cut")


@pytest.mark.parametrize("length", [100, 120])
def test_a_prompt_beyond_the_context_is_counted_only_where_the_server_counts_it(
    server: FaultServer, length: int
) -> None:
    how = Decoding(max_new_tokens=30, least_room=20)
    for words, counts in ((COUNTED, (length, 100)), (BOUNDED, None), ("context_length_exceeded", None)):
        server.behave = strict(length, 100, words)
        (found,) = opened(server).generate(chats(1), how)
        assert found.stop == "overlong"
        assert overlong_counts(found) == counts
        assert "HTTP 400" in found.error


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("However, your messages resulted in 9000 tokens. Please reduce the length", 9000),
        ("you requested 5000 tokens (4990 in the messages, 10 in the completion)", 4990),
        ("your request has 80 input tokens", 80),
        ("your prompt contains at least 80 input tokens", None),
        ("maximum context length is 64 tokens", None),
        ("you requested 70 tokens", None),
    ],
)
def test_only_an_exact_count_is_read_as_one(words: str, count: int | None) -> None:
    assert counted_prompt(words) == count
