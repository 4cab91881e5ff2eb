"""Another judge's word on answers that were given before: nothing is asked of the models again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safewright import catalog
from safewright.compose.folders import load_card
from safewright.compose.inspect_log import is_log, logs_in, scorecard_of
from safewright.errors import BadInput
from safewright.measures import driver, plan
from safewright.measures.behaviour import Behaviour, findings_of
from safewright.measures.scoring import Scoring
from safewright.runs import open_run
from safewright.runs.progress import Progress, silent
from safewright.runs.run import plan_digest
from safewright.types import Judge, Record, Scorecard


def rejudge(
    source: Path | str,
    judge: Judge,
    *,
    out: Path | str | None = None,
    data: str | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Scorecard, Path]:
    """The scorecard of stored answers under another judge, and its run's folder.

    Every judgement is journalled: the same call after a crash goes on where it stopped.

    Args:
        source: The folder of a measure's run, or a log of Inspect's, or a folder with the logs of one task.
        judge: Who decides now.
        out: Folder of the new run; ``runs/NAME-DIGEST`` of its plan where None.
        data: For a log: where its data lies now, if it was moved.
        overwrite: Start anew where the folder holds another run.
        notes: Facts for plan.json that decide nothing.
        progress: Called as work goes on.

    Raises:
        BadInput: Not a run or log of a judged measure, one of another version, or a judge that does not
            decide what the measure asks.
    """
    started = time.monotonic()
    path = Path(source)
    card, records = scorecard_of(_only(path), data=data) if is_log(path) else load_card(path)
    entry = catalog.find(card.measure, "measure")
    if not entry.behaviour or entry.judges is None:
        raise BadInput(f"{entry.name} uses no judge.", fix="Name a run of a judged measure.")
    if entry.version != card.version:
        raise BadInput(
            f"{source} holds answers to version {card.version} of {entry.name}; this is version {entry.version}.",
            fix="Run the measure again.",
        )
    if entry.judges not in judge.answers:
        raise BadInput(
            f"The judge {judge.name} cannot say whether an answer is a {entry.judges} one.",
            fix=f"It decides: {', '.join(sorted(judge.answers))}.",
        )
    options = catalog.read_options(entry, card.conventions["config"])
    models: Any = {role: SimpleNamespace(ref=ref) for role, ref in card.models.items()}
    plan.check_self_judge(entry, options, models, judge)
    identity = {
        "rejudged": {"measure": entry.name, "version": entry.version, "config": options},
        "records": card.records_digest,
        "judge": plan.describe_judge(judge, options),
    }
    folder = Path(out) if out else Path("runs") / f"rejudge-{entry.name}-{plan_digest(identity)[7:19]}"
    behaviour: Behaviour = entry.function(options)
    with open_run(folder, {**identity, **(notes or {})}, overwrite=overwrite) as run:
        given: Any = _Given([_unjudged(record) for record in records])
        with Scoring(run, behaviour, judge, given, progress or silent) as scoring:
            scored = scoring.finish()
        findings = findings_of(behaviour, scored)
        digest = run.write_rows("records.jsonl", scored)
        found = dataclasses.replace(
            card,
            readings=findings.readings,
            curves=findings.curves,
            tests=findings.tests,
            records="records.jsonl",
            records_digest=digest,
            conventions={
                **card.conventions,
                "judge": identity["judge"],
                "rejudged": card.records_digest,
                **({"method": dict(findings.conventions)} if findings.conventions else {}),
            },
            unscored=driver.count_unscored(scored),
            cost=dataclasses.replace(
                card.cost,
                seconds=round(time.monotonic() - started, 3),
                model_calls=0,
                judge_calls=scoring.judged,
            ),
        )
        run.write("scorecard.json", found)
        run.event("finished", seconds=found.cost.seconds)
    return found, folder


def _only(path: Path) -> Path:
    """The one log that a path names or a folder holds."""
    logs = logs_in(path)
    if len(logs) > 1:
        raise BadInput(
            f"{path} holds logs of {len(logs)} tasks or models.",
            why="One run is judged at a time.",
            fix=f"Name one: {', '.join(str(log) for log in logs)}.",
        )
    return logs[0]


class _Given:
    """Stored answers, as `Scoring` takes those that are being asked for."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.questions = records
        self.keys = [(record.role, record.id, record.sample) for record in records]

    def answered(self, place: int) -> bool:
        """All are."""
        return True

    def record(self, place: int) -> Record:
        """The answer at a place, unscored."""
        return self.questions[place]


def _unjudged(record: Record) -> Record:
    """A record without what its former judge said."""
    said = {f"{name}{part}" for name in record.status for part in ("_label", "_notes")}
    meta = {name: value for name, value in record.meta.items() if name not in said}
    return dataclasses.replace(record, scores={}, status={}, why="", meta=meta)
