"""The requests that get reasoning: labelled, each once, apart from what is evaluated, some in unusual formats."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safewright.data.splits import normalise, overlap, question, words
from safewright.data.wrapping import formats, goal_of, template_in
from safewright.errors import BadInput, nearest
from safewright.treatments.srg.guidelines import KINDS, Kind
from safewright.types import Row

SHOWN = 20
"""Rows an error lists."""
UNNAMED = "(none given)"
"""The category of a request whose row names none."""


@dataclass(frozen=True)
class Prompt:
    """One request with its label; ``categories`` are those that its row names."""

    row: Row
    kind: Kind
    turn: int

    @property
    def id(self) -> str:
        """Its row's."""
        return self.row.id

    @property
    def text(self) -> str:
        """The conversation as one text: its one turn, or all of them with who speaks."""
        turns = self.row.prompt
        if len(turns) == 1:
            return turns[0]["content"]
        return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)

    @property
    def categories(self) -> tuple[str, ...]:
        """As the row's ``category`` or ``categories`` says."""
        said = self.row.meta.get("category") or self.row.meta.get("categories") or ()
        return tuple(map(str, said)) if isinstance(said, (list, tuple)) else (str(said),)


@dataclass(frozen=True)
class PromptPool:
    """Requests in their order, and how many rows were left out: ``{"duplicate": n, "empty": n}``."""

    prompts: tuple[Prompt, ...]
    dropped: Mapping[str, int]
    formatted: int = 0

    def counts(self) -> dict[str, int]:
        """Requests of each kind."""
        found = Counter(prompt.kind for prompt in self.prompts)
        return {kind: found[kind] for kind in KINDS if found[kind]}


def prompt_pool(
    harmful: Sequence[Row] = (),
    helpful: Sequence[Row] = (),
    contrast: Sequence[Row] = (),
    *,
    evaluation: Sequence[Row] = (),
    share: float = 0.25,
    seed: int = 0,
) -> PromptPool:
    """The requests of all kinds.

    Empty rows and further copies of a request are left out and counted. A ``share`` of the helpful rows is put into
    unusual formats.

    Args:
        harmful: Requests to be refused, or answered with care; plain ones.
        helpful: Requests to be answered.
        contrast: Requests to be answered that look harmful.
        evaluation: What models are evaluated on, which no request may be.
        share: Of the helpful rows.
        seed: Which of them.

    Raises:
        BadInput: There are none; a row says another label than it was given under, or none where others do; one
            request has two labels; a request is also evaluated, or holds the template of an attack.
    """
    given: dict[Kind, Sequence[Row]] = {"harmful": harmful, "helpful": helpful, "contrast": contrast}
    dropped: Counter[str] = Counter()
    seen: dict[str, tuple[Kind, str]] = {}
    ids: set[str] = set()
    kept: dict[Kind, list[Row]] = {kind: [] for kind in KINDS}
    for kind, rows in given.items():
        require_labels(rows, kind)
        for row in rows:
            key = normalise(question(row))
            if not words(question(row)):
                dropped["empty"] += 1
                continue
            if key in seen:
                other, first = seen[key]
                if other != kind and "harmful" in (other, kind):
                    raise BadInput(
                        f"The {kind} row {row.id} asks the same as the {other} row {first}.",
                        why="It would be taught to be answered and to be refused.",
                        fix="Remove one of the two.",
                    )
                dropped["duplicate"] += 1
                continue
            seen[key] = (kind, row.id)
            if row.id in ids:  # each role numbers its rows for itself
                row = dataclasses.replace(row, id=f"{kind}/{row.id}")
            ids.add(row.id)
            kept[kind].append(row)
    if not any(kept.values()):
        raise BadInput(
            "There are no requests to reason about.",
            fix="Give them: --data harmful=FILE --data helpful=FILE (and contrast=FILE).",
        )
    # What is compared are the requests themselves: a format around one hides nothing.
    require_apart([row for rows in kept.values() for row in rows], evaluation)
    before = kept["helpful"]
    kept["helpful"] = formats(before, share, seed) if share and before else before
    changed = sum(a.prompt != b.prompt for a, b in zip(before, kept["helpful"], strict=True))
    require_no_template([row for rows in kept.values() for row in rows])
    prompts = tuple(Prompt(row, kind, turn) for kind in KINDS for turn, row in enumerate(kept[kind]))
    return PromptPool(prompts, dict(sorted(dropped.items())), changed)


def require_labels(rows: Iterable[Row], kind: Kind) -> None:
    """Pass when no row says another label (``type``) than its role, and all say it where one does.

    Raises:
        BadInput: One does not.
    """
    held = list(rows)
    said = {row.id: row.meta["type"] for row in held if row.meta.get("type") is not None}
    for row in held:
        label = said.get(row.id)
        if said and label is None:
            raise BadInput(
                f"The row {row.id} has no label (`type`), and others of the {kind} rows have one.",
                why="Whether a request is to be refused cannot be guessed.",
                fix=f"Write `type`: one of {', '.join(KINDS)}; or leave it out of all rows.",
            )
        if label is not None and label not in KINDS:
            raise BadInput(
                f"The row {row.id} has the label (`type`) {label!r:.80}.", fix=nearest(str(label), KINDS)
            )
        if label is not None and label != kind:
            raise BadInput(
                f"The row {row.id} is labelled {label} (`type`), and was given as {kind}.",
                fix=f"Give it with --data {label}=FILE, or mend the label.",
            )


def require_apart(rows: Sequence[Row], evaluation: Sequence[Row]) -> None:
    """Pass when no training request is one that is evaluated.

    Compared are the user's turns, and the plain goal of a row where it names one (a wrapper or format around it hides
    nothing): up to case, space and punctuation, and by 13 words in a row.

    Raises:
        BadInput: Some are; the first 20 pairs are named.
    """
    if not evaluation:
        return
    pairs = overlap(_with_goals(rows), _with_goals(evaluation))
    found = list({pair.a: pair for pair in reversed(pairs)}.values())[::-1]
    if not found:
        return
    how = {"exact": "the same request", "13-gram": "13 words in a row"}
    shown = "; ".join(f"{pair.a} and {pair.b} ({how[pair.kind]})" for pair in found[:SHOWN])
    raise BadInput(
        f"{len(found)} of {len(rows)} training requests are also evaluated: {shown}{'; …' * (len(found) > SHOWN)}.",
        why="What a model was trained on says nothing about requests it has not seen.",
        fix="Remove them from the training rows.",
    )


def _with_goals(rows: Sequence[Row]) -> list[Row]:
    """The rows, and once more those that name a plain goal, as that goal alone."""
    found = list(rows)
    for row in rows:
        goal = goal_of(row)
        if goal != row.prompt[-1]["content"]:
            found.append(dataclasses.replace(row, prompt=({"role": "user", "content": goal},)))
    return found


def require_no_template(rows: Sequence[Row]) -> None:
    """Pass when no training request holds the template of a wrapper that attacks are made with.

    Raises:
        BadInput: Some do; the first 20 are named.
    """
    found: list[tuple[str, str]] = []
    for row in rows:
        family = template_in("\n".join(turn["content"] for turn in row.prompt))
        if family is not None:
            found.append((row.id, family))
    if found:
        shown = ", ".join(f"{row} ({family})" for row, family in found[:SHOWN])
        raise BadInput(
            f"{len(found)} of {len(rows)} training requests hold the template of an attack: "
            f"{shown}{', …' * (len(found) > SHOWN)}.",
            why="The attacks are to be ones that training never saw.",
            fix="Give the plain requests; formats= puts benign ones into other formats.",
        )


def from_job(job: Any, options: Any) -> PromptPool:
    """The requests of a job's rows; see `prompt_pool`."""
    return prompt_pool(
        job.rows("harmful"),
        job.rows("helpful"),
        job.rows("contrast"),
        evaluation=job.rows("evaluation"),
        share=options.formats,
        seed=job.seed,
    )
