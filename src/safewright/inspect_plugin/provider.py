"""The model provider ``safewright/MODEL@DIGEST``: Inspect asks a model as every measure here does."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from inspect_ai import eval_set
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log._samples import sample_active
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from safewright.catalog import read_value
from safewright.errors import BadInput, SafewrightError, nearest
from safewright.models import EngineOptions, load, resolve, with_recipe
from safewright.models._http import FILTERED
from safewright.models.batching import Batcher, Said
from safewright.models.chat import STARTED, token_ids
from safewright.models.inspect_model import OURS, PROVIDER, keep
from safewright.models.references import check_unchanged
from safewright.models.worker import Worker
from safewright.runs import digest_json
from safewright.types import Chat, Decoding, Generation, ModelRef

DEFAULT_TOKENS = 2048
"""Longest answer where neither the task nor a recipe says one; as with Inspect's own local provider."""

IN_FLIGHT = 4
"""Batches' worth of requests under way at once: while one batch is answered, the next ones wait already."""

MANY = 1024
"""Requests to a server that our own engine lets through at once."""

OPTIONS = ("device", "dtype", "batch_size", "timeout", "process")
"""What ``-M`` may set."""

_PINNED = re.compile(r"(.+)@([0-9a-f]{12})")
_REFUSED = (
    "stop_seqs",
    "best_of",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "num_choices",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "response_schema",
)
"""Options that would change an answer, and that no engine here has."""

_lock = threading.Lock()
_resolved: dict[tuple[str, str], ModelRef] = {}
_engines: WeakValueDictionary[str, Engine] = WeakValueDictionary()


class GenerationFailed(RuntimeError):  # noqa: N818 - read as a sentence in Inspect's log
    """One question brought no answer; the sample is retried, or errs, as Inspect is told."""


@contextmanager
def told() -> Iterator[None]:
    """Turns errors of this package into those that Inspect shows without a traceback."""
    try:
        yield
    except SafewrightError as error:
        raise PrerequisiteError(str(error)) from error


class Engine:
    """A model that is opened at the first question, and shared by all roles that name it."""

    def __init__(self, ref: ModelRef, options: EngineOptions, process: bool) -> None:
        self.ref, self.options, self.process = ref, options, process
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    @property
    def local(self) -> bool:
        """Whether it computes here."""
        return self.ref.kind in ("hf", "adapter")

    @property
    def batch(self) -> int:
        """Prompts answered together, or requests under way at once."""
        if self.options.batch_size is not None:
            return self.options.batch_size
        if self.local:
            from safewright.models.hf import DEFAULT_BATCH

            return DEFAULT_BATCH
        from safewright.models.endpoint import DEFAULT_CONCURRENCY

        return DEFAULT_CONCURRENCY

    async def opened(self) -> _Opened:
        """The model, opened when it is first asked for."""
        opened = self._opened
        return await asyncio.to_thread(self._open) if opened is None else opened

    def _open(self) -> _Opened:
        with self._lock:
            if self._opened is None:
                self._opened = self._open_here() if not (self.local and self.process) else self._open_there()
            return self._opened

    def _open_here(self) -> _Opened:
        # How many requests to a server are under way is Inspect's to say: two limits would be one too many,
        # and the model in a role has no -M of its own.
        how = self.options if self.local else dataclasses.replace(self.options, batch_size=MANY)
        loaded: Any = load(self.ref, need=frozenset({"generate"}), **dataclasses.asdict(how))
        if not self.local:
            return _Opened(loaded.conventions, loaded)
        return _Opened(loaded.conventions, loaded, Batcher(loaded, self.batch))

    def _open_there(self) -> _Opened:
        worker = Worker(self.ref, dataclasses.asdict(self.options), self.batch)
        # That process does not know the files that were digested here.
        check_unchanged(self.ref)
        return _Opened(worker.conventions, worker, worker)

    async def ask(self, chat: Chat, how: Decoding) -> Said:
        """What the model says, and its prompt's tokens (0 where a server does not count them)."""
        opened = await self.opened()
        if opened.asked is not None:
            return await opened.asked.ask(chat, how)
        (said,) = await opened.model.agenerate([chat], how)
        return said, 0

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a text; of a local model only."""
        model = (await self.opened()).model
        if isinstance(model, Worker):
            return await model.tokenize(text)
        return token_ids(model.tokenizer, text, special=False)


@dataclasses.dataclass(frozen=True)
class _Opened:
    """An open model, how it is run, and who gathers requests to it where it computes on this machine."""

    conventions: Mapping[str, Any]
    model: Any
    asked: Batcher | Worker | None = None


def engine(where: str, options: EngineOptions, process: bool) -> Engine:
    """The engine for a reference, the same one for the same weights and options."""
    with _lock:
        ref = _resolved.get((where, options.dtype))
        if ref is None or not _unchanged(ref):
            ref = _resolved[where, options.dtype] = resolve(where, dtype=options.dtype)
        key = digest_json([ref, options, process])
        found = _engines.get(key)
        if found is None:
            found = _engines[key] = Engine(ref, options, process)
        return found


def _unchanged(ref: ModelRef) -> bool:
    """Whether a model's files are still those that were digested; a server may change any time."""
    if ref.kind not in ("hf", "adapter"):
        return False
    try:
        check_unchanged(ref)
    except BadInput:
        return False
    return True


def _in_eval_set() -> bool:
    """Whether an eval-set is making its models: it has no other sign before its first sample runs."""
    frame = sys._getframe()
    while frame.f_back is not None:
        if frame.f_code is eval_set.__code__:
            return True
        frame = frame.f_back
    return False


def short(digest: str) -> str:
    """The first twelve digits of a digest, as a model's name carries them."""
    return digest.rpartition(":")[2][:12]


class SafewrightAPI(ModelAPI):
    """Models of this package under Inspect: a folder, an adapter, a hub id or a served model.

    The name may end with the first twelve digits of the model's digest; then it is checked.
    Options (``-M``): ``device``, ``dtype``, ``batch_size``, ``timeout``, and ``process`` (false: a local model
    in this process, where it shares the interpreter with Inspect's own work).
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
        **options: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        with told():
            if base_url is not None or api_key is not None:
                raise BadInput(
                    "The safewright provider takes no base URL and no key.",
                    fix="Write the address into the name (safewright/http://host:port/v1#NAME), and the key "
                    "into the environment variable SAFEWRIGHT_API_KEY.",
                )
            for name in options:
                if name not in OPTIONS:
                    raise BadInput(
                        f"The safewright provider has no option {name!r}.", fix=nearest(name, OPTIONS)
                    )
            found = _PINNED.fullmatch(model_name)
            self.where = found[1] if found else model_name
            process = read_value("process", bool, options.pop("process", True))
            self.engine = engine(self.where, EngineOptions(**options), process)
            digest = short(self.engine.ref.digest)
            self.exact = f"{PROVIDER}/{self.where}@{digest}"
            if found and found[2] != digest:
                raise BadInput(
                    f"The model {self.where} has the digest {digest}, not {found[2]}.",
                    why="Other weights lie there than the name promises.",
                    fix=f"Put the old ones back, or write {self.exact}",
                )
        self.pinned = found is not None
        if not self.pinned and _in_eval_set():
            raise self._unpinned()
        # Inspect's adaptive rule would begin with 20 requests, whatever a batch holds; this is the
        # configuration of the model that is being made.
        free = config.max_connections is None and config.adaptive_connections is None and not config.batch
        if free and (self.engine.local or "batch_size" in options):
            config.max_connections = self.max_connections()

    @property
    def ref(self) -> ModelRef:
        """Which model it is."""
        return self.engine.ref

    @property
    def key(self) -> str:
        """All of the model that decides its answers."""
        options = self.engine.options
        return digest_json([self.ref.digest, options.device, options.dtype])

    def check_pinned(self) -> None:
        """Pass unless an eval-set runs a model whose name does not hold its digest.

        Raises:
            PrerequisiteError: It does, with the name to write.
        """
        active = sample_active()
        if not self.pinned and active is not None and active.eval_set_id is not None:
            raise self._unpinned()

    def _unpinned(self) -> PrerequisiteError:
        return PrerequisiteError(
            f"An eval-set runs the model {PROVIDER}/{self.where} under a name without its digest. It knows "
            "finished work by the model's name: other weights saved there would inherit these answers. "
            f"Write {self.exact}"
        )

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One answer; a question without one raises `GenerationFailed`."""
        self.check_pinned()
        with told():
            if tools:
                raise BadInput("The safewright provider has no tools.", fix="Use a task without tools.")
            how = self.decoding(config)
            chat = chat_of(input)
        said, prompt = await self.engine.ask(chat, how)
        if said.stop == "error" and said.error != FILTERED:
            raise GenerationFailed(said.error)
        return output_of(self.model_name, said, prompt)

    def decoding(self, config: GenerateConfig) -> Decoding:
        """Inspect's options as a decoding: the recipe's defaults under what the task or the user chose.

        Raises:
            BadInput: An option that no engine has, or a value out of range.
        """
        for name in _REFUSED:
            if getattr(config, name) not in (None, [], {}) and not (
                name == "num_choices" and config.num_choices == 1
            ):
                raise BadInput(f"The safewright provider cannot do {name}.", fix="Leave it out.")
        chosen = {
            "max_new_tokens": config.max_tokens,
            "temperature": None if config.temperature is None else float(config.temperature),
            "top_p": None if config.top_p is None else float(config.top_p),
            "top_k": config.top_k,
            "seed": config.seed,
            **{name: (config.extra_body or {}).get(name) for name in OURS},
        }
        given = {name: value for name, value in chosen.items() if value is not None}
        return with_recipe(Decoding(max_new_tokens=DEFAULT_TOKENS), self.ref, given)

    def max_tokens(self) -> int:
        """Longest answer where the task says none: the recipe's, else `DEFAULT_TOKENS`."""
        recipe = self.ref.recipe.decoding if self.ref.recipe else {}
        return int(recipe.get("max_new_tokens", DEFAULT_TOKENS))

    def max_connections(self) -> int:
        """Requests under way at once."""
        return self.engine.batch * (IN_FLIGHT if self.engine.local else 1)

    def connection_key(self) -> str:
        """Each model has connections of its own."""
        return f"{self.where}@{self.ref.digest}"

    async def count_text_tokens(self, text: str) -> int:
        """Tokens of a text by the model's own tokenizer; of a served model roughly, four letters each."""
        if not self.engine.local:
            return (len(text) + 3) // 4
        return len(await self.tokenize(text))

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a text by the model's own tokenizer."""
        if not self.engine.local:
            raise NotImplementedError("a served model's tokenizer is not here")
        return await self.engine.tokenize(text)


modelapi(name=PROVIDER)(SafewrightAPI)  # as a decorator it would put a function in the class's place


def chat_of(messages: list[ChatMessage]) -> list[dict[str, str]]:
    """Inspect's messages as a conversation; an earlier answer is its text without its reasoning.

    Raises:
        BadInput: A message that is not text, or a tool's.
    """
    chat = []
    for message in messages:
        kinds = {"text"} if isinstance(message.content, str) else {part.type for part in message.content}
        other = sorted(kinds - {"text", "reasoning"})
        if other or message.role == "tool":
            raise BadInput(
                f"A message holds {other[0] if other else 'a tool result'}.", fix="Use a task of plain text."
            )
        begun = {STARTED: "yes"} if (message.metadata or {}).get(STARTED) else {}
        chat.append({"role": message.role, "content": message.text, **begun})
    return chat


def output_of(model: str, said: Generation, prompt: int = 0) -> ModelOutput:
    """A generation in Inspect's form: reasoning apart from the answer, and the whole of it as metadata.

    Args:
        model: The model's name.
        said: The generation.
        prompt: Tokens of its prompt.
    """
    content: str | list[Any] = said.answer
    if said.reasoning:
        parts = [ContentText(text=said.answer)] if said.answer else []
        content = [ContentReasoning(reasoning=said.reasoning), *parts]
    stops: Any = {"stop": "stop", "length": "max_tokens", "overlong": "model_length"}
    message = ChatMessageAssistant(content=content, model=model, source="generate")
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=stops.get(said.stop, "content_filter"))],
        usage=ModelUsage(input_tokens=prompt, output_tokens=said.tokens, total_tokens=prompt + said.tokens),
        metadata=keep(said),
        error=said.error or None,
    )
