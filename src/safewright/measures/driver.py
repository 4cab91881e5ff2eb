"""The one driver of every measure: ask, journal, judge, count, and be killed at any moment."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.measures.answering import Answers
from safewright.measures.behaviour import findings_of
from safewright.measures.deriving import all_models
from safewright.measures.plan import MeasurePlan, Models, plan_measure
from safewright.measures.scoring import Scoring
from safewright.runs import Run, open_run, to_json
from safewright.runs.progress import Progress, silent
from safewright.types import Cost, Findings, ModelRef, Record, Row, Scorecard

MAX_UNSCORED = 0.02
"""Share of unscored records above which a scorecard is not to be trusted (exit 11)."""

RUNNING = ("run", "overwrite", "notes", "max_unscored", "progress")
"""Arguments of `run_measure`; the others of `measure_model` go to `plan_measure`."""


def measure_model(name: str, models: Models | Mapping[str, Models], **given: Any) -> Scorecard:
    """The scorecard of a measure on a model (or on models by role).

    Everything is journalled in the run's folder: the same call after a crash asks only what was not
    answered, and gives the same scorecard apart from its cost.

    Args:
        name: A measure of the catalog.
        models: What `safewright.models.resolve` takes, what `safewright.models.load` returned (a model in
            memory comes this way, with its tokenizer), or a mapping of the measure's roles to these.
        data: A file, a preset's name, loaded data, rows, or mappings in a public format; the role's default
            preset where None. By role, as a mapping, for a measure that reads rows of several.
        judge: A judge or its name; the default is the measure's, mostly the keyword judge, which is weak and
            says so.
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
        try:
            if plan.entry.behaviour:
                work = _behaviour(plan, opened, progress or silent)
            else:
                work = _white_box(plan, opened, rows)
        finally:
            for role in plan.ours:
                plan.models[role].close()
        findings, records = work.findings, work.records
        # The card names the bytes of its records: a kill between the two leaves no pair that passes for one.
        digest = opened.write_rows("records.jsonl", records)
        card = Scorecard(
            measure=plan.entry.name,
            version=plan.entry.version,
            models={
                role: _as_run(ref, work.conventions.get(role))
                for role, ref in ({r: m.ref for r, m in plan.models.items()} | work.made).items()
            },
            readings=findings.readings,
            curves=findings.curves,
            tests=findings.tests,
            records="records.jsonl",
            records_digest=digest,
            conventions={
                "config": to_json(plan.options),
                "decoding": work.decoding,
                "models": work.conventions,
                "judge": plan.identity["judge"],
                "sees": plan.entry.sees,
                "data": plan.data.describe() if plan.data else None,
                "seed": plan.seed,
                "max_unscored": max_unscored,
                "versions": plan.identity["versions"],
                **({"method": dict(findings.conventions)} if findings.conventions else {}),
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
        for name, plain in work.files.items():
            opened.write(name, plain)
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


def beyond_bounds(card: Scorecard, records: int, bound: float) -> tuple[tuple[str, int, int, float], ...]:
    """What of a scorecard's records is unscored beyond what is allowed: in words, with its count, of how many, and
    its bound.

    A measure for which an answer without visible text is a class of its own has a bound for that
    (``max_no_answer`` of its method); ``bound`` is for the rest then, and for both where it is the larger one. It
    holds for each of several models (``no_answer_of``: by role, how many of how many), so that none hides another.
    """
    method = card.conventions.get("method", {})
    own = method.get("max_no_answer")
    silent = card.unscored.get("no_answer", 0) if own is not None else 0
    lost = [("unscored", sum(card.unscored.values()) - silent, records, bound)]
    if own is not None:
        parts = method.get("no_answer_of") or {"": (silent, records)}
        lost += [
            (
                "without a visible answer" + (f" (role {role})" if len(parts) > 1 else ""),
                count,
                asked,
                max(own, bound),
            )
            for role, (count, asked) in parts.items()
        ]
    return tuple(one for one in lost if one[2] and one[1] / one[2] > one[3])


def _peak_bytes() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True)
class _Work:
    """What a measure did in its run, before it is put on a scorecard."""

    findings: Findings
    records: list[Record]
    conventions: dict[str, Any]
    decoding: dict[str, Any] = field(default_factory=dict)
    calls: int = 0
    judged: int = 0
    made: dict[str, ModelRef] = field(default_factory=dict)
    """Changed models that were measured too, by their roles."""
    files: dict[str, Any] = field(default_factory=dict)


def _white_box(plan: MeasurePlan, run: Run, rows: Sequence[Row]) -> _Work:
    conventions = {role: dict(model.conventions) for role, model in plan.models.items()}
    found = plan.entry.function(plan.models, rows, config=plan.options, run=run)
    findings, records = found if isinstance(found, tuple) else (found, [])
    return _Work(findings, list(records), conventions)


def _behaviour(plan: MeasurePlan, run: Run, progress: Progress) -> _Work:
    behaviour = plan.behaviour
    rows = plan.data.rows if plan.data else ()
    models = all_models(behaviour, plan.models, run, rows, progress)
    questions = plan.questions
    if behaviour.rewrite is not None:
        questions = behaviour.rewrite(questions, plan.models, run, progress)
        for role in set(plan.ours).intersection(behaviour.reads):
            plan.models[role].close()  # it is opened again where it is needed again
    answers = Answers(run, behaviour, questions, models, seed=plan.seed, progress=progress)
    with Scoring(run, behaviour, plan.judge, answers, progress) as scoring:
        answers.ask(scoring.arrived)
        records = scoring.finish()
    if behaviour.read is not None:
        for role in plan.ours:  # two large models need not be in memory together
            if role not in behaviour.reads:
                plan.models[role].close()
        records = behaviour.read(records, plan.models, run, progress)
    findings = findings_of(behaviour, records)
    made = {role: models[role].ref for role, how in behaviour.derived.items() if how.make is not None}
    return _Work(
        findings,
        records,
        answers.conventions,
        answers.decoding,
        answers.calls,
        scoring.judged,
        made,
        dict(behaviour.files(findings, {r: m.ref for r, m in plan.models.items()}))
        if behaviour.files
        else {},
    )
