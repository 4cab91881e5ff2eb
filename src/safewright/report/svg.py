"""Inline SVG that needs no script and keeps its text legible at any width.

Positions are percentages of the drawing, so a drawing fills its column while strokes and letters keep
their size; only curves use a stretched inner drawing, with strokes that do not scale.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from safewright.report.text import one_line, quantity
from safewright.types import Curve, Interval

PALETTE = ("s1", "s2", "s3", "s4", "s5", "s6")
"""CSS classes of the series, in an order that stays distinct for colour-blind readers."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption; ``svg`` comes from this module, never from model output."""

    title: str
    svg: Markup
    caption: str = ""
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Scale:
    """A linear axis with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """The position of ``value`` in percent of the axis, kept inside it."""
        if self.high == self.low:
            return 50.0
        return min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low)))


@dataclass(frozen=True)
class LogScale(Scale):
    """A logarithmic axis over positive values."""

    def at(self, value: float) -> float:
        """The position of ``value`` in percent of the axis, kept inside it."""
        if value <= 0 or self.high == self.low:
            return 0.0
        return min(100.0, max(0.0, 100 * math.log(value / self.low) / math.log(self.high / self.low)))


def scale_along(values: Sequence[float]) -> Scale:
    """The horizontal axis of a curve: logarithmic, with a tick per value, where values grow by factors.

    That is, where they are positive, span a factor of at least 8, and their ratios are more even than their
    distances; otherwise that of `scale_over`.
    """
    found = sorted({v for v in values if math.isfinite(v)})
    if 3 <= len(found) <= 12 and found[0] > 0 and found[-1] / found[0] >= 8:
        ratios = [math.log(b / a) for a, b in itertools.pairwise(found)]
        steps = [b - a for a, b in itertools.pairwise(found)]
        if max(ratios) / min(ratios) < max(steps) / min(steps):
            return LogScale(found[0], found[-1], tuple(found))
    return scale_over(values)


RATE_SCALE = Scale(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def scale_over(values: Sequence[float], *, zero: bool = False) -> Scale:
    """A scale with three to six round ticks that holds all finite values, and zero where asked."""
    # Beyond 1e300 differences overflow, and no drawing shows more than "off the scale".
    finite = [v for v in values if math.isfinite(v) and abs(v) < 1e300] or [0.0]
    low, high = min(finite), max(finite)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-300:
        around = abs(low) if abs(low) > 1e-300 else 1.0
        low, high = low - around / 2, high + around / 2
    raw = (high - low) / 4
    step = 10 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if m * step >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def _n(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def interval_strip(
    value: float | None, interval: Interval | None, scale: Scale = RATE_SCALE, *, label: str = ""
) -> Markup:
    """One row of an interval plot: the point, its interval, and the tick lines behind them.

    ``label`` is what a screen reader says.
    """
    parts = [_grid(scale)]
    if interval is not None:
        low, high = _n(scale.at(interval.low)), _n(scale.at(interval.high))
        parts.append(f'<line class="whisker" x1="{low}%" x2="{high}%" y1="50%" y2="50%"/>')
        parts.extend(f'<line class="cap" x1="{x}%" x2="{x}%" y1="32%" y2="68%"/>' for x in (low, high))
    if value is not None:
        parts.append(f'<circle class="point" cx="{_n(scale.at(value))}%" cy="50%" r="4.5"/>')
    else:
        parts.append('<text class="tick" x="50%" y="50%" dy=".35em" text-anchor="middle">not scored</text>')
    return Markup('<svg class="strip" role="img" aria-label="{}">{}</svg>').format(
        label, Markup("".join(parts))
    )


def _grid(scale: Scale) -> str:
    zero = scale.low < 0 < scale.high
    return "".join(
        f'<line class="{"zero" if zero and tick == 0 else "grid"}"'
        f' x1="{_n(scale.at(tick))}%" x2="{_n(scale.at(tick))}%" y1="0" y2="100%"/>'
        for tick in scale.ticks
    )


def axis(scale: Scale = RATE_SCALE, unit: str = "rate") -> Markup:
    """The tick labels of an interval plot; hidden from screen readers, which get the numbers."""
    parts = []
    for i, tick in enumerate(scale.ticks):
        anchor = "start" if i == 0 else "end" if i == len(scale.ticks) - 1 else "middle"
        text = escape(tick_text(tick, unit))
        parts.append(
            f'<text class="tick" x="{_n(scale.at(tick))}%" y="12" text-anchor="{anchor}">{text}</text>'
        )
    return Markup('<svg class="axis" aria-hidden="true">{}</svg>').format(Markup("".join(parts)))


def tick_text(value: float, unit: str) -> str:
    """A tick's label: rates in whole percent, points with a sign, other units as they are."""
    if unit == "rate":
        return f"{100 * value:g}%"
    if unit == "difference":
        return tick_text(round(100 * value, 9), "points")
    if unit == "points":
        return f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"
    return quantity(value, "count") if abs(value) >= 1000 else f"{value:g}".replace("-", "\N{MINUS SIGN}")


def curve_figure(
    title: str,
    curves: Sequence[tuple[str, Curve]],
    *,
    unit: str = "score",
    caption: str = "",
    looks: Sequence[str] | None = None,
) -> Figure:
    """Curves with the same meaning in one drawing, each under its label, bands where they have them.

    Args:
        title: Above the drawing.
        curves: Label and curve; at most six keep distinct looks.
        unit: Of the vertical axis; ``rate`` is drawn from 0 to 100 %.
        caption: Below the drawing.
        looks: CSS classes of the curves; those of `PALETTE` in their order where None.
    """
    classes = looks or [PALETTE[i % len(PALETTE)] for i in range(len(curves))]
    xs = [x for _, c in curves for x in c.x]
    ys = [y for _, c in curves for part in (c.y, c.low, c.high) for y in part]
    across = scale_along(xs)
    up = RATE_SCALE if unit == "rate" else scale_over(ys)
    lines = [
        f'<line class="grid" x1="0" x2="100" y1="{_n(100 - up.at(t))}" y2="{_n(100 - up.at(t))}"/>'
        for t in up.ticks
    ]
    marks: list[str] = []
    for look, (_, curve) in zip(classes, curves, strict=True):
        if curve.low and len(curve.low) == len(curve.high) == len(curve.x):
            edge = [
                *zip(curve.x, curve.high, strict=True),
                *reversed([*zip(curve.x, curve.low, strict=True)]),
            ]
            lines.append(f'<polygon class="band {look}" points="{_points(edge, across, up)}"/>')
        line = [*zip(curve.x, curve.y, strict=True)]
        lines.append(f'<polyline class="curve {look}" points="{_points(line, across, up)}"/>')
        if len(line) <= 24:
            marks.extend(
                f'<circle class="dot {look}" cx="{_n(across.at(x))}%" cy="{_n(100 - up.at(y))}%" r="3"/>'
                for x, y in line
                if math.isfinite(x) and math.isfinite(y)
            )
    y_labels = "".join(
        f'<text class="tick" x="100%" y="{_n(100 - up.at(t))}%" dy=".35em" text-anchor="end">'
        f"{escape(tick_text(t, unit))}</text>"
        for t in up.ticks
    )
    x_labels = "".join(
        f'<text class="tick" x="{_n(across.at(t))}%" y="12" text-anchor="middle">{escape(tick_text(t, ""))}</text>'
        for t in across.ticks
    )
    x_unit = next((c.x_unit for _, c in curves if c.x_unit), "")
    label = f"{title}: {len(curves)} curve{'s' if len(curves) != 1 else ''}" + (
        f" over {x_unit}" if x_unit else ""
    )
    svg = Markup(
        '<div class="plot" role="img" aria-label="{}">'
        '<svg class="y" aria-hidden="true">{}</svg>'
        '<div class="area"><svg class="lines" viewBox="0 0 100 100" preserveAspectRatio="none"'
        ' aria-hidden="true">{}</svg><svg class="marks" aria-hidden="true">{}</svg></div>'
        '<svg class="x" aria-hidden="true">{}</svg><div class="unit" aria-hidden="true">{}</div></div>'
    ).format(
        one_line(label),
        Markup(y_labels),
        Markup("".join(lines)),
        Markup("".join(marks)),
        Markup(x_labels),
        one_line(x_unit),
    )
    legend = tuple((look, one_line(name)) for look, (name, _) in zip(classes, curves, strict=True))
    return Figure(title=title, svg=svg, caption=caption, legend=legend)


def _points(pairs: Sequence[tuple[float, float]], across: Scale, up: Scale) -> str:
    return " ".join(
        f"{_n(across.at(x))},{_n(100 - up.at(y))}" for x, y in pairs if math.isfinite(x) and math.isfinite(y)
    )
