"""What behaviour measures share: asking every row, handing answers to a judge, and counting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from safewright.errors import BadInput
from safewright.models import check_decoding
from safewright.models.chat import with_system
from safewright.types import (
    Better,
    Decoding,
    Findings,
    Generation,
    Judge,
    JudgeItem,
    Judgement,
    ModelRef,
    Quality,
    Question,
    Reading,
    Record,
    Row,
    Status,
)

if TYPE_CHECKING:
    from safewright.models import Loaded
    from safewright.runs import Run
    from safewright.runs.progress import Progress


@dataclass(frozen=True)
class Derived:
    """A role that a measure makes itself: the model of another role, asked in another way or changed.

    Args:
        of: The role whose model it is.
        decoding: Options of decoding it is asked with, over everything else.
        make: The model with changed weights, from the one in the role ``of``, the run and its rows; the same
            model where None. Only a model that is run here can be changed.
        begun: Its conversations end in the opening of an answer (`safewright.models.chat.start`).
        goes_on: A model behind a wire is sent the opening as a turn of its own, too; otherwise at the end of
            the question.
        besides: What making it takes that no estimate holds, in words.
        marked: Its openings hold reasoning markers, which are written as the model's own recipe writes them.
    """

    of: str = "target"
    decoding: Mapping[str, Any] = field(default_factory=dict)
    make: Callable[[Loaded, Run, Sequence[Row], Progress], Loaded] | None = None
    begun: bool = False
    goes_on: bool = False
    besides: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Behaviour:
    """A measure of what models answer, as the functions every way of running it needs.

    Args:
        ask: Questions for the rows; more than one per row for repeated draws or several model roles.
        score: The records with their scores filled in. Records without an answer arrive here too, and
            must come back in the same order.
        summarise: What the scored records say.
        decoding: Defaults, under the model's recipe and the user's choice.
        chosen: Decoding options the user chose, over the recipe's.
        values: What the scored records of one instance say, by name; their mean scores by default.
        shown: What the judge is shown with the answer to a question; the question by default.
        overflow: What becomes of a prompt that does not fit the model's context: ``keep`` it as overlong and
            unscored (``skip`` likewise, by choice), ``error``, or ``truncate_middle`` (see ``shorten``).
        shorten: The question with this share of its context's words.
        derived: Further roles that questions are put to, made of those that were given.
        rewrite: The questions with what another model of the measure makes of them before they are asked (a
            translation): ``(questions, models, run, progress) -> questions``. As ``read``, it needs models.
        read: The scored records with what other models of the measure make of them (log-probabilities,
            ratings): ``(records, models, run, progress) -> records``. Not called where nobody can hand out
            models, as under Inspect.
        reads: The roles of the models it reads and rewrites with.
        reading: How often it will ask each of these about some questions and their answers.
        files: Further files of the run beside the scorecard, by name, from its findings and models.
    """

    ask: Callable[[Sequence[Row]], list[Question]]
    score: Callable[[Sequence[Record], Judge | None], Coroutine[Any, Any, list[Record]]]
    summarise: Callable[[Sequence[Record]], Findings]
    decoding: Decoding = field(default_factory=Decoding)
    chosen: dict[str, Any] = field(default_factory=dict)
    values: Callable[[Sequence[Record]], dict[str, float | None]] | None = None
    shown: Callable[[Question], JudgeItem] | None = None
    overflow: Literal["keep", "error", "truncate_middle", "skip"] = "keep"
    shorten: Callable[[Question, float], Question] | None = None
    derived: Mapping[str, Derived] = field(default_factory=dict)
    rewrite: Callable[[list[Question], Mapping[str, Loaded], Run, Progress], list[Question]] | None = None
    read: Callable[[list[Record], Mapping[str, Loaded], Run, Progress], list[Record]] | None = None
    reads: tuple[str, ...] = ()
    reading: Callable[[Sequence[Question]], Mapping[str, int]] | None = None
    files: Callable[[Findings, Mapping[str, ModelRef]], Mapping[str, Any]] | None = None


def source_of(behaviour: Behaviour, role: str) -> str:
    """The role whose model a question is put to: derived roles ask another's in another way."""
    derived = behaviour.derived.get(role)
    return role if derived is None else derived.of


def put_to(
    behaviour: Behaviour, questions: Sequence[Question], optional: Sequence[str], given: Container[str]
) -> list[Question]:
    """The questions without those to optional roles that no model is given for.

    Args:
        behaviour: The measure.
        questions: What it asks, of all its roles.
        optional: Roles it can do without.
        given: Roles with a model.
    """
    absent = {role for role in optional if role not in given}
    return [question for question in questions if source_of(behaviour, question.role) not in absent]


def instance_of(record: Record | Question) -> str:
    """What is scored together with it: its instance, or it alone."""
    return record.instance if record.instance is not None else record.id


def mean_scores(records: Sequence[Record]) -> dict[str, float | None]:
    """The mean of each score over records, None where none has a value."""
    found: dict[str, float | None] = {}
    for name in dict.fromkeys(name for record in records for name in record.status):
        known = [score for record in records if (score := record.scores.get(name)) is not None]
        found[name] = sum(known) / len(known) if known else None
    return found


LONGEST = 1_000_000
"""More new tokens than any model can write; a larger number is a slip."""

MOST_SAMPLES = 10_000
"""More draws per row than any estimate needs; a larger number is a slip."""


@dataclass(frozen=True)
class AskOptions:
    """Options of every measure that asks each row one question."""

    max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "Longest answer in tokens; default: the recipe's, else the measure's."},
    )
    temperature: float | None = field(
        default=None, metadata={"help": "Sampling temperature; 0 is greedy, the default."}
    )
    top_p: float | None = field(default=None, metadata={"help": "Nucleus sampling mass; default 1."})
    samples: int = field(default=1, metadata={"help": "Answers drawn per row; above 1 needs a temperature."})
    system: str | None = field(default=None, metadata={"help": "System prompt put before every row."})

    def __post_init__(self) -> None:
        check_decoding(self.chosen())
        if self.max_new_tokens is not None and self.max_new_tokens > LONGEST:
            raise BadInput(
                f"max_new_tokens is {self.max_new_tokens}.", fix=f"It must be at most {LONGEST:,}."
            )
        whole = isinstance(self.samples, int) and not isinstance(self.samples, bool)
        if not whole or not 1 <= self.samples <= MOST_SAMPLES:
            raise BadInput(
                f"samples is {self.samples!r}.", fix=f"It must be a whole number from 1 to {MOST_SAMPLES:,}."
            )
        if self.system is not None and not isinstance(self.system, str):
            raise BadInput(f"system is {self.system!r}.", fix="It must be text.")
        if self.samples > 1 and not self.temperature:
            raise BadInput(
                f"samples is {self.samples}, but decoding is greedy: all answers would be the same.",
                fix="Set a temperature too, for example --set temperature=1.0",
            )

    def chosen(self) -> dict[str, Any]:
        """The decoding options the user set."""
        options = {name: getattr(self, name) for name in ("max_new_tokens", "temperature", "top_p")}
        return {name: value for name, value in options.items() if value is not None}

    def ask(self, rows: Sequence[Row]) -> list[Question]:
        """One question per row and sample; samples of a row share its cluster."""
        return [
            Question(
                id=row.id,
                chat=with_system(row.prompt, self.system),
                sample=sample,
                cluster=row.id,
                reference=row.reference,
                lang=row.lang,
                meta=row.meta,
            )
            for row in rows
            for sample in range(self.samples)
        ]


def answer_status(record: Record) -> tuple[Status, str]:
    """Whether a record has an answer to judge: ``ok``, ``no_answer`` or ``error``, and why not."""
    said = record.generation
    if said is None or said.stop in ("error", "overlong"):
        return "error", said.error if said else "never asked"
    if not said.closed:
        return "no_answer", "the reasoning was never closed"
    if not said.answer.strip():
        return "no_answer", "the answer is empty"
    return "ok", ""


def scored(record: Record, name: str, value: float | None, status: Status, why: str = "") -> Record:
    """The record with one more score."""
    return dataclasses.replace(
        record,
        scores={**record.scores, name: value},
        status={**record.status, name: status},
        why="; ".join(part for part in (record.why, why) if part),
    )


async def judged(
    records: Sequence[Record],
    judge: Judge | None,
    *,
    name: str,
    about: Quality,
    sees: str = "answer",
    item: Callable[[Record], JudgeItem] | None = None,
    value: Callable[[float], float] = float,
    silent: bool = False,
) -> list[Record]:
    """Records with the score ``name``: 1.0 where the judge says the answer has the quality ``about``.

    Records without an answer are not shown to the judge; whatever the judge could not decide stays
    without a value, under the status it gave.

    Args:
        records: What was answered.
        judge: Who decides.
        name: Of the score.
        about: The quality the judge is asked about.
        sees: Whether it sees the answer alone or the raw output.
        item: How a record is shown to it; question and answer by default.
        value: The score for the judge's 1.0 or 0.0.
        silent: Show it empty answers too; reasoning that was never closed is none.
    """
    if judge is None:
        raise BadInput(f"{name} needs a judge.", fix="Give one with --judge.")
    states = [answer_status(record) for record in records]
    open_ = [
        place
        for place, (status, _) in enumerate(states)
        if status == "ok" or (silent and status == "no_answer" and _closed(records[place]))
    ]
    shown = item or (lambda record: _item(record, about, sees))
    verdicts = await judge.judge([shown(records[place]) for place in open_])
    if len(verdicts) != len(open_):
        raise RuntimeError(f"the judge {judge.name} gave {len(verdicts)} judgements for {len(open_)} items")
    by_place: dict[int, Judgement] = dict(zip(open_, verdicts, strict=True))
    result = []
    for place, record in enumerate(records):
        status, why = states[place]
        if place not in by_place:
            result.append(scored(record, name, None, status, why))
            continue
        verdict = by_place[place]
        found = value(verdict.value) if verdict.status == "ok" and verdict.value is not None else None
        notes = {f"{name}_notes": dict(verdict.notes)} if verdict.notes else {}
        kept = dataclasses.replace(record, meta={**record.meta, f"{name}_label": verdict.label, **notes})
        result.append(scored(kept, name, found, verdict.status, verdict.why))
    return result


def _closed(record: Record) -> bool:
    return record.generation is not None and record.generation.closed


def _item(record: Record, about: Quality, sees: str) -> JudgeItem:
    said = record.generation
    question = next((m["content"] for m in reversed(record.input) if m["role"] == "user"), "")
    answer = (said.raw if sees == "raw" else said.answer) if said else ""
    return JudgeItem(question, answer, about, reference=record.reference, lang=record.lang, meta=record.meta)


def rates(records: Sequence[Record], names: dict[str, Better]) -> tuple[Reading, ...]:
    """A rate per score name, with its interval, and its bounds where some records have no answer.

    A record without an answer is in neither numerator nor denominator; the bounds show what the rate
    would be if all of them, or none, had the quality.
    """
    from safewright.stats import rate_reading  # brings numpy, which listing the catalog does not need

    readings: list[Reading] = []
    for name, better in names.items():
        own = [record for record in records if name in record.status]
        good = [record for record in own if record.status[name] == "ok"]
        values = [float(record.scores[name] or 0.0) for record in good]
        clusters = [record.cluster or record.id for record in good]
        silent = [record for record in own if record.status[name] == "no_answer"]
        unscored = len(own) - len(good)
        readings.append(rate_reading(name, values, clusters=clusters, unscored=unscored, better=better))
        for suffix, value in (("low", 0.0), ("high", 1.0)):
            if silent:
                readings.append(
                    rate_reading(
                        f"{name}_no_answer_{suffix}",
                        values + [value] * len(silent),
                        clusters=clusters + [record.cluster or record.id for record in silent],
                        unscored=unscored - len(silent),
                        better="neither",
                    )
                )
    return tuple(readings)


def record_of(question: Question, said: Generation | None) -> Record:
    """A question with its answer, unscored."""
    return Record(
        id=question.id,
        input=tuple(question.chat),
        output=said.answer if said and said.stop not in ("error", "overlong") else None,
        role=question.role,
        sample=question.sample,
        instance=question.instance,
        cluster=question.cluster,
        lang=question.lang,
        reference=question.reference,
        generation=said,
        meta=question.meta,
    )


def findings_of(behaviour: Behaviour, records: Sequence[Record]) -> Findings:
    """What scored records say, as a scorecard has it: the measure's own findings, and how many were cut short."""
    findings = behaviour.summarise(records)
    return dataclasses.replace(findings, readings=(*findings.readings, *_cut_short(records)))


def _cut_short(records: Sequence[Record]) -> tuple[Reading, ...]:
    """The share of answers that ended at the token limit: a judge saw only their beginning."""
    from safewright.stats import rate_reading

    said = [r for r in records if r.generation and r.generation.stop in ("stop", "length")]
    if not said:
        return ()
    values = [float(r.generation is not None and r.generation.stop == "length") for r in said]
    clusters = [r.cluster or f"{r.role}/{r.id}" for r in said]
    return (rate_reading("cut_short", values, clusters=clusters, unscored=len(records) - len(said)),)
