"""Answers of another OpenAI-compatible server, read as it sends them; only text comes through, and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from safewright.models._http import LARGEST_REPLY, STOPS, api_key, open_client
from safewright.models.chat import STARTED, split_reasoning, started
from safewright.models.endpoint import parse_endpoint
from safewright.models.recipes import check_decoding
from safewright.models.serving.events import End, Event, Opening, Piece
from safewright.models.serving.requests import Asked, Refused
from safewright.types import ModelRef, Recipe, Stop

CONNECTIONS = 256
"""Requests under way at once."""


class UpstreamSource:
    """A `Source` over a running server.

    Args:
        ref: Its reference; see `safewright.models.endpoint.endpoint_ref`.
        visible: The markers of its model's reasoning.
        recipe: Decoding defaults of its model.
        opened: Whether its template opens a block of reasoning in the prompt; None where that is not known.
        most_tokens: Tokens of an answer where neither request nor recipe says otherwise.
        timeout: Seconds without a word after which it is given up.

    Raises:
        Missing: httpx is not installed.
    """

    def __init__(
        self,
        ref: ModelRef,
        visible: Mapping[str, str],
        *,
        recipe: Recipe | None,
        opened: bool | None,
        most_tokens: int,
        timeout: float,
    ) -> None:
        base, name = parse_endpoint(ref.where)
        self._base, self.name, self._opened, self._timeout = base, name or "", opened, timeout
        self.visible, self.model = dict(visible), f"{ref.where}@{ref.digest}"
        self.facts: Mapping[str, Any] = {"root": ref.digest}
        self._default = {"max_new_tokens": most_tokens, **check_decoding(recipe.decoding if recipe else {})}
        self._client = open_client(base, connections=CONNECTIONS)

    async def events(self, asked: Asked) -> AsyncGenerator[Event]:
        how = {**self._default, **asked.chosen}
        payload = self._payload(asked, how)
        async with self._reply(payload) as response:
            # Where nobody knows whether the prompt opened a block, the filter finds out.
            yield Opening(*goes_on_inside(asked, self.visible, self._opened), how)
            found = _Told()
            async for reply in self._replies(response, streamed=asked.stream):
                for piece in found.take(reply):
                    yield piece
            if found.stop is None:
                raise Refused(502, "The server behind broke its answer off.")
            yield End(found.stop, found.count("prompt_tokens"), found.count("completion_tokens"))

    def _payload(self, asked: Asked, how: Mapping[str, Any]) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "model": self.name,
            "messages": [{key: turn[key] for key in ("role", "content")} for turn in asked.chat],
            "max_tokens": how["max_new_tokens"],
            "stream": asked.stream,
            **{key: how[key] for key in ("temperature", "top_p", "top_k", "seed") if key in how},
        }
        if asked.stream and asked.counts:
            payload["stream_options"] = {"include_usage": True}
        if asked.chat[-1].get(STARTED):
            payload |= {"continue_final_message": True, "add_generation_prompt": False}
        return payload

    @asynccontextmanager
    async def _reply(self, payload: Mapping[str, Any]) -> AsyncIterator[Any]:
        """The head of a successful reply.

        Raises:
            Refused: There is none, or it breaks off later.
        """
        import httpx

        limits = httpx.Timeout(self._timeout, connect=10.0)
        url = f"{self._base}/chat/completions"
        try:
            async with self._client.stream("POST", url, json=payload, timeout=limits) as response:
                if not 200 <= response.status_code < 300:
                    words = (await _read(response))[:2000].decode("utf-8", "replace")
                    told = _message(words)
                    ours = response.status_code in (401, 403)  # the key is this server's matter
                    if 400 <= response.status_code < 500 and not ours:
                        raise Refused(response.status_code, f"The server behind refuses this: {told}")
                    raise Refused(502, f"The server behind failed (HTTP {response.status_code}): {told}")
                yield response
        except httpx.TimeoutException as error:
            raise Refused(504, f"The server behind said nothing for {self._timeout:g} s.") from error
        except httpx.HTTPError as error:
            raise Refused(502, f"The server behind cannot be reached: {type(error).__name__}.") from error

    async def _replies(self, response: Any, *, streamed: bool) -> AsyncGenerator[Any]:
        if not streamed:
            yield _parsed((await _read(response)).decode("utf-8", "replace"))
            return
        async for line in response.aiter_lines():
            field, found, data = line.partition(":")
            if not found or field != "data":
                continue  # comments and other fields of an event
            if data.strip() == "[DONE]":
                return
            yield _parsed(data)

    async def aclose(self) -> None:
        await self._client.aclose()


def goes_on_inside(asked: Asked, visible: Mapping[str, str], opened: bool | None) -> tuple[bool, bool]:
    """Whether the model goes on inside a block of reasoning, and whether that is known.

    Args:
        asked: The request; a client may have begun the answer, and in it a block.
        visible: The markers.
        opened: Whether the template opens a block in the prompt; None where that is not known.
    """
    words = started(asked.chat)
    if words is not None and any(marker in words for marker in visible.values()):
        return not split_reasoning(words, visible, opened=bool(opened))[2], True
    return bool(opened), opened is not None


class _Told:
    """What a server has said so far about one answer besides its text."""

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self._usage: Mapping[str, Any] = {}

    def count(self, key: str) -> int | None:
        value = self._usage.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    def take(self, reply: Any) -> list[Piece]:
        """The text of a reply, or of a part of one."""
        if isinstance(reply, dict) and reply.get("error"):
            raise Refused(502, f"The server behind failed: {_message(json.dumps(reply))}")
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list):
            raise Refused(502, "The server behind sent a reply without choices.")
        if isinstance(reply.get("usage"), dict):
            self._usage = reply["usage"]
        pieces: list[Piece] = []
        for choice in choices[:1]:
            said = (choice.get("delta") or choice.get("message")) if isinstance(choice, dict) else None
            if not isinstance(said, dict | None) or not isinstance(choice, dict):
                raise Refused(502, "The server behind sent a reply that is no message.")
            thought = next((t for key in _THOUGHTS if isinstance(t := (said or {}).get(key), str) and t), "")
            content = (said or {}).get("content")
            if content is None:
                content = (said or {}).get("refusal") or ""
            if not isinstance(content, str):
                raise Refused(502, "The server behind sent content that is no text.")
            pieces += [
                Piece(text, text, thought=is_) for text, is_ in ((thought, True), (content, False)) if text
            ]
            finish = choice.get("finish_reason")
            if finish == "content_filter":
                raise Refused(502, "The content filter of the server behind kept the answer back.")
            if finish is not None:
                if finish not in STOPS:
                    raise Refused(502, f"The server behind ended with the finish_reason {finish!r:.40}.")
                self.stop = STOPS[finish]
        return pieces


_THOUGHTS = ("reasoning_content", "reasoning")
"""Where servers put reasoning that they split off themselves."""


async def _read(response: Any) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LARGEST_REPLY:
            raise Refused(502, "The server behind sent more than an answer.")
    return bytes(body)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(502, "The server behind sent a reply that is not JSON.") from error


def _message(words: str) -> str:
    """A server's own words about an error, on one line; the key they may repeat is taken out."""
    try:
        told = json.loads(words)
        error = told.get("error", told) if isinstance(told, dict) else words
        words = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, RecursionError):
        pass
    key = api_key()
    line = " ".join((words.replace(key, "***") if key else words).split())
    return line if len(line) <= 300 else f"{line[:300]}…"
