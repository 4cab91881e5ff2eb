"""What judges that ask a model share: it is loaded at the first question, and asked off the event loop."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.runs import to_json
from safewright.types import Chat, Decoding, Generation, JudgeItem, Judgement, ModelRef

if TYPE_CHECKING:
    from safewright.models import Loaded


class JudgeModel:
    """The model behind a judge.

    A reference is resolved, and so digested, when a scorecard's conventions are read; weights are loaded
    when the first question is asked. Questions are asked one batch at a time.
    """

    def __init__(self, model: Loaded | ModelRef | str | Path, max_new_tokens: int) -> None:
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._loaded: Loaded | None = None
        self._lock = threading.Lock()

    @functools.cached_property
    def ref(self) -> ModelRef:
        """Which model it is.

        Raises:
            BadInput: Not a model.
            Missing: The hub or the server cannot be reached.
        """
        if isinstance(self._model, ModelRef):
            return self._model
        if isinstance(self._model, (str, Path)):
            from safewright.models import resolve

            return resolve(self._model)
        return self._model.ref

    @functools.cached_property
    def how(self) -> Decoding:
        """How it answers: greedily, unless its own recipe says otherwise."""
        from safewright.models import with_recipe

        return with_recipe(Decoding(max_new_tokens=self._max_new_tokens), self.ref, {})

    def conventions(self) -> dict[str, Any]:
        """What a scorecard says about it. Where its folder lies is not part of what it is."""
        return {"model": self.ref.digest, "model_kind": self.ref.kind, "decoding": to_json(self.how)}

    async def generate(self, chats: Sequence[Chat]) -> list[Generation]:
        """One generation per chat, in order."""
        import asyncio  # listing the judges does not need it

        return await asyncio.to_thread(self._generate, list(chats))

    def _generate(self, chats: Sequence[Chat]) -> list[Generation]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded.generate(chats, self.how)

    def _load(self) -> Loaded:
        if not isinstance(self._model, (ModelRef, str, Path)):
            return self._model
        from safewright.models import load

        return load(self.ref, need=frozenset({"generate"}))

    def close(self) -> None:
        """Let go of the model's memory and connections."""
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()
                self._loaded = None


def failure(generation: Generation) -> str | None:
    """Why a generation is no reply at all, None where it is one."""
    if generation.stop in ("error", "overlong"):
        return generation.error or f"the judge's model ended with {generation.stop!r}"
    return None


def unreadable(generation: Generation) -> str | None:
    """Why a reply cannot be trusted whatever it says, None where it can."""
    if not generation.closed:
        return "the reasoning block was never closed"
    if generation.stop == "length":
        return f"the reply was cut off after {generation.tokens} tokens"
    return None


def empty(item: JudgeItem, name: str) -> Judgement | None:
    """The judgement on an item without an answer, which nobody is asked about."""
    if item.answer.strip():
        return None
    return Judgement(None, "", "unparsed", "empty answer", judge=name)


def check_answers(items: Sequence[JudgeItem], answers: frozenset[str], name: str) -> None:
    """Pass when a judge decides everything it is asked.

    Raises:
        BadInput: An item asks about a quality this judge does not decide.
    """
    from safewright.errors import BadInput

    wrong = sorted({item.about for item in items} - answers)
    if wrong:
        raise BadInput(
            f"The judge {name} does not decide {wrong[0]!r}.",
            fix=f"It decides {', '.join(sorted(answers))}; choose another with --judge.",
        )


def unmeasured(more: Mapping[str, Any]) -> dict[str, Any]:
    """Conventions of a judge whose error rates nobody measured here."""
    return {"strength": "unmeasured", "quality": None, **more}
