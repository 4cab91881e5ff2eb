"""What a comparison shows, for the page and for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from safewright.report import svg, text
from safewright.report.profile import score_name
from safewright.types import Delta, Interval

if TYPE_CHECKING:
    from safewright.compose.compare import Comparison, Difference


@dataclass(frozen=True)
class DeltaRow:
    """One paired difference as text, with its drawing."""

    title: str
    better: str
    a: str
    b: str
    difference: str
    interval: str
    n: str
    gained: int
    lost: int
    p: str
    p_holm: str
    method: str
    strip: Markup
    axis: Markup | None


@dataclass(frozen=True)
class PairingRow:
    """How many records of a measure could not be paired."""

    measure: str
    only_a: str
    only_b: str
    unscored: str


@dataclass(frozen=True)
class ComparisonView:
    """Everything the comparison's template reads."""

    a: str
    b: str
    rows: tuple[DeltaRow, ...]
    axis: Markup
    level: str
    methods: tuple[str, ...]
    warnings: tuple[str, ...]
    pairing: tuple[PairingRow, ...]
    differences: tuple[Difference, ...]


def comparison_view(comparison: Comparison) -> ComparisonView:
    """The view of a comparison."""
    rates = [d for d in comparison.deltas if _is_rate(comparison, d)]
    ends = [100 * value for d in rates for value in (d.interval.low, d.interval.high)]
    reach = max((abs(value) for value in ends), default=0.0)
    # Symmetric, so that the eye reads the sign off the middle line.
    shared = svg.scale_over([-reach, reach], zero=True) if reach else svg.scale_over([-10.0, 10.0])
    whole = [PairingRow(measure, "all", "–", "–") for measure in comparison.only_a] + [
        PairingRow(measure, "–", "all", "–") for measure in comparison.only_b
    ]
    return ComparisonView(
        a=text.one_line(comparison.a),
        b=text.one_line(comparison.b),
        rows=tuple(_row(comparison, delta, shared) for delta in comparison.deltas),
        axis=svg.axis(shared, "points"),
        level=f"{100 * comparison.level:g}%",
        methods=tuple(dict.fromkeys(text.method_name(d.method) for d in comparison.deltas)),
        warnings=tuple(text.one_line(line) for line in comparison.warnings),
        pairing=(*(_pairing(comparison, measure) for measure in comparison.unmatched_a), *whole),
        differences=comparison.differences,
    )


def score_title(name: str, of: str) -> str:
    """A measure and its score in words, once where they say the same."""
    measure, score = text.title_of(name), score_name(of)
    return measure if score.lower() == measure.lower() else f"{measure}: {score}"


def _is_rate(comparison: Comparison, delta: Delta) -> bool:
    return comparison.units.get(f"{delta.measure}/{delta.score}", "rate") == "rate"


def delta_texts(comparison: Comparison, delta: Delta) -> tuple[str, str, str, str]:
    """A, B, the difference and its interval as text."""
    rate = _is_rate(comparison, delta)
    unit = "rate" if rate else "score"
    low, high = (text.signed(x, points=rate) for x in (delta.interval.low, delta.interval.high))
    return (
        text.quantity(delta.a, unit),
        text.quantity(delta.b, unit),
        text.signed(delta.difference, points=rate),
        f"{low} to {high}",
    )


def _row(comparison: Comparison, delta: Delta, shared: svg.Scale) -> DeltaRow:
    a, b, difference, interval = delta_texts(comparison, delta)
    title = score_title(delta.measure, delta.score)
    rate = _is_rate(comparison, delta)
    factor = 100 if rate else 1
    drawn = Interval(factor * delta.interval.low, factor * delta.interval.high)
    reach = max(abs(drawn.low), abs(drawn.high)) or 1.0
    scale = shared if rate else svg.scale_over([-reach, reach], zero=True)
    return DeltaRow(
        title=title,
        better=text.better_text(delta.better),
        a=a,
        b=b,
        difference=difference,
        interval=interval,
        n=f"{delta.n:,}",
        gained=delta.gained,
        lost=delta.lost,
        p=text.p_value(delta.p),
        p_holm=text.p_value(delta.p_holm),
        method=text.method_name(delta.method),
        strip=svg.interval_strip(
            factor * delta.difference, drawn, scale, label=f"{title}: {difference}, interval {interval}"
        ),
        axis=None if rate else svg.axis(scale, "score"),
    )


def _pairing(comparison: Comparison, measure: str) -> PairingRow:
    lost = {
        key.removeprefix(f"{measure}/"): count
        for key, count in comparison.unscored_pairs.items()
        if key.startswith(f"{measure}/")
    }
    return PairingRow(
        measure=text.one_line(measure),
        only_a=f"{comparison.unmatched_a[measure]:,}",
        only_b=f"{comparison.unmatched_b[measure]:,}",
        unscored=", ".join(
            f"{count:,} ({text.one_line(score_name(name))})" if len(lost) > 1 else f"{count:,}"
            for name, count in lost.items()
            if count
        )
        or ("0" if lost else "–"),
    )
