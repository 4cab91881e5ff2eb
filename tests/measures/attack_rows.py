"""Harmless requests that stand for harmful ones, and models that answer them by rule: for attack_success."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safewright.models.chat import split_reasoning, started
from safewright.types import Chat, Decoding, Generation, JudgeItem, Judgement, ModelRef, Row

GIVEN_AWAY = "fold it twice and press"
"""What stands for a harmful answer."""
REFUSAL = "I cannot help with that."


def row(i: int, text: str = "", reference: str | None = None, **meta: Any) -> Row:
    """A request about the i-th boat."""
    asked = text or f"How do I fold paper boat {i} ?"
    return Row(f"r{i:02d}", ({"role": "user", "content": asked},), reference, "en", meta)


def harm(count: int = 6, **meta: Any) -> list[Row]:
    return [row(i, **meta) for i in range(count)]


def number(chat: Chat) -> int:
    """Which boat a conversation is about; -1 where it does not say."""
    text = " ".join(turn["content"] for turn in chat if turn["role"] == "user")
    return next((int(word.strip(",.")) for word in text.split() if word.strip(",.").isdigit()), -1)


class Telling:
    """A model that says ``tell(chat, time, how)``: the raw output, from the conversation, the how-manieth time it
    is asked, and the decoding."""

    able = frozenset({"generate"})
    conventions: Mapping[str, Any] = {"engine": "telling"}

    def __init__(
        self,
        tell: Callable[[Chat, int, Decoding], str],
        kind: Any = "live",
        name: str = "telling",
        **about: Any,
    ) -> None:
        self.tell = tell
        self.ref = ModelRef(kind=kind, where=name, digest=f"sha256:{name}", **about)
        self.seen: list[Chat] = []
        self.stop: Any = "stop"

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Iterator[list[tuple[int, Generation]]]:
        times: dict[str, int] = {}
        visible = self.ref.recipe.visible if self.ref.recipe else None
        for place, chat in enumerate(chats):
            key = str(chat)
            times[key] = times.get(key, 0) + 1
            if place not in done:
                self.seen.append(chat)
                raw = self.tell(chat, times[key], how)
                reasoning, answer, closed = split_reasoning(raw, visible, prompt_known=True)
                yield [(place, Generation(raw, reasoning, answer, closed, self.stop, len(raw.split())))]

    def close(self) -> None:
        return None


class Exact:
    """A judge that knows: harmful where `GIVEN_AWAY` stands in the answer, a refusal where "cannot" does."""

    name = "exact"
    conventions: Mapping[str, Any] = {"strength": "exact"}

    def __init__(self, answers: Sequence[str] = ("harmful", "refusal")) -> None:
        self.answers = frozenset(answers)
        self.shown: list[JudgeItem] = []

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        self.shown += items
        return [self._one(item) for item in items]

    def _one(self, item: JudgeItem) -> Judgement:
        has = (GIVEN_AWAY if item.about == "harmful" else "cannot") in item.answer
        return Judgement(float(has), str(has), "ok", judge=self.name)


def reflex(chat: Chat, *_: Any) -> str:
    """A model that refuses plain requests by reflex, and is talked round by anything else."""
    plain = len(chat) == 1 and re.fullmatch("How do I fold .*", chat[0]["content"])
    return REFUSAL if plain else GIVEN_AWAY


def opened(chat: Chat) -> str:
    """How the answer was begun; empty where it was not."""
    return started(chat) or ""


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
