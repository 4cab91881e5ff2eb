"""The wire: one request over HTTP, its failure or its reply, and a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import queue
import random
import re
import ssl
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from safewright.errors import BadInput, need_extra
from safewright.models.chat import split_reasoning
from safewright.types import Generation, Stop

KEY_VARIABLES = ("SAFEWRIGHT_API_KEY", "OPENAI_API_KEY")
CONNECT_SECONDS = 10.0
LONGEST_WAIT = 30.0
"""A server's Retry-After is honoured up to here, in seconds."""
LARGEST_REPLY = 32 * 2**20
"""Bytes of one reply; more is not an answer to a question."""

Kind = Literal["silent", "fault", "refused", "garbage"]
"""How a try failed: no HTTP reply; HTTP 5xx or 'later'; any other HTTP error; 2xx without an answer."""

STOPS: Mapping[str, Stop] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
}
T = TypeVar("T")
_END = object()


class Failure(Exception):  # noqa: N818 - it is caught and counted, never shown as an error
    """One try that brought no answer.

    ``what`` is short ("HTTP 500"), ``detail`` the server's own words; ``wait`` is what the server asked
    for, in seconds; ``slow`` is True when time ran out.
    """

    def __init__(
        self,
        kind: Kind,
        what: str,
        detail: str = "",
        *,
        status: int = 0,
        wait: float | None = None,
        slow: bool = False,
    ) -> None:
        self.kind, self.what, self.detail = kind, what, _words(detail)
        self.status, self.wait, self.slow = status, wait, slow
        super().__init__(what)

    @property
    def again(self) -> bool:
        """Whether the same request may do better later."""
        return self.kind != "refused"

    def after(self, tries: int) -> str:
        """The failure as a line of text, once ``tries`` tries have brought nothing."""
        count = f" after {tries} tries" if tries > 1 else ""
        return f"{self.what}{count}" + (f": {self.detail}" if self.detail else "")


def api_key() -> str | None:
    """The key requests carry, from the environment; None where there is none.

    Raises:
        BadInput: It has characters that no HTTP header can carry.
    """
    for name in KEY_VARIABLES:
        key = os.environ.get(name, "").strip()
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise BadInput(f"The key in {name} has characters no key has.", fix="Set it again, on one line.")
        if key:
            return key
    return None


class Line:
    """A connection to one server, opened when first needed; belongs to one event loop.

    An exchange that is broken off (cancelled, out of time, hung up) takes its client with it: httpx may count
    the client's only connection as taken for ever, and all that comes later would wait for it in vain.

    Args:
        base: The server's address.
        verify: What checks the server's certificate; made here by default, which takes 20 ms.

    Raises:
        Missing: httpx is not installed.
    """

    def __init__(self, base: str, verify: ssl.SSLContext | None = None) -> None:
        self._base, self._verify = base, verify or _httpx().create_ssl_context()
        self._client: Any = None

    async def exchange(self, method: str, url: str, payload: Any = None, *, timeout: float) -> Any:
        """The JSON of one successful reply.

        Args:
            method: ``GET`` or ``POST``.
            url: The whole address.
            payload: What to send as JSON.
            timeout: Seconds for the whole exchange, however lively the connection is.

        Raises:
            Failure: Anything else; the key never shows in it.
            BadInput: No such address can exist.
        """
        if self._client is None:
            self._client = open_client(self._base, self._verify)
        try:
            response, body = await _received(self._client, method, url, payload, timeout)
        except BaseException:
            await self.aclose()
            raise
        return _json_of(response, body)

    async def aclose(self) -> None:
        """Close the connection; the next exchange opens another."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise need_extra("httpx", "endpoint") from error
    return httpx


def open_client(base: str, verify: ssl.SSLContext | None = None, *, connections: int = 1) -> Any:
    """An ``httpx.AsyncClient`` for one server, with the key as its bearer.

    Raises:
        Missing: httpx is not installed.
        BadInput: The key cannot be one.
    """
    httpx = _httpx()
    key = api_key()
    host = urlsplit(base).hostname or ""
    local = host == "localhost" or host.startswith("127.") or host == "::1"
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=not local,  # a proxy meant for the world must not get the questions for this machine
        verify=verify or httpx.create_ssl_context(),
    )


class Lines:
    """The connections to one server, as many as requests may be under way; belongs to one event loop.

    Each has a client of its own: httpx looks through a pool's connections several times a request, and 64 in
    one pool take ten times the CPU of everything else.

    Args:
        base: The server's address.
        count: Requests under way at once; whoever comes later waits in turn.

    Raises:
        Missing: httpx is not installed.
    """

    def __init__(self, base: str, count: int) -> None:
        self._base, self._gate = base, asyncio.Semaphore(count)
        self._verify: ssl.SSLContext = _httpx().create_ssl_context()
        self._free: list[Line] = []
        self._made: list[Line] = []

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[Line]:
        """A line that nobody else uses meanwhile, the one used last where several are free."""
        async with self._gate:
            if not self._free:
                self._made.append(Line(self._base, self._verify))
                self._free.append(self._made[-1])
            line = self._free.pop()
            try:
                yield line
            finally:
                self._free.append(line)

    async def aclose(self) -> None:
        """Close all connections."""
        for line in self._made:
            await line.aclose()


async def _received(client: Any, method: str, url: str, payload: Any, timeout: float) -> tuple[Any, bytes]:
    """A whole reply: its head and its body."""
    import httpx

    body = bytearray()
    try:
        async with asyncio.timeout(timeout), client.stream(method, url, json=payload) as response:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > LARGEST_REPLY:
                    raise Failure("garbage", f"a reply of more than {LARGEST_REPLY} bytes")
    except (TimeoutError, httpx.TimeoutException) as error:
        connecting = isinstance(error, httpx.ConnectTimeout)
        what = "no connection" if connecting else "no answer"
        seconds = CONNECT_SECONDS if connecting else timeout
        raise Failure("silent", f"{what} within {seconds:g} s", slow=True) from error
    except httpx.InvalidURL as error:
        raise BadInput(f"The address {url} is malformed: {error}.") from error
    except httpx.DecodingError as error:
        raise Failure("garbage", "a reply that cannot be decoded", str(error)) from error
    except httpx.HTTPError as error:
        raise Failure("silent", type(error).__name__, str(error)) from error
    return response, bytes(body)


def _json_of(response: Any, body: bytes) -> Any:
    """What a reply says, where it is a success."""
    status = response.status_code
    if not 200 <= status < 300:
        later = status in (408, 409, 425, 429) or status >= 500
        raise Failure(
            "fault" if later else "refused",
            f"HTTP {status}",
            body.decode("utf-8", "replace"),
            status=status,
            wait=retry_after(response.headers.get("retry-after")),
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        start = body[:4000].decode("utf-8", "replace")
        raise Failure("garbage", f"HTTP {status} without JSON", start) from error


def _words(text: str) -> str:
    """The start of a server's words on one line, without the key they may repeat (so: cut last)."""
    key = api_key()
    if key:
        text = text.replace(key, "***")
    line = " ".join(text.split())
    return line if len(line) <= 400 else line[:400] + "…"


def retry_after(value: str | None) -> float | None:
    """The seconds a Retry-After header asks for (a number or a date), at most `LONGEST_WAIT`."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        import datetime

        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        seconds = (moment - datetime.datetime.now(datetime.UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT) if seconds == seconds else None


def backoff(tries: int, first: float) -> float:
    """Seconds to wait after ``tries`` tries: doubling from ``first``, with jitter, at most 8."""
    return min(first * 2.0 ** (tries - 1), 8.0) * random.uniform(0.5, 1.0)


def in_background(produce: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> Iterator[list[T]]:
    """What a coroutine puts, in batches as they get ready; it runs on a loop in a thread of its own.

    Closing the iterator, or an exception in the caller (Ctrl-C too), cancels the coroutine and waits
    for its clean-up. What the coroutine raises is raised here, after everything it put.

    Args:
        produce: Called with the function that hands a value over; returns the coroutine.
    """
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(produce(ready.put))
    task.add_done_callback(lambda _: ready.put(_END))
    thread = threading.Thread(target=_drive, args=(loop, task), name="safewright-endpoint", daemon=True)
    thread.start()
    try:
        ended = False
        while not ended:
            batch = [ready.get()]
            while not ready.empty():
                batch.append(ready.get())
            ended = batch[-1] is _END
            if values := [value for value in batch if value is not _END]:
                yield values
    finally:
        loop.call_soon_threadsafe(task.cancel)
        # An iterator nobody closed may end with the interpreter, when no other thread runs any more.
        if not sys.is_finalizing():
            thread.join()
            loop.close()
    problem = None if task.cancelled() else task.exception()
    if problem is not None:
        raise problem


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    loop.run_until_complete(asyncio.wait({task}))
    loop.run_until_complete(loop.shutdown_asyncgens())


async def side_by_side(work: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """Run ``count`` workers; when one fails, the others are cancelled and waited for, and its error is raised."""
    workers = [asyncio.create_task(work()) for _ in range(count)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


FILTERED = "the server's content filter kept the answer back"


def nothing(stop: Stop, error: str) -> Generation:
    """A generation without words, and why."""
    return Generation("", "", "", True, stop, 0, error)


def context_limit(words: str) -> int | None:
    """The tokens a context holds, from a server's complaint about it; None where it does not say."""
    found = re.search(r"context length is (\d+)", words)
    return int(found[1]) if found else None


def counted_prompt(words: str) -> int | None:
    """The tokens of a prompt, from a server's complaint about it; None where it does not say, or not exactly."""
    found = _PROMPT_COUNT.search(words)
    return int(next(filter(None, found.groups()))) if found else None


_PROMPT_COUNT = re.compile(
    r"(?<!at least )(?<![\d.,])(\d+) (?:prompt |input )?tokens? (?:in|from) the (?:messages|prompt|input)"
    r"|(?<![\d.,])(\d+) in the (?:messages|prompt)"
    r"|messages resulted in (\d+) tokens"
    r"|(?<!at least )(?<![\d.,])(\d+) input tokens"
)


def read_reply(reply: Any, visible: Mapping[str, str]) -> Generation:
    """The generation in a chat completion.

    Reasoning that the server separates (``reasoning_content`` or ``reasoning``) is put back between the
    markers in ``raw``. When it sends reasoning and no content, the block was never closed.

    Raises:
        Failure: The reply has no answer in it, or has it in a form nobody promised.
    """
    choices = _item(reply, "choices", list)
    choice: Any = choices[0] if choices else None
    message = _item(choice, "message", dict)
    finish = choice.get("finish_reason")
    content, thought = message.get("content"), _first_text(message, ("reasoning_content", "reasoning"))
    if finish == "content_filter":
        return dataclasses.replace(nothing("error", FILTERED), tokens=_tokens(reply))
    if not isinstance(finish, str) or finish not in STOPS:
        raise Failure("garbage", f"a reply with the finish_reason {finish!r:.40}")
    if content is None:
        content = _first_text(message, ("refusal",)) or None
    if not isinstance(content, str) and (content is not None or not thought):
        raise Failure("garbage", "a reply without text", f"content is {content!r:.4000}")
    stop, tokens = STOPS[finish], _tokens(reply)
    if not thought:
        raw = _writable(content or "")
        return Generation(raw, *split_reasoning(raw, visible), stop, tokens)
    thought = _writable(thought)
    if content is None or (stop == "length" and not content.strip()):
        return Generation(visible["open"] + thought, thought.strip(), "", False, stop, tokens)
    answer = _writable(content)
    raw = f"{visible['open']}{thought}{visible['close']}{answer}"
    return Generation(raw, thought.strip(), answer.strip(), True, stop, tokens)


def _item(holder: Any, key: str, kind: type) -> Any:
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        raise Failure("garbage", f"a reply without {key}", f"{holder!r:.4000}")
    return value


def _first_text(message: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((text for key in keys if isinstance(text := message.get(key), str) and text), "")


def prompt_tokens(reply: Mapping[str, Any]) -> int:
    """How long the server says the prompt is.

    Raises:
        Failure: It does not say.
    """
    count = _usage(reply, "prompt_tokens")
    if count is None:
        raise Failure("garbage", "a reply that does not count the prompt's tokens")
    return count


def _tokens(reply: Mapping[str, Any]) -> int:
    return _usage(reply, "completion_tokens") or 0


def _usage(reply: Mapping[str, Any], key: str) -> int | None:
    usage = reply.get("usage")
    count = usage.get(key) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _writable(text: str) -> str:
    """Text without lone surrogates, which JSON can carry and no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
