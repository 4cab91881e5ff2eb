"""One self-contained HTML file: it opens offline, loads nothing and runs no script."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from safewright.report import examples as examples_
from safewright.report import svg, text, view
from safewright.report.best_of import best_of_figures, is_best_of
from safewright.report.differences import ComparisonView, comparison_view
from safewright.report.heat import heat_figure
from safewright.report.layers import token_figures
from safewright.report.lines import Breakdown, Line
from safewright.report.profile import attack_tables, is_attacked, profile_figure
from safewright.report.scatter import harm_figures
from safewright.report.svg import Figure
from safewright.report.view import Group, ModelRow, Taken
from safewright.types import Curve, Reading

if TYPE_CHECKING:
    import jinja2

    from safewright.compose.compare import Comparison

TEMPLATES = Path(__file__).parent / "templates"


def render_page(
    title: str,
    cards: Sequence[Taken],
    *,
    notes: Sequence[str] = (),
    command: str = "",
    lead: str = "",
    figures: Sequence[Figure] = (),
    created: str = "",
    labels: Sequence[str] | None = None,
    comparisons: Sequence[tuple[str, Comparison]] = (),
    examples: int = 20,
) -> str:
    """The HTML page of one measure, of an audit, or of several models side by side.

    Args:
        title: Heading and window title.
        cards: Scorecards with their records, in the order they are shown.
        notes: Sentences put before those the page works out itself (weak judge, unpinned data,
            unscored records above the bound, unverified weights).
        command: What made the run.
        lead: A sentence under the heading.
        figures: Drawings of `safewright.report.svg`; the cards' own curves are drawn after them.
        created: When it was made, as text.
        labels: A short name per scorecard; of the models' places where None.
        comparisons: Comparisons with their headings, each in a section of its own.
        examples: At most so many records per scorecard; 0 leaves them out.
    """
    page = view.build(cards, labels=labels, summaries=_summaries(), examples=examples)
    # Readings under attack have a table of their own.
    page = replace(page, groups=tuple(group for group in page.groups if not is_attacked(group.name)))
    names = list(labels) if labels is not None else view.labels_of([card for card, _ in cards])
    labelled = [(text.one_line(name), card) for name, (card, _) in zip(names, cards, strict=True)]
    profile = profile_figure(labelled) if page.several else None
    drawn = _as_rates_and_others(page.groups)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=text.one_line(title),
            lead=text.one_line(lead),
            command=text.one_line(command),
            created=text.one_line(created),
            version=version(),
            view=page,
            notes=[text.one_line(note) for note in (*notes, *page.warnings)],
            attacks=attack_tables(labelled),
            figures=(
                *figures,
                *([profile] if profile else []),
                *(heat_figure(found, several=page.several) for found in page.maps),
                *best_of_figures(labelled),
                *(
                    figure
                    for (card, records), name in zip(cards, names, strict=True)
                    for figure in harm_figures(card, records, name, several=page.several)
                ),
                *_curves(cards, names),
                *(
                    figure
                    for (card, records), name in zip(cards, names, strict=True)
                    for figure in token_figures(card, records, name, several=page.several)
                ),
            ),
            part_strip=_part_strip,
            part_axis=lambda part: svg.axis(_part_scale(part), part.unit),
            tests=[
                (text.one_line(name), test)
                for (card, _), name in zip(cards, names, strict=True)
                for test in card.tests
            ],
            comparisons=[(text.one_line(name), comparison_view(found)) for name, found in comparisons],
            costs=[(text.one_line(name), card) for (card, _), name in zip(cards, names, strict=True)],
            rate_axis=svg.axis(),
            strip=lambda group, line: _strip(group, line, drawn, page.several),
            own_axis=lambda group: svg.axis(drawn[group.code], group.unit),
        )
    )


def render_comparison(
    comparison: Comparison,
    *,
    title: str = "Comparison",
    notes: Sequence[str] = (),
    command: str = "",
    lead: str = "",
    created: str = "",
) -> str:
    """The HTML page of two runs compared record by record.

    Args:
        comparison: What `safewright.compose.compare` gave.
        title: Heading and window title.
        notes: Sentences shown after the table.
        command: What made it.
        lead: A sentence under the heading.
        created: When it was made, as text.
    """
    shown: ComparisonView = comparison_view(comparison)
    models = [
        ModelRow(side, role if len(refs) > 1 else "", ref)
        for side, refs in (("A", comparison.models_a), ("B", comparison.models_b))
        for role, ref in refs.items()
    ]
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            title=text.one_line(title),
            lead=text.one_line(lead),
            command=text.one_line(command),
            created=text.one_line(created),
            version=version(),
            notes=[text.one_line(note) for note in notes],
            models=models,
            comparison=shown,
        )
    )


def _as_rates_and_others(groups: Sequence[Group]) -> dict[str, svg.Scale]:
    """The scale of every reading: rates share one axis, other units have their own."""
    return {group.code: _scale([line.reading for line in group.lines], group.unit) for group in groups}


def _scale(readings: Sequence[Reading], unit: str) -> svg.Scale:
    if unit == "rate":
        return svg.RATE_SCALE
    values = [
        value
        for reading in readings
        for value in (
            reading.value,
            reading.interval.low if reading.interval else None,
            reading.interval.high if reading.interval else None,
        )
        if value is not None
    ]
    if unit == "difference":
        # Symmetric, so that the eye reads the sign off the middle line.
        reach = max((abs(value) for value in values), default=0.0) or 0.1
        return svg.scale_over([-reach, reach])
    bounded = all(0 <= value <= 1 for value in values) and unit in ("score", "ratio")
    return svg.RATE_SCALE if bounded else svg.scale_over(values)


def _part_scale(part: Breakdown) -> svg.Scale:
    return _scale([line.reading for _, lines in part.rows for line in lines], part.unit)


def _part_strip(part: Breakdown, value: str, line: Line, several: bool) -> Markup:
    said = f"{part.title}, {value}{f', {line.label}' if several else ''}"
    return _drawn(line, said, part.unit, _part_scale(part))


def _strip(group: Group, line: Line, scales: Mapping[str, svg.Scale], several: bool) -> Markup:
    said = f"{group.title}{f', {line.label}' if several else ''}"
    return _drawn(line, said, group.unit, scales[group.code])


def _drawn(line: Line, said: str, unit: str, scale: svg.Scale) -> Markup:
    reading = line.reading
    said = f"{said}: {text.quantity(reading.value, unit)}"
    if reading.interval is not None:
        said += f", interval {text.span(reading.interval, unit)}"
    return svg.interval_strip(reading.value, reading.interval, scale, label=said)


def _curves(cards: Sequence[Taken], names: Sequence[str]) -> list[Figure]:
    """One drawing per curve name, with every model that has it.

    What follows a slash in a curve's name labels it within the drawing of the name before.
    """
    found: dict[tuple[str, str], list[tuple[str, Curve]]] = {}
    rates: set[tuple[str, str]] = set()
    several = len(set(names)) > 1
    for (card, _), name in zip(cards, names, strict=True):
        rates |= {(card.measure, reading.name) for reading in card.readings if reading.unit == "rate"}
        for curve in card.curves:
            if is_best_of(curve):
                continue  # drawn together by `best_of_figures`
            head, _, part = curve.name.partition("/")
            label = " · ".join(said for said in (name if several or not part else "", part) if said)
            found.setdefault((card.measure, head), []).append((text.one_line(label), curve))
    figures = []
    for (measure, name), curves in found.items():
        # A curve names no unit: it is a rate where the scorecard has a rate of that name, or of the name
        # before " by ". A loss may lie between 0 and 1 as well, and is no percentage.
        unit = "rate" if {(measure, name), (measure, name.partition(" by ")[0])} & rates else "score"
        figures.append(
            svg.curve_figure(f"{text.title_of(measure)}: {text.reading_name(name)}", curves, unit=unit)
        )
    return figures


def _summaries() -> dict[str, str]:
    from safewright import catalog

    return {entry.name: entry.summary.replace("`", "") for entry in catalog.entries("measure")}


def version() -> str:
    try:
        return importlib.metadata.version("safewright")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def _lang(code: Any) -> Markup:
    """A ``lang`` attribute where the code looks like a language, so that browsers pick fitting glyphs."""
    if isinstance(code, str) and _LANGUAGE.fullmatch(code):
        return Markup(' lang="{}"').format(code)
    return Markup("")


@cache
def environment() -> jinja2.Environment:
    import jinja2

    # Autoescape is on for every template: whatever a model, a data file or a path says is text.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {
            "clean": text.one_line,
            "quantity": text.quantity,
            "span": text.span,
            "range": text.ends,
            "better": text.better_text,
            "p_value": text.p_value,
            "method": text.method_name,
            "seconds": text.seconds,
            "size": text.size,
            "short_digest": text.short_digest,
            "provenance": text.provenance,
            "title_of": text.title_of,
            "lang": _lang,
            "cut_reference": lambda body: text.shorten(text.clean(body), examples_.PROMPT_LIMIT),
        }
    )
    return environment
