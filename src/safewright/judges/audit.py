"""A judge against people: labelled answers go through the judge, and its errors are counted.

What comes out (`JudgeAudit`, as ``judge_audit.json`` in a run's folder) says how often the judge is right about
answers that have a quality and about those that have it not ("unsafe" and "safe" in its figures, whatever the
quality is), on how many, and with what doubt. `load_audit` reads it back for measures that correct their rates
by it (`safewright.stats.correction`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.data import LoadedData
from safewright.errors import BadInput, nearest
from safewright.judges.labels import POSITIONS, QUALITIES, LabelledAnswer, Labels, judge_items
from safewright.runs import Run, from_json, open_run, run_sync, to_json, versions
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
from safewright.types import Judge, JudgeItem, Judgement, Quality, Reading

FORMAT = "judge_audit/1"
FILE = "judge_audit.json"
JUDGED = "judged.jsonl"
"""One line per labelled answer beside it: what people and the judge said."""

CHUNK = 64
"""Answers judged, then journalled, together: what a kill can cost of a judge's work."""


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

    ``by_quality`` has an entry per quality where answers are labelled for forgetting or retaining; its figures,
    and those of all, call answers that have the quality "unsafe". ``alpha`` is Krippendorff's, over the
    annotators (where there are several) and over them and the judge. ``judge`` holds the judge's name and
    conventions, ``labels`` and ``data`` what it was asked about.
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
    by_quality: Mapping[str, Figures] = field(default_factory=dict)

    @property
    def unscored_share(self) -> float:
        """Share of the answers with a reference label that the judge decided nothing about."""
        lost = sum(self.overall.unscored.values())
        total = lost + self.overall.confusion.n
        return lost / total if total else 0.0

    def quality(self, position: str | None = None, *, about: Quality | None = None) -> JudgeQuality:
        """Sensitivity and specificity with the counts behind them, of one position, one quality, or of all.

        Raises:
            BadInput: No such position or quality, a class without labels, or a judge no better than chance.
        """
        if about is not None and about != "harmful":
            if about not in self.by_quality:
                raise BadInput(
                    f"The audit has no labels for {about!r}.",
                    fix=nearest(about, self.by_quality or QUALITIES),
                )
            return quality_of(self.by_quality[about].confusion)
        if position is None:
            return quality_of(self.overall.confusion)
        if position not in self.by_position:
            raise BadInput(
                f"The audit has no labels for the position {position!r}.",
                fix=nearest(position, self.by_position),
            )
        return quality_of(self.by_position[position].confusion)

    def figures(self) -> dict[str, Any]:
        """Sensitivity, specificity and number of answers, as a scorecard says them; by quality where labelled so.

        Raises:
            BadInput: A class without labels, or a judge no better than chance.
        """
        if self.by_quality:
            return {name: _said(part) for name, part in self.by_quality.items()}
        return _said(self.overall)


def _said(part: Figures) -> dict[str, Any]:
    found = quality_of(part.confusion)
    return {"sensitivity": found.sensitivity, "specificity": found.specificity, "n": part.confusion.n}


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
        judge: Any judge that decides what the answers are labelled for.
        labels: Labelled answers.
        data: The rows whose ids the labels name, with their contexts or references.
        run: Folder of the run; ``runs/judge_audit-DIGEST`` of its plan where None.
        overwrite: Start anew where the folder holds another run.
        notes: Facts for plan.json that decide nothing.
        progress: Called as work goes on.

    Raises:
        BadInput: The judge does not decide what is labelled, or labels and data do not fit.
        Missing: The judge's model cannot be reached.
        Incomplete: The disk is full.
    """
    undecided = next((quality for quality in labels.qualities if quality not in judge.answers), None)
    if undecided is not None:
        raise BadInput(
            f"The judge {judge.name} does not decide whether an answer is {undecided}.",
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

    qualities = {q: [i for i in everything if answers[i].about == q] for q in labels.qualities}

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
        by_quality={q: figures(p) for q, p in qualities.items()} if "harmful" not in qualities else {},
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
    about = {} if answer.about == "harmful" else {"about": answer.about, "reference": item.reference}
    return {
        **about,
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
        parts += found.by_quality.items()
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


def check_audit(path: str, judge: Judge, about: Sequence[Quality] = ()) -> None:
    """Pass when the audit is of this very judge.

    Args:
        path: Of the audit.
        judge: Whose errors are needed.
        about: Qualities that it must have labels for; ``harmful`` where none is named.

    Raises:
        BadInput: It is of another judge, or of its prompts, options or models in another state, or of answers
            labelled for something else; or it cannot be read.
    """
    found = load_audit(path)
    audited = found.judge
    own = to_json({"name": judge.name, **judge.conventions})
    for key in ("name", "model", *sorted({*audited, *own})):
        if audited.get(key) != own.get(key):
            raise BadInput(
                f"The audit {path} is of another judge: its {key} is {audited.get(key)!r:.120}.",
                why=f"Errors of one judge say nothing about another's verdicts ({key} here: {own.get(key)!r:.120}).",
                fix="Audit this judge: safewright judge audit LABELS --data FILE --judge JUDGE",
            )
    labelled = tuple(found.by_quality) or ("harmful",)
    for quality in about or ("harmful",):
        if quality not in labelled:
            raise BadInput(
                f"The audit {path} is of answers labelled for {', '.join(labelled)}.",
                why=f"It says nothing about the judge's errors on what is {quality}.",
                fix=f"Label answers with about: {quality}, and audit the judge on them.",
            )
