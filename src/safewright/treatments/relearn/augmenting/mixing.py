"""Generic rows beside the rows made from the forget set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from safewright.errors import BadInput
from safewright.treatments.relearn.augmenting.config import AugmentOptions
from safewright.treatments.relearn.augmenting.leaks import Guard
from safewright.treatments.relearn.augmenting.rows import Augmented
from safewright.types import Row


@dataclass(frozen=True)
class Pool:
    """Generic rows that can be drawn: those without a secret of the forget set, and how many have one."""

    rows: tuple[Row, ...]
    leaking: int = 0


def pool(rows: Sequence[Row], most: int, options: AugmentOptions, guard: Guard) -> Pool:
    """The generic rows to draw from, once there are enough of them; found out before a model is asked.

    Args:
        rows: The generic rows.
        most: Rows made from the forget set at most: QA and completion rows.
        options: ``generic_ratio`` and ``generic_short``.
        guard: Finds secrets.

    Raises:
        BadInput: A row has no answer; or there are too few and repeating them was not asked for.
    """
    wanted = _wanted(most, options)
    if not wanted:
        return Pool(())
    lacking = [row.id for row in rows if not (row.reference or "").strip()]
    if lacking:
        raise BadInput(
            f"{len(lacking)} of {len(rows)} generic rows have no answer (first: {lacking[0]}).",
            fix="Each row needs response, output, or a last assistant turn.",
        )
    clean = tuple(row for row in rows if not guard.anywhere("\n".join(_said(row))))
    leaking = len(rows) - len(clean)
    if len(clean) < wanted and (options.generic_short == "error" or not clean):
        left_out = f" ({leaking} of {len(rows)} hold a secret of the forget set)" if leaking else ""
        others = (
            f"generic_ratio={len(clean) / most:.3g} or generic_short=repeat" if clean else "generic_ratio=0"
        )
        raise BadInput(
            f"{wanted} generic rows are wanted ({options.generic_ratio:g} times {most}), and there are "
            f"{len(clean)}{left_out}.",
            why="A smaller share would be another recipe than the one asked for.",
            fix=f"Give more (--data generic=FILE), or --set {others}.",
        )
    return Pool(clean, leaking)


def generic_rows(source: Pool, made: int, options: AugmentOptions, seed: int) -> list[Augmented]:
    """``floor(generic_ratio * made)`` rows of the pool, each drawn once before one is drawn twice."""
    wanted = _wanted(made, options)
    draw = random.Random(f"generic rows {seed}")
    chosen: list[Row] = []
    while len(chosen) < wanted:
        chosen += draw.sample(source.rows, min(len(source.rows), wanted - len(chosen)))
    times: dict[str, int] = {}
    found = []
    for row in chosen:
        copy = times[row.id] = times.get(row.id, 0) + 1
        found.append(
            Augmented(
                f"generic/{row.id}" + (f"-{copy}" if copy > 1 else ""),
                row.prompt[-1]["content"],
                row.reference or "",
                "generic",
                row.id,
                "original",
                0,
                "given",
                before=tuple(row.prompt[:-1]),
            )
        )
    return found


def _said(row: Row) -> list[str]:
    """All that a row shows in training, earlier turns included."""
    return [*(turn["content"] for turn in row.prompt), row.reference or ""]


def _wanted(made: int, options: AugmentOptions) -> int:
    # 1.2 * 5 is 5.999… in binary: what is meant is 6.
    return int(options.generic_ratio * made + 1e-9)
