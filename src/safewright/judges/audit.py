"""A judge against people: labelled answers go through the judge, and its errors are counted.

What comes out (`JudgeAudit`, as ``judge_audit.json`` in a run's folder) says how often the judge is right about
unsafe and about safe answers, on how many, and with what doubt. `load_audit` reads it back for measures that
correct their rates by it (`safewright.stats.correction`).
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.data import LoadedData
from safewright.data.load import read_objects
from safewright.errors import BadInput, nearest
from safewright.runs import Run, digest_file, digest_json, from_json, open_run, run_sync, to_json, versions
from safewright.runs.atomic import dump_json
from safewright.runs.progress import Progress, silent
from safewright.runs.run import plan_digest
from safewright.stats import (
    Confusion,
    JudgeQuality,
    cohen_kappa,
    confusion,
    krippendorff_alpha,
    quality_of,
)
from safewright.types import Judge, JudgeItem, Judgement, Reading, Row

FORMAT = "judge_audit/1"
FILE = "judge_audit.json"
JUDGED = "judged.jsonl"
"""One line per labelled answer beside it: what people and the judge said."""

POSITIONS = ("front", "end", "short")
"""Where the instruction stood: before its context, after it, or without one."""

CHUNK = 64
"""Answers judged, then journalled, together: what a kill can cost of a judge's work."""

_NEEDED = ("id", "position", "response", "human")
_TOLD = frozenset({"context", "risks", "summary", "convention"})
"""What a judge takes from an item's meta: here it comes from the labels, or is the default."""
_FIELDS = frozenset({*_NEEDED, "risks", "summary", "annotator"})


@dataclass(frozen=True)
class LabelledAnswer:
    """One answer with the labels people gave it: annotator and 1 for unsafe, 0 for safe."""

    id: str
    position: str
    response: str
    votes: tuple[tuple[str, int], ...]
    risks: str | None = None
    summary: str | None = None

    @property
    def human(self) -> int | None:
        """The label of most annotators; None at a tie."""
        unsafe = sum(label for _, label in self.votes)
        safe = len(self.votes) - unsafe
        return None if unsafe == safe else int(unsafe > safe)

    @property
    def key(self) -> str:
        """A name for it that depends on nothing else in the file."""
        return digest_json([self.id, self.position, self.response, self.risks, self.summary])


@dataclass(frozen=True)
class Labels:
    """A file of labelled answers; ``digest`` is over its bytes."""

    answers: tuple[LabelledAnswer, ...]
    rows: int
    digest: str
    source: str
    notes: tuple[str, ...] = ()

    @property
    def annotators(self) -> tuple[str, ...]:
        """Everyone who labelled anything; those without a name are one."""
        return tuple(sorted({name for answer in self.answers for name, _ in answer.votes}))


def load_labels(path: Path | str) -> Labels:
    """The labelled answers of a file, those of several annotators put together.

    A row has ``id`` (of a row of the data), ``position`` (front, end or short), ``response`` (the answer),
    ``human`` (1 unsafe, 0 safe), and where there are such ``annotator`` (a name), ``risks`` and ``summary``
    (what the judge shall be told of instruction and context in the place of its own analysis). Other fields
    are left unread, and named in the notes.

    Raises:
        BadInput: The file cannot be read or is empty; a row lacks a field, has an unknown position or a label
            that is not 0 or 1, is there twice, or contradicts another about risks or summary; every complaint
            names the row.
        Missing: A parquet file, and pyarrow is not installed.
    """
    votes: dict[tuple[str, str, str], dict[str, int]] = {}
    told: dict[tuple[str, str, str], tuple[str | None, str | None]] = {}
    unread: set[str] = set()
    rows = 0
    for where, obj in read_objects(path):
        rows += 1
        key, annotator, human, extra = _read_row(obj, where)
        if annotator in votes.setdefault(key, {}):
            by = f"by {annotator!r}" if annotator else "without an annotator"
            raise BadInput(
                f"{where}: the answer to {key[0]!r} ({key[1]}) is labelled twice {by}.",
                why="Which of the two labels is meant cannot be told.",
                fix="Keep one row, or name the annotators.",
            )
        if told.setdefault(key, extra) != extra:
            raise BadInput(
                f"{where}: risks or summary differ from those of another row with the same answer.",
                why="The judge is asked once about an answer.",
                fix="Give every annotator's row the same risks and summary.",
            )
        votes[key][annotator] = human
        unread |= set(obj) - _FIELDS
    if not rows:
        raise BadInput(
            f"{path} holds no rows.",
            why="There is nothing to compare the judge with.",
            fix=f"Give rows with {', '.join(_NEEDED)}.",
        )
    answers = tuple(
        LabelledAnswer(*key, votes=tuple(sorted(given.items())), risks=told[key][0], summary=told[key][1])
        for key, given in votes.items()
    )
    notes = [f"fields left unread: {', '.join(sorted(unread))}"] if unread else []
    return Labels(answers, rows, digest_file(path), str(path), tuple(notes))


def _read_row(obj: Any, where: str) -> tuple[tuple[str, str, str], str, int, tuple[str | None, str | None]]:
    if not isinstance(obj, Mapping):
        raise BadInput(f"{where}: the row is not an object.", fix=f"Give {', '.join(_NEEDED)}.")
    fields = {key: value for key, value in obj.items() if value is not None}
    for name in _NEEDED:
        if name not in fields:
            found = ", ".join(sorted(fields)) or "none"
            raise BadInput(
                f"{where}: the row has no {name} (fields found: {found}).",
                fix=f"Needed: {', '.join(_NEEDED)}.",
            )
    for name in sorted(set(fields) - _FIELDS):
        close = difflib.get_close_matches(name, sorted(_FIELDS - set(fields)), n=1, cutoff=0.75)
        if close:
            raise BadInput(
                f"{where}: the row has a field {name!r}.",
                why="A misspelt field would be left unread without a word.",
                fix=f"Did you mean {close[0]!r}?",
            )
    position, human = fields["position"], fields["human"]
    if position not in POSITIONS:
        raise BadInput(
            f"{where}: the position is {position!r}.", fix=f"It must be one of {', '.join(POSITIONS)}."
        )
    if isinstance(human, bool) or human not in (0, 1):
        raise BadInput(
            f"{where}: human is {human!r}.", fix="It must be 1 for an unsafe answer or 0 for a safe one."
        )
    key = (_name(fields, "id", where), str(position), _text(fields, "response", where) or "")
    extra = (_text(fields, "risks", where), _text(fields, "summary", where))
    return key, _name(fields, "annotator", where), int(human), extra


def _name(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name, "")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadInput(f"{where}: {name} is {value!r}.", fix="It must be a text or a whole number.")
    return str(value)


def _text(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{where}: {name} is {type(value).__name__}, not a text.")
    return value


def judge_items(labels: Labels, rows: Iterable[Row]) -> list[JudgeItem]:
    """What the judge is asked about each labelled answer, in order.

    The question is the instruction of the row of that id; ``meta`` has the row's own fields, the position,
    risks and summary where given, and the context unless the position is short.

    Raises:
        BadInput: An id that the data do not have (all are listed), or a row without a context.
    """
    by_id = {row.id: row for row in rows}
    unknown = list(dict.fromkeys(answer.id for answer in labels.answers if answer.id not in by_id))
    if unknown:
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        hint = nearest(unknown[0], by_id) if len(by_id) <= 2000 else ""
        raise BadInput(
            f"{len(unknown)} ids of {labels.source} are not in the data: {', '.join(unknown[:20])}{more}.",
            why="The instruction and the context of an answer come from the data.",
            fix=hint if hint.startswith("Did you mean") else "Give the data those answers were made on.",
        )
    return [_item(answer, by_id[answer.id]) for answer in labels.answers]


def _item(answer: LabelledAnswer, row: Row) -> JudgeItem:
    meta = {key: value for key, value in row.meta.items() if key not in _TOLD}
    meta["position"] = answer.position
    if answer.risks is not None:
        meta["risks"] = answer.risks
    if answer.position != "short":
        context = row.meta.get("context")
        if not isinstance(context, str) or not context.strip():
            raise BadInput(
                f"The row {row.id!r} of the data has no context.",
                why=f"Its answer is labelled in the position {answer.position!r}: the judge must see the context.",
                fix="Give data with a context in every row, or label the answer as short.",
            )
        meta["context"] = context
        if answer.summary is not None:
            meta["summary"] = answer.summary
    return JudgeItem(row.prompt[-1]["content"], answer.response, "harmful", lang=row.lang, meta=meta)


@dataclass(frozen=True)
class Figures:
    """How a judge did on some labelled answers.

    ``readings`` has accuracy, sensitivity, specificity, both precisions and Cohen's kappa; ``unscored`` says
    why it decided nothing about some: they are in none of these.
    """

    confusion: Confusion
    unscored: Mapping[str, int]
    readings: Mapping[str, Reading]


@dataclass(frozen=True)
class JudgeAudit:
    """A judge's errors on labelled answers.

    ``alpha`` is Krippendorff's, over the annotators (where there are several) and over them and the judge.
    ``judge`` holds the judge's name and conventions, ``labels`` and ``data`` what it was asked about.
    """

    format: str
    judge: Mapping[str, Any]
    labels: Mapping[str, Any]
    data: Mapping[str, Any]
    overall: Figures
    by_position: Mapping[str, Figures]
    by_safety_type: Mapping[str, Figures]
    alpha: Mapping[str, Reading]
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def unscored_share(self) -> float:
        """Share of the answers with a reference label that the judge decided nothing about."""
        lost = sum(self.overall.unscored.values())
        total = lost + self.overall.confusion.n
        return lost / total if total else 0.0

    def quality(self, position: str | None = None) -> JudgeQuality:
        """Sensitivity and specificity with the counts behind them, of one position or of all.

        Raises:
            BadInput: No such position, a class without labels, or a judge no better than chance.
        """
        if position is None:
            return quality_of(self.overall.confusion)
        if position not in self.by_position:
            raise BadInput(
                f"The audit has no labels for the position {position!r}.",
                fix=nearest(position, self.by_position),
            )
        return quality_of(self.by_position[position].confusion)


def audit_judge(
    judge: Judge,
    labels: Labels,
    data: LoadedData,
    *,
    run: Path | str | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[JudgeAudit, Path]:
    """The audit of a judge, and the folder it lies in.

    Every judgement is journalled: the same call after a crash asks only about what was not judged. A failed
    call is asked again.

    Args:
        judge: Any judge that decides "harmful".
        labels: Labelled answers.
        data: The rows whose ids the labels name, with their contexts.
        run: Folder of the run; ``runs/judge_audit-DIGEST`` of its plan where None.
        overwrite: Start anew where the folder holds another run.
        notes: Facts for plan.json that decide nothing.
        progress: Called as work goes on.

    Raises:
        BadInput: The judge does not decide "harmful", or labels and data do not fit.
        Missing: The judge's model cannot be reached.
        Incomplete: The disk is full.
    """
    if "harmful" not in judge.answers:
        raise BadInput(
            f"The judge {judge.name} does not decide whether an answer is harmful.",
            fix="Choose another with --judge; safewright list shows what each decides.",
        )
    items = judge_items(labels, data.rows)
    described: dict[str, Any] = to_json({"name": judge.name, **judge.conventions})
    plan: dict[str, Any] = {
        "judge_audit": FORMAT,
        "judge": described,
        "labels": {"digest": labels.digest, "rows": labels.rows},
        "data": {"digest": data.digest, "rows": len(data.rows)},
        "versions": versions(["safewright"]),
    }
    folder = Path(run) if run is not None else Path("runs") / f"judge_audit-{plan_digest(plan)[7:19]}"
    with open_run(folder, {**plan, **(notes or {})}, overwrite=overwrite) as opened:
        try:
            judged = _judged(opened, judge, labels.answers, items, progress or silent)
        finally:
            close = getattr(judge, "close", None)
            if close is not None:
                close()
        found = _audit(described, labels, data, items, judged, plan["versions"])
        lines = (_line(*pair) for pair in zip(labels.answers, items, judged, strict=True))
        opened.write(JUDGED, "".join(dump_json(line, canonical=True) + "\n" for line in lines))
        opened.write(FILE, found)
        opened.event("finished")
    return found, folder


def _judged(
    run: Run, judge: Judge, answers: Sequence[LabelledAnswer], items: Sequence[JudgeItem], progress: Progress
) -> list[Judgement]:
    known = {
        row["key"]: from_json(Judgement, row["judgement"])
        for row in run.rows("judgements", ("key", "judgement"))
    }
    pending = [place for place, answer in enumerate(answers) if answer.key not in known]
    progress("judging", len(answers) - len(pending), len(answers))
    for start in range(0, len(pending), CHUNK):
        chunk = pending[start : start + CHUNK]
        fresh = run_sync(judge.judge([items[place] for place in chunk]))
        for place, judgement in zip(chunk, fresh, strict=True):
            known[answers[place].key] = judgement
            if judgement.status != "error":  # a failure is no judgement: the next run asks again
                run.append("judgements", {"key": answers[place].key, "judgement": judgement})
        progress("judging", len(answers) - len(pending) + start + len(chunk), len(answers))
    return [known[answer.key] for answer in answers]


def _audit(
    judge: Mapping[str, Any],
    labels: Labels,
    data: LoadedData,
    items: Sequence[JudgeItem],
    judged: Sequence[Judgement],
    used: Mapping[str, str],
) -> JudgeAudit:
    answers = labels.answers
    everything = range(len(answers))
    positions = {p: [i for i in everything if answers[i].position == p] for p in POSITIONS}
    types: dict[str, list[int]] = {}
    for i in everything:
        kind = items[i].meta.get("safety_type")
        if isinstance(kind, str):
            types.setdefault(kind, []).append(i)

    def figures(places: Iterable[int]) -> Figures:
        return _figures([(answers[i].human, judged[i]) for i in places])

    names = labels.annotators
    raters: list[list[int | None]] = [[dict(a.votes).get(name) for a in answers] for name in names]
    said = [None if j.value is None else int(j.value) for j in judged]
    alpha = {"annotators": krippendorff_alpha(raters)} if len(names) > 1 else {}
    alpha["annotators_and_judge"] = krippendorff_alpha([*raters, said])
    return JudgeAudit(
        format=FORMAT,
        judge=judge,
        labels={
            "source": labels.source,
            "digest": labels.digest,
            "rows": labels.rows,
            "answers": len(answers),
            "annotators": len(names),
            "ties": sum(answer.human is None for answer in answers),
            "notes": list(labels.notes),
        },
        data=data.describe(),
        overall=figures(everything),
        by_position={p: figures(places) for p, places in positions.items() if places},
        by_safety_type={kind: figures(types[kind]) for kind in sorted(types)},
        alpha=alpha,
        versions=used,
    )


def _figures(pairs: Sequence[tuple[int | None, Judgement]]) -> Figures:
    """Ties have no reference: they are in no figure."""
    decided = [(human, judgement) for human, judgement in pairs if human is not None]
    truth = [human for human, _ in decided]
    said = [judgement.value for _, judgement in decided]
    found = confusion(truth, said)
    lost = Counter(judgement.status for _, judgement in decided if judgement.value is None)
    kappa = cohen_kappa(truth, said)
    return Figures(found, dict(sorted(lost.items())), {**found.readings(), kappa.name: kappa})


def _line(answer: LabelledAnswer, item: JudgeItem, judgement: Judgement) -> dict[str, Any]:
    return {
        "id": answer.id,
        "position": answer.position,
        "human": answer.human,
        "votes": dict(answer.votes),
        "judge": judgement.value,
        "status": judgement.status,
        "why": judgement.why,
        "question": item.question,
        "response": answer.response,
    }


def load_audit(path: Path | str) -> JudgeAudit:
    """An audit read back from its file, or from the folder that holds it.

    ``load_audit(path).quality()`` gives what the corrections of `safewright.stats` take. Its figures are
    checked against its counts.

    Raises:
        BadInput: There is no such file, it is damaged, of another format, or contradicts itself.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE
    fix = "Give the judge_audit.json of: safewright judge audit LABELS --data FILE --judge JUDGE"
    try:
        plain = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"{file} cannot be read ({error.strerror}).", fix=fix) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not JSON: {error}.", fix=fix) from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        said = plain.get("format") if isinstance(plain, dict) else None
        raise BadInput(f"{file} is no audit of a judge (its format is {said!r}).", fix=fix)
    try:
        found = from_json(JudgeAudit, plain)
        parts = [("overall", found.overall), *found.by_position.items(), *found.by_safety_type.items()]
        for name, figures in parts:
            for key, reading in figures.confusion.readings().items():
                kept = figures.readings.get(key)
                if kept is None or (kept.value, kept.n) != (reading.value, reading.n):
                    raise BadInput(f"{name}: the {key} is not that of its counts.")
        summed = Counter[str]()
        for figures in found.by_position.values():
            summed.update(vars(figures.confusion))
        if any(summed[key] != count for key, count in vars(found.overall.confusion).items()):
            raise BadInput("The counts of the positions do not add up to the overall ones.")
        if not found.judge.get("name"):
            raise BadInput("It names no judge.")
    except BadInput as error:
        raise BadInput(f"{file} is damaged: {error.what}", fix=f"Make it again. {fix}") from error
    return found


def check_audit(path: str, judge: Judge) -> None:
    """Pass when the audit is of this very judge.

    Raises:
        BadInput: It is of another judge, or of its prompts, options or models in another state; or it cannot be
            read.
    """
    audited = load_audit(path).judge
    own = to_json({"name": judge.name, **judge.conventions})
    for key in ("name", "model", *sorted({*audited, *own})):
        if audited.get(key) != own.get(key):
            raise BadInput(
                f"The audit {path} is of another judge: its {key} is {audited.get(key)!r:.120}.",
                why=f"Errors of one judge say nothing about another's verdicts ({key} here: {own.get(key)!r:.120}).",
                fix="Audit this judge: safewright judge audit LABELS --data FILE --judge JUDGE",
            )
