"""The models that can be asked: served ones over HTTP, those that Inspect AI reaches, and local ones."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from safewright.errors import BadInput, need_extra
from safewright.guard.analyst.transport import Client, Failed, Message, Reply

Level = Literal["json_schema", "json_object", "none"]
LEVELS: tuple[Level, ...] = ("json_schema", "json_object", "none")
"""How an answer's form is asked for; a server that refuses one is asked with the next, and so from then on."""
REPLY_LIMIT = 2**20
WAIT_SECONDS = 0.15
"""Before the one repeat after a broken connection or an answer of the kind 'later'."""


def open_client(model: Any) -> Client:
    """The client of a model reference, or of a model of Inspect's or safewright's own.

    Raises:
        BadInput: It names no model.
        Missing: A package it needs is not installed.
    """
    if not isinstance(model, str):
        if hasattr(model, "generate") and hasattr(model, "api"):
            return ThroughInspect(model)
        if hasattr(model, "generate") and hasattr(model, "able"):
            return Local(model)
        raise BadInput(f"A {type(model).__name__} is no model that can be asked.", fix=_EXAMPLE)
    if model.startswith(("http://", "https://")):
        if importlib.util.find_spec("httpx") is None:
            raise need_extra("httpx", "guard")
        from safewright.models.endpoint import parse_endpoint

        base, name = parse_endpoint(model)
        if name is None:
            raise BadInput(f"The reference {model} names no model.", fix=f"Write {base}#MODEL-NAME.")
        return Served(base, name)
    if model.startswith("inspect:"):
        from safewright.models.inspect_model import inspect_ref

        return ThroughInspect(inspect_ref(model).where)
    from safewright.models import load

    return Local(load(model, need=frozenset({"generate"})))


_EXAMPLE = "Give http://host:port/v1#NAME, inspect:PROVIDER/NAME, or a model folder."


class Served:
    """A model behind any server that speaks the OpenAI chat protocol."""

    def __init__(self, base: str, name: str, *, concurrency: int = 8) -> None:
        self.base, self.name, self.level = base, name, 0
        self._concurrency = concurrency
        self._limit_key = "max_tokens"
        self._plain = False
        self._lines: Any = None

    async def ask(
        self, messages: Sequence[Message], schema: Mapping[str, Any], seconds: float, most_tokens: int
    ) -> Reply:
        """One reply; see `Client.ask`."""
        from safewright.models._http import Failure, Lines

        if self._lines is None:
            self._lines = Lines(self.base, self._concurrency)
        until = time.monotonic() + seconds
        again = True
        while True:
            level = self.level
            payload = self._payload(messages, schema, most_tokens)
            try:
                async with self._lines.one() as line:
                    left = max(until - time.monotonic(), 0.001)
                    answer = await line.exchange(
                        "POST", f"{self.base}/chat/completions", payload, timeout=left
                    )
                return read_completion(answer)
            except Failure as failure:
                if failure.slow and until - time.monotonic() < 0.05:
                    raise Failed("llm_timeout", failure.after(1)) from failure
                if failure.kind == "garbage":
                    raise Failed("llm_unparsed", failure.what, repairable=True) from failure
                if failure.kind == "refused":
                    if self._yields(failure.status, failure.detail, level):
                        continue
                elif again and until - time.monotonic() > 2 * WAIT_SECONDS:
                    again = False
                    await asyncio.sleep(WAIT_SECONDS)
                    continue
                raise Failed("llm_connection", failure.after(1)) from failure

    def _payload(
        self, messages: Sequence[Message], schema: Mapping[str, Any], most_tokens: int
    ) -> dict[str, Any]:
        payload: dict[str, Any] = {"model": self.name, "messages": list(messages)}
        payload[self._limit_key] = most_tokens
        if not self._plain:
            payload["temperature"] = 0
            payload["seed"] = 0
        level = LEVELS[self.level]
        if level == "json_schema":
            form = {"name": "answer", "strict": True, "schema": schema}
            payload["response_format"] = {"type": "json_schema", "json_schema": form}
        elif level == "json_object":
            payload["response_format"] = {"type": "json_object"}
        return payload

    def _yields(self, status: int, words: str, level: int) -> bool:
        """Whether a refused request can be sent in another way; remembered for all that follow."""
        if status not in (400, 404, 415, 422, 501):
            return False
        if self.level != level:  # another question has found out meanwhile
            return True
        if self._limit_key == "max_tokens" and "max_completion_tokens" in words:
            self._limit_key = "max_completion_tokens"
            return True
        if not self._plain and re.search(r"\b(temperature|seed)\b", words):
            self._plain = True
            return True
        if status != 404 and self.level + 1 < len(LEVELS):
            self.level += 1
            return True
        return False

    def forget(self) -> None:
        """Leave the connections alone: they are another process's."""
        self._lines = None

    async def aclose(self) -> None:
        """Close the connections; on the loop they were made on."""
        lines, self._lines = self._lines, None
        if lines is not None:
            await lines.aclose()

    def close(self) -> None:
        """Nothing else to let go of."""


def read_completion(answer: Any) -> Reply:
    """The reply in a chat completion.

    Raises:
        Failed: It was refused (`llm_refused`), or this is no chat completion (`llm_unparsed`).
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Failed("llm_unparsed", "a reply that is no chat completion", repairable=True)
    usage = answer.get("usage")
    spent: dict[str, Any] = {
        "tokens_in": _count(usage, "prompt_tokens"),
        "tokens_out": _count(usage, "completion_tokens"),
    }
    finish = choice.get("finish_reason")
    refusal = message.get("refusal")
    if finish == "content_filter" or (isinstance(refusal, str) and refusal.strip()):
        raise Failed("llm_refused", "the server says so", **spent)
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise Failed("llm_unparsed", "a reply whose content is no text", repairable=True, **spent)
    cut = finish in ("length", "max_tokens")
    return Reply(_writable(content or ""), "length" if cut else "stop", **spent)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _writable(text: str) -> str:
    """Text without lone surrogates, at most a little more than is ever read."""
    return text[:REPLY_LIMIT].encode("utf-8", "replace").decode("utf-8")


class ThroughInspect:
    """A model that Inspect AI reaches: a name, opened when it is first asked, or a model of Inspect's.

    Raises:
        Missing: Inspect is not installed.
    """

    def __init__(self, model: Any) -> None:
        try:
            import inspect_ai.model  # noqa: F401 - takes seconds, which are not the first question's to wait for
        except ImportError as error:
            raise need_extra("inspect-ai", "eval") from error
        self._name = model if isinstance(model, str) else ""
        self._model: Any = None if isinstance(model, str) else model
        self._formed = True

    async def ask(
        self, messages: Sequence[Message], schema: Mapping[str, Any], seconds: float, most_tokens: int
    ) -> Reply:
        """One reply; see `Client.ask`."""
        model = self._opened()
        from inspect_ai.model import GenerateConfig, ResponseSchema
        from inspect_ai.util import JSONSchema

        from safewright.models.inspect_model import messages_of

        config = GenerateConfig(temperature=0, seed=0, max_tokens=most_tokens, max_retries=0)
        form = ResponseSchema(name="answer", json_schema=JSONSchema.model_validate(schema), strict=True)
        turns: Any = [dict(message) for message in messages]
        while True:
            asked = config.model_copy(update={"response_schema": form}) if self._formed else config
            try:
                output = await model.generate(messages_of(turns), config=asked)
                break
            except TimeoutError as error:
                raise Failed("llm_timeout", type(error).__name__) from error
            except Exception as error:  # providers have errors of their own
                said = f"{type(error).__name__}: {error}"[:400]
                if self._formed and re.search(r"schema|response_format|json_object|structured", said, re.I):
                    self._formed = False
                    continue
                raise Failed("llm_connection", said) from error
        used = output.usage
        spent: dict[str, Any] = {
            "tokens_in": used.input_tokens if used else 0,
            "tokens_out": used.output_tokens if used else 0,
        }
        if output.stop_reason == "content_filter":
            raise Failed("llm_refused", "the provider says so", **spent)
        if output.empty or output.error:
            raise Failed("llm_connection", (output.error or "an output without a choice")[:400], **spent)
        cut = output.stop_reason in ("max_tokens", "model_length")
        return Reply(_writable(output.message.text), "length" if cut else "stop", **spent)

    def _opened(self) -> Any:
        if self._model is None:
            from inspect_ai.model import get_model

            try:
                self._model = get_model(self._name, memoize=False)
            except Exception as error:  # an unknown provider, a missing key or package
                raise Failed("llm_connection", f"{type(error).__name__}: {error}"[:400]) from error
        return self._model

    def close(self) -> None:
        """Nothing to let go of: Inspect keeps its own connections."""


class Local:
    """A model in memory (`safewright.models.load`), one question at a time, each in a thread that may be left alone."""

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded
        self._busy = threading.Lock()

    async def ask(
        self, messages: Sequence[Message], schema: Mapping[str, Any], seconds: float, most_tokens: int
    ) -> Reply:
        """One reply; see `Client.ask`. The schema cannot be enforced here: the answer is checked against it."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Any] = loop.create_future()

        def give(said: Any, error: BaseException | None) -> None:
            if waiting.done():
                return
            waiting.set_result(said) if error is None else waiting.set_exception(error)

        def work() -> None:
            said, problem = None, None
            try:
                if not self._busy.acquire(timeout=max(seconds, 0.0)):
                    raise Failed("llm_timeout", "the model is still busy with another question")
                try:
                    said = self._generate(messages, most_tokens)
                finally:
                    self._busy.release()
            except BaseException as error:  # noqa: BLE001 - it belongs to who waits
                problem = error
            try:
                loop.call_soon_threadsafe(give, said, problem)
            except RuntimeError:  # nobody waits any more: the loop is closed
                return

        threading.Thread(target=work, name="safewright-guard-model", daemon=True).start()
        try:
            said = await waiting
        except (Failed, asyncio.CancelledError):
            raise
        except Exception as error:
            raise Failed("llm_connection", f"{type(error).__name__}: {error}"[:400]) from error
        if said.stop == "error":
            raise Failed("llm_connection", said.error[:400])
        if said.stop == "overlong":
            raise Failed("llm_truncated", "the question is longer than the model's context")
        return Reply(_writable(said.raw), "length" if said.stop == "length" else "stop", 0, said.tokens)

    def _generate(self, messages: Sequence[Message], most_tokens: int) -> Any:
        from safewright.types import Decoding

        (said,) = self._loaded.generate([tuple(messages)], Decoding(max_new_tokens=most_tokens))
        return said

    def close(self) -> None:
        """Let go of the model."""
        self._loaded.close()
