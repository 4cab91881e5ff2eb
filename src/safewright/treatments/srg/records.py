"""One training record: a request, reasoning about it, the answer, and what the arms need besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from safewright.errors import BadInput, nearest
from safewright.models.chat import THINK
from safewright.models.traces import holds_marker
from safewright.types import Message, Row

Type = Literal["harmful", "helpful", "contrast", "general"]
Decision = Literal["refuse", "safe_complete", "comply"]

TYPES: tuple[Type, ...] = ("harmful", "helpful", "contrast", "general")
"""``contrast`` requests only look harmful; ``general`` rows have no reasoning, and stay as they are in every arm."""

DECISIONS: tuple[Decision, ...] = ("refuse", "safe_complete", "comply")

TEXTS = ("refusal", "restated", "verdict", "draft")
OWN = ("type", "reasoning", "decision", *TEXTS, "rejected")
"""Names of a record's fields in a data file, beside ``messages`` and the answer."""


@dataclass(frozen=True)
class Rejected:
    """A candidate that was not kept, and ``why``: what a preferred trace is preferred to."""

    reasoning: str
    answer: str
    why: str = ""


@dataclass(frozen=True)
class Reasoned:
    """A request with reasoning and answer.

    ``refusal`` is the short answer of refusal training (else ``answer``), ``restated`` one sentence of what is
    asked, ``verdict`` the line that decides, ``draft`` the answer that is checked (never shown). ``rejected`` are
    candidates that were not kept. ``meta`` holds whatever else the row says.
    """

    id: str
    messages: tuple[Message, ...]
    type: Type
    reasoning: str
    answer: str
    decision: Decision | None = None
    refusal: str | None = None
    restated: str | None = None
    verdict: str | None = None
    draft: str | None = None
    rejected: tuple[Rejected, ...] = ()
    lang: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def harmful(self) -> bool:
        """Whether the request is one to be refused, or answered with care."""
        return self.type == "harmful"

    def row(self) -> Row:
        """The record as a row of a data file; `from_row` reads it back."""
        plain = self.plain()
        meta = {key: plain[key] for key in OWN if plain.get(key) not in (None, [])}
        return Row(self.id, self.messages, self.answer, self.lang, {**self.meta, **meta})

    def plain(self) -> dict[str, Any]:
        """The record in plain JSON; `from_plain` reads it back."""
        found: dict[str, Any] = {"id": self.id, "messages": [dict(turn) for turn in self.messages]}
        found |= {"type": self.type, "reasoning": self.reasoning, "answer": self.answer}
        found["decision"] = self.decision
        found |= {name: getattr(self, name) for name in TEXTS}
        found["rejected"] = [
            {"reasoning": r.reasoning, "answer": r.answer, "why": r.why} for r in self.rejected
        ]
        return {**found, "lang": self.lang, "meta": dict(self.meta)}


def from_plain(plain: Mapping[str, Any]) -> Reasoned:
    """The record that `Reasoned.plain` wrote."""
    values = dict(plain)
    values["messages"] = tuple(values["messages"])
    values["rejected"] = tuple(Rejected(**each) for each in values["rejected"])
    return Reasoned(**values)


def from_row(row: Row, kind: Type | None = None, markers: Mapping[str, str] = THINK) -> Reasoned:
    """The record that a row of a data file is.

    Args:
        row: Its reference (or its field ``answer``) is the answer; the other fields are those of `Reasoned`.
        kind: The type of a row that names none.
        markers: Of reasoning blocks, which no field may hold: the chat format adds them.

    Raises:
        BadInput: No type, answer or request; a field that is no text; an unknown type or decision; a block of
            reasoning inside a field.
    """
    meta = {key: value for key, value in row.meta.items() if value is not None}
    own = {key: meta.pop(key) for key in OWN if key in meta}
    answer = row.reference
    if "answer" in meta:
        other = _text(row.id, "answer", meta.pop("answer"))
        if answer is not None and answer.strip() != other.strip():
            raise BadInput(
                f"The row {row.id} has two different answers (`answer`, and its last turn or `response`).",
                fix="Leave one of them out.",
            )
        answer = other
    if not (answer or "").strip():
        raise BadInput(
            f"The row {row.id} has no answer.", why="There is nothing to learn.", fix="Give it as `answer`."
        )
    type_ = cast(Type, _choice(row.id, "type", own.get("type", kind), TYPES))
    decision = own.get("decision")
    record = Reasoned(
        id=row.id,
        messages=row.prompt,
        type=type_,
        reasoning=_text(row.id, "reasoning", own.get("reasoning", "")).strip(),
        answer=cast(str, answer).strip(),
        decision=None
        if decision is None
        else cast(Decision, _choice(row.id, "decision", decision, DECISIONS)),
        **{name: _text(row.id, name, own[name]).strip() or None for name in TEXTS if name in own},
        rejected=tuple(_rejected(row.id, each) for each in _list(row.id, own.get("rejected", []))),
        lang=row.lang,
        meta=meta,
    )
    if record.type == "general" and record.reasoning:
        raise BadInput(
            f"The row {row.id} is general, and has reasoning.",
            why="General rows are trained as they stand, in every arm.",
            fix="Give it another type, or leave the reasoning out.",
        )
    _require_plain(record, markers)
    return record


def request_of(row: Row, kind: Type) -> Reasoned:
    """A request alone, as a record without reasoning; an answer that the row may have is not read."""
    meta = {key: value for key, value in row.meta.items() if value is not None and key not in OWN}
    return Reasoned(row.id, row.prompt, kind, "", "", lang=row.lang, meta=meta)


def _require_plain(record: Reasoned, markers: Mapping[str, str]) -> None:
    """Pass when no text holds a marker.

    Raises:
        BadInput: One does: with the markers of the format there would be a block inside a block.
    """
    for name in ("reasoning", "answer", *TEXTS):
        if holds_marker(getattr(record, name) or "", markers):
            raise BadInput(
                f"The {name} of the row {record.id} holds a block of reasoning ({markers['open']}).",
                why="The chat format adds its own: there would be a block inside a block.",
                fix="Give reasoning and answer as two fields, `reasoning` and `answer`, without the markers.",
            )


def _text(row: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadInput(f"`{name}` of the row {row} is {value!r:.80}.", fix="It must be text.")
    return value


def _choice(row: str, name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value is None:
        raise BadInput(f"The row {row} has no `{name}`.", fix=f"Write one of: {', '.join(choices)}.")
    if value not in choices:
        raise BadInput(f"`{name}` of the row {row} is {value!r}.", fix=nearest(str(value), choices))
    return str(value)


def _list(row: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadInput(f"`rejected` of the row {row} is {value!r:.80}.", fix="It must be a list of objects.")
    return value


def _rejected(row: str, value: Any) -> Rejected:
    if not isinstance(value, Mapping) or not {"reasoning", "answer"} <= value.keys():
        raise BadInput(
            f"`rejected` of the row {row} holds {value!r:.80}.",
            fix="Write objects with `reasoning` and `answer`.",
        )
    said = {name: _text(row, name, value.get(name, "")) for name in ("reasoning", "answer", "why")}
    return Rejected(**said)
