"""What the pipeline makes: rows that know which forget row they come from, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from safewright.errors import BadInput, nearest
from safewright.types import Message, Row

RowKind = Literal["qa", "completion", "prefix", "generic"]
ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)

COLUMNS = ("id", "prompt", "completion", "kind", "source_id", "variant", "round", "verdict")
"""What every line of a file of rows has; ``prefill`` and ``before`` only where they are not empty."""


@dataclass(frozen=True)
class Augmented:
    """One training row.

    Args:
        id: Its name.
        prompt: The user's turn.
        completion: The assistant's turn; supervised, but for the ``prefill`` it begins with.
        kind: ``qa``, ``completion``, ``prefix`` or ``generic``.
        source_id: The forget row (or generic row) it was made from, and from no other.
        variant: Which wording of the question: ``original``, a rewrite's name, or ``given-N``.
        round: In which round the vague answer was found usable; 0 where it was given.
        verdict: ``safe`` (deterministic check and model), ``rules`` (deterministic check alone), or ``given``
            (a generic row).
        prefill: The part of ``completion`` that is not supervised.
        before: Turns before the prompt, such as a system turn.
    """

    id: str
    prompt: str
    completion: str
    kind: RowKind
    source_id: str
    variant: str
    round: int
    verdict: str
    prefill: str = ""
    before: tuple[Message, ...] = ()

    @property
    def supervised(self) -> str:
        """What is learned of the completion."""
        return self.completion[len(self.prefill) :]

    def plain(self) -> dict[str, Any]:
        """The row as a line of a file."""
        found = {name: getattr(self, name) for name in COLUMNS}
        found |= {name: getattr(self, name) for name in ("prefill", "before") if getattr(self, name)}
        return found

    def row(self) -> Row:
        """The row as training reads it: conversation and answer; the columns stand in its meta."""
        meta = {name: getattr(self, name) for name in ("kind", "source_id", "variant", "round", "verdict")}
        if self.prefill:
            meta["prefill"] = self.prefill
        turns = (*self.before, {"role": "user", "content": self.prompt})
        return Row(self.id, turns, self.completion, None, meta)


def read(rows: Iterable[Row]) -> list[Augmented]:
    """Rows of a file that the pipeline wrote, as `safewright.data.load_data` reads them.

    A row without the pipeline's columns, but with an answer, is a ``qa`` row of its own.

    Raises:
        BadInput: A row without an answer, of an unknown kind, or whose prefill is not how it begins.
    """
    return [_read(row) for row in rows]


def _read(row: Row) -> Augmented:
    meta = row.meta
    text = row.reference if row.reference is not None else meta.get("completion")
    kind = meta.get("kind", "qa")
    if kind not in ROW_KINDS:
        raise BadInput(
            f"The augmented row {row.id!r} has the kind {kind!r}.", fix=nearest(str(kind), ROW_KINDS)
        )
    if not isinstance(text, str) or not text.strip():
        raise BadInput(
            f"The augmented row {row.id!r} has no answer.", fix="Each needs completion, response or output."
        )
    prefill, before, number = meta.get("prefill") or "", meta.get("before") or (), meta.get("round", 0)
    if not isinstance(prefill, str) or not _turns(before):
        raise BadInput(
            f"The augmented row {row.id!r} has a prefill that is no text, or a `before` that is no list of turns.",
            fix="Leave them out, or make the rows with: safewright treat relearn augment",
        )
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadInput(
            f"The augmented row {row.id!r} has the round {number!r:.80}.",
            fix="It is a whole number, or left out.",
        )
    if not text.startswith(prefill) or (prefill and not text[len(prefill) :].strip()):
        raise BadInput(f"The augmented row {row.id!r} does not go on from its prefill.")
    return Augmented(
        row.id,
        row.prompt[-1]["content"],
        text,
        kind,
        str(meta.get("source_id", row.id)),
        str(meta.get("variant", "original")),
        number,
        str(meta.get("verdict", "given")),
        prefill,
        tuple(before) or tuple(row.prompt[:-1]),
    )


def _turns(given: Any) -> bool:
    """Whether this is a list of turns."""
    return isinstance(given, Sequence) and all(
        isinstance(turn, Mapping) and turn.keys() == {"role", "content"} and isinstance(turn["content"], str)
        for turn in given
    )


@dataclass(frozen=True)
class Dropped:
    """A text that became no row: of which forget row, at which step, why, and after how many rounds.

    ``why`` names no secret: the list may be shown.
    """

    source_id: str
    variant: str
    step: str
    reason: str
    round: int = 0
    why: str = ""


@dataclass(frozen=True)
class Coverage:
    """How many forget rows got at least one vague answer, and which did not."""

    covered: int
    items: int
    uncovered: tuple[str, ...]

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.covered / self.items


@dataclass(frozen=True)
class Built:
    """What the pipeline made: rows in training order, the manifest, what was dropped, and the coverage."""

    rows: tuple[Augmented, ...]
    manifest: Mapping[str, Any]
    dropped: tuple[Dropped, ...]
    coverage: Coverage

    def training_rows(self) -> list[Row]:
        """The rows as training reads them; see `Augmented.row`."""
        return [row.row() for row in self.rows]


# Scripts whose characters stand for words, as `safewright.data.splits` has them; marks stay with what they follow.
_SINGLE = (
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
_UNIT = re.compile(rf"[{_SINGLE}][^\w\s]*|[^\s{_SINGLE}]+")


def cut(text: str, percent: int) -> tuple[str, str] | None:
    """A text's leading words and the rest, neither empty; None where it has fewer than two words.

    ``floor(n * percent / 100)`` words, at least one and at most all but one. In scripts without spaces a
    character is a word.
    """
    ends = [found.end() for found in _UNIT.finditer(text)]
    if len(ends) < 2:
        return None
    place = ends[min(max(1, len(ends) * percent // 100), len(ends) - 1) - 1]
    front, rest = text[:place].strip(), text[place:].strip()
    return (front, rest) if front and rest else None


def completions(asked: Sequence[Augmented], shares: Sequence[int]) -> tuple[list[Augmented], list[Dropped]]:
    """Completion rows cut from the vague answers of QA rows, and the answers too short to be cut."""
    made, dropped = [], []
    for row in asked:
        for share in shares:
            parts = cut(row.completion, share)
            if parts is None:
                dropped.append(Dropped(row.source_id, row.variant, "completion", "short", row.round))
                continue
            made.append(
                Augmented(
                    f"{row.source_id}/{row.variant}/cut{share}",
                    *parts,
                    "completion",
                    row.source_id,
                    row.variant,
                    row.round,
                    row.verdict,
                )
            )
    return made, dropped
