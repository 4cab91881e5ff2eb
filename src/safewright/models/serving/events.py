"""What a source of text says, one after the other: an `Opening`, any number of `Piece`, an `End`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from safewright.models.serving.requests import Asked
from safewright.types import Stop


@dataclass(frozen=True)
class Opening:
    """The answer begins: whether its prompt opened a block of reasoning, whether that is known, and how it is
    drawn."""

    opened: bool
    known: bool
    decoding: Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """Some text: ``raw`` as the model wrote it, ``text`` without special tokens; ``thought``: reasoning that a
    server has split off already."""

    raw: str
    text: str
    thought: bool = False


@dataclass(frozen=True)
class End:
    """Why the answer ended, and the tokens of prompt and answer where they are known.

    With the ``stop`` ``error`` the answer is broken off, and ``error`` says why.
    """

    stop: Stop
    prompt_tokens: int | None = None
    tokens: int | None = None
    error: str = ""


Event = Opening | Piece | End


class Source(Protocol):
    """Where answers come from."""

    @property
    def name(self) -> str:
        """What the model is called by clients."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What clients may know of the model."""
        ...

    @property
    def model(self) -> str:
        """Which model the log names: its place and digest."""
        ...

    @property
    def visible(self) -> Mapping[str, str]:
        """The markers of its reasoning."""
        ...

    def events(self, asked: Asked) -> AsyncGenerator[Event]:
        """The answer to one request. Closing it ends the work.

        Raises:
            Refused: There is none, for a reason that the client is told.
        """
        ...

    async def aclose(self) -> None:
        """Let go of threads and connections."""
        ...
