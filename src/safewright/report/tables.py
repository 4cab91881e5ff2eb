"""Scorecards and comparisons as short tables: for the terminal and for Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from safewright.report import text, view
from safewright.report.differences import comparison_view, delta_texts, score_title
from safewright.types import Scorecard

if TYPE_CHECKING:
    from rich.box import Box
    from rich.console import Group as RichGroup
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from safewright.compose.compare import Comparison


def console_table(cards: Sequence[Scorecard], *, labels: Sequence[str] | None = None) -> Table:
    """A rich table of all readings: value, interval, n, unscored, direction, judge.

    Args:
        cards: Scorecards, in the order they are shown.
        labels: A short name per scorecard; of the models' places where None.
    """
    from rich.table import Table
    from rich.text import Text

    page = view.build([(card, ()) for card in cards], labels=labels, examples=0)
    table = Table(show_edge=False, pad_edge=False, box=_box(), header_style="dim")
    table.add_column("Measure", overflow="fold", min_width=12)
    if page.several:
        longest = max(len(row.label) for row in page.models)
        table.add_column("Model", overflow="fold", min_width=min(longest, 12))
    table.add_column("Value", justify="right", no_wrap=True)
    table.add_column(f"{page.level} interval".strip(), justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("Unscored", overflow="fold")
    table.add_column("Better", no_wrap=True)
    table.add_column("Judge", overflow="fold", min_width=9)
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
                Text(_unscored(line), style="yellow" if reading.unscored else ""),
                Text(group.better if first and group.better != "neither" else ""),
                _judge(group.judge) if first else Text(""),
            ]
            table.add_row(*cells, end_section=place == len(group.lines) - 1 and page.several)
    return table


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
            Text(score_title(delta)),
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
    """A short Markdown table of all readings, with the notes below it."""
    page = view.build([(card, ()) for card in cards], labels=labels, examples=0)
    head = ["Measure", *(["Model"] if page.several else []), "Value", f"{page.level} interval".strip()]
    head += ["n", "Unscored", "Better", "Judge"]
    numbers = {"Value", f"{page.level} interval".strip(), "n"}
    lines = [f"# {_escape(title)}", "", _row(head), _row(["--:" if h in numbers else "---" for h in head])]
    lines += [_row([_escape(cell) for cell in cells]) for cells in _cells(page)]
    remarks = [*notes, *page.warnings]
    if remarks:
        lines += ["", *(f"- {_escape(remark)}" for remark in remarks)]
    return "\n".join(lines) + "\n"


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


def _unscored(line: view.Line) -> str:
    if not line.reading.unscored:
        return "0"
    return f"{line.reading.unscored:,} ({line.unscored})" if line.unscored else f"{line.reading.unscored:,}"


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
