"""Scorecards and comparisons as short tables: for the terminal and for Markdown."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from safewright.report import text, view
from safewright.report.differences import comparison_view, delta_texts, score_title
from safewright.report.heat import whole_percent
from safewright.report.lines import CELL, FEW, Breakdown, HeatMap, Line
from safewright.types import Scorecard

if TYPE_CHECKING:
    from rich.box import Box
    from rich.console import Group as RichGroup
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from safewright.compose.compare import Comparison


def console_table(cards: Sequence[Scorecard], *, labels: Sequence[str] | None = None) -> Table:
    """A rich table of all headline readings: value, interval, n, unscored, direction, judge.

    Readings of parts are named below it, with their number: they stand on the page and in Markdown.

    Args:
        cards: Scorecards, in the order they are shown.
        labels: A short name per scorecard; of the models' places where None.
    """
    from rich.table import Table
    from rich.text import Text

    page = view.build([(card, ()) for card in cards], labels=labels, examples=0)
    table = Table(show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), box=_box(), header_style="dim")
    table.add_column("Measure", overflow="fold", min_width=10)
    if page.several:
        longest = max(len(row.label) for row in page.models)
        table.add_column("Model", overflow="fold", min_width=min(longest, 12))
    table.add_column("Value", justify="right", no_wrap=True)
    table.add_column(f"{page.level} interval".strip(), justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    bounded = any(line.bounds for group in page.groups for line in group.lines)
    table.add_column("Unscored,\nwith them" if bounded else "Unscored", overflow="fold")
    table.add_column("Better", no_wrap=True)
    table.add_column("Judge", overflow="fold")
    for group in page.groups:
        for place, line in enumerate(group.lines):
            reading, first = line.reading, place == 0
            # Text objects: square brackets in a name are not markup.
            cells = [Text(group.title if first else "")]
            if page.several:
                cells.append(Text(line.label))
            cells += [
                Text(text.quantity(reading.value, group.unit), style="bold"),
                Text(text.span(reading.interval, group.unit)),
                Text(f"{reading.n:,}"),
                Text(_with_bounds(line), style="yellow" if reading.unscored else ""),
                Text(group.better if first and group.better != "neither" else ""),
                _judge(group.judge) if first and group.first else Text(""),
            ]
            table.add_row(*cells, end_section=place == len(group.lines) - 1 and page.several)
    if page.breakdowns:
        table.caption = Text(f"On the page besides: {_listed(page.breakdowns)}.", style="dim")
        table.caption_justify = "left"
    return table


def _listed(parts: Sequence[Breakdown]) -> str:
    """What the breakdowns are, with the number of their parts: "SR long by safety type (7)"."""
    return ", ".join(dict.fromkeys(f"{part.title} ({len(part.rows)})" for part in parts))


def comparison_table(comparison: Comparison) -> RichGroup:
    """A comparison for the terminal: the table of differences, then what to know before believing it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = comparison_view(comparison)
    table = Table(show_edge=False, pad_edge=False, box=_box(), header_style="dim")
    table.add_column("Score", overflow="fold", min_width=14)
    for name in ("A", "B", "B − A", f"{shown.level} interval", "Pairs", "p, Holm"):
        table.add_column(name, justify="right", no_wrap=True)
    for delta in comparison.deltas:
        a, b, difference, interval = delta_texts(comparison, delta)
        table.add_row(
            Text(score_title(delta.measure, delta.score)),
            a,
            b,
            Text(difference, style="bold"),
            interval,
            f"{delta.n:,}",
            text.p_value(delta.p_holm),
        )
    lines: list[RenderableType] = [Text(f"A {shown.a}\nB {shown.b}", style="dim"), Text(), table, Text()]
    lines += [Text(f"! {warning}", style="yellow") for warning in shown.warnings]
    for row in shown.pairing:
        if (row.only_a, row.only_b, row.unscored) != ("0", "0", "0"):
            lines.append(
                Text(
                    f"{row.measure}: only in A {row.only_a}, only in B {row.only_b}, unscored in a pair {row.unscored}"
                )
            )
    return Group(*lines)


def render_markdown(
    title: str, cards: Sequence[Scorecard], *, labels: Sequence[str] | None = None, notes: Sequence[str] = ()
) -> str:
    """A short Markdown table of the headline readings, the notes below it, then one table per breakdown."""
    page = view.build([(card, ()) for card in cards], labels=labels, examples=0)
    head = ["Measure", *(["Model"] if page.several else []), "Value", f"{page.level} interval".strip()]
    head += ["n", "Unscored", "Better", "Judge"]
    numbers = {"Value", f"{page.level} interval".strip(), "n"}
    lines = [f"# {_escape(title)}", "", _row(head), _row(["--:" if h in numbers else "---" for h in head])]
    lines += [_row([_escape(cell) for cell in cells]) for cells in _cells(page)]
    remarks = [*notes, *page.warnings]
    if remarks:
        lines += ["", *(f"- {_escape(remark)}" for remark in remarks)]
    for part in page.breakdowns:
        if part.dimension != CELL or part.unit != "rate":
            lines += ["", *_part_lines(part, page)]
    for drawn in page.maps:
        lines += ["", *_map_lines(drawn, page.several)]
    return "\n".join(lines) + "\n"


def _part_lines(part: Breakdown, page: view.View) -> Iterator[str]:
    """A breakdown as a table of its own."""
    interval = f"{page.level} interval".strip()
    yield f"## {_escape(part.title)}"
    yield ""
    yield _row(["Part", *(["Model"] if page.several else []), "Value", interval, "n", "Unscored"])
    yield _row(["---", *(["---"] if page.several else []), "--:", "--:", "--:", "---"])
    for value, lines in part.rows:
        for line in lines:
            shown = [
                value,
                *([line.label] if page.several else []),
                text.quantity(line.reading.value, part.unit),
                text.span(line.reading.interval, part.unit),
                f"{line.reading.n:,}{' (few)' if line.is_few else ''}",
                f"{line.reading.unscored:,}",
            ]
            yield _row([_escape(cell) for cell in shown])


def _map_lines(drawn: HeatMap, several: bool) -> Iterator[str]:
    """A heat map as a table: rate and n per cell."""
    title = text.sentence(drawn.title)
    yield f"## {_escape(f'{title} · {drawn.label}' if several else title)}"
    yield ""
    yield _row(["", *(_escape(column) for column in drawn.columns)])
    yield _row(["---", *["--:" for _ in drawn.columns]])
    few = False
    for row in drawn.rows:
        cells = []
        for column in drawn.columns:
            reading = drawn.cells.get((row, column))
            if reading is None or reading.value is None:
                cells.append("" if reading is None else f"{text.NONE} (0)")
                continue
            few |= reading.n < FEW
            cells.append(f"{whole_percent(reading.value)} ({reading.n:,}){'!' if reading.n < FEW else ''}")
        yield _row([_escape(row), *(_escape(cell) for cell in cells)])
    yield ""
    yield f"Rate and, in brackets, n{f'; ! marks n below {FEW}' if few else ''}."


def _cells(page: view.View) -> Iterator[list[str]]:
    for group in page.groups:
        for line in group.lines:
            judge = group.judge
            decided = (
                f"{judge.name} ({judge.strength})"
                if judge and judge.strength
                else judge.name
                if judge
                else ""
            )
            yield [
                group.title,
                *([line.label] if page.several else []),
                text.quantity(line.reading.value, group.unit),
                text.span(line.reading.interval, group.unit),
                f"{line.reading.n:,}",
                _unscored(line),
                group.better if group.better != "neither" else "",
                decided,
            ]


def _unscored(line: Line) -> str:
    """How many are unscored, why, and between which values the reading lies with them."""
    count = f"{line.reading.unscored:,}"
    if not line.reading.unscored:
        return count
    facts = [line.unscored] if line.unscored else []
    if line.bounds is not None:
        facts.append(f"with them {text.ends(line.bounds, line.reading.unit)}")
    return f"{count} ({'; '.join(facts)})" if facts else count


def _with_bounds(line: Line) -> str:
    """How many are unscored and why, and below it the values between which the reading lies with them."""
    plain = _unscored(dataclasses.replace(line, bounds=None))
    return plain if line.bounds is None else f"{plain}\n{text.ends(line.bounds, line.reading.unit)}"


def _judge(judge: view.JudgeView | None) -> Text:
    from rich.text import Text

    if judge is None:
        return Text("none needed", style="dim")
    shown = Text(judge.name)
    if judge.is_weak:
        shown.append(" weak", style="bold yellow")
    elif judge.strength:
        shown.append(f" {judge.strength}", style="dim")
    return shown


def _box() -> Box:
    from rich import box

    return box.SIMPLE_HEAD


_SPECIAL = re.compile(r"([\\`*_{}\[\]|~#])")


def _escape(cell: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line."""
    plain = text.one_line(cell).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def remarks(cards: Sequence[Scorecard], *, labels: Sequence[str] | None = None) -> tuple[str, ...]:
    """What a reader must know before believing the numbers: weak judges, unpinned data, unscored records."""
    return view.build([(card, ()) for card in cards], labels=labels, examples=0).warnings
