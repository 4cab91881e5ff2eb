"""The one driver of every measure: ask, journal, judge, count, and be killed at any moment."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from safewright import catalog
from safewright.errors import BadInput
from safewright.measures.behaviour import Behaviour, answer_status
from safewright.measures.plan import MeasurePlan, Models, describe_judge, plan_measure
from safewright.models import Loaded, with_recipe
from safewright.runs import Run, digest_bytes, digest_json, from_json, open_run, run_sync, to_json
from safewright.runs.atomic import dump_json
from safewright.runs.progress import Progress, silent
from safewright.types import (
    Cost,
    Findings,
    Generation,
    Judge,
    ModelRef,
    Question,
    Reading,
    Record,
    Row,
    Scorecard,
    Status,
)

SCORE_CHUNK = 64
"""Records judged, then journalled, together: what a kill can cost of a judge's work."""

MAX_UNSCORED = 0.02
"""Share of unscored records above which a scorecard is not to be trusted (exit 11)."""

RUNNING = ("run", "overwrite", "notes", "max_unscored", "progress")
"""Arguments of `run_measure`; the others of `measure_model` go to `plan_measure`."""

T = TypeVar("T")


def measure_model(name: str, models: Models | Mapping[str, Models], **given: Any) -> Scorecard:
    """The scorecard of a measure on a model (or on models by role).

    Everything is journalled in the run's folder: the same call after a crash asks only what was not
    answered, and gives the same scorecard apart from its cost.

    Args:
        name: A measure of the catalog.
        models: What `safewright.models.resolve` takes, what `safewright.models.load` returned (a model in
            memory comes this way, with its tokenizer), or a mapping of the measure's roles to these.
        data: A file, a preset's name, loaded data, rows, or mappings in a public format; the role's default
            preset where None.
        judge: A judge or its name; the default is the keyword judge, which is weak and says so.
        config: Options of the measure: a mapping, or its configuration dataclass.
        limit: At most so many rows, a sample that depends on ``seed`` alone.
        seed: Of the sample and of decoding above temperature 0.
        engine: How models are run (`EngineOptions`).
        run: Folder of the run; ``runs/NAME-DIGEST`` of its plan where None.
        overwrite: Start anew where the folder holds another run.
        notes: Facts for plan.json that decide nothing (the command, an estimate).
        max_unscored: Share of unscored records above which the scorecard is not to be trusted.
        progress: Called as work goes on.

    Raises:
        BadInput: An unknown measure, option, role or judge; rows that do not fit.
        Missing: A model, its server, data or a package is not there.
        Incomplete: The disk is full.
    """
    running = {key: given.pop(key) for key in RUNNING if key in given}
    return run_measure(plan_measure(name, models, **given), **running)


def run_measure(
    plan: MeasurePlan,
    *,
    run: str | Path | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
    max_unscored: float = MAX_UNSCORED,
    progress: Progress | None = None,
) -> Scorecard:
    """The scorecard of a planned measure; see `measure_model`."""
    started = time.monotonic()
    if not 0 <= max_unscored <= 1:
        raise BadInput(f"max_unscored is {max_unscored}.", fix="It must lie in [0, 1].")
    rows = plan.data.rows if plan.data else []
    with open_run(run or plan.folder, {**plan.identity, **(notes or {})}, overwrite=overwrite) as opened:
        work = _Work(opened, plan.entry, plan.options, plan.models, progress or silent)
        try:
            if plan.entry.behaviour:
                findings, records = work.behaviour(rows, plan.judge, plan.seed)
            else:
                findings, records = work.white_box(rows)
        finally:
            for role in plan.ours:
                plan.models[role].close()
        text = "".join(dump_json(record, canonical=True) + "\n" for record in records)
        card = Scorecard(
            measure=plan.entry.name,
            version=plan.entry.version,
            models={
                role: _as_run(model.ref, work.conventions.get(role)) for role, model in plan.models.items()
            },
            readings=findings.readings,
            curves=findings.curves,
            tests=findings.tests,
            records="records.jsonl",
            records_digest=digest_bytes(text.encode("utf-8")),
            conventions={
                "config": to_json(plan.options),
                "decoding": work.decoding,
                "models": work.conventions,
                "judge": describe_judge(plan.judge),
                "sees": plan.entry.sees,
                "data": plan.data.describe() if plan.data else None,
                "seed": plan.seed,
                "max_unscored": max_unscored,
                "versions": plan.identity["versions"],
            },
            unscored=count_unscored(records),
            cost=Cost(
                seconds=round(time.monotonic() - started, 3),
                model_calls=work.calls,
                tokens=sum(record.generation.tokens for record in records if record.generation),
                judge_calls=work.judged,
                peak_bytes=_peak_bytes(),
            ),
        )
        # The card names the bytes of its records: a kill between the two leaves no pair that passes for one.
        opened.write("records.jsonl", text)
        opened.write("scorecard.json", card)
        opened.event("finished", seconds=card.cost.seconds)
    return card


def _as_run(ref: ModelRef, conventions: Mapping[str, Any] | None) -> ModelRef:
    """The reference with the dtype the model really had."""
    return dataclasses.replace(ref, dtype=(conventions or {}).get("dtype", ref.dtype))


def count_unscored(records: Sequence[Record]) -> dict[str, int]:
    """Records by the first reason why some score of theirs has no value; over-long prompts apart."""
    counts: dict[str, int] = {}
    for record in records:
        if record.generation is not None and record.generation.stop == "overlong":
            reason = "overlong"
        else:
            reason = next((status for status in record.status.values() if status != "ok"), "")
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items()))


def unscored_share(card: Scorecard, records: int) -> float:
    """Share of a scorecard's records that carry no score."""
    return sum(card.unscored.values()) / records if records else 0.0


def _peak_bytes() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Work:
    """One measure at work in one run folder."""

    def __init__(
        self,
        run: Run,
        entry: catalog.Entry,
        options: Any,
        models: Mapping[str, Loaded],
        progress: Progress,
    ) -> None:
        self.run, self.entry, self.options, self.progress = run, entry, options, progress
        self.models = models
        self.conventions: dict[str, Any] = {}
        self.decoding: dict[str, Any] = {}
        self.calls = 0
        self.judged = 0

    def white_box(self, rows: Sequence[Row]) -> tuple[Findings, list[Record]]:
        self.conventions = {role: dict(model.conventions) for role, model in self.models.items()}
        found = self.entry.function(self.models, rows, config=self.options, run=self.run)
        findings, records = found if isinstance(found, tuple) else (found, [])
        return findings, list(records)

    def behaviour(self, rows: Sequence[Row], judge: Judge | None, seed: int) -> tuple[Findings, list[Record]]:
        behaviour: Behaviour = self.entry.function(self.options)
        questions = behaviour.ask(rows)
        keys = [_key(question) for question in questions]
        if len(set(keys)) != len(keys):
            raise RuntimeError(f"{self.entry.name} asks the same (role, id, sample) twice")
        known = {
            key: _journalled(Generation, row["generation"], "answers")
            for key, row in _rows(self.run, "answers", ("generation",)).items()
        }
        for role in dict.fromkeys(question.role for question in questions):
            places = [place for place, question in enumerate(questions) if question.role == role]
            self._ask(behaviour, role, [questions[p] for p in places], [keys[p] for p in places], known, seed)
        records = [_record(q, known.get(key)) for q, key in zip(questions, keys, strict=True)]
        records = self._score(behaviour, records, keys, judge)
        findings = behaviour.summarise(records)
        return dataclasses.replace(findings, readings=(*findings.readings, *_cut_short(records))), records

    def _ask(
        self,
        behaviour: Behaviour,
        role: str,
        questions: Sequence[Question],
        keys: Sequence[tuple[str, str, int]],
        known: dict[tuple[str, str, int], Generation],
        seed: int,
    ) -> None:
        loaded = self.models[role]
        decoding = with_recipe(behaviour.decoding, loaded.ref, behaviour.chosen)
        decoding = dataclasses.replace(decoding, seed=seed)
        self.decoding[role] = to_json(decoding)
        done = frozenset(place for place, key in enumerate(keys) if key in known)
        about = {"step": "engine", "role": role}
        if len(done) == len(questions):
            # Everything is answered: the model is not even opened.
            self.conventions[role] = self.run.step(about, dict)
            return
        self.conventions[role] = self.run.step(about, lambda: dict(loaded.conventions))
        count = len(done)
        self.progress(f"asking {role}", count, len(questions))
        chats = [question.chat for question in questions]
        with closing(loaded.stream(chats, decoding, done=done)) as stream:
            for ready in stream:
                for place, generation in ready:
                    known[keys[place]] = generation
                    # A failure is not an answer: the next run asks again.
                    if generation.stop != "error":
                        self.run.append("answers", {"key": keys[place], "generation": generation})
                count += len(ready)
                self.calls += len(ready)
                self.progress(f"asking {role}", count, len(questions))

    def _score(
        self,
        behaviour: Behaviour,
        records: list[Record],
        keys: Sequence[tuple[str, str, int]],
        judge: Judge | None,
    ) -> list[Record]:
        names = ("scores", "status", "why", "meta")
        journal = _rows(self.run, "scores", ("answer", *names))
        pending = []
        for place, (record, key) in enumerate(zip(records, keys, strict=True)):
            row = journal.get(key)
            if row is None or row["answer"] != _answer_digest(record):
                pending.append(place)
                continue
            kept = _journalled(_Scores, {name: row[name] for name in names}, "scores")
            records[place] = dataclasses.replace(record, **{name: getattr(kept, name) for name in names})
        for start in range(0, len(pending), SCORE_CHUNK):
            chunk = pending[start : start + SCORE_CHUNK]
            fresh = run_sync(behaviour.score([records[place] for place in chunk], judge))
            for place, record in zip(chunk, fresh, strict=True):
                records[place] = record
                if "error" not in record.status.values():
                    self.run.append(
                        "scores",
                        {
                            "key": keys[place],
                            "answer": _answer_digest(record),
                            "scores": record.scores,
                            "status": record.status,
                            "why": record.why,
                            "meta": record.meta,
                        },
                    )
            if judge is not None:
                self.judged += sum(answer_status(records[place])[0] == "ok" for place in chunk)
            self.progress("judging", len(records) - len(pending) + start + len(chunk), len(records))
        return records


@dataclass(frozen=True)
class _Scores:
    """What a judge's work adds to a record, as it is journalled."""

    scores: Mapping[str, float | None] = field(default_factory=dict)
    status: Mapping[str, Status] = field(default_factory=dict)
    why: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def _rows(run: Run, stream: str, fields: Collection[str]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The latest row of a journal for each question."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for number, row in enumerate(run.rows(stream, ("key", *fields)), start=1):
        key = row["key"]
        if not isinstance(key, list) or [type(part) for part in key] != [str, str, int]:
            raise BadInput(
                f"Row {number} of the journal {stream} in {run.dir} has the key {key!r}.", fix=_ANEW
            )
        found[key[0], key[1], key[2]] = row
    return found


def _journalled(kind: type[T], plain: Any, stream: str) -> T:
    try:
        return from_json(kind, plain)
    except BadInput as error:
        raise BadInput(f"The journal {stream} is damaged: {error.what}", fix=_ANEW) from error


_ANEW = "Use --overwrite to start the run anew."


def _key(question: Question) -> tuple[str, str, int]:
    return question.role, question.id, question.sample


def _answer_digest(record: Record) -> str:
    said = record.generation
    return digest_json([said.raw, said.stop] if said else None)


def _record(question: Question, said: Generation | None) -> Record:
    return Record(
        id=question.id,
        input=tuple(question.chat),
        output=said.answer if said and said.stop not in ("error", "overlong") else None,
        role=question.role,
        sample=question.sample,
        cluster=question.cluster,
        lang=question.lang,
        reference=question.reference,
        generation=said,
        meta=question.meta,
    )


def _cut_short(records: Sequence[Record]) -> tuple[Reading, ...]:
    """The share of answers that ended at the token limit: a judge saw only their beginning."""
    from safewright.stats import rate_reading

    said = [r for r in records if r.generation and r.generation.stop in ("stop", "length")]
    if not said:
        return ()
    values = [float(r.generation is not None and r.generation.stop == "length") for r in said]
    clusters = [r.cluster or f"{r.role}/{r.id}" for r in said]
    return (rate_reading("cut_short", values, clusters=clusters, unscored=len(records) - len(said)),)
