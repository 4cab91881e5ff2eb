"""Models a measure makes of those it was given: changed in memory, or asked in another way."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from safewright.measures.behaviour import Behaviour, Derived
from safewright.models import Loaded
from safewright.models.chat import THINK, folded, start, started
from safewright.models.ordering import in_order
from safewright.runs import Run
from safewright.runs.progress import Progress
from safewright.types import Chat, Decoding, Generation, ModelRef, Row, TokenScores

if TYPE_CHECKING:
    import torch

OURS = ("hf", "adapter", "live")
"""Kinds of models whose prompts are rendered here: they can go on with a turn of their own."""


def all_models(
    behaviour: Behaviour, models: Mapping[str, Loaded], run: Run, rows: Sequence[Row], progress: Progress
) -> dict[str, Loaded]:
    """The models given, and those derived of them, by role; nothing is opened or changed yet."""
    found = dict(models)
    for role, how in behaviour.derived.items():
        if how.of not in models:
            continue  # an optional role without a model: nothing is asked of it (`put_to`)
        made = models[how.of] if how.make is None else how.make(models[how.of], run, rows, progress)
        if how.begun:
            made = Begun(made, how)
        found[role] = made
    return found


def goes_on(ref: ModelRef, how: Derived) -> bool:
    """Whether a model is sent the opening of an answer as a turn of its own."""
    return how.goes_on or ref.kind in OURS


def sent(chat: Chat, ref: ModelRef, how: Derived) -> Chat:
    """A conversation with its answer begun, as it is put to a model."""
    begun = _marked(chat, ref) if how.marked else chat
    return begun if goes_on(ref, how) else folded(begun)


def _marked(chat: Chat, ref: ModelRef) -> Chat:
    """A conversation whose begun answer has the reasoning markers of the model's recipe."""
    opening, visible = started(chat), ref.recipe.visible if ref.recipe else {}
    if opening is None or not visible:
        return chat
    for name in ("open", "close"):
        opening = opening.replace(THINK[name], visible[name])
    return start(chat[:-1], opening)


def about_opening(ref: ModelRef, how: Derived) -> dict[str, str]:
    """How the opening of an answer was put to a model, for the scorecard."""
    own = goes_on(ref, how)
    return {"opening": "the assistant's own turn, gone on with" if own else "at the end of the question"}


class Begun:
    """A model that is asked to go on with answers that are begun."""

    def __init__(self, inner: Loaded, how: Derived) -> None:
        self.inner, self.how = inner, how
        self.ref: ModelRef = inner.ref

    @property
    def able(self) -> frozenset[str]:
        return self.inner.able

    @property
    def conventions(self) -> Mapping[str, Any]:
        return {**self.inner.conventions, **about_opening(self.ref, self.how)}

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        return in_order(self.stream(chats, how), len(chats))

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Generator[list[tuple[int, Generation]]]:
        begun = [sent(chat, self.ref, self.how) for chat in chats]
        with closing(self.inner.stream(begun, how, done=done)) as stream:
            yield from stream

    def logprobs(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[TokenScores]:
        return self.inner.logprobs(chats, answers)

    def hidden(self, chats: Sequence[Chat], layers: Sequence[int], pool: str) -> torch.Tensor:
        return self.inner.hidden(chats, layers, pool)

    def close(self) -> None:
        self.inner.close()
