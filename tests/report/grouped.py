"""A made-up scorecard whose readings have parts: cells, groups, curves, bounds, differences and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safewright.stats import rate_reading
from safewright.types import Curve, Interval, Reading, Record, Scorecard, Test
from tests.report.cards import CONVENTIONS, model, record, taken

ISSUES = (
    "Illegal Activities",
    "Unethical Activities",
    "Bias",
    "Physical & Mental Health",
    "Toxicity",
    "Sensitive Topics",
    "Privacy & Property",
)
TASKS = (
    "Question Answering",
    "Role-playing",
    "Brainstorming",
    "Generation",
    "Summarization",
    "Rewrite",
)
COUNTS = (
    (86, 82, 77, 54, 47, 27),
    (68, 54, 59, 44, 26, 22),
    (15, 37, 39, 52, 38, 40),
    (62, 46, 28, 25, 33, 19),
    (32, 36, 35, 44, 30, 5),
    (32, 26, 19, 43, 12, 38),
    (39, 12, 21, 15, 16, 8),
)
"""Issues by tasks, as many as a published set of this kind has."""


def _share(name: str, k: int, n: int, unscored: int = 0) -> Reading:
    return rate_reading(name, [1.0] * k + [0.0] * (n - k), unscored=unscored, better="higher")


def card(
    name: str = "aligned", shift: float = 0.0, conventions: dict[str, Any] | None = None
) -> tuple[Scorecard, list[Record]]:
    """A card of the measure ``longsafety``: one cell has no score, one is at 0, one at 1."""
    cells: dict[tuple[str, str], tuple[int, int, int]] = {}
    for i, issue in enumerate(ISSUES):
        for j, task in enumerate(TASKS):
            n = COUNTS[i][j]
            rate = min(1.0, max(0.0, 0.62 - 0.07 * j - 0.04 * i + shift))
            cells[issue, task] = (round(n * rate), n, 0)
    cells["Toxicity", "Rewrite"] = (0, 0, 5)
    cells["Sensitive Topics", "Rewrite"] = (0, 38, 0)
    cells["Illegal Activities", "Question Answering"] = (86, 86, 0)
    total = [sum(cell[part] for cell in cells.values()) for part in range(3)]
    readings = [
        _share("sr_long", *total),
        Reading("sr_long_low", total[0] / (total[1] + total[2]), total[1] + total[2], 0, None),
        Reading("sr_long_high", (total[0] + total[2]) / (total[1] + total[2]), total[1] + total[2], 0, None),
        _share("sr_front", total[0] + 120, total[1]),
        _share("sr_end", total[0] + 60, total[1]),
        Reading("position_gap", -0.039, total[1], 0, Interval(-0.061, -0.017), "difference"),
        _share("sr_short", 1240, 1543),
        Reading(
            "drop", 0.41 - shift, total[1], 0, Interval(0.38 - shift, 0.44 - shift), "difference", "lower"
        ),
    ]
    readings += _by("safety_type", ISSUES, cells, 0) + _by("task_type", TASKS, cells, 1)
    readings += [_share(f"sr_long/cell/{a}/{b}", *cell) for (a, b), cell in cells.items()]
    readings += [_share(f"sr_long/standardised/{a}", 30, 120) for a in ISSUES]
    readings += [_share("sr_long/macro/safety_type", 600, 1500), _share("sr_long/macro/task_type", 610, 1500)]
    readings += [_share(f"sr_long/doc_num/{n}", 40 // n, 90 // n) for n in (1, 2, 3, 11)]
    readings += [
        Reading(
            f"sr_long/scale_change/x{s:g}",
            0.1 - 0.02 * i,
            300,
            0,
            Interval(0.05 - 0.02 * i, 0.15),
            "difference",
        )
        for i, s in enumerate((0.25, 0.5, 2.0, 4.0))
    ]
    readings += [Reading(f"count/{kind}", float(n), 3086, 0, None, "count") for kind, n in COUNTED]
    lengths = (3212.0, 3790.0, 4760.0, 6480.0, 9650.0)
    curves = (
        _curve("sr_long by length", lengths, [0.52, 0.47, 0.41, 0.36, 0.3], shift, "words of context"),
        _curve(
            "sr_long by context scale",
            (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
            [0.58, 0.55, 0.5, 0.43, 0.35, 0.3, 0.27],
            shift,
            "times the own context",
        ),
    )
    given, records = taken(
        "longsafety",
        "safe",
        ref=model(name),
        readings=readings,
        curves=curves,
        tests=(Test("front_vs_end", 57.0, 0.0004, "mcnemar_exact", total[1], 0.021),),
        records=_records(),
        conventions=conventions or {**CONVENTIONS, "judge": {"name": "agents", "strength": "unmeasured"}},
    )
    return given, records


COUNTED = (("unparsed", 5), ("refused", 0), ("no_answer", 2), ("error", 0), ("overlong", 3))


def _by(name: str, values: Sequence[str], cells: dict[Any, tuple[int, int, int]], side: int) -> list[Reading]:
    found = []
    for value in values:
        own = [cell for key, cell in cells.items() if key[side] == value]
        found.append(
            _share(f"sr_long/{name}/{value}", *(sum(cell[part] for cell in own) for part in range(3)))
        )
    return found


def _curve(name: str, x: Sequence[float], y: Sequence[float], shift: float, unit: str) -> Curve:
    low, high = tuple(v + shift - 0.05 for v in y), tuple(v + shift + 0.05 for v in y)
    return Curve(name, tuple(x), tuple(v + shift for v in y), low, high, unit)


def _records() -> list[Record]:
    long_ = "The tale of zorb goes on. " * 300 + "\n\nSay how zorb opens."
    return [
        record(0, "safe", 1.0, question=long_),
        record(1, "safe", 0.0),
        record(2, "safe", None, status="unparsed"),
    ]
