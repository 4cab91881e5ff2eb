"""The table of a comparison of arms: every arm, data scale and teacher, under everything that was measured.

The same table as a page, as Markdown and as plain values (`table_of`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safewright.compose.ablation import Ablation
from safewright.compose.effects import ALPHA, NONE, Contrast, direction, significant
from safewright.report import text
from safewright.report.lines import is_bound
from safewright.report.matrix import (
    CHANGE,
    GAIN,
    LOSS,
    Column,
    linked_pages,
    notes_of,
    shown_contrast,
    signed_difference,
    warnings_of,
)
from safewright.report.page import environment, version
from safewright.report.svg import Figure, curve_figure
from safewright.report.view import ASIDE, ModelRow
from safewright.types import Curve, Delta, Reading, Scorecard

if TYPE_CHECKING:
    from rich.console import RenderableType

UNTREATED = "untreated"
MARKS: Mapping[str, str] = {GAIN: "better than untreated", LOSS: "worse than untreated", CHANGE: "changed"}

PARTS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("Attack success: not refused", ("asr",)),
    ("Harmful answers", ("harmful", "harmful_sent")),
    ("Best of N", ("asr_all", "asr_any", "refusal")),
    ("Over-refusal", ("over_refusal", "full_refusal", "partial_refusal", "over_refusal_half", "refused")),
    ("Usefulness", ("helpful", "exact_match", "accuracy", "choice", "f1", "rougeL")),
    ("Answers and their reasoning", ("no_answer", "disagrees", "leak", "unfaithful")),
    ("Tokens", ("reasoning_tokens", "reasoning_tokens_p95", "answer_tokens", "answer_tokens_p95", "tokens")),
)
"""Parts of the table, and the readings of each, by what stands before a bracket or an @."""

CONTROL = "base_"
"""Before readings of a control model: they are the same for every arm."""


@dataclass(frozen=True)
class Cell:
    """A reading of an arm; ``against`` and ``from_reference`` are its paired differences where there are some."""

    reading: Reading
    against: Delta | None = None
    from_reference: Delta | None = None

    @property
    def mark(self) -> str:
        """What a paired test shows against the untreated model."""
        if self.against is None or not significant(self.against):
            return ""
        return {1: GAIN, -1: LOSS, 0: CHANGE}[direction(self.against)]

    @property
    def value(self) -> str:
        """The value as text."""
        return text.quantity(self.reading.value, self.reading.unit)

    @property
    def span(self) -> str:
        """Its interval as text."""
        return text.span(self.reading.interval, self.reading.unit) if self.reading.interval else ""

    @property
    def said(self) -> str:
        """Its differences in words."""
        parts = []
        for delta, what in ((self.against, "the untreated model"), (self.from_reference, "the reference")):
            if delta is not None:
                shown = signed_difference(delta.difference, self.reading.unit)
                parts.append(f"{shown} against {what}, p {text.p_value(delta.p_holm)} over {delta.n} pairs")
        return "; ".join(parts)


@dataclass(frozen=True)
class Line:
    """An arm's line: its name, what it is, its part of the comparison, and how many rows it was trained on."""

    name: str
    about: str
    group: str
    rows: int | None


@dataclass(frozen=True)
class Part:
    """A part of the table: some columns, over all arms."""

    title: str
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, str, str], Cell]

    def row(self, arm: str) -> list[Cell | None]:
        """The cells of an arm."""
        return [self.cells.get((arm, column.measure, column.name)) for column in self.columns]


def lines_of(found: Ablation) -> tuple[Line, ...]:
    """The arms in their order, the untreated model first."""
    first = Line(NONE, "the student as it was", "", None)
    return (first, *(Line(v.name, v.about, v.group, v.rows) for v in found.variants))


def parts_of(found: Ablation) -> tuple[Part, ...]:
    """The table, part by part; readings without a part of their own stand under their measure."""
    columns: dict[str, dict[tuple[str, str], Column]] = {title: {} for title, _ in PARTS}
    cells: dict[tuple[str, str, str], Cell] = {}
    against = _by_score(found.matrix.contrasts, "untreated")
    reference = _by_score(found.against, "reference")
    measures = len({name for cards in found.matrix.cards.values() for name in cards})
    for arm, cards in found.matrix.cards.items():
        for card in cards.values():
            for reading in _shown(card):
                key = (card.measure, reading.name)
                title = _part(card, reading)
                said = text.sentence(_named(reading.name))
                if measures > 1 and card.measure != "attack_success":
                    said = f"{text.title_of(card.measure)}: {_named(reading.name)}"
                columns.setdefault(title, {}).setdefault(
                    key, Column(card.measure, reading.name, said, reading.unit, reading.better)
                )
                cells[(arm, *key)] = Cell(reading, against.get((arm, *key)), reference.get((arm, *key)))
    return tuple(Part(title, tuple(own.values()), cells) for title, own in columns.items() if own)


def _shown(card: Scorecard) -> Iterator[Reading]:
    by_name = {reading.name: reading for reading in card.readings}
    for reading in card.readings:
        aside = reading.name in ASIDE or "/" in reading.name or reading.name.startswith(CONTROL)
        if not aside and not is_bound(reading, by_name):
            yield reading


def _part(card: Scorecard, reading: Reading) -> str:
    stem = reading.name.partition("[")[0].partition("@")[0]
    for title, stems in PARTS:
        if stem in stems or stem.removesuffix("_fit").removesuffix("_area") in stems:
            return title
    return text.title_of(card.measure)


def _named(name: str) -> str:
    """A reading in words: ``asr[answer_prefill]`` is "ASR, answer prefill"; ``none`` is the plain request."""
    stem, bracket, rest = name.partition("[")
    said, of = text.reading_name(stem), rest.rstrip("]")
    return f"{said}, {'plain' if of == 'none' else text.reading_name(of)}" if bracket else said


def _by_score(found: Sequence[Contrast], kind: str) -> dict[tuple[str, str, str], Delta]:
    return {
        (contrast.b, delta.measure, delta.score): delta
        for contrast in found
        if contrast.kind == kind
        for delta in contrast.deltas
    }


def table_of(found: Ablation) -> dict[str, Any]:
    """The table in plain values, rates in [0, 1]: for programs, and for other tables."""
    lines, parts = lines_of(found), parts_of(found)
    return {
        "treatment": found.treatment,
        "model": found.matrix.model.digest,
        "reference": found.reference,
        "records": dict(found.records),
        "alpha": ALPHA,
        "adjustment": "Holm over all differences from the untreated model; over all from the reference apart",
        "arms": [
            {
                "arm": UNTREATED if line.name == NONE else line.name,
                "about": line.about,
                "group": line.group,
                "rows": line.rows,
                "readings": [
                    _plain(part.title, column, cell)
                    for part in parts
                    for column, cell in zip(part.columns, part.row(line.name), strict=True)
                    if cell is not None
                ],
            }
            for line in lines
        ],
        "failures": [
            {"arm": failure.arm, "what": failure.what, "error": text.one_line(failure.error)}
            for failure in found.matrix.failures
        ],
    }


def _plain(title: str, column: Column, cell: Cell) -> dict[str, Any]:
    reading = cell.reading
    interval = reading.interval
    return {
        "part": title,
        "measure": column.measure,
        "reading": column.name,
        "unit": column.unit,
        "better": column.better,
        "value": reading.value,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "n": reading.n,
        "unscored": reading.unscored,
        "against_untreated": _difference(cell.against),
        "against_reference": _difference(cell.from_reference),
    }


def _difference(delta: Delta | None) -> dict[str, Any] | None:
    if delta is None:
        return None
    return {
        "difference": delta.difference,
        "low": delta.interval.low,
        "high": delta.interval.high,
        "p": delta.p,
        "p_holm": delta.p_holm,
        "pairs": delta.n,
    }


def ablation_markdown(found: Ablation) -> str:
    """The table as Markdown: a table for each part, values with their intervals."""
    lines = lines_of(found)
    out = [f"# Arms of {text.one_line(found.treatment)} on {text.one_line(found.matrix.model.where)}", ""]
    for part in parts_of(found):
        heads = [f"{_cell(column.title)} ({_way(column)})" for column in part.columns]
        out += [f"## {part.title}", ""]
        out.append(f"| arm | rows | {' | '.join(heads)} |")
        out.append(f"|---|---|{'---|' * len(heads)}")
        group = ""
        for line in lines:
            if line.group not in ("", group, "Arms"):
                out.append(f"| *{line.group}* |{' |' * (len(heads) + 1)}")
            group = line.group
            cells = [_markdown(cell) for cell in part.row(line.name)]
            name = UNTREATED if line.name == NONE else f"`{line.name}`"
            rows = text.NONE if line.rows is None else f"{line.rows:,}"
            out.append(f"| {name} | {rows} | {' | '.join(cells)} |")
        out.append("")
    out += [f"{mark} {said}" for mark, said in MARKS.items()]
    out += [
        "",
        f"Marks: paired tests over the same requests, Holm's adjustment over all, {100 * ALPHA:g}%.",
        "",
    ]
    out += [f"- `{line.name}`: {text.one_line(line.about)}" for line in lines if line.name != NONE]
    care = [*notes_of(found.matrix), *remarks_of(found)]
    out += ["", *(f"- {_cell(note)}" for note in care)] if care else []
    return "\n".join(out) + "\n"


def _way(column: Column) -> str:
    return {"lower": "↓", "higher": "↑"}.get(column.better, "·")


def _markdown(cell: Cell | None) -> str:
    if cell is None:
        return text.NONE
    mark = f" {cell.mark}" if cell.mark else ""
    lost = f", {cell.reading.unscored} unscored" if cell.reading.unscored else ""
    return f"{cell.value}{mark} ({cell.span + ', ' if cell.span else ''}n={cell.reading.n}{lost})"


def _cell(words: str) -> str:
    return text.one_line(words).replace("|", "\\|")


def remarks_of(found: Ablation) -> Iterator[str]:
    """What to know before believing the table."""
    if any(variant.share < 1 for variant in found.variants):
        yield (
            "Arms at a data scale have fewer rows, and under a number of epochs also fewer steps: --set steps=N gives "
            "all as many."
        )
    yield "Each arm was trained once, from one seed: differences between two trainings of one arm are not seen here."


def scale_figures(found: Ablation) -> list[Figure]:
    """Readings along the data scale, a curve per arm, where at least one smaller share was trained."""
    arms: dict[str, list[tuple[float, str]]] = {}
    for variant in found.variants:
        if variant.group == "Data scale":
            arms.setdefault(variant.name.rpartition("_")[0].rstrip("_0123456789"), []).append(
                (float(variant.rows), variant.name)
            )
    whole = {variant.name: float(variant.rows) for variant in found.variants if variant.share >= 1}
    figures = []
    for part in parts_of(found):
        for column in part.columns:
            if column.unit != "rate" or column.name not in ("asr", "harmful"):
                continue
            curves = [
                (arm, _curve(part, column, sorted([*own, *([(whole[arm], arm)] if arm in whole else [])])))
                for arm, own in arms.items()
            ]
            drawn = [(arm, curve) for arm, curve in curves if len(curve.x) > 1]
            if drawn:
                figures.append(
                    curve_figure(column.title, drawn, unit="rate", caption="by rows of records trained on")
                )
    return figures


def _curve(part: Part, column: Column, points: Sequence[tuple[float, str]]) -> Curve:
    kept = [
        (x, cell.reading)
        for x, name in points
        if (cell := part.cells.get((name, column.measure, column.name))) is not None
        and cell.reading.value is not None
    ]
    banded = all(reading.interval for _, reading in kept)
    return Curve(
        column.name,
        tuple(x for x, _ in kept),
        tuple(float(reading.value or 0.0) for _, reading in kept),
        tuple(reading.interval.low for _, reading in kept if reading.interval) if banded else (),
        tuple(reading.interval.high for _, reading in kept if reading.interval) if banded else (),
        "rows",
    )


def render_ablation(
    found: Ablation,
    *,
    command: str = "",
    pages: Mapping[tuple[str, str], str] | None = None,
    created: str = "",
) -> str:
    """The HTML page of a comparison.

    Args:
        found: What `safewright.compose.ablation.run_ablation` gave.
        command: What made it.
        pages: Paths, from the page's own folder, of the pages of arms and measures.
        created: When it was made, as text.
    """
    lines, parts = lines_of(found), parts_of(found)
    family = sum(len(contrast.deltas) for contrast in found.matrix.contrasts)
    models = [ModelRow(_arm(arm.arm), "", arm.model) for arm in found.matrix.arms if arm.model is not None]
    return (
        environment()
        .get_template("ablation.html.j2")
        .render(
            title=f"Arms of {text.one_line(found.treatment)} on {text.one_line(found.matrix.model.where)}",
            lead=(
                f"{len(lines) - 1} ways to train the same student on the same requests, each measured alike. Marks "
                f"rest on paired differences from the untreated model, {family} of them, adjusted together (Holm, "
                f"{100 * ALPHA:g}%)."
            ),
            command=text.one_line(command),
            created=text.one_line(created),
            version=version(),
            notes=[*notes_of(found.matrix), *remarks_of(found), *warnings_of(found.matrix)],
            lines=[(line, _arm(line.name)) for line in lines],
            parts=parts,
            marks=MARKS,
            figures=scale_figures(found),
            reference=found.reference,
            against=[shown_contrast(contrast) for contrast in found.against],
            contrasts=[shown_contrast(contrast) for contrast in found.matrix.contrasts],
            pages=linked_pages([line.name for line in lines], pages or {}),
            models=models,
        )
    )


def _arm(name: str) -> str:
    return UNTREATED if name == NONE else name


def ablation_console(found: Ablation) -> list[RenderableType]:
    """The table for the terminal, part by part, and what to know."""
    from rich.table import Table
    from rich.text import Text

    drawn: list[Any] = []
    for part in parts_of(found):
        table = Table(
            title=part.title,
            box=None,
            header_style="dim",
            pad_edge=False,
            title_justify="left",
            padding=(0, 1, 0, 0),
        )
        table.add_column("Arm", overflow="fold")
        for column in part.columns:
            table.add_column(f"{column.title} {_way(column)}", justify="right", overflow="fold")
        for line in lines_of(found):
            cells = part.row(line.name)
            shown = [text.NONE if c is None else f"{c.value}{' ' + c.mark if c.mark else ''}" for c in cells]
            table.add_row(_arm(line.name), *shown)
        drawn += [table, Text()]
    drawn.append(Text("  ".join(f"{mark} {said}" for mark, said in MARKS.items()), style="dim"))
    drawn += [Text(f"! {note}", style="yellow") for note in (*notes_of(found.matrix), *remarks_of(found))]
    return drawn
