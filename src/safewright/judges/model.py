"""What judges that ask a model share: it is loaded at the first question, and asked off the event loop."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput
from safewright.judges.keyword import modern_list
from safewright.judges.text import script_language, without_control
from safewright.runs import Calls, call_key, from_json, to_json
from safewright.types import (
    Chat,
    Decoding,
    Generation,
    Judge,
    JudgementStatus,
    Message,
    ModelRef,
)

if TYPE_CHECKING:
    from safewright.models import Loaded


FILTERED = "content filter kept"
"""In the error of a generation that a content filter kept back."""

REMOTE = ("served", "inspect")
"""Kinds of models that run elsewhere."""


class JudgeModel:
    """The model behind a judge.

    A reference is resolved, and so digested, when a scorecard's conventions are read; weights are loaded
    when the first question is asked. An answer that was received is kept in `calls`: the same question is
    never asked again, whichever item, run or process it is for. A local model answers one batch at a time.

    Args:
        model: A loaded model, or a reference that is loaded at the first question.
        max_new_tokens: Room for a reply.
    """

    def __init__(self, model: Loaded | ModelRef | str | Path, max_new_tokens: int) -> None:
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._loaded: Loaded | None = None
        self._lock = threading.Lock()
        self.calls = Calls()
        self.at_once: int | None = None
        """Requests under way at once, where the model runs elsewhere; the engine's default where None."""
        self.timeout: float | None = None
        """Seconds for one such request; the engine's default where None."""
        self.allowed: tuple[str, ...] = ()
        """Control words that may stand in questions, as who asks has broken them in all material."""

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

    @property
    def remote(self) -> bool:
        """Whether it runs elsewhere: asking it takes no computing here."""
        return self.ref.kind in REMOTE

    def conventions(self) -> dict[str, Any]:
        """What a scorecard says about it. Where its folder lies is not part of what it is."""
        return {"model": self.ref.digest, "model_kind": self.ref.kind, "decoding": to_json(self.how)}

    async def generate(self, chats: Sequence[Chat], how: Decoding | None = None) -> list[Generation]:
        """One generation per chat, in order; equal chats are one question.

        Args:
            chats: What to ask.
            how: Another way to answer than its own: who draws several replies gives each draw a seed.
        """
        import asyncio  # listing the judges does not need it

        how = self.how if how is None else how
        chats = [_plain(chat, (), self.allowed) for chat in chats]
        keys = [call_key(self.ref.digest, chat, how) for chat in chats]
        unique = dict(zip(keys, chats, strict=True))
        answers: dict[str, Any] = {}
        mine: dict[str, Future[Any]] = {}
        others: dict[str, Future[Any]] = {}
        try:
            for key in unique:
                answer, future, own = self.calls.claim(key)
                if future is None:
                    answers[key] = answer
                else:
                    (mine if own else others)[key] = future
        except BaseException as error:
            for key in mine:
                self.calls.fail(key, error)
            raise
        if mine:
            await self._ask(unique, mine, how)
        for key, future in (mine | others).items():
            # Shielded: who is cancelled while waiting must not cancel the others' answer.
            answers[key] = await asyncio.shield(asyncio.wrap_future(future))
        return [from_json(Generation, answers[key]) for key in keys]

    async def _ask(self, chats: Mapping[str, Chat], mine: Mapping[str, Future[Any]], how: Decoding) -> None:
        """Ask what was claimed; every claim is settled, or fails, before this returns."""
        import asyncio

        open_, keys = set(mine), list(chats)

        def received(key: str, generation: Generation) -> None:
            # Written down at once: a kill in the next moment must not cost the answer.
            self.calls.settle(
                key, to_json(generation), keep=generation.stop != "error" or filtered(generation)
            )
            open_.discard(key)

        try:
            loaded = await asyncio.to_thread(self.open)
            asked = getattr(loaded, "agenerate", None)
            if asked is not None:
                own = [key for key in keys if key in mine]
                # A sampled reply must not depend on what a killed run has received already.
                order = {key: place for place, key in enumerate(keys)}
                places = {"places": [order[key] for key in own]} if how.temperature > 0 else {}
                await asked(
                    [chats[key] for key in own],
                    how,
                    received=lambda index, generation: received(own[index], generation),
                    **places,
                )
            else:
                done = frozenset(place for place, key in enumerate(keys) if key not in mine)
                await asyncio.to_thread(self._stream, loaded, keys, list(chats.values()), how, done, received)
            if open_:
                raise RuntimeError(f"{len(open_)} of {len(mine)} questions to {self.ref.where} got no answer")
        except BaseException as error:
            for key in open_:
                self.calls.fail(key, error)
            raise

    def _stream(
        self,
        loaded: Loaded,
        keys: Sequence[str],
        chats: Sequence[Chat],
        how: Decoding,
        done: frozenset[int],
        received: Callable[[str, Generation], None],
    ) -> None:
        own = getattr(getattr(loaded, "tokenizer", None), "all_special_tokens", ())
        plain = [_plain(chat, own, self.allowed) for chat in chats]
        with self._lock:
            for ready in loaded.stream(plain, how, done=done):
                for index, generation in ready:
                    received(keys[index], generation)

    def open(self) -> Loaded:
        """The model itself, loaded at the first call."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> Loaded:
        if not isinstance(self._model, (ModelRef, str, Path)):
            return self._model
        from safewright.models import load

        need = frozenset({"generate"})
        if self.remote:
            return load(self.ref, need=need, batch_size=self.at_once, timeout=self.timeout)
        return load(self.ref, need=need)

    def close(self) -> None:
        """Let go of the model's memory and connections."""
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()
                self._loaded = None


def _plain(chat: Chat, tokens: Sequence[str] = (), allowed: Sequence[str] = ()) -> list[Message]:
    """A conversation whose turns hold no control tokens but the allowed ones: they quote what is judged."""
    if not allowed:
        return [{**turn, "content": without_control(turn["content"], tokens)} for turn in chat]
    parts = re.compile(f"({'|'.join(map(re.escape, allowed))})")
    return [
        {
            **turn,
            "content": "".join(
                part if part in allowed else without_control(part, tokens)
                for part in parts.split(turn["content"])
            ),
        }
        for turn in chat
    ]


def models_of(judge: Judge) -> tuple[JudgeModel, ...]:
    """The models a judge asks; none for rules."""
    return tuple(getattr(judge, "models", ()))


def failure(generation: Generation) -> str | None:
    """Why a generation is no reply at all, None where it is one."""
    if generation.stop in ("error", "overlong"):
        return generation.error or f"the judge's model ended with {generation.stop!r}"
    return None


def failure_status(generation: Generation) -> JudgementStatus:
    """What a generation that is no reply makes of a judgement: a filter refuses, everything else fails."""
    return "refused" if filtered(generation) else "error"


def filtered(generation: Generation) -> bool:
    """Whether a content filter kept the reply back: it would again."""
    return generation.stop == "error" and FILTERED in generation.error


def unreadable(generation: Generation) -> str | None:
    """Why a reply cannot be trusted whatever it says, None where it can."""
    if not generation.closed:
        return "the reasoning block was never closed"
    if generation.stop == "length":
        return f"the reply was cut off after {generation.tokens} tokens"
    return None


def refuses(reply: str) -> bool:
    """Whether a reply declines to do what the judge's model was asked to do."""
    language = script_language(reply)
    return language is not None and modern_list(language).refusal(reply) is not None


def unmeasured(more: Mapping[str, Any]) -> dict[str, Any]:
    """Conventions of a judge whose error rates nobody measured here."""
    return {"strength": "unmeasured", "quality": None, **more}


def at_least_one(whose: str, **numbers: int) -> None:
    """Pass when a judge's numbers are 1 or more.

    Raises:
        BadInput: One is not.
    """
    for name, number in numbers.items():
        if number < 1:
            raise BadInput(f"{whose} {name} are {number}.", fix="It must be at least 1.")
