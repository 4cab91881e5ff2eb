"""Giving answers to a judge in chunks of whole instances, as they arrive or once all are there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from safewright.judges import models_of
from safewright.measures.answering import Answers
from safewright.measures.behaviour import Behaviour, answer_status, instance_of
from safewright.measures.journal import journal_rows, journalled
from safewright.runs import Background, Run, digest_json
from safewright.runs.calls import FIELDS
from safewright.runs.progress import Progress
from safewright.types import Judge, Record, Status

CHUNK = 64
"""Records judged together; a chunk ends where an instance ends."""

NAMES = ("scores", "status", "why", "meta")
"""What a judge's work adds to a record, as it is journalled."""


@dataclass(frozen=True)
class _Scores:
    scores: Mapping[str, float | None] = field(default_factory=dict)
    status: Mapping[str, Status] = field(default_factory=dict)
    why: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Chunk:
    places: list[int]
    future: Future[list[Record]] | None = None
    taken: bool = False


class Scoring:
    """The judging of one run; a context manager, since a judge may be at work when something fails.

    Every answer of a judge's model is written down as it arrives (journal ``calls``), every chunk's scores
    when they are complete.
    """

    def __init__(
        self, run: Run, behaviour: Behaviour, judge: Judge | None, answers: Answers, progress: Progress
    ) -> None:
        self.run, self.behaviour, self.judge, self.answers = run, behaviour, judge, answers
        self.progress = progress
        self.records: dict[int, Record] = {}
        self.judged = 0
        self._journal = journal_rows(run, "scores", ("answer", *NAMES))
        self._chunks = [_Chunk(places) for places in _whole_instances(answers)]
        self._stack = ExitStack()
        self._stores = list(dict.fromkeys(model.calls for model in models_of(judge))) if judge else []
        self._asked = sum(store.asked for store in self._stores)

    def __enter__(self) -> Scoring:
        self._background = self._stack.enter_context(Background())
        for store in self._stores:
            rows = self.run.rows("calls", FIELDS)
            self._stack.callback(store.attach(rows, lambda row: self.run.append("calls", row)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def alongside(self) -> bool:
        """Whether judging may go on while answers are still being asked for.

        Not where both are computed here: they would take each other's time and random numbers.
        """
        return all(model.remote for model in models_of(self.judge)) if self.judge else True

    def arrived(self) -> None:
        """Some answers have arrived: start on the chunks that are complete, collect those that are done."""
        if self.alongside:
            for chunk in self._chunks:
                self._start(chunk)
        self._collect()

    def finish(self) -> list[Record]:
        """All records with their scores, in the order of the questions."""
        for chunk in self._chunks:
            self._start(chunk)
            if not self.alongside:
                self._take(chunk)
        for chunk in self._chunks:
            self._take(chunk)
        if self._stores:
            self.judged = sum(store.asked for store in self._stores) - self._asked
        return [self.records[place] for place in range(len(self.answers.keys))]

    def _start(self, chunk: _Chunk) -> None:
        if chunk.future is not None or not all(self.answers.answered(place) for place in chunk.places):
            return
        pending = []
        for place in chunk.places:
            record = self.answers.record(place)
            kept = self._kept(place, record)
            if kept is None:
                pending.append(record)
            else:
                self.records[place] = kept
        if pending:
            chunk.future = self._background.submit(self.behaviour.score(pending, self.judge))
        else:
            chunk.future = Future()
            chunk.future.set_result([])

    def _kept(self, place: int, record: Record) -> Record | None:
        """The record with the scores that were journalled for this very answer."""
        row = self._journal.get(self.answers.keys[place])
        if row is None or row["answer"] != _answer_digest(record):
            return None
        kept = journalled(_Scores, {name: row[name] for name in NAMES}, "scores")
        return dataclasses.replace(record, **{name: getattr(kept, name) for name in NAMES})

    def _collect(self) -> None:
        for chunk in self._chunks:
            if chunk.future is not None and chunk.future.done():
                self._take(chunk)

    def _take(self, chunk: _Chunk) -> None:
        """Wait for a chunk's scores and write them down."""
        if chunk.taken or chunk.future is None:
            return
        by_key = {self.answers.keys[place]: place for place in chunk.places}
        for record in chunk.future.result():
            place = by_key[record.role, record.id, record.sample]
            self.records[place] = record
            if self.judge is not None:
                self.judged += answer_status(record)[0] == "ok"
            if "error" not in record.status.values():
                row = {name: getattr(record, name) for name in NAMES}
                self.run.append(
                    "scores", {"key": self.answers.keys[place], "answer": _answer_digest(record), **row}
                )
        chunk.taken = True
        self.progress("judging", len(self.records), len(self.answers.keys))


def _whole_instances(answers: Answers) -> list[list[int]]:
    """Places in chunks of at least `CHUNK`, instances kept together, in the order of the questions."""
    grouped: dict[str, list[int]] = {}
    for place, question in enumerate(answers.questions):
        grouped.setdefault(instance_of(question), []).append(place)
    return list(_gathered(grouped.values()))


def _gathered(groups: Iterable[Sequence[int]]) -> Iterable[list[int]]:
    chunk: list[int] = []
    for group in groups:
        chunk += group
        if len(chunk) >= CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _answer_digest(record: Record) -> str:
    said = record.generation
    return digest_json([said.raw, said.stop] if said else None)
