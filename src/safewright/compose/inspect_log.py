"""Inspect's logs of our tasks: records and scorecards in, records and scorecards out.

A log's scores carry their records without long prompts: those are read from the data again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright import catalog
from safewright.compose.cases import Cases, gather
from safewright.errors import BadInput, Incomplete, need_extra
from safewright.measures import driver
from safewright.measures.behaviour import findings_of
from safewright.measures.overflow import Attempt
from safewright.runs import digest_json, from_json, to_json, versions, write_json
from safewright.runs.atomic import lines_digest, write_lines
from safewright.types import Chat, Cost, ModelRef, Question, Record, Scorecard

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

KEY = "safewright"
"""Where scores and logs of ours keep what is ours, in their metadata."""

LONG = 4000
"""Characters of a prompt above which a log does not repeat it."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a record stands: its place among all questions, and the share of its context that was shown."""

    number: int
    share: float = 1.0
    epoch: int = 1


def chat_length(chat: Chat) -> int:
    """Characters of a conversation."""
    return sum(len(turn["content"]) for turn in chat)


def lean(record: Record, place: Place) -> dict[str, Any]:
    """A record for a log: without a long prompt, with its place."""
    plain: dict[str, Any] = to_json(record)
    if chat_length(record.input) > LONG:
        plain["input"] = None
        plain["input_digest"] = digest_json(record.input)
    return {"place": to_json(place), **plain}


def whole(plain: Mapping[str, Any], chat: Chat | None = None) -> tuple[Place, Record]:
    """The record that `lean` took apart; ``chat`` is its prompt, where the log left it out."""
    kept = {name: value for name, value in plain.items() if name not in ("place", "input_digest")}
    if kept["input"] is None:
        kept["input"] = to_json(chat or [])
    return from_json(Place, plain["place"]), from_json(Record, kept)


def in_order(found: Sequence[tuple[Place, Record]]) -> list[Record]:
    """Records in the order in which the measure asks them, epoch after epoch."""
    return [record for _, record in sorted(found, key=lambda pair: (pair[0].epoch, pair[0].number))]


def is_log(path: Path) -> bool:
    """Whether a path names a log of Inspect's, or a folder that holds some and is no run's."""
    if path.is_file():
        return path.suffix == ".eval" or (path.suffix == ".json" and b'"eval"' in path.read_bytes()[:4096])
    return path.is_dir() and any(path.glob("*.eval"))


def logs_in(path: Path) -> list[Path]:
    """The latest log of each task and model in a folder, or the one log ``path`` names."""
    if path.is_file():
        return [path]
    read = _reader()
    latest: dict[str, Path] = {}
    for file in sorted(path.glob("*.eval")):
        spec = read(str(file), header_only=True).eval
        if KEY in (spec.metadata or {}):
            roles = to_json({role: str(bound) for role, bound in (spec.model_roles or {}).items()})
            latest[digest_json([spec.task, str(spec.model), to_json(spec.task_args), roles])] = file
    if not latest:
        raise BadInput(f"{path} holds no log of a task of ours.", fix="Run inspect eval safewright/NAME.")
    return list(latest.values())


def scorecard_of(
    log: EvalLog | Path | str, *, data: str | None = None, scorer: str | None = None
) -> tuple[Scorecard, list[Record]]:
    """The scorecard of a log of one of our tasks, with its records.

    Args:
        log: A log, or its file.
        data: Where its data lies now, if not where it lay.
        scorer: Whose scores, where the log has several; the task's own by default.

    Raises:
        BadInput: Not a log of one of our tasks, or the data is not what it was made from.
        Incomplete: Nothing in it is scored.
        Missing: inspect-ai is not installed.
    """
    read = _reader()
    header = read(str(log), header_only=True) if isinstance(log, (Path, str)) else log
    about = (header.eval.metadata or {}).get(KEY)
    if not isinstance(about, Mapping):
        raise BadInput(
            f"{header.location or 'The log'} is not of a task of ours (it is of {header.eval.task}).",
            fix="Give a log of inspect eval safewright/NAME.",
        )
    found: list[tuple[Place, Record]] = []
    asked: dict[str, Any] = {}
    judged: dict[str, Any] = {}
    texts = _Texts(about, data)
    for sample in _samples(header):
        kept = _score(sample, scorer or about["measure"])
        if kept is None:
            continue
        judged = judged or kept
        for role, said in json.loads(kept["models"]).items():
            known = asked.setdefault(role, said)
            if known["ref"]["digest"] != said["ref"]["digest"]:
                raise BadInput(
                    f"The log {header.location} holds answers of two models in the role {role!r}.",
                    fix="Run the task again in a folder of its own.",
                )
        found += [texts.whole(plain) for plain in kept["records"]]
    if not found:
        raise Incomplete(
            f"Nothing is scored in the log {header.location or ''} (status {header.status}).",
            fix="Run the same inspect command again: received answers are not asked for again.",
        )
    entry = catalog.find(about["measure"], "measure")
    return _card(header, about, judged, asked, entry, in_order(found))


def _card(
    header: EvalLog,
    about: Mapping[str, Any],
    judged: Mapping[str, Any],
    asked: Mapping[str, Any],
    entry: catalog.Entry,
    records: list[Record],
) -> tuple[Scorecard, list[Record]]:
    options = catalog.read_options(entry, judged["config"])
    judge = json.loads(judged["judge"])
    findings = findings_of(entry.function(options), records)
    results = header.results
    card = Scorecard(
        measure=entry.name,
        version=about["version"],
        models={role: from_json(ModelRef, said["ref"]) for role, said in asked.items()},
        readings=findings.readings,
        curves=findings.curves,
        tests=findings.tests,
        records="records.jsonl",
        records_digest=lines_digest(records),
        conventions={
            "config": to_json(options),
            "decoding": {role: said["decoding"] for role, said in asked.items()},
            "models": {role: said["conventions"] for role, said in asked.items()},
            "judge": judge,
            "sees": entry.sees,
            "data": about["data"],
            "seed": judged["seed"],
            "max_unscored": driver.MAX_UNSCORED,
            "versions": {**versions(["safewright"]), **(header.eval.packages or {})},
            **({"method": dict(findings.conventions)} if findings.conventions else {}),
            "inspect": {
                "version": (header.eval.packages or {}).get("inspect_ai", ""),
                "status": header.status,
                "samples": results.total_samples if results else None,
                "completed": results.completed_samples if results else None,
                "task_id": header.eval.task_id,
            },
        },
        unscored=driver.count_unscored(records),
        cost=Cost(
            seconds=_seconds(header),
            model_calls=len(records),
            tokens=sum(record.generation.tokens for record in records if record.generation),
            judge_calls=len(records) if judge else 0,
        ),
    )
    return card, records


def write_card(folder: Path, card: Scorecard, records: Sequence[Record]) -> None:
    """Put a scorecard and its records into a folder, as a run leaves them."""
    write_lines(folder / card.records, records)
    write_json(folder / "scorecard.json", card)


def with_viewer(card: Scorecard, viewer: str) -> Scorecard:
    """The scorecard, naming the bundled log viewer beside it."""
    about = {**card.conventions.get("inspect", {}), "viewer": viewer}
    return dataclasses.replace(card, conventions={**card.conventions, "inspect": about})


def bundle_viewer(logs: Sequence[Path], folder: Path) -> str:
    """Write Inspect's log viewer with copies of some logs beside a page; its place relative to the page.

    Raises:
        Missing: inspect-ai is not installed.
    """
    try:
        from inspect_ai.log import bundle_log_dir
    except ImportError as error:
        raise need_extra("inspect-ai", "eval") from error
    with tempfile.TemporaryDirectory() as chosen:
        for log in logs:
            shutil.copy2(log, chosen)
        with contextlib.redirect_stdout(sys.stderr):  # it tells its progress where results belong
            bundle_log_dir(log_dir=chosen, output_dir=str(folder / "viewer"), overwrite=True)
    return "viewer/index.html"


class _Texts:
    """The prompts a log leaves out, read from its data when the first one is wanted."""

    def __init__(self, about: Mapping[str, Any], data: str | None) -> None:
        self._about, self._data = about, data
        self._questions: dict[tuple[str, str, int], Question] | None = None
        self._cases: Cases | None = None

    def whole(self, plain: Mapping[str, Any]) -> tuple[Place, Record]:
        if plain["input"] is not None:
            return whole(plain)
        place, record = whole(plain, [])
        chat = self._chat(record, place)
        if digest_json(chat) != plain["input_digest"]:
            raise BadInput(
                f"The prompt of {record.id} is not what the data says now.",
                why="The log leaves long prompts out, and other data lies where it was made from.",
                fix="Give the data that the log was made from.",
            )
        return place, dataclasses.replace(record, input=tuple(chat))

    def _chat(self, record: Record, place: Place) -> Chat:
        cases, questions = self._gathered()
        draw = record.sample - (place.epoch - 1) * cases.draws
        question = questions.get((record.role, record.id, draw))
        if question is None:
            raise BadInput(
                f"The data has no question {record.id!r}.", fix="Give the data that the log was made from."
            )
        return Attempt(question, place.share).asked(cases.behaviour).chat

    def _gathered(self) -> tuple[Cases, dict[tuple[str, str, int], Question]]:
        if self._cases is None or self._questions is None:
            about = self._about
            self._cases = gather(about["measure"], about["config"], self._data or about["data_argument"])
            self._questions = {
                (a.question.role, a.question.id, a.question.sample): a.question
                for row in self._cases.rows.values()
                for a in row
            }
        return self._cases, self._questions


def _samples(header: EvalLog) -> Iterator[EvalSample]:
    """The samples of a log, one at a time, without what makes them large."""
    if header.samples is not None:
        yield from header.samples
        return
    try:
        from inspect_ai.log import read_eval_log_samples
    except ImportError as error:
        raise need_extra("inspect-ai", "eval") from error
    large = {"events", "messages", "attachments", "events_data"}
    yield from read_eval_log_samples(header.location, all_samples_required=False, exclude_fields=large)


def _score(sample: EvalSample, scorer: str) -> dict[str, Any] | None:
    """What a scorer of ours kept of a sample; None where the sample erred, or it did not score it."""
    score = (sample.scores or {}).get(scorer)
    kept = (score.metadata or {}).get(KEY) if score is not None and sample.error is None else None
    return dict(kept) if isinstance(kept, Mapping) else None


def _seconds(header: EvalLog) -> float:
    from datetime import datetime

    try:
        started = datetime.fromisoformat(header.stats.started_at)
        return round((datetime.fromisoformat(header.stats.completed_at) - started).total_seconds(), 3)
    except (ValueError, TypeError):
        return 0.0  # a log that was never finished says no end


def _reader() -> Any:
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise need_extra("inspect-ai", "eval") from error
    return read_eval_log
