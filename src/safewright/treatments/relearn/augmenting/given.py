"""Rows made without a model: from the wordings, vague answers and openings that the forget rows bring along."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from safewright.data.splits import words
from safewright.errors import BadInput
from safewright.treatments.relearn.augmenting.items import SHOWN, Item, Wording
from safewright.treatments.relearn.augmenting.leaks import Guard
from safewright.treatments.relearn.augmenting.rows import Augmented, Dropped
from safewright.treatments.relearn.augmenting.writing import Vague, distinct, unusable_question


def require_given(items: Sequence[Item], kinds: Sequence[str]) -> None:
    """Pass when no model is needed.

    Raises:
        BadInput: A row has no vague answers, or no other wordings.
    """
    for name, lacking in (
        ("vague", [item.id for item in items if item.vague is None]),
        ("variants", [item.id for item in items if kinds and item.wordings is None]),
    ):
        if lacking:
            raise BadInput(
                f"{len(lacking)} of {len(items)} forget rows have no `{name}` (first: {lacking[0]}), and no "
                "augmenter was given.",
                why="Somebody has to write what is learned in place of the answers.",
                fix="Give a model (--model augmenter=MODEL), or rows that bring `vague` and `variants`.",
            )


def given_questions(item: Item, guard: Guard) -> tuple[list[Wording], list[Dropped]]:
    """The wordings a row brings along, less those that hold a secret or repeat another."""
    clean, dropped = [], []
    for wording in item.wordings or ():
        problem = unusable_question(item, wording.text, guard)
        if problem is None:
            clean.append(wording)
        else:
            dropped.append(Dropped(item.id, wording.kind, "question", problem.reason, 0, problem.why))
    kept, repeated = distinct(item, clean)
    return kept, dropped + repeated


def given_answers(
    item: Item, wordings: Sequence[Wording], guard: Guard, seed: int
) -> tuple[list[Vague], list[Dropped]]:
    """The row's own vague answers for its wordings: each is used once before one is used twice."""
    clean, dropped = [], []
    for number, text in enumerate(item.vague or (), 1):
        leaks = guard.found(item.id, text)
        if leaks:
            why = f"rules: {len(leaks)} secrets" if len(leaks) > 1 else "rules: 1 secret"
            dropped.append(Dropped(item.id, f"vague-{number}", "answer", "leak", 0, why))
        else:
            clean.append(text.strip())
    draw = random.Random(f"vague answers {seed} {item.id}")
    order: list[str] = []
    while clean and len(order) < len(wordings):
        order += draw.sample(clean, len(clean))
    made = []
    for wording, text in zip(wordings, order, strict=False):
        if guard.found(
            item.id, wording.text, text
        ):  # an entity may begin in the question and go on in the answer
            dropped.append(Dropped(item.id, wording.kind, "answer", "leak", 0, "rules: with its question"))
        else:
            made.append(Vague(item, wording, text, 0, "rules"))
    return made, dropped


def openings_of(items: Sequence[Item], guard: Guard, lines: Sequence[str]) -> dict[str, list[str]]:
    """The openings of each row, its own and those for every row; found usable before a model is asked.

    Args:
        items: The forget rows.
        guard: Finds secrets.
        lines: Openings for every row, with ``{subject}`` in the place of the row's subject.

    Raises:
        BadInput: An opening or a tail holds a secret; or there is no opening at all.
    """
    found = {item.id: [*item.openings, *(filled(line, item) for line in lines)] for item in items}
    for item in items:
        for what, texts in (("opening", found[item.id]), ("tail", item.tails)):
            leaking = [text for text in texts if guard.found(item.id, text)]
            if leaking:
                raise BadInput(
                    f"The {what} {leaking[0]!r} of the forget row {item.id!r} holds a secret.",
                    why="It would be shown in training.",
                    fix="End it before the first secret word.",
                )
    if not any(found.values()):
        raise BadInput(
            "prefix_rows is openings, and no forget row has any.",
            fix="Give `openings` in the rows, or a file of them: --set prefix_openings=FILE",
        )
    return found


def prefix_rows(
    answers: Sequence[Vague], openings: Mapping[str, Sequence[str]], weight: int, seed: int, guard: Guard
) -> tuple[list[Augmented], list[Dropped]]:
    """Rows that go on vaguely from a secret-free opening: with the question, and the opening alone.

    An opening and what follows it may hold a secret together: such a pair is dropped.

    The loss is on what follows the opening. A row's ``tails`` follow its openings, where it has them; its vague
    answers otherwise.

    Args:
        answers: The usable vague answers.
        openings: See `openings_of`.
        weight: How often each row occurs.
        seed: Of the openings and tails that meet.
        guard: Finds secrets.
    """
    made: list[Augmented] = []
    dropped: list[Dropped] = []
    for item_id, own in by_item(answers).items():
        item, begun = own[0].item, openings[item_id]
        if not begun:
            continue
        draw = random.Random(f"openings {seed} {item_id}")
        order = draw.sample(begun, len(begun))
        tails = draw.sample(item.tails, len(item.tails))
        for place, answer in enumerate(own):
            tail = tails[place % len(tails)] if tails else answer.text
            pair = _pair(answer, order[place % len(order)].strip(), tail.strip(), weight)
            if guard.found(item_id, pair[0].prompt, pair[0].completion):
                kind = answer.wording.kind
                dropped.append(
                    Dropped(item_id, kind, "prefix", "leak", answer.round, "opening and tail together")
                )
            else:
                made += pair
    return made, dropped


def _pair(answer: Vague, opening: str, tail: str, weight: int) -> list[Augmented]:
    """Both rows of an opening, ``weight`` times each."""
    item, wording = answer.item, answer.wording
    gap = "" if opening[-1:] >= "\u2e80" else " "
    stem = f"{item.id}/{wording.kind}/prefix"
    rows = []
    for copy in range(1, weight + 1):
        last = f"-{copy}" if copy > 1 else ""
        about = (item.id, wording.kind, answer.round, answer.verdict)
        rows.append(
            Augmented(
                f"{stem}{last}",
                wording.text,
                f"{opening}{gap}{tail}",
                "prefix",
                *about,
                prefill=f"{opening}{gap}",
                before=item.before,
            )
        )
        rows.append(Augmented(f"{stem}-alone{last}", opening, tail, "prefix", *about))
    return rows


def opening_lines(file: Path) -> list[str]:
    """The openings of a text file, one a line; blank lines and lines that begin with # are left out.

    Raises:
        BadInput: It cannot be read, or holds none.
    """
    try:
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise BadInput(f"prefix_openings={file} cannot be read ({error}).") from error
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise BadInput(f"prefix_openings={file} holds no opening.", fix="Write one a line.")
    return found


def filled(line: str, item: Item) -> str:
    """An opening for a row.

    Raises:
        BadInput: It has a place for the subject, and the row names none; or it has other places.
    """
    if "{subject}" in line and not item.subject:
        raise BadInput(
            f"The opening {line!r} has a place for the subject, and the forget row {item.id!r} names none.",
            fix="Give the rows `subject`.",
        )
    text = line.replace("{subject}", item.subject)
    if not words(text):
        raise BadInput(f"The opening {line!r} has no words.")
    return text


def shown(ids: Sequence[str]) -> str:
    """The first of some ids."""
    return ", ".join(ids[:SHOWN]) + (", …" if len(ids) > SHOWN else "")


def by_item(answers: Sequence[Vague]) -> Mapping[str, list[Vague]]:
    """The vague answers of each forget row."""
    found: dict[str, list[Vague]] = {}
    for answer in answers:
        found.setdefault(answer.item.id, []).append(answer)
    return found
