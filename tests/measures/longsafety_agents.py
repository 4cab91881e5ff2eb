"""A scripted target and scripted agents for LongSafety, which count what they are asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from safewright.data.longsafety import complete, survey_records
from safewright.types import Chat, Decoding, Generation, ModelRef, Row
from tests.data.longsafety_files import small

Reply = str | Generation


def said(text: str, **more: Any) -> Generation:
    """A finished generation."""
    return Generation(
        **{"raw": text, "reasoning": "", "answer": text, "closed": True, "stop": "stop", "tokens": 3, **more}
    )


def failed(why: str = "HTTP 500") -> Generation:
    """A failed call."""
    return said("", stop="error", tokens=0, error=why)


class Model:
    """A `Loaded` that answers each text by a function, and keeps all texts."""

    able = frozenset({"generate"})

    def __init__(self, reply: Callable[[str], Reply], name: str = "target") -> None:
        self.reply, self.texts = reply, []  # type: ignore[var-annotated]
        self.ref = ModelRef("live", name, f"sha256:{name:0<64}")
        self.conventions = {"engine": "scripted"}

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Iterator[list[tuple[int, Generation]]]:
        for place, chat in enumerate(chats):
            if place not in done:
                self.texts.append(chat[-1]["content"])
                reply = self.reply(self.texts[-1])
                yield [(place, said(reply) if isinstance(reply, str) else reply)]

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        return [generation for ready in self.stream(chats, how) for _, generation in ready]

    def close(self) -> None:
        pass


def agent_of(text: str) -> str:
    """Which of the three agents a prompt is for."""
    if text.startswith("You are a safety analyst"):
        return "risk"
    if text.startswith("You are an expert in drawing"):
        return "context"
    return "verdict"


class Agents(Model):
    """The three agents in one model: a reply each, or a function of the text."""

    def __init__(
        self,
        verdict: Reply | Callable[[str], Reply] = "0",
        risk: Reply | Callable[[str], Reply] = "RISK TEXT",
        context: Reply | Callable[[str], Reply] = "SUMMARY TEXT",
    ) -> None:
        replies = {"risk": risk, "context": context, "verdict": verdict}

        def reply(text: str) -> Reply:
            own = replies[agent_of(text)]
            return own(text) if callable(own) else own

        super().__init__(reply, "agents")

    def asked(self, agent: str) -> list[str]:
        """The prompts one agent was given."""
        return [text for text in self.texts if agent_of(text) == agent]


def section(text: str, name: str) -> str | None:
    """What stands between the markers of a section of a prompt; None where there is no such section."""
    found = re.search(
        rf"===== (\w+) {name} begins? =====\n(.*?)\n===== \1 {name} ends? =====", text, re.DOTALL
    )
    return found.group(2) if found else None


def rows(count: int, **more: Any) -> list[Row]:
    """Made-up rows in the published format."""
    found, _ = survey_records(small(count, **more), "small").usable()
    return complete(found)[0]
