"""The endpoint engine: any server that speaks the OpenAI chat protocol."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from safewright.errors import BadInput, Missing, SafewrightError
from safewright.models._http import (
    FILTERED,
    Failure,
    Kind,
    Line,
    Lines,
    backoff,
    context_limit,
    counted_prompt,
    in_background,
    nothing,
    prompt_tokens,
    read_reply,
    side_by_side,
)
from safewright.models.chat import THINK, started
from safewright.models.ordering import in_order
from safewright.models.overlong import least_room, overlong
from safewright.models.recipes import checked
from safewright.runs import digest_json, run_sync
from safewright.types import Chat, Decoding, Generation, ModelRef, TokenScores

if TYPE_CHECKING:
    import torch

DEFAULT_CONCURRENCY = 16
DEFAULT_TIMEOUT = 120.0
TRIES = 5
TRIES_IN_SILENCE = 2
"""Tries that may run out of time while the server has not answered anything at all."""
FIRST_WAIT = 0.5
GIVE_UP_AFTER = 8
"""Questions that use up their tries before a server that answered none of them is given up."""

DECLARED = ("root", "parent", "max_model_len", "quantization", "meta")
"""What a server says about a model that names its weights; dates and request ids change every time."""

_CHAT_PATH = "/chat/completions"
_TOO_LONG = re.compile(
    r"context.{0,3}length|context window|context.{0,3}size|maximum context|(prompt|input) is too long"
    r"|max_model_len|too many (input )?tokens|`inputs` (tokens|must have)|exceed\w* .{0,40}context",
    re.IGNORECASE,
)
_WANTS_OTHER_LIMIT = re.compile(
    r"(unsupported|not supported|unknown|unrecognized|use ).*max_completion_tokens", re.IGNORECASE | re.DOTALL
)


def parse_endpoint(ref: str) -> tuple[str, str | None]:
    """The base address and the model's name (None when not given) of a served model's reference.

    Args:
        ref: ``http(s)://host:port/v1#model-name``. A bare host gets ``/v1``.

    Raises:
        BadInput: Not such an address, or one that carries credentials.
    """
    address, _, model = ref.strip().partition("#")
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadInput(f"The address {_bare(address)} is malformed: {error}.", fix=_EXAMPLE) from error
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", address):
        raise BadInput(f"{_bare(address)!r} is not the address of a server.", fix=_EXAMPLE)
    if "@" in parts.netloc or parts.query:
        raise BadInput(
            f"The address of the server {host} carries credentials or a query.",
            why="References are written into runs and reports, and keys must not be.",
            fix="Put the key into the environment variable SAFEWRIGHT_API_KEY and leave it out here.",
        )
    path = parts.path.rstrip("/").removesuffix(_CHAT_PATH).rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}", model.strip() or None


_EXAMPLE = "Write it as http://127.0.0.1:8000/v1#MODEL-NAME."


def _bare(address: str) -> str:
    """An address that cannot be trusted to be one, without what may be a password."""
    scheme, found, rest = address.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2].partition('?')[0]}"


def endpoint_ref(ref: str) -> ModelRef:
    """The reference of a served model; its digest covers what the server declares, nothing more.

    Args:
        ref: See `parse_endpoint`. Without a name the server must serve exactly one model.

    Raises:
        BadInput: Not an address, a refused key, or no single model to take.
        Missing: The server cannot be reached, or httpx is not installed.
    """
    base, model = parse_endpoint(ref)
    declared = run_sync(_declared(base, named=model is not None))
    if model is None:
        if len(declared) != 1:
            listed = ", ".join(sorted(declared)) or "none"
            raise BadInput(
                f"{base} serves {len(declared)} models ({listed}).",
                fix=f"Name one: {base}#{next(iter(sorted(declared)), 'MODEL-NAME')}",
            )
        (model,) = declared
    facts = declared.get(model, {})
    return ModelRef(
        kind="served",
        where=f"{base}#{model}",
        digest="declared:" + digest_json({"base": base, "model": model, "declared": facts}),
    )


async def _declared(base: str, *, named: bool) -> dict[str, dict[str, Any]]:
    """What a server says about each model it lists; empty when it cannot list and a name is given."""
    async with aclosing(Line(base)) as line:
        tries = 0
        while True:
            tries += 1
            try:
                reply = await line.exchange("GET", f"{base}/models", timeout=30.0)
                return _read_models(reply)
            except Failure as failure:
                # Some servers (transformers serve without a hub cache) answer 500 here for ever.
                allowed = TRIES_IN_SILENCE if failure.slow else TRIES
                if failure.again and tries < allowed:
                    await asyncio.sleep(backoff(tries, FIRST_WAIT / 3))
                elif failure.kind == "silent":
                    raise Missing(
                        f"The endpoint {base} never answered: {failure.after(tries)}.",
                        fix="Start the server, or correct the address.",
                    ) from failure
                elif failure.status in (401, 403):
                    raise _refused(base, failure.after(tries)) from failure
                elif named:
                    return {}
                else:
                    raise BadInput(
                        f"{base}/models does not say which models there are: {failure.after(tries)}.",
                        fix=f"Name the model: {base}#MODEL-NAME (for `transformers serve FOLDER`: that FOLDER).",
                    ) from failure


def _read_models(reply: Any) -> dict[str, dict[str, Any]]:
    entries = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(entries, list):
        raise Failure("garbage", "a reply without a list of models")
    found = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            raise Failure("garbage", "a list of models without their ids")
        found[entry["id"]] = {key: entry[key] for key in DECLARED if entry.get(key) is not None}
    return found


def _refused(base: str, why: str) -> BadInput:
    if re.match(r"HTTP 40[13]\b", why):
        fix = "Set the environment variable SAFEWRIGHT_API_KEY to a key this server accepts."
    elif re.match(r"HTTP 404\b", why):
        fix = f"Check the model's name, and that {base} is the whole base address (most end in /v1)."
    else:
        fix = "The server's own words above say what it does not take."
    return BadInput(f"The endpoint {base} refuses what it is asked: {why}.", fix=fix)


@dataclasses.dataclass(frozen=True)
class _Question:
    """One chat to be asked, and who takes its answer."""

    index: int
    chat: Chat
    put: Callable[[int, Generation], None]


@dataclasses.dataclass
class _Session:
    """What those who ask together know about the server: whether it has answered anything yet.

    ``pending`` counts the questions without an answer; ``settled`` is set once the server has answered, or has
    been given up (``problem`` says why).
    """

    base: str
    pending: int = 0
    resumed: bool = False
    heard: bool = False
    problem: SafewrightError | None = None
    settled: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    held: list[tuple[_Question, Generation, Kind]] = dataclasses.field(default_factory=list)

    def hear(self) -> None:
        """Note that the server does answer: then what failed are the questions."""
        self.heard = True
        self.settled.set()
        while self.held:
            question, generation, _ = self.held.pop(0)
            self._deliver(question, generation)

    def answer(self, question: _Question, generation: Generation) -> None:
        self._deliver(question, generation)
        self.hear()

    def fail(self, question: _Question, generation: Generation, kind: Kind) -> None:
        """Count a question as failed, or give up: see `GIVE_UP_AFTER`."""
        self.held.append((question, generation, kind))
        if self.heard:
            return self.hear()
        self._weigh()
        if self.problem is not None:
            raise self.problem

    def leave(self, put: Callable[[int, Generation], None], count: int) -> None:
        """Take back ``count`` questions that nobody wants answered any more."""
        self.held = [entry for entry in self.held if entry[0].put is not put]
        self.pending -= count
        self._weigh()

    def _deliver(self, question: _Question, generation: Generation) -> None:
        self.pending -= 1
        question.put(question.index, generation)

    def _weigh(self) -> None:
        if self.heard or not self.held or len(self.held) < min(GIVE_UP_AFTER, self.pending):
            return
        kinds = {kind for _, _, kind in self.held}
        last = self.held[-1][1].error
        if self.resumed and kinds != {"silent"}:
            # It answered others before, and it does speak HTTP: these questions are the trouble.
            self.hear()
        elif "refused" in kinds:
            self.problem = _refused(self.base, next(g.error for _, g, kind in self.held if kind == "refused"))
        else:
            self.problem = Missing(
                f"The endpoint {self.base} never answered: {last}.",
                why=f"Each of the first {len(self.held)} questions failed in this way.",
                fix="Look at the server's log; the same command goes on where this one stopped.",
            )
        self.settled.set()


@dataclasses.dataclass
class _Wire:
    """What `Endpoint.agenerate` keeps for one event loop; ``keeper`` closes it, at the latest with the loop."""

    lines: Lines
    session: _Session
    keeper: AsyncGenerator[None] | None = None


class Endpoint:
    """A `Loaded` over an OpenAI-compatible server; see `safewright.models.engine.Loaded`.

    The server renders the chat template and says why an answer ended; both are taken at its word.

    Args:
        ref: What `endpoint_ref` returned.
        concurrency: Requests under way at once.
        timeout: Seconds for one request.
        visible: Reasoning markers, ``{"open": str, "close": str}``, where the server leaves reasoning in
            the text; the recipe's, or `THINK`, by default.
    """

    able = frozenset({"generate"})

    def __init__(
        self,
        ref: ModelRef,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout: float = DEFAULT_TIMEOUT,
        visible: Mapping[str, str] | None = None,
    ) -> None:
        if concurrency < 1:
            raise BadInput(f"The concurrency is {concurrency}.", fix="It must be at least 1.")
        if not timeout > 0:
            raise BadInput(f"The timeout is {timeout} s.", fix="It must be positive.")
        base, model = parse_endpoint(ref.where)
        if model is None:
            raise BadInput(f"The reference {ref.where} names no model.", fix=f"Write {base}#MODEL-NAME.")
        self.ref, self.base, self.model = ref, base, model
        self.concurrency, self.timeout = concurrency, timeout
        self.visible = dict(visible or (ref.recipe.visible if ref.recipe else None) or THINK)
        self._limit_key = "max_tokens"
        self._wires: dict[asyncio.AbstractEventLoop, _Wire] = {}
        self.conventions: Mapping[str, Any] = {
            "engine": "endpoint",
            "model": "as the server declares it, not verified",
            "concurrency": concurrency,
            "timeout_s": timeout,
            "chat_template": "the server's own",
            "reasoning_markers": [self.visible["open"], self.visible["close"]],
            "tokens": "as the server counts them; 0 where it does not",
        }

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        """One generation per chat, in the order given; see `stream`."""
        return in_order(self.stream(chats, how), len(chats))

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Generator[list[tuple[int, Generation]]]:
        """Generations with their indexes, as answers arrive. Closing it cancels what is under way.

        Raises:
            Missing: The server answered nothing at all (or httpx is not installed).
            BadInput: The server refused everything: the key, the model's name, an option.
        """
        how = checked(how)
        todo = [index for index in range(len(chats)) if index not in done]
        if not todo:
            return

        async def produce(put: Callable[[tuple[int, Generation]], None]) -> None:
            questions = (_Question(i, chats[i], lambda *found: put(found)) for i in todo)
            lines = Lines(self.base, min(self.concurrency, len(todo)))
            try:
                await self._ask_all(
                    lines, _Session(self.base, len(todo), bool(done)), questions, len(todo), how
                )
            finally:
                await lines.aclose()

        yield from in_background(produce)

    async def agenerate(
        self,
        chats: Sequence[Chat],
        how: Decoding,
        *,
        received: Callable[[int, Generation], None] | None = None,
        places: Sequence[int] | None = None,
    ) -> list[Generation]:
        """One generation per chat, in the order given, asked on the caller's own event loop.

        All callers on one loop share its connections: never more than ``concurrency`` requests are under way.
        They share too what is known about the server: a question that fails before it has answered anybody
        waits for the others.

        Args:
            chats: What to ask.
            how: Decoding; above temperature 0 a chat's seed follows from its place.
            received: Called with an index into ``chats`` and its generation when that arrives, before anything
                else happens (failures too: see `Generation.stop`).
            places: The place of each chat, where they are a part of more; else its index.

        Raises:
            Missing: The server answered nothing at all (or httpx is not installed).
            BadInput: The server refused everything: the key, the model's name, an option.
        """
        how = checked(how)
        if not chats:
            return []
        found: dict[int, Generation] = {}
        broken: list[Exception] = []

        numbered = {
            place: index for index, place in enumerate(range(len(chats)) if places is None else places)
        }

        def put(place: int, generation: Generation) -> None:
            index = numbered[place]
            found[index] = generation
            try:
                if received is not None:
                    received(index, generation)
            except Exception as error:  # noqa: BLE001 - raised below: who delivers may be asking for others
                broken.append(error)

        wire = await self._wire()
        session = wire.session
        session.pending += len(chats)
        try:
            asked = zip(numbered, chats, strict=True)
            questions = (_Question(place, chat, put) for place, chat in asked if not broken)
            await self._ask_all(wire.lines, session, questions, len(chats), how)
            if not broken and len(found) < len(chats):  # these failed while others may yet be answered
                await session.settled.wait()
            if broken:
                raise broken[0]
            if session.problem is not None and len(found) < len(chats):
                raise session.problem
        finally:
            session.leave(put, len(chats) - len(found))
            if session.problem is not None and wire.session is session:
                wire.session = _Session(self.base)  # the next to ask find out for themselves
        return [found[index] for index in range(len(chats))]

    async def _wire(self) -> _Wire:
        loop = asyncio.get_running_loop()
        wire = self._wires.get(loop)
        if wire is None:
            for old in [old for old in self._wires if old.is_closed()]:
                del self._wires[old]
            wire = self._wires[loop] = _Wire(Lines(self.base, self.concurrency), _Session(self.base))
            wire.keeper = self._keep(loop, wire)
            await anext(wire.keeper)
        return wire

    async def _keep(self, loop: asyncio.AbstractEventLoop, wire: _Wire) -> AsyncGenerator[None]:
        """Wait to be closed: by `close`, `aclose`, or the loop itself, which closes its generators when it ends."""
        try:
            yield
        finally:
            if self._wires.get(loop) is wire:
                del self._wires[loop]
            await wire.lines.aclose()

    async def _ask_all(
        self, lines: Lines, session: _Session, questions: Iterator[_Question], count: int, how: Decoding
    ) -> None:
        async def work() -> None:
            for question in questions:
                async with lines.one() as line:
                    await self._ask(line, session, question, how)

        if count == 1:
            return await work()
        await side_by_side(work, min(self.concurrency, count))

    async def _ask(self, line: Line, session: _Session, question: _Question, how: Decoding) -> None:
        """Ask one question until it is answered, is overlong, or has used up its tries."""
        room, tries = how.max_new_tokens, 0
        limit: int | None = None  # the context's, once a server has complained about it
        payload = self._payload(question, how)
        while True:
            key = self._limit_key
            try:
                reply = await line.exchange(
                    "POST", self.base + _CHAT_PATH, payload | {key: room}, timeout=self.timeout
                )
                session.hear()
                found = read_reply(reply, self.visible)
                if limit is not None:
                    length = prompt_tokens(reply)
                    if limit - length < least_room(how):
                        return session.answer(question, overlong(length, limit, least_room(how)))
                    if limit - length > room:
                        room, limit = min(limit - length, how.max_new_tokens), None
                        continue
                return session.answer(question, found)
            except Failure as failure:
                if failure.kind == "garbage":
                    session.hear()
                if failure.status in (400, 413, 422):
                    if _TOO_LONG.search(failure.detail):
                        limit = context_limit(failure.detail)
                        if limit is not None and 1 < room == how.max_new_tokens:
                            # Perhaps the prompt fits and only the answer's limit does not. One token
                            # tells how long the prompt is; then the answer gets the rest, as with hf.
                            room = 1
                            continue
                        return session.answer(question, _overlong(failure, limit, how))
                    if key == "max_tokens" and _WANTS_OTHER_LIMIT.search(failure.detail):
                        self._limit_key = "max_completion_tokens"
                        continue
                    if "content_filter" in failure.detail:
                        return session.answer(question, nothing("error", FILTERED))
                tries += 1
                allowed = TRIES_IN_SILENCE if failure.slow and not session.heard else TRIES
                if not failure.again or tries >= allowed:
                    return session.fail(question, nothing("error", failure.after(tries)), failure.kind)
                wait = backoff(tries, FIRST_WAIT)
                await asyncio.sleep(wait if failure.wait is None else max(failure.wait, wait))

    def _payload(self, question: _Question, how: Decoding) -> dict[str, Any]:
        """The least a server must be told: some refuse every field they do not know."""
        payload: dict[str, Any] = {
            "model": self.model,
            "messages": [{key: turn[key] for key in ("role", "content")} for turn in question.chat],
            "temperature": how.temperature,
        }
        if started(question.chat) is not None:
            payload |= {"continue_final_message": True, "add_generation_prompt": False}
        if how.temperature > 0:
            payload["top_p"] = how.top_p
            # Repeated questions have the same chat: one seed for all would repeat one answer.
            payload["seed"] = (how.seed * 1_000_003 + question.index) % 2**31
            if how.top_k:
                payload["top_k"] = how.top_k
        return payload

    def logprobs(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[TokenScores]:
        self._cannot("log-probabilities of given answers")

    def hidden(self, chats: Sequence[Chat], layers: Sequence[int], pool: str) -> torch.Tensor:
        self._cannot("hidden states")

    def _cannot(self, what: str) -> NoReturn:
        raise BadInput(
            f"The server of {self.ref.where} does not offer {what}.",
            fix="Give the model's folder instead: the hf engine offers them.",
        )

    async def aclose(self) -> None:
        """Close the connections of the running event loop, and all that `close` can reach."""
        wire = self._wires.pop(asyncio.get_running_loop(), None)
        if wire is not None and wire.keeper is not None:
            await wire.keeper.aclose()
        self.close()

    def close(self) -> None:
        """Close the connections that `agenerate` keeps. Inside a running event loop, they go at its next turn."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        while self._wires:
            loop, wire = self._wires.popitem()
            if loop.is_closed() or wire.keeper is None:
                continue
            if loop is here:
                self._closing = loop.create_task(wire.keeper.aclose())  # held: a loop forgets its tasks
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(wire.keeper.aclose(), loop).result(self.timeout)
            elif here is None:
                loop.run_until_complete(wire.keeper.aclose())


def _overlong(failure: Failure, limit: int | None, how: Decoding) -> Generation:
    """What becomes of a prompt that a server finds too long, with the numbers where it says both."""
    length = counted_prompt(failure.detail)
    if limit is None or length is None:
        return nothing("overlong", failure.after(1))
    return overlong(length, limit, least_room(how), said=failure.after(1))
