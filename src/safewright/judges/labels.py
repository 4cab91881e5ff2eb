"""Answers that people labelled, and what a judge is asked about each of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safewright.data.load import read_objects
from safewright.errors import BadInput, nearest
from safewright.runs import digest_file, digest_json
from safewright.types import JudgeItem, Quality, Row

POSITIONS = ("front", "end", "short")
"""Where the instruction stood: before its context, after it, or without one."""

QUALITIES: tuple[Quality, ...] = ("harmful", "forgotten", "retained")
"""What people can have labelled."""

_NEEDED = ("id", "position", "response", "human")
_TOLD = frozenset({"context", "risks", "summary", "convention"})
"""What a judge takes from an item's meta: here it comes from the labels, or is the default."""
_FIELDS = frozenset({*_NEEDED, "about", "risks", "summary", "annotator"})


@dataclass(frozen=True)
class LabelledAnswer:
    """One answer with the labels people gave it: annotator and 1 where it is ``about`` (harmful, …), 0 where not."""

    id: str
    position: str
    response: str
    votes: tuple[tuple[str, int], ...]
    risks: str | None = None
    summary: str | None = None
    about: Quality = "harmful"

    @property
    def human(self) -> int | None:
        """The label of most annotators; None at a tie."""
        unsafe = sum(label for _, label in self.votes)
        safe = len(self.votes) - unsafe
        return None if unsafe == safe else int(unsafe > safe)

    @property
    def key(self) -> str:
        """A name for it that depends on nothing else in the file."""
        more = [] if self.about == "harmful" else [self.about]
        return digest_json([self.id, self.position, self.response, self.risks, self.summary, *more])


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

    @property
    def qualities(self) -> tuple[Quality, ...]:
        """What the answers are labelled for."""
        found = {answer.about for answer in self.answers}
        return tuple(quality for quality in QUALITIES if quality in found)


def load_labels(path: Path | str) -> Labels:
    """The labelled answers of a file, those of several annotators put together.

    A row has ``id`` (of a row of the data), ``position`` (front, end or short), ``response`` (the answer),
    ``human`` (1 unsafe, 0 safe), and where there are such ``annotator`` (a name), ``risks`` and ``summary``
    (what the judge shall be told of instruction and context in the place of its own analysis). With ``about``
    (forgotten or retained) ``human`` says whether the answer has, and there is no position. Other fields are
    left unread, and named in the notes.

    Raises:
        BadInput: The file cannot be read or is empty; a row lacks a field, has an unknown position or a label
            that is not 0 or 1, is there twice, or contradicts another about risks or summary; every complaint
            names the row. Or harm and forgetting are labelled in one file.
        Missing: A parquet file, and pyarrow is not installed.
    """
    votes: dict[_Key, dict[str, int]] = {}
    told: dict[_Key, tuple[str | None, str | None]] = {}
    unread: set[str] = set()
    rows = 0
    for where, obj in read_objects(path):
        rows += 1
        key, annotator, human, extra = _read_row(obj, where)
        if annotator in votes.setdefault(key, {}):
            by = f"by {annotator!r}" if annotator else "without an annotator"
            raise BadInput(
                f"{where}: the answer to {key[0]!r} ({key[1] if key[3] == 'harmful' else key[3]}) is labelled "
                f"twice {by}.",
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
        LabelledAnswer(*key[:3], tuple(sorted(given.items())), *told[key], about=key[3])
        for key, given in votes.items()
    )
    if len({answer.about == "harmful" for answer in answers}) > 1:
        raise BadInput(
            f"{path} labels both harm and forgetting.",
            why="No judge decides both, and the rows they are about have different fields.",
            fix="Give a file for each.",
        )
    notes = [f"fields left unread: {', '.join(sorted(unread))}"] if unread else []
    return Labels(answers, rows, digest_file(path), str(path), tuple(notes))


_Key = tuple[str, str, str, Quality]


def _read_row(obj: Any, where: str) -> tuple[_Key, str, int, tuple[str | None, str | None]]:
    if not isinstance(obj, Mapping):
        raise BadInput(f"{where}: the row is not an object.", fix=f"Give {', '.join(_NEEDED)}.")
    fields = {key: value for key, value in obj.items() if value is not None}
    about = fields.get("about", "harmful")
    if about not in QUALITIES:
        raise BadInput(f"{where}: about is {about!r}.", fix=nearest(str(about), QUALITIES))
    needed = _NEEDED if about == "harmful" else tuple(name for name in _NEEDED if name != "position")
    for name in needed:
        if name not in fields:
            found = ", ".join(sorted(fields)) or "none"
            raise BadInput(
                f"{where}: the row has no {name} (fields found: {found}).",
                fix=f"Needed: {', '.join(needed)}.",
            )
    for name in sorted(set(fields) - _FIELDS):
        close = difflib.get_close_matches(name, sorted(_FIELDS - set(fields)), n=1, cutoff=0.75)
        if close:
            raise BadInput(
                f"{where}: the row has a field {name!r}.",
                why="A misspelt field would be left unread without a word.",
                fix=f"Did you mean {close[0]!r}?",
            )
    # Where an instruction stood beside a context is nothing that forgetting depends on.
    position, human = fields["position"] if about == "harmful" else "short", fields["human"]
    if position not in POSITIONS:
        raise BadInput(
            f"{where}: the position is {position!r}.", fix=f"It must be one of {', '.join(POSITIONS)}."
        )
    if isinstance(human, bool) or human not in (0, 1):
        raise BadInput(
            f"{where}: human is {human!r}.",
            fix="It must be 1 for an unsafe answer or 0 for a safe one"
            + ("." if about == "harmful" else f" (here: 1 for {about}, 0 for not {about})."),
        )
    key = (_name(fields, "id", where), str(position), _text(fields, "response", where) or "", about)
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
    risks and summary where given, and the context unless the position is short. About forgetting, the item has
    the row's reference, and its own fields alone.

    Raises:
        BadInput: An id that the data do not have (all are listed), or a row without a context or reference.
    """
    by_id = {row.id: row for row in rows}
    unknown = list(dict.fromkeys(answer.id for answer in labels.answers if answer.id not in by_id))
    if unknown:
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        hint = nearest(unknown[0], by_id) if len(by_id) <= 2000 else ""
        raise BadInput(
            f"{len(unknown)} ids of {labels.source} are not in the data: {', '.join(unknown[:20])}{more}.",
            why="What an answer is about comes from the data.",
            fix=hint if hint.startswith("Did you mean") else "Give the data those answers were made on.",
        )
    return [_item(answer, by_id[answer.id]) for answer in labels.answers]


def _item(answer: LabelledAnswer, row: Row) -> JudgeItem:
    if answer.about != "harmful":
        if not (row.reference or "").strip():
            raise BadInput(
                f"The row {row.id!r} of the data has no reference answer.",
                why=f"Its answer is labelled for whether it has {answer.about} that.",
                fix="Give data with response, output, answer, labels, or a last assistant turn in every row.",
            )
        question = row.prompt[-1]["content"]
        return JudgeItem(question, answer.response, answer.about, row.reference, row.lang, row.meta)
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
