"""Generic rows beside the rows made from the forget set."""

from __future__ import annotations

import random
from collections.abc import Sequence

from safewright.errors import BadInput
from safewright.treatments.relearn.augmenting.config import AugmentOptions
from safewright.treatments.relearn.augmenting.leaks import Guard
from safewright.treatments.relearn.augmenting.rows import Augmented
from safewright.types import Row


def generic_rows(
    rows: Sequence[Row], made: int, options: AugmentOptions, guard: Guard, seed: int
) -> tuple[list[Augmented], int]:
    """``floor(generic_ratio * made)`` generic rows, drawn without repetition; and how many hold a secret.

    Rows that hold a secret of the forget set are never drawn.

    Args:
        rows: The generic rows.
        made: Rows made from the forget set: QA and completion rows.
        options: ``generic_ratio`` and ``generic_short``.
        guard: Finds secrets.
        seed: Of the drawing.

    Raises:
        BadInput: A row has no answer; or there are too few and repeating them was not asked for.
    """
    # 1.2 * 5 is 5.999… in binary: what is meant is 6.
    wanted = int(options.generic_ratio * made + 1e-9)
    if not wanted:
        return [], 0
    lacking = [row.id for row in rows if not (row.reference or "").strip()]
    if lacking:
        raise BadInput(
            f"{len(lacking)} of {len(rows)} generic rows have no answer (first: {lacking[0]}).",
            fix="Each row needs response, output, or a last assistant turn.",
        )
    clean = [row for row in rows if not guard.anywhere(f"{row.prompt[-1]['content']}\n{row.reference}")]
    leaking = len(rows) - len(clean)
    if len(clean) < wanted and (options.generic_short == "error" or not clean):
        left_out = f" ({leaking} of {len(rows)} hold a secret of the forget set)" if leaking else ""
        others = (
            f"generic_ratio={len(clean) / made:.3g} or generic_short=repeat" if clean else "generic_ratio=0"
        )
        raise BadInput(
            f"{wanted} generic rows are wanted ({options.generic_ratio:g} times {made}), and there are "
            f"{len(clean)}{left_out}.",
            why="A smaller share would be another recipe than the one asked for.",
            fix=f"Give more (--data generic=FILE), or --set {others}.",
        )
    draw = random.Random(f"generic rows {seed}")
    chosen: list[Row] = []
    while len(chosen) < wanted:
        chosen += draw.sample(clean, min(len(clean), wanted - len(chosen)))
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
    return found, leaking
