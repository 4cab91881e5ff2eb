"""What treatments that have rows written by models share: questions counted by kind, and replies journalled."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from safewright.judges.asking import Heard, Parse, ask_strictly
from safewright.judges.items import marker_of
from safewright.judges.model import JudgeModel
from safewright.prompts import load as load_prompt
from safewright.runs.calls import FIELDS
from safewright.treatments.job import Job
from safewright.types import Chat, Decoding, Generation, Message

JOURNAL = "calls"
"""The stream of a run that keeps received replies."""


@dataclass
class Asker:
    """Asks one model, and counts what was asked by kind; equal questions are one."""

    model: JudgeModel
    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0

    async def generate(
        self, kind: str, chats: Sequence[Chat], how: Decoding | None = None
    ) -> list[Generation]:
        """One reply per chat, in order; see `JudgeModel.generate`."""
        replies = await self.model.generate(chats, how)
        self.counts[kind] = self.counts.get(kind, 0) + len(chats)
        self.tokens += sum(reply.tokens for reply in replies)
        return replies

    async def strictly(
        self, kind: str, prompts: Sequence[str], parse: Parse, again: str, tries: int
    ) -> list[Heard]:
        """Ask for a strict form; see `safewright.judges.asking.ask_strictly`. ``again`` names the further prompt."""
        more = 0

        def further(problem: str) -> str:
            nonlocal more
            more += 1
            return load_prompt(again).render(problem=problem)

        heard = await ask_strictly(self.model, prompts, parse, further, tries)
        distinct = dict(zip(prompts, heard, strict=True))
        self.counts[kind] = self.counts.get(kind, 0) + len(distinct) + more
        self.tokens += sum(one.tokens for one in distinct.values())
        return heard


def user(text: str) -> Message:
    """A turn of the user."""
    return {"role": "user", "content": text}


def filled(name: str, **material: Any) -> str:
    """A prompt filled with material, between markers that the material cannot contain."""
    texts = [text for text in material.values() if isinstance(text, str)]
    return load_prompt(name).render(marker=marker_of(*texts), **material)


def deciding(options: Any) -> dict[str, Any]:
    """The options of a dataclass that decide what the rows are."""
    return {
        one.name: getattr(options, one.name)
        for one in dataclasses.fields(options)
        if one.metadata.get("decides", True)
    }


@contextmanager
def journalled(job: Job, models: Iterable[JudgeModel], what: str, least: int) -> Iterator[None]:
    """Journal every received reply in the job's run before it is used; the models are closed at the end.

    Args:
        job: Whose run keeps them.
        models: Who is asked.
        what: The progress line.
        least: Replies there will be at least, for the progress line.
    """
    asked = list(models)
    stores = {id(model.calls): model.calls for model in asked}
    with ExitStack() as stack:
        for model in asked:
            stack.callback(model.close)
        if stores:
            known = job.run.rows(JOURNAL, FIELDS)
            write = _received(job, what, least, len(known))
            for calls in stores.values():
                stack.callback(calls.attach(known, write))
        yield


def _received(job: Job, what: str, least: int, known: int) -> Callable[[Mapping[str, Any]], None]:
    count = itertools.count(known + 1)

    def write(row: Mapping[str, Any]) -> None:
        job.run.append(JOURNAL, row)
        done = next(count)
        job.progress(what, done, max(done, least))

    return write
