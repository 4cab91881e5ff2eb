"""The forget rows as the pipeline sees them: question, answer, secrets, and what their meta gives already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safewright.data.language import detect
from safewright.data.mentions import entities_of
from safewright.data.splits import overlap
from safewright.errors import BadInput
from safewright.judges.text import script_language
from safewright.treatments.relearn.augmenting.leaks import texts
from safewright.types import Message, Row

SHOWN = 5
"""Ids an error names."""


@dataclass(frozen=True)
class Wording:
    """One way to put a forget row's question: ``original``, a rewrite's name, or ``given-N``."""

    kind: str
    text: str


@dataclass(frozen=True)
class Item:
    """One forget row.

    ``vague`` and ``wordings`` are given by the row's meta, None where the model has to write them.
    """

    id: str
    question: str
    answer: str
    before: tuple[Message, ...]
    entities: tuple[str, ...] | None
    wordings: tuple[Wording, ...] | None
    vague: tuple[str, ...] | None
    openings: tuple[str, ...]
    tails: tuple[str, ...]
    subject: str

    @property
    def latin(self) -> bool:
        """Whether its answer is written in Latin script, for which the rules for entities are made; or in none."""
        return (
            not any(map(str.isalpha, self.answer))
            or script_language(self.answer) == "en"
            or detect(self.answer) == "en"
        )


def asks_entities(item: Item, entities: str) -> bool:
    """Whether the model lists an item's entities, by the option ``entities``."""
    return entities == "model" or (entities == "auto" and item.entities is None and not item.latin)


def items_of(rows: Sequence[Row]) -> list[Item]:
    """The forget rows.

    Raises:
        BadInput: There are none, one has no answer, or its meta has the wrong shape.
    """
    if not rows:
        raise BadInput("There are no forget rows.", fix="Give them: --data forget=FILE")
    lacking = [row.id for row in rows if not (row.reference or "").strip()]
    if lacking:
        raise BadInput(
            f"{len(lacking)} of {len(rows)} forget rows have no answer (first: {lacking[0]}).",
            why="What is to be forgotten is the answer.",
            fix="Each row needs response, output, or a last assistant turn.",
        )
    times = Counter(row.id for row in rows)
    twice = next((row_id for row_id, count in times.items() if count > 1), None)
    if twice is not None:
        raise BadInput(
            f"{times[twice]} forget rows have the id {twice!r}.",
            why="Every row made from them carries the id of the one it comes from.",
            fix="Give each its own.",
        )
    return [_item(row) for row in rows]


def _item(row: Row) -> Item:
    meta = row.meta
    entities = entities_of(meta, f"forget row {row.id}")
    return Item(
        row.id,
        row.prompt[-1]["content"],
        row.reference or "",
        tuple(row.prompt[:-1]),
        entities,
        _wordings(row.id, meta),
        tuple(texts(row.id, "vague", meta["vague"])) if meta.get("vague") else None,
        tuple(texts(row.id, "openings", meta["openings"])) if meta.get("openings") else (),
        tuple(texts(row.id, "tails", meta["tails"])) if meta.get("tails") else (),
        _subject(row.id, meta.get("subject") or meta.get("person") or ""),
    )


def _subject(source_id: str, given: Any) -> str:
    if not isinstance(given, str):
        raise BadInput(f"The row {source_id!r} has a subject that is no text: {given!r:.80}.")
    return given


def _wordings(source_id: str, meta: Mapping[str, Any]) -> tuple[Wording, ...] | None:
    """The wordings of a row's meta: ``variants`` (by name, or a list), else ``paraphrases``."""
    given = meta.get("variants") or meta.get("paraphrases")
    if not given:
        return None
    if isinstance(given, Mapping):
        said = texts(source_id, "variants", list(given.values()))
        taken = [name for name in map(str, given) if name == "original" or not name.strip() or "/" in name]
        if taken:
            raise BadInput(
                f"The row {source_id!r} has a wording named {taken[0]!r} in `variants`.",
                why="Rows are named after their wordings, and `original` is the question itself.",
                fix='Give it another name without "/", or give a list of wordings.',
            )
        return tuple(Wording(str(kind), text) for kind, text in zip(given, said, strict=True))
    name = "variants" if meta.get("variants") else "paraphrases"
    return tuple(Wording(f"given-{n}", text) for n, text in enumerate(texts(source_id, name, given), 1))


def require_disjoint(forget: Sequence[Row], others: Mapping[str, Sequence[Row]]) -> None:
    """Pass when no question to be forgotten is also one of another role.

    Raises:
        BadInput: Some are, with the rows.
    """
    for role, rows in others.items():
        same = [pair for pair in overlap(forget, rows) if pair.kind == "exact"]
        if same:
            shown = ", ".join(f"{pair.a} = {pair.b}" for pair in same[:SHOWN])
            raise BadInput(
                f"{len(same)} forget rows ask the same as {role} rows ({shown}{', …' * (len(same) > SHOWN)}).",
                why="They would be forgotten and taught at once.",
                fix="Remove them from one of the two files.",
            )
