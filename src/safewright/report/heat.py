"""Heat maps: a rate by two properties, as a table whose cells are small inline drawings.

A table, so that its headings wrap at any width and a screen reader finds its way; the colour only repeats what
the number says. Few records, and nothing scored, look different from a rate of zero.
"""

from __future__ import annotations

from markupsafe import Markup

from safewright.report import text
from safewright.report.lines import FEW, HeatMap
from safewright.report.svg import Figure
from safewright.types import Reading


def heat_figure(found: HeatMap, *, several: bool = False) -> Figure:
    """A map as a figure.

    Args:
        found: Its cells; one that has no reading at all is left empty.
        several: Whether the page shows several models, so that the title must name this one.
    """
    head = Markup("").join(
        Markup('<th scope="col" role="columnheader"><span>{}</span></th>').format(text.one_line(column))
        for column in found.columns
    )
    body = Markup("").join(
        Markup('<tr role="row"><th scope="row" role="rowheader">{}</th>{}</tr>').format(
            text.one_line(row),
            Markup("").join(_cell(row, column, found.cells.get((row, column))) for column in found.columns),
        )
        for row in found.rows
    )
    title = f"{text.title_of(found.measure)}: {found.title}{f' · {found.label}' if several else ''}"
    drawn = Markup(
        '<table class="heat" role="table" aria-label="{}"><thead role="rowgroup"><tr role="row">'
        '<th scope="col" role="columnheader"><span class="hidden">{}</span></th>{}</tr></thead>'
        '<tbody role="rowgroup">{}</tbody></table>{}'
    ).format(text.one_line(title), text.one_line(found.axes[0] or "row"), head, body, _key(found))
    return Figure(text.one_line(title), drawn)


def _cell(row: str, column: str, reading: Reading | None) -> Markup:
    if reading is None:
        return Markup('<td role="cell"></td>')
    said = f"{text.one_line(row)}, {text.one_line(column)}: "
    lost = f", {reading.unscored:,} unscored" if reading.unscored else ""
    if reading.value is None:
        inner = Markup(
            '<rect class="void" width="100%" height="100%" rx="4"/>'
            '<line class="void" x1="0" y1="100%" x2="100%" y2="0"/>'
        )
        return _drawn("blank", f"{said}nothing scored{lost}", inner, text.NONE, "n 0")
    few = reading.n < FEW
    said += text.percent(reading.value)
    if reading.interval is not None:
        said += f", interval {text.span(reading.interval)}"
    said += f", n {reading.n:,}{lost}{', few' if few else ''}"
    inner = Markup('<rect class="fill" width="100%" height="100%" rx="4" style="--v:{}"/>').format(
        f"{min(1.0, max(0.0, reading.value)):.3f}"
    )
    if few:
        inner += Markup('<rect class="edge" x="1" y="1" width="100%" height="100%" rx="4"/>')
    return _drawn("few" if few else "", said, inner, whole_percent(reading.value), f"n {reading.n:,}")


def _drawn(look: str, said: str, inner: Markup, value: str, below: str) -> Markup:
    return Markup(
        '<td role="cell"><svg class="{}" role="img" aria-label="{}"><title>{}</title>{}'
        '<text class="v" x="50%" y="46%">{}</text><text class="n" x="50%" y="80%">{}</text></svg></td>'
    ).format(f"box {look}".strip(), said, said, inner, value, below)


def _key(found: HeatMap) -> Markup:
    """What the looks mean; those that do not occur are left out."""
    steps = Markup("").join(
        Markup('<rect class="fill" x="{}%" width="10%" height="100%" style="--v:{}"/>').format(
            10 * i, f"{(i + 0.5) / 10:.2f}"
        )
        for i in range(10)
    )
    items = [Markup('<li>0%<svg class="ramp" aria-hidden="true">{}</svg>100%</li>').format(steps)]
    readings = found.cells.values()
    if any(r.value is not None and r.n < FEW for r in readings):
        items.append(
            Markup(
                '<li><svg class="box few swatch" aria-hidden="true"><rect class="edge" x="1" y="1" width="100%"'
                ' height="100%" rx="3"/></svg>fewer than {} scored: read with care</li>'
            ).format(FEW)
        )
    if any(r.value is None for r in readings):
        items.append(
            Markup(
                '<li><svg class="box swatch" aria-hidden="true"><rect class="void" width="100%" height="100%"'
                ' rx="3"/><line class="void" x1="0" y1="100%" x2="100%" y2="0"/></svg>nothing scored</li>'
            )
        )
    return Markup('<ul class="legend heatkey">{}</ul>').format(Markup("").join(items))


def whole_percent(rate: float) -> str:
    """A rate as whole percent; what is not exactly 0 or 1 never looks like it."""
    if 0 < rate < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= rate < 1 else f"{100 * rate:.0f}%"
