"""Any model Inspect AI can reach, asked like every other: references, and the two forms of a conversation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary

from safewright.errors import BadInput, Missing, SafewrightError, need_extra
from safewright.models._http import FILTERED, in_background, nothing, side_by_side
from safewright.models.chat import STARTED, THINK, split_reasoning
from safewright.models.ordering import in_order
from safewright.models.recipes import checked
from safewright.runs import digest_json, from_json, to_json
from safewright.types import Chat, Decoding, Generation, ModelRef, Stop, TokenScores

if TYPE_CHECKING:
    import torch
    from inspect_ai.model import ChatMessage, GenerateConfig, Model, ModelOutput

PREFIX = "inspect:"
PROVIDER = "safewright"
"""Our own provider's name, whose models say what they are and how they answered."""
KEPT = "safewright_generation"
"""Where an output of our own provider holds the `Generation` it was made from."""
OURS = ("least_room", "special_twice")
"""Fields of a decoding that Inspect has no option for: our own provider gets them in the request's body."""
PLAIN = Decoding()
RETRIES = 5
"""Tries after the first one, outside an evaluation: Inspect itself would go on for ever."""
GIVE_UP_AFTER = 8
"""Failed questions before a model that answered none is given up."""


def inspect_ref(text: str) -> ModelRef:
    """The reference of ``inspect:PROVIDER/NAME``; its digest covers the name, nothing more.

    Raises:
        BadInput: No name of this form.
    """
    name = text.removeprefix(PREFIX).strip()
    provider, slash, model = name.partition("/")
    if not (provider and slash and model):
        raise BadInput(f"{text!r} names no model of Inspect.", fix="Write inspect:PROVIDER/NAME.")
    return _declared(name, None, {})


def _declared(name: str, base_url: str | None, args: Mapping[str, Any]) -> ModelRef:
    about = {"model": name, "base_url": base_url, "args": args}
    return ModelRef(kind="inspect", where=name, digest="declared:" + digest_json(about))


def ref_of(model: Model) -> ModelRef:
    """Which model an Inspect model is: verified where it is our own provider's, else as it is declared."""
    own = getattr(model.api, "ref", None)
    if isinstance(own, ModelRef):
        return own
    known = _refs.get(model)
    if known is None:
        from pydantic_core import to_jsonable_python

        args = to_jsonable_python(model.model_args, fallback=lambda value: type(value).__name__)
        known = _refs[model] = _declared(str(model), model.api.base_url, args)
    return known


_refs: WeakKeyDictionary[Any, ModelRef] = WeakKeyDictionary()


class InspectModel:
    """A `Loaded` over an Inspect model; see `safewright.models.engine.Loaded`.

    Args:
        model: A reference of the kind ``inspect``, opened when it is first asked, or a model of Inspect's.
        concurrency: Requests under way at once; Inspect's own rule where None.
        timeout: Seconds for one try.
    """

    able = frozenset({"generate"})

    def __init__(
        self, model: ModelRef | Model, *, concurrency: int | None = None, timeout: float | None = None
    ) -> None:
        self._given = None if isinstance(model, ModelRef) else model
        self.ref = model if isinstance(model, ModelRef) else ref_of(model)
        self._concurrency, self._timeout = concurrency, timeout
        # Connections belong to the event loop they were opened on.
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, Model] = WeakKeyDictionary()
        visible = (self.ref.recipe.visible if self.ref.recipe else None) or THINK
        self.visible = dict(visible)
        self.conventions: Mapping[str, Any] = {
            "engine": "inspect",
            "model": "as its provider declares it, not verified"
            if self.ref.digest.startswith("declared:")
            else "verified",
            **({"concurrency": concurrency} if concurrency else {}),
            **({"timeout_s": timeout} if timeout else {}),
            "chat_template": "the provider's own",
            "reasoning_markers": [self.visible["open"], self.visible["close"]],
            "tokens": "as the provider counts them; 0 where it does not",
        }

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        """One generation per chat, in the order given; see `stream`."""
        return in_order(self.stream(chats, how), len(chats))

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Generator[list[tuple[int, Generation]]]:
        """Generations with their indexes, as answers arrive; see `agenerate` for the errors."""
        todo = [index for index in range(len(chats)) if index not in done]
        if not todo:
            return

        async def produce(put: Callable[[tuple[int, Generation]], None]) -> None:
            await self._ask_all([(index, chats[index]) for index in todo], how, lambda *pair: put(pair))

        yield from in_background(produce)

    async def agenerate(
        self,
        chats: Sequence[Chat],
        how: Decoding,
        received: Callable[[int, Generation], None] | None = None,
        places: Sequence[int] | None = None,
    ) -> list[Generation]:
        """One generation per chat, in the order given.

        Args:
            chats: The conversations.
            how: How they are answered; above temperature 0 a chat's seed follows from its place.
            received: Called with an index and its generation as soon as it is there.
            places: The place of each chat, where they are a part of more; else its index.

        Raises:
            Missing: The first questions all failed: no key, no network, no such model; or no inspect-ai.
        """
        found: dict[int, Generation] = {}
        numbered = {
            place: index for index, place in enumerate(range(len(chats)) if places is None else places)
        }

        def put(place: int, generation: Generation) -> None:
            found[numbered[place]] = generation
            if received is not None:
                received(numbered[place], generation)

        await self._ask_all(list(zip(numbered, chats, strict=True)), how, put)
        return [found[index] for index in range(len(chats))]

    async def _ask_all(
        self, todo: Sequence[tuple[int, Chat]], how: Decoding, put: Callable[[int, Generation], None]
    ) -> None:
        how = checked(how)
        model = self._model()
        waiting = iter(todo)
        answered, failed = False, 0

        async def work() -> None:
            nonlocal answered, failed
            for index, chat in waiting:
                said = await self._ask(model, chat, how, index)
                answered |= said.stop != "error" or said.error == FILTERED
                failed += said.stop == "error"
                if not answered and failed >= min(GIVE_UP_AFTER, len(todo)):
                    raise Missing(
                        f"The model {self.ref.where} never answered: {said.error}.",
                        why=f"Each of the first {failed} questions failed.",
                        fix="Check its name, its key and the network; the same command goes on from here.",
                    )
                put(index, said)

        # Inspect limits the requests to one model itself; so many may wait for their turn.
        await side_by_side(work, min(len(todo), self._concurrency or 256))

    async def _ask(self, model: Model, chat: Chat, how: Decoding, index: int) -> Generation:
        from inspect_ai._util.error import PrerequisiteError
        from inspect_ai.util import LimitExceededError

        try:
            output = await model.generate(messages_of(chat), config=config_of(how, model, index))
        except (SafewrightError, PrerequisiteError, LimitExceededError):
            raise
        except Exception as error:  # noqa: BLE001 - each provider has errors of its own; all are kept and counted
            return nothing("error", f"{type(error).__name__}: {error}"[:400])
        return read_output(output, self.visible, how.max_new_tokens)

    def _model(self) -> Model:
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        found = self._made.get(loop)
        if found is None:
            found = self._made[loop] = self._open()
        return found

    def _open(self) -> Model:
        try:
            from inspect_ai.model import GenerateConfig, get_model
        except ImportError as error:
            raise need_extra("inspect-ai", "eval") from error
        from inspect_ai._util.error import PrerequisiteError

        config = GenerateConfig(
            max_retries=RETRIES,
            max_connections=self._concurrency,
            attempt_timeout=None if self._timeout is None else max(1, round(self._timeout)),
        )
        try:
            return get_model(self.ref.where, config=config, memoize=False)
        except (PrerequisiteError, ValueError) as error:
            said = re.sub(r"\[/?[a-z ]+\]", "", str(error))  # what Inspect colours on a terminal
            raise Missing(
                f"Inspect cannot open the model {self.ref.where}: {said}",
                fix="Check its name, the package and the key of its provider.",
            ) from error

    def logprobs(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[TokenScores]:
        self._cannot("log-probabilities of given answers")

    def hidden(self, chats: Sequence[Chat], layers: Sequence[int], pool: str) -> torch.Tensor:
        self._cannot("hidden states")

    def _cannot(self, what: str) -> NoReturn:
        raise BadInput(
            f"A model asked through Inspect ({self.ref.where}) does not offer {what}.",
            fix="Give the model's folder instead: the hf engine offers them.",
        )

    def close(self) -> None:
        """Let go of the models opened here; one that was given stays its owner's."""
        self._made.clear()


def messages_of(chat: Chat) -> list[ChatMessage]:
    """A conversation as Inspect writes it.

    Raises:
        BadInput: A turn of a role that it does not know.
    """
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    messages: list[ChatMessage] = []
    for turn in chat:
        if turn["role"] not in kinds:
            raise BadInput(f"A turn has the role {turn['role']!r}.", fix=f"Use one of {', '.join(kinds)}.")
        about = {"metadata": {STARTED: "yes"}} if turn.get(STARTED) else {}
        messages.append(kinds[turn["role"]](content=turn["content"], **about))
    return messages


def config_of(how: Decoding, model: Model, index: int = 0) -> GenerateConfig:
    """A decoding as Inspect writes it: no more than is needed, since some providers refuse what they lack.

    Args:
        how: The decoding.
        model: Whom it is for: our own provider takes all of it.
        index: The place of the question: repeated questions must not get one seed.
    """
    from inspect_ai.model import GenerateConfig

    config = GenerateConfig(max_tokens=how.max_new_tokens, temperature=how.temperature)
    if how.temperature > 0:
        config.seed = (how.seed * 1_000_003 + index) % 2**31
        if how.top_p < 1:
            config.top_p = how.top_p
        if how.top_k:
            config.top_k = how.top_k
    if isinstance(getattr(model.api, "ref", None), ModelRef):
        config.extra_body = {
            name: getattr(how, name) for name in OURS if getattr(how, name) != getattr(PLAIN, name)
        }
    return config


def keep(said: Generation) -> dict[str, Any]:
    """An output's metadata from which `read_output` makes the same generation again."""
    return {KEPT: to_json(said)}


def read_output(output: ModelOutput, visible: Mapping[str, str], limit: int) -> Generation:
    """What a model said through Inspect.

    Args:
        output: Inspect's form of it.
        visible: Reasoning markers, for reasoning that stands in the text, and to put reasoning that the
            provider separated back into ``raw``.
        limit: Tokens the answer was allowed: some providers do not say why they ended.
    """
    kept = (output.metadata or {}).get(KEPT)
    if kept is not None:
        return from_json(Generation, kept)
    tokens = output.usage.output_tokens if output.usage else 0
    if output.empty:
        return nothing("error", output.error or "an output without a choice")
    if output.stop_reason == "content_filter":
        return nothing("error", FILTERED)
    message = output.message
    parts = [] if isinstance(message.content, str) else message.content
    thought = "\n".join(
        part.reasoning if not part.redacted else (part.summary or "")
        for part in parts
        if part.type == "reasoning"
    ).strip()
    text = message.text.encode("utf-8", "replace").decode("utf-8")
    if output.stop_reason == "model_length" and not text.strip() and not thought:
        return nothing("overlong", output.error or "the prompt is longer than the model's context")
    cut = output.stop_reason in ("max_tokens", "model_length") or (
        output.stop_reason == "unknown" and tokens >= limit
    )
    stop: Stop = "length" if cut else "stop"
    if not thought:
        return Generation(text, *split_reasoning(text, visible), stop, tokens)
    if cut and not text.strip():
        return Generation(visible["open"] + thought, thought, "", False, stop, tokens)
    raw = f"{visible['open']}{thought}{visible['close']}{text}"
    return Generation(raw, thought, text.strip(), True, stop, tokens)
