"""How a question reaches a model and what comes back: replies, failures, the circuit breaker, the loop they live on."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from safewright.guard.nouns import Failure
from safewright.runs import Background

Message = Mapping[str, str]
Stop = Literal["stop", "length"]
T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """What a model said, and the tokens as its server counts them (0 where it does not)."""

    text: str
    stop: Stop = "stop"
    tokens_in: int = 0
    tokens_out: int = 0


class Failed(Exception):  # noqa: N818 - it becomes an Analysis with a failure
    """A model gave no answer; ``failure`` says why, for machines. ``repairable``: asking once more may help."""

    def __init__(
        self,
        failure: Failure,
        detail: str = "",
        *,
        repairable: bool = False,
        tokens_in: int = 0,
        tokens_out: int = 0,
    ) -> None:
        super().__init__(detail)
        self.failure, self.detail, self.repairable = failure, detail, repairable
        self.tokens_in, self.tokens_out = tokens_in, tokens_out


class Client(Protocol):
    """A model that can be asked."""

    async def ask(
        self, messages: Sequence[Message], schema: Mapping[str, Any], seconds: float, most_tokens: int
    ) -> Reply:
        """One reply.

        Raises:
            Failed: There is none; in time, whatever happens.
        """

    def close(self) -> None:
        """Let go of connections."""


class Breaker:
    """Stops asking a model that cannot be reached, for a while: every question would use up its whole deadline.

    Args:
        failures: Connection failures and time-outs in a row that open it.
        cooldown: Seconds it stays open; then one question is let through, whose outcome closes or reopens it.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, failures: int = 3, cooldown: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failures, self.cooldown, self._clock = failures, cooldown, clock
        self._lock = threading.Lock()
        self._row = 0
        self._until = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether questions are turned away."""
        return self._row >= self.failures

    def enter(self) -> None:
        """Pass where a question may be asked; `left` must follow.

        Raises:
            Failed: `llm_connection`, at once.
        """
        with self._lock:
            if self._row < self.failures:
                return
            if self._trying or self._clock() < self._until:
                raise Failed("llm_connection", f"not asked: the last {self._row} questions failed")
            self._trying = True

    def left(self, reached: bool | None) -> None:
        """Count a question's outcome; None where it was broken off by who asked, which says nothing."""
        with self._lock:
            self._trying = False
            if reached:
                self._row = 0
            elif reached is not None:
                self._row += 1
                self._until = self._clock() + self.cooldown


class Guarded:
    """A client behind a breaker and a limit on the questions under way, both shared by all who ask.

    Everything runs on one event loop in a thread of its own, so that connections outlive the caller's loop:
    `Guard.check` makes one per call.
    """

    def __init__(self, client: Client, *, breaker: Breaker | None = None, concurrency: int = 8) -> None:
        self.client, self.breaker = client, breaker or Breaker()
        self._gate = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._loop: tuple[int, Background] | None = None

    async def ask(
        self, messages: Sequence[Message], schema: Mapping[str, Any], seconds: float, most_tokens: int
    ) -> Reply:
        """One reply, from any event loop; see `Client.ask`."""
        self.breaker.enter()
        reached: bool | None = None
        try:
            reply = await self._over(self._within(messages, schema, seconds, most_tokens))
            reached = True
            return reply
        except Failed as failed:
            reached = failed.failure not in ("llm_connection", "llm_timeout")
            raise
        finally:
            self.breaker.left(reached)

    async def _within(
        self, messages: Sequence[Message], schema: Mapping[str, Any], seconds: float, most_tokens: int
    ) -> Reply:
        until = time.monotonic() + seconds
        try:
            async with asyncio.timeout(max(seconds, 0.0)), self._gate:
                return await self.client.ask(messages, schema, until - time.monotonic(), most_tokens)
        except TimeoutError as error:
            raise Failed("llm_timeout", f"no answer within {seconds:.1f} s") from error

    async def _over(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that runs on the clients' own loop; breaking off here breaks it off there."""
        future = self._running().submit(work)
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # trio
            import anyio

            try:
                return await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True)
            finally:
                future.cancel()
        return await asyncio.wrap_future(future)

    def _running(self) -> Background:
        with self._lock:
            if (
                self._loop is None or self._loop[0] != os.getpid()
            ):  # a forked child has no thread of its parent's
                getattr(self.client, "forget", lambda: None)()
                self._gate = asyncio.Semaphore(self._concurrency)
                self._loop = (os.getpid(), Background().__enter__())
            return self._loop[1]

    def close(self) -> None:
        """Break off what is under way, and close the client."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and loop[0] == os.getpid():
            try:
                loop[1].submit(_closed(self.client)).result(5.0)
            finally:
                loop[1].__exit__()
        else:
            self.client.close()


async def _closed(client: Client) -> None:
    aclose = getattr(client, "aclose", None)
    if aclose is not None:
        await aclose()
    client.close()
