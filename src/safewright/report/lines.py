"""Readings as lines of a page: what bounds them, and those that belong together because their names say so.

A name with slashes is one of a group: ``sr_long/safety_type/Bias`` is ``sr_long`` by safety type for Bias, and
``sr_long/cell/Bias/Rewrite`` one cell of a heat map. All others are a scorecard's headline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from safewright.report import text
from safewright.types import Reading, Scorecard

BOUNDS = (("_no_answer_low", "_no_answer_high", "unanswered"), ("_low", "_high", "unscored"))
"""Endings of the names of a reading's bounds, and what they count both ways."""

FEW = 30
"""Below so many scored records a part of a reading is marked as resting on few."""

CELL, COUNT = "cell", "count"


@dataclass(frozen=True)
class Line:
    """One reading of one model; ``bounds`` are its values with the ``silent`` ones counted as no, and as yes."""

    label: str
    reading: Reading
    unscored: str
    bounds: tuple[float, float] | None = None
    silent: int = 0
    missing: str = "unanswered"

    @property
    def is_few(self) -> bool:
        """Whether few records lie behind it."""
        return self.reading.n < FEW


@dataclass(frozen=True)
class Breakdown:
    """A reading by one property: a line per value and model."""

    measure: str
    head: str
    dimension: str
    unit: str
    better: str
    rows: tuple[tuple[str, tuple[Line, ...]], ...]

    @property
    def title(self) -> str:
        """What it shows, in words."""
        said = DIMENSIONS.get(self.dimension)
        how = (
            said if said is not None else f"by {text.reading_name(self.dimension)}" if self.dimension else ""
        )
        return f"{text.sentence(text.reading_name(self.head))} {how}".strip()

    @property
    def code(self) -> str:
        """Where its readings stand on the scorecard."""
        return "/".join(part for part in (self.head, self.dimension, "…") if part)

    @property
    def has_few(self) -> bool:
        """Whether any of its lines rests on few records."""
        return any(line.is_few for _, lines in self.rows for line in lines)


DIMENSIONS: Mapping[str, str] = {
    CELL: "in every cell",
    "standardised": "standardised to the pooled mix",
    "macro": "as a mean of groups",
    "doc_num": "by number of documents",
    "length": "by length",
    "scale": "by context scale",
    "scale_change": "change by context scale",
}
"""How dimensions are said that are not "by" something."""


@dataclass
class HeatMap:
    """The cells of one reading of one model, by two properties; names of both in the order they came."""

    measure: str
    head: str
    label: str
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    axes: tuple[str, str] = ("", "")
    cells: dict[tuple[str, str], Reading] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it shows, in words."""
        by = " and ".join(text.reading_name(axis) for axis in self.axes if axis)
        return f"{text.reading_name(self.head)} by {by or 'cell'}"


def is_bound(reading: Reading, by_name: Mapping[str, Reading]) -> bool:
    """Whether a reading bounds another one, and is shown with it."""
    return any(
        reading.name.endswith(ending) and reading.name.removesuffix(ending) in by_name
        for low, high, _ in BOUNDS
        for ending in (low, high)
    )


def line_of(card: Scorecard, reading: Reading, by_name: Mapping[str, Reading], label: str) -> Line:
    """A reading as a line, with its bounds."""
    reasons = text.counts(card.unscored) if sum(card.unscored.values()) == reading.unscored else ""
    for low_end, high_end, missing in BOUNDS:
        low, high = by_name.get(reading.name + low_end), by_name.get(reading.name + high_end)
        if low and high and low.value is not None and high.value is not None:
            silent = reading.unscored - low.unscored
            return Line(label, reading, reasons, (low.value, high.value), silent, missing)
    return Line(label, reading, reasons)


def split(name: str) -> tuple[str, str, str]:
    """Head, dimension and value of a grouped reading's name; dimension and value are empty for a headline."""
    head, *rest = name.split("/")
    if not rest:
        return name, "", ""
    if len(rest) == 1:
        return head, "", rest[0]
    if rest[0] == CELL:
        return head, CELL, " / ".join(rest[1:])
    return head, rest[0], "/".join(rest[1:])


def breakdowns(cards: Sequence[tuple[Scorecard, str]]) -> tuple[Breakdown, ...]:
    """All grouped readings but counts, in the order of the scorecards; cells after everything else.

    Args:
        cards: Scorecards with the label of their model.
    """
    found: dict[tuple[str, str, str, str], dict[str, list[Line]]] = {}
    for card, label in cards:
        by_name = {reading.name: reading for reading in card.readings}
        for reading in card.readings:
            head, dimension, value = split(reading.name)
            if not value or head == COUNT or is_bound(reading, by_name):
                continue
            rows = found.setdefault((card.measure, head, dimension, reading.unit), {})
            rows.setdefault(value, []).append(line_of(card, reading, by_name, label))
    return tuple(
        Breakdown(
            measure,
            head,
            dimension,
            unit,
            _common({line.reading.better for lines in rows.values() for line in lines}),
            tuple((_said(value), tuple(lines)) for value, lines in rows.items()),
        )
        for (measure, head, dimension, unit), rows in sorted(
            found.items(), key=lambda item: item[0][2] == CELL
        )
    )


def _said(value: str) -> str:
    """A part's name: a code name in words, a label of the data as it is."""
    return text.reading_name(value) if value.isidentifier() and value.islower() else text.one_line(value)


def _common(ways: set[str]) -> str:
    return ways.pop() if len(ways) == 1 else "neither"


def heat_maps(cards: Sequence[tuple[Scorecard, str]]) -> Iterator[HeatMap]:
    """One map per model and reading that has ``X/cell/A/B`` readings of a rate."""
    for card, label in cards:
        maps: dict[str, HeatMap] = {}
        for reading in card.readings:
            head, *rest = reading.name.split("/")
            if len(rest) == 3 and rest[0] == CELL and reading.unit == "rate":
                drawn = maps.setdefault(head, HeatMap(card.measure, head, label))
                drawn.cells.setdefault((rest[1], rest[2]), reading)
        for head, drawn in maps.items():
            drawn.rows = tuple(dict.fromkeys(row for row, _ in drawn.cells))
            drawn.columns = tuple(dict.fromkeys(column for _, column in drawn.cells))
            drawn.axes = (_axis(card, head, drawn.rows), _axis(card, head, drawn.columns))
            yield drawn


def _axis(card: Scorecard, head: str, values: Sequence[str]) -> str:
    """The property whose values these are, as other readings of the scorecard name it; empty where none does."""
    named: dict[str, set[str]] = {}
    for reading in card.readings:
        found, dimension, value = split(reading.name)
        if found == head and dimension and dimension not in DIMENSIONS:
            named.setdefault(dimension, set()).add(value)
    return next((name for name, known in named.items() if known >= set(values)), "")
