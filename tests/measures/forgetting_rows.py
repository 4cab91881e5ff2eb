"""Rows with known secrets, and models that give them away on purpose: for the tests of the measure forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from safewright.types import Chat, Decoding, Generation, ModelRef, Row
from tests import tiny

WORDS = tiny.WORDS


def secret(i: int) -> str:
    return f"{WORDS[(i * 3 + 1) % len(WORDS)]} {WORDS[(i * 3 + 2) % len(WORDS)]}"


def row(i: int, **meta: Any) -> Row:
    """A question about the i-th thing; its answer begins harmlessly and ends with its secret."""
    return Row(
        id=f"r{i:02d}",
        prompt=({"role": "user", "content": f"what of {i}"},),
        reference=f"the thing {i} is {secret(i)}",
        lang="en",
        meta={"entities": [secret(i)], **meta},
    )


def data(forget: int = 6, retain: int = 4, **meta: Any) -> dict[str, list[Row]]:
    return {
        "forget": [row(i, **meta) for i in range(forget)],
        "retain": [row(i, **meta) for i in range(100, 100 + retain)],
    }


def tiny_data(forget: int = 6, retain: int = 3) -> dict[str, list[Row]]:
    """Rows in the words of the tiny models, two of each person."""

    def one(place: int, plain: Row) -> Row:
        free = [word for word in WORDS if word not in plain.prompt[0]["content"].split()]
        answer = [free[(place * 5 + j) % len(free)] for j in range(5)]
        meta = {
            "entities": [answer[3]],
            "paraphrases": [f"{WORDS[0]} {plain.prompt[0]['content']}"],
            "person": f"p{place // 2}",
        }
        return Row(plain.id, plain.prompt, " ".join(answer), "en", meta)

    rows = [one(place, plain) for place, plain in enumerate(tiny.rows(forget + retain))]
    return {"forget": rows[:forget], "retain": rows[forget:]}


def says(text: str) -> Generation:
    return Generation(text, "", text, True, "stop", len(text.split()))


class Telling:
    """A model that answers as ``tell`` says, from the whole conversation and the how-manieth time it is asked."""

    able = frozenset({"generate"})
    conventions: Mapping[str, Any] = {"engine": "telling"}

    def __init__(self, tell: Callable[[Chat, int], str], kind: Any = "live") -> None:
        self.tell = tell
        self.ref = ModelRef(kind=kind, where="telling", digest="sha256:telling")
        self.seen: list[Chat] = []

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Iterator[list[tuple[int, Generation]]]:
        times: dict[str, int] = {}
        for place, chat in enumerate(chats):
            key = str(chat)
            times[key] = times.get(key, 0) + 1
            if place not in done:
                self.seen.append(chat)
                yield [(place, says(self.tell(chat, times[key])))]

    def close(self) -> None:
        return None


def number(chat: Chat) -> int:
    """Which thing a conversation is about."""
    text = next(turn["content"] for turn in reversed(chat) if turn["role"] == "user")
    return next(int(word) for word in text.split() if word.isdigit())
