"""The page of a matrix: what every arm measures, what breaks what, and what comes back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safewright.compose.effects import ALPHA, JOINED, NONE, Contrast, Finding, direction, marks, significant
from safewright.compose.matrix import Matrix, cards_of
from safewright.report import text
from safewright.report.differences import score_title
from safewright.report.lines import is_bound
from safewright.report.page import environment, version
from safewright.report.profile import (
    PROFILE,
    PROFILED,
    attack_tables,
    is_attacked,
    profile_figure,
    score_name,
)
from safewright.report.view import ASIDE, ModelRow
from safewright.types import Delta, Reading, Scorecard

if TYPE_CHECKING:
    from rich.console import RenderableType

GAIN, LOSS, CHANGE = "▲", "▼", "◆"
MARKS: Mapping[str, str] = {GAIN: "better than untreated", LOSS: "worse", CHANGE: "changed"}


@dataclass(frozen=True)
class Column:
    """One reading of one measure, over all arms."""

    measure: str
    name: str
    title: str
    unit: str
    better: str


@dataclass(frozen=True)
class Cell:
    """A reading of an arm as text; ``mark`` says what a paired test shows against the untreated model."""

    value: str
    span: str
    mark: str = ""
    said: str = ""
    unscored: int = 0


@dataclass(frozen=True)
class Shown:
    """A contrast as rows of text."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]


def columns_of(found: Matrix) -> tuple[Column, ...]:
    """The headline readings of every measure, in the order of the scorecards."""
    drawn: dict[tuple[str, str], Column] = {}
    for _, card in cards_of(found):
        for reading in _headline(card):
            key = (card.measure, reading.name)
            if key not in drawn:
                said = text.sentence(text.reading_name(reading.name))
                drawn[key] = Column(card.measure, reading.name, said, reading.unit, reading.better)
    return tuple(drawn.values())


def _headline(card: Scorecard) -> Iterator[Reading]:
    by_name = {reading.name: reading for reading in card.readings}
    for reading in card.readings:
        aside = reading.name in ASIDE or "/" in reading.name or is_attacked(reading.name)
        if card.measure == PROFILED:
            aside = reading.name not in dict(PROFILE) or reading.value is None
        if not aside and not is_bound(reading, by_name):
            yield reading


def cells_of(found: Matrix) -> dict[tuple[str, str, str], Cell]:
    """By arm, measure and reading."""
    differences = dict(marks(found.contrasts))
    cells = {}
    for arm, card in cards_of(found):
        for reading in _headline(card):
            delta = differences.get((arm, card.measure, reading.name))
            mark = mark_of(delta)
            said = ""
            if delta is not None:
                said = (
                    f"{signed_difference(delta.difference, reading.unit)} against untreated, "
                    f"p {text.p_value(delta.p_holm)} over {delta.n} pairs"
                )
            cells[arm, card.measure, reading.name] = Cell(
                text.quantity(reading.value, reading.unit),
                text.span(reading.interval, reading.unit) if reading.interval else "",
                mark,
                said,
                reading.unscored,
            )
    return cells


def mark_of(delta: Delta | None) -> str:
    if delta is None or not significant(delta):
        return ""
    return {1: GAIN, -1: LOSS, 0: CHANGE}[direction(delta)]


def signed_difference(value: float, unit: str) -> str:
    return f"{text.signed(value)} points" if unit == "rate" else text.signed(value, points=False)


def arm_title(name: str) -> str:
    """An arm in words: its treatments in their order."""
    return "untreated" if name in (NONE, "") else ", then ".join(name.split(JOINED))


ORDER = ("comes back", "breaks", "together", "improves", "makes good", "holds", "open", "changes", "order")
"""Kinds of findings, in the order they are told."""


def sentences(found: Sequence[Finding]) -> list[tuple[str, str]]:
    """Each finding as a sentence with its kind; what was not shown is gathered, one sentence for an arm."""
    scores: dict[str, set[str]] = {}
    for finding in found:
        scores.setdefault(finding.measure, set()).add(finding.score)
    alone = frozenset(measure for measure, names in scores.items() if len(names) == 1)
    said: list[tuple[str, str]] = [
        (f.kind, _sentence(f, alone)) for kind in ORDER for f in found if f.kind == kind
    ]
    unseen: dict[str, list[Finding]] = {}
    for finding in found:
        if finding.kind == "unseen":
            unseen.setdefault(finding.arm, []).append(finding)
    return said + [("unseen", _unseen(arm, those, alone)) for arm, those in unseen.items()]


def _what(found: Finding, alone: Collection[str]) -> str:
    """The score in words; the measure alone where it has no other."""
    return text.title_of(found.measure) if found.measure in alone else score_title(found.measure, found.score)


def _sentence(found: Finding, alone: Collection[str]) -> str:
    *before, last = found.arm.split(JOINED)
    what = _what(found, alone)
    along = " → ".join(text.quantity(value, found.unit) for value in found.values)
    sure = f"{along}; p {text.p_value(found.p_holm)}, {found.n} pairs"
    first = arm_title(JOINED.join(before))
    after = _step(found.arm.split(JOINED))
    if found.kind == "comes back":
        return f"Under {last}, {what} goes back: {_share(found)} {first} had gained is undone ({sure})."
    if found.kind == "breaks":
        return f"{after} breaks {what} ({sure})."
    if found.kind == "together":
        steps = [_step(found.arm.split(JOINED)[: n + 1]) for n in range(len(before) + 1)]
        return (
            f"{arm_title(found.arm)} together break {what}: untreated against the end ({sure}). No single step "
            f"is shown to do it ({', '.join(steps)})."
        )
    if found.kind == "improves":
        return f"{after} improves {what} ({sure})."
    if found.kind == "makes good":
        return f"{last} makes good {_share(found)} {first} had broken: {what} ({sure})."
    if found.kind == "holds":
        return f"What {first} had gained in {what} holds under {last} ({sure}{_missed(found)})."
    if found.kind == "open":
        return (
            f"Whether what {first} had gained in {what} holds under {last} is open ({sure}{_missed(found)})."
        )
    if found.kind == "order":
        a, b = (arm_title(name) for name in found.path)
        return f"The order matters for {what}: {a} ends elsewhere than {b} ({sure})."
    return f"{after} changes {what} ({sure})."


def _step(steps: Sequence[str]) -> str:
    """The last treatment of an arm, and those it comes after."""
    *before, last = steps
    return f"{last} after {arm_title(JOINED.join(before))}" if before else last


def _share(found: Finding) -> str:
    """How much of the way to the middle value of three was gone back."""
    start, middle, end = found.values
    share = (middle - end) / (middle - start) if middle != start else 1.0
    return "what" if share >= 1 else f"about {max(1, min(99, round(100 * share)))}% of what"


def _missed(found: Finding) -> str:
    if found.missed is None:
        return ""
    return f"; a change of less than about {100 * found.missed:.0f} points would have been missed"


def _unseen(arm: str, those: Sequence[Finding], alone: Collection[str]) -> str:
    by_measure: dict[str, list[Finding]] = {}
    for found in those:
        by_measure.setdefault(found.measure, []).append(found)
    parts = []
    for measure, own in by_measure.items():
        names = ", ".join(score_name(found.score) for found in own)
        sized = [found for found in own if found.missed is not None]
        notes = [names] if measure not in alone else []
        if sized:
            size = max(found.missed or 0.0 for found in sized)
            some = ", ".join(score_name(found.score) for found in sized)
            which = f" in {some}" if len(sized) < len(own) else ""
            notes.append(f"less than about {100 * size:.0f} points{which} would have been missed")
        said = "; ".join(notes)
        parts.append(f"{text.title_of(measure)} ({said})" if said else text.title_of(measure))
    return f"{_step(arm.split(JOINED))}: no change is shown in {', '.join(parts)}."


def shown_contrast(found: Contrast) -> Shown:
    a, b = arm_title(found.a), arm_title(found.b)
    title = {
        "untreated": f"{b}, against {a}",
        "before": f"{b}, against {a} alone",
        "order": f"{b}, against {a}",
        "reference": f"{b}, against {a}",
    }
    rows = []
    for delta in found.deltas:
        unit = found.units.get(f"{delta.measure}/{delta.score}", "score")
        low, high = (text.signed(x, points=unit == "rate") for x in (delta.interval.low, delta.interval.high))
        rows.append(
            (
                score_title(delta.measure, delta.score),
                text.quantity(delta.a, unit),
                text.quantity(delta.b, unit),
                signed_difference(delta.difference, unit),
                f"{low} to {high}",
                f"{delta.n:,}",
                text.p_value(delta.p),
                text.p_value(delta.p_holm),
                mark_of(delta),
            )
        )
    return Shown(title[found.kind], tuple(rows), tuple(text.one_line(line) for line in found.warnings))


def notes_of(found: Matrix) -> Iterator[str]:
    for failure in found.failures:
        yield f"{arm_title(failure.arm)}: {failure.what} failed: {text.one_line(failure.error)}"
    for arm in found.arms:
        for check in arm.checks:
            if not check.passed:
                yield f"{arm_title(arm.arm)}: the check {check.name!r} failed: {text.one_line(check.detail)}"
    unscored: dict[str, list[str]] = {}
    for place, share in found.unscored.items():
        name, _, measure = place.rpartition("/")
        unscored.setdefault(measure, []).append(f"{arm_title(name)} {text.percent(share)}")
    for measure, shares in unscored.items():
        yield (
            f"{measure}: records without a score are above the bound ({'; '.join(shares)}); the figures may not "
            "speak for them."
        )
    for arm in found.arms:
        yield from (text.one_line(note) for note in arm.notes)


def warnings_of(found: Matrix) -> Iterator[str]:
    """What to know before believing a contrast, each thing once."""
    by_line: dict[str, list[str]] = {}
    for contrast in found.contrasts:
        for line in contrast.warnings:
            if "no width" not in line:
                by_line.setdefault(text.one_line(line), []).append(arm_title(contrast.b))
    for line, arms in by_line.items():
        where = "every comparison" if len(arms) == len(found.contrasts) else "; ".join(dict.fromkeys(arms))
        yield f"{line} ({where})"


def render_matrix(
    found: Matrix, *, command: str = "", pages: Mapping[tuple[str, str], str] | None = None, created: str = ""
) -> str:
    """The HTML page of a matrix.

    Args:
        found: What `safewright.compose.matrix.run_matrix` gave.
        command: What made it.
        pages: Paths, from the page's own folder, of the pages of arms and measures.
        created: When it was made, as text.
    """
    columns, cells = columns_of(found), cells_of(found)
    arms = [arm.arm for arm in found.arms]
    labelled = [(arm_title(arm), card) for arm, card in cards_of(found)]
    models = [ModelRow(arm_title(arm.arm), "", arm.model) for arm in found.arms if arm.model is not None]
    family = sum(len(contrast.deltas) for contrast in found.contrasts)
    profile = profile_figure(labelled)
    heads: dict[str, int] = {}
    for column in columns:
        heads[column.measure] = heads.get(column.measure, 0) + 1
    return (
        environment()
        .get_template("matrix.html.j2")
        .render(
            title=f"Matrix of {text.one_line(found.model.where)}",
            lead=(
                f"{len(arms)} arms: every treatment alone and after the others, every measure taken again after "
                f"each. Marks and sentences rest on paired differences of the same records, {family} of them, "
                f"adjusted together (Holm, {100 * ALPHA:g}%)."
            ),
            command=text.one_line(command),
            created=text.one_line(created),
            version=version(),
            models=models,
            notes=[*notes_of(found), *warnings_of(found)],
            heads=[(text.title_of(measure), count) for measure, count in heads.items()],
            columns=columns,
            rows=[(arm_title(arm), [cells.get((arm, c.measure, c.name)) for c in columns]) for arm in arms],
            marks=MARKS,
            sentences=sentences(found.findings),
            contrasts=[shown_contrast(contrast) for contrast in found.contrasts],
            figures=[profile] if profile else [],
            attacks=attack_tables(labelled),
            pages=linked_pages(arms, pages or {}),
            measures=list(heads),
            treatments=sorted(found.treatments.items()),
        )
    )


def linked_pages(
    arms: Sequence[str], pages: Mapping[tuple[str, str], str]
) -> list[tuple[str, list[tuple[str, str]]]]:
    from urllib.parse import quote

    return [
        (arm_title(arm), [(name, quote(path)) for (own, name), path in pages.items() if own == arm])
        for arm in arms
        if any(own == arm for own, _ in pages)
    ]


WIDTH = 14
"""Letters of a column in the terminal, with the space beside it."""


def matrix_console(found: Matrix, width: int | None = None) -> list[RenderableType]:
    """A matrix for the terminal: tables no wider than it, then what breaks what, and what to know.

    Args:
        found: The matrix.
        width: Letters of the terminal; asked of it where None.
    """
    import shutil

    from rich.table import Table
    from rich.text import Text

    columns, cells = columns_of(found), cells_of(found)
    arms = [arm.arm for arm in found.arms]
    room = width or shutil.get_terminal_size((100, 24)).columns
    first = max((len(step) for arm in arms for step in arm_title(arm).split(", ")), default=9) + 2
    each = max(1, (room - first) // WIDTH)
    drawn: list[Any] = []
    for start in range(0, len(columns), each):
        some = columns[start : start + each]
        table = Table(show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), box=None, header_style="dim")
        table.add_column("Arm", min_width=first - 1, overflow="fold")
        for column in some:
            title = text.title_of(column.measure)
            both = title if title.lower() == column.title.lower() else f"{title}\n{column.title}"
            table.add_column(Text(both), justify="right", overflow="fold", max_width=WIDTH + 6)
        for arm in arms:
            row = [cells.get((arm, column.measure, column.name)) for column in some]
            table.add_row(Text(arm_title(arm)), *(_drawn(cell) for cell in row))
        drawn += [table, Text()]
    if any(cell.mark for cell in cells.values()):
        drawn.append(Text("  ".join(f"{mark} {said}" for mark, said in MARKS.items()), style="dim"))
    drawn += [Text(f"- {line}") for _, line in sentences(found.findings)]
    drawn += [Text(f"! {note}", style="yellow") for note in notes_of(found)]
    drawn += [Text(f"! {warning}", style="yellow") for warning in warnings_of(found)]
    return drawn


def _drawn(cell: Cell | None) -> Any:
    from rich.text import Text

    if cell is None:
        return Text("–")
    style = {GAIN: "green", LOSS: "red"}.get(cell.mark, "")
    shown = Text(f"{cell.value}{f' {cell.mark}' if cell.mark else ''}", style=f"bold {style}".strip())
    if cell.span:
        shown.append(f"\n{cell.span}", style="dim not bold")
    return shown
