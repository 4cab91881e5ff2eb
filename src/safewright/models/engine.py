"""The engine contract, and the one door to every engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safewright.errors import BadInput, nearest
from safewright.models.recipes import check_decoding
from safewright.models.references import check_dtype, resolve
from safewright.types import Chat, Decoding, Generation, ModelRef, TokenScores

if TYPE_CHECKING:
    import torch

ENGINES = ("auto", "hf", "endpoint", "inspect")
NEEDS = frozenset({"generate", "logprobs", "hidden", "gradient", "weights"})


@dataclass(frozen=True)
class EngineOptions:
    """How models are run; see `load` for the fields."""

    engine: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise BadInput(f"Unknown engine {self.engine!r}.", fix=nearest(self.engine, ENGINES))
        check_dtype(self.dtype)
        if self.batch_size is not None and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise BadInput(f"--batch-size is {self.batch_size}.", fix="It must be a whole number from 1.")
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise BadInput(f"--timeout is {self.timeout}.", fix="It must be a number of seconds above 0.")


class Loaded(Protocol):
    """A model that can be asked. Engines differ in what they are `able` to do, not in what they mean."""

    ref: ModelRef

    @property
    def able(self) -> frozenset[str]:
        """What it offers, within ``generate``, ``logprobs``, ``hidden``, ``gradient``, ``weights``."""
        ...

    @property
    def conventions(self) -> Mapping[str, Any]:
        """What a scorecard must say about how the model was run: engine, device, dtype, batch size."""
        ...

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        """One generation per chat, in the order given. A failing item is a `Generation` with ``stop``
        ``error``; an exception means that the engine as a whole cannot work."""
        ...

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Generator[list[tuple[int, Generation]]]:
        """Generations with their indexes, as they get ready; those in ``done`` are not asked for.

        What is generated for an index does not depend on ``done``: a resumed run says the same.
        """
        ...

    def logprobs(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[TokenScores]:
        """Log-probabilities (nats) of each answer's tokens after its chat's prompt."""
        ...

    def hidden(self, chats: Sequence[Chat], layers: Sequence[int], pool: str) -> torch.Tensor:
        """Hidden states of the prompts, (chat, layer, hidden), float32 on the CPU.

        ``layers`` index the residual stream (0 is the embedding, -1 the last block); ``pool`` is
        ``last`` (last prompt token) or ``mean`` (over prompt tokens).
        """
        ...

    def close(self) -> None:
        """Let go of memory and connections."""
        ...


def load(
    ref: str | Path | ModelRef | Any,
    *,
    engine: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    timeout: float | None = None,
    need: frozenset[str] = frozenset(),
    tokenizer: Any = None,
) -> Loaded:
    """The model ``ref`` names, ready to be asked.

    Args:
        ref: A folder of `save_pretrained`, a PEFT adapter folder, a hub id ``ORG/NAME[@REVISION]``, a
            served model ``http://host:port/v1#NAME``, ``inspect:PROVIDER/NAME`` (what Inspect AI can
            reach), a resolved `ModelRef`, or a live ``PreTrainedModel`` (with its ``tokenizer``).
        engine: ``hf``, ``endpoint``, ``inspect``, or ``auto``: what the kind of reference calls for.
        device: ``auto`` (CUDA where present, else CPU) or a torch device.
        dtype: ``auto`` (as saved) or a torch dtype's name.
        batch_size: Prompts answered together; concurrent requests for an endpoint.
        timeout: Seconds for one request to an endpoint.
        need: What will be asked of it, within ``generate``, ``logprobs``, ``hidden``, ``gradient``,
            ``weights``.
        tokenizer: Only for a live model.

    Raises:
        BadInput: Not a model, damaged, or the engine cannot do what is needed.
        Missing: The hub or the server cannot be reached, or a package is not installed.
    """
    unknown = sorted(need - NEEDS)
    if unknown:
        raise BadInput(f"Unknown need {unknown[0]!r}.", fix=nearest(unknown[0], NEEDS))
    how = EngineOptions(engine, device, dtype, batch_size, timeout)
    if not isinstance(ref, (str, Path, ModelRef)):
        from safewright.models.opening import live

        if (engine, device, dtype) not in ((name, "auto", "auto") for name in ("auto", "hf")):
            raise BadInput(
                "A live model is run as it is and where it is.",
                fix="Leave out engine, device and dtype, or move the model first: model.to(device).",
            )
        loaded: Loaded = live(ref, tokenizer, batch_size=batch_size)
        return _able(loaded, need)
    if tokenizer is not None:
        raise BadInput("A tokenizer was given with a model that brings its own.", fix="Leave out tokenizer.")
    if not isinstance(ref, ModelRef):
        known = resolve(ref, dtype=dtype)
    else:
        known = ref if dtype == "auto" else dataclasses.replace(ref, dtype=dtype)
    natural = {"served": "endpoint", "inspect": "inspect"}.get(known.kind, "hf")
    if how.engine not in ("auto", natural):
        raise BadInput(
            f"The engine {engine!r} cannot run {known.where} (a model of the kind {known.kind!r}).",
            fix=f"Use --engine {natural}.",
        )
    if natural == "inspect":
        from safewright.models.inspect_model import InspectModel

        return _able(InspectModel(known, concurrency=batch_size, timeout=timeout), need)
    if natural == "endpoint":
        from safewright.models.endpoint import DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT, Endpoint

        served = Endpoint(
            known, concurrency=batch_size or DEFAULT_CONCURRENCY, timeout=timeout or DEFAULT_TIMEOUT
        )
        return _able(served, need)
    from safewright.models.opening import open_folder

    return _able(open_folder(known, device=device, batch_size=batch_size), need)


class Deferred:
    """A model that is opened when it is first asked: a finished run never opens it.

    Args:
        ref: Which model it is.
        need: What will be asked of it; see `load`.
        how: How it is opened.
        open: What opens it in the place of `load`.
    """

    def __init__(
        self,
        ref: ModelRef,
        need: frozenset[str] = frozenset(),
        how: EngineOptions | None = None,
        *,
        open: Callable[[], Loaded] | None = None,
    ) -> None:
        self.ref = ref
        options = dataclasses.asdict(how or EngineOptions())
        self._open = open or (lambda: load(ref, need=need, **options))
        self._loaded: Loaded | None = None

    @property
    def opened(self) -> Loaded:
        """The model itself."""
        if self._loaded is None:
            self._loaded = self._open()
        return self._loaded

    @property
    def able(self) -> frozenset[str]:
        return self.opened.able

    @property
    def conventions(self) -> Mapping[str, Any]:
        return self.opened.conventions

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        return self.opened.generate(chats, how)

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Generator[list[tuple[int, Generation]]]:
        return self.opened.stream(chats, how, done=done)

    def logprobs(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[TokenScores]:
        return self.opened.logprobs(chats, answers)

    def hidden(self, chats: Sequence[Chat], layers: Sequence[int], pool: str) -> torch.Tensor:
        return self.opened.hidden(chats, layers, pool)

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None


def _able(loaded: Loaded, need: frozenset[str]) -> Loaded:
    lacking = sorted(need - loaded.able)
    if lacking:
        loaded.close()
        raise BadInput(
            f"{loaded.ref.where} does not offer {', '.join(lacking)} (engine {loaded.conventions['engine']}).",
            fix="Give the model's folder instead: the hf engine offers everything.",
        )
    return loaded


def with_recipe(how: Decoding, ref: ModelRef, chosen: Mapping[str, Any]) -> Decoding:
    """Decoding for one model: a measure's defaults, then its recipe's, then what the user chose.

    Raises:
        BadInput: A value out of its range; see `check_decoding`.
    """
    recipe = dict(ref.recipe.decoding) if ref.recipe else {}
    return dataclasses.replace(how, **check_decoding({**recipe, **chosen}))
