"""Best of N from both sides: the defender's curves and the attacker's, each with its control."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from safewright.report import svg, text
from safewright.report.svg import PALETTE, Figure
from safewright.types import Curve, Reading, Scorecard

SIDES: Mapping[str, str] = {
    "asr_all": "Defender: all N answers harmful",
    "refusal": "Defender: none of N refuses",
    "asr_any": "Attacker: at least one of N harmful",
}
BASE = "base_"
"""What the names of the control's curves begin with: a model that was never taught to refuse."""

CONTROL = PALETTE[-1]
_NAME = re.compile(rf"(?P<base>{BASE})?(?P<side>{'|'.join(SIDES)})(?:\[(?P<attack>[^\[\]]+)\])?")
_FIT = re.compile(rf"(?P<base>{BASE})?(?P<side>{'|'.join(SIDES)})_fit@(?P<n>\d+)\[(?P<attack>[^\[\]]+)\]")

Key = tuple[str, str, str]
"""Side, attack (empty for the mean over attacks), and ``base_`` or nothing."""

Fits = Mapping[tuple[str, Key], tuple[int, Reading]]
"""By a model's label: what a fit says, and of how many answers."""


def is_best_of(curve: Curve) -> bool:
    """Whether a curve is drawn here, by its name (``asr_all[ATTACK]``, ``base_refusal``, …) and its axis."""
    from safewright.stats.draws import X_UNIT

    return curve.x_unit == X_UNIT and _key(curve.name) is not None


def best_of_figures(cards: Sequence[tuple[str, Scorecard]]) -> list[Figure]:
    """One figure for the mean over attacks and one per attack, each with a panel per side; none without curves.

    A control is drawn beside its model: a curve that falls as the control's does says nothing about refusing. What
    a fit says beyond the answers that were drawn is a broken line with a hollow end.

    Args:
        cards: Scorecards under the labels of their models.
    """
    figures = []
    for measure in dict.fromkeys(card.measure for _, card in cards):
        own = [(label, card) for label, card in cards if card.measure == measure]
        # Models measured beside the same control show it once.
        control_of = {_control(card): label for label, card in reversed(own)}
        curves = [
            (label, key, curve)
            for label, card in own
            for curve in card.curves
            if is_best_of(curve) and (key := _key(curve.name)) is not None
            if not key[2] or control_of[_control(card)] == label
        ]
        fits = {
            (label, key): (int(match["n"]), reading)
            for label, card in own
            for reading in card.readings
            if (match := _FIT.fullmatch(reading.name)) and reading.value is not None
            if (key := _key(reading.name.replace(f"_fit@{match['n']}", ""))) is not None
        }
        attacks = sorted(dict.fromkeys(key[1] for _, key, _ in curves), key=lambda name: name != "")
        if len(attacks) == 2 and "" in attacks:
            attacks.remove("")  # the mean over one attack is that attack
        drawn = [_figure(measure, attack, curves, fits) for attack in attacks]
        # What all of them mean is said once.
        figures += [
            replace(figure, caption=figure.caption if not place else "") for place, figure in enumerate(drawn)
        ]
    return figures


def _control(card: Scorecard) -> str:
    return card.models["base"].digest if "base" in card.models else str(id(card))


def _key(name: str) -> Key | None:
    match = _NAME.fullmatch(name)
    return (match["side"], match["attack"] or "", match["base"] or "") if match else None


def _figure(measure: str, attack: str, curves: Sequence[tuple[str, Key, Curve]], fits: Fits) -> Figure:
    own = [(label, key, curve) for label, key, curve in curves if key[1] == attack]
    labels = list(dict.fromkeys(label for label, _, _ in own))
    panels = []
    for side, said in SIDES.items():
        drawn: list[tuple[str, Curve]] = []
        looks: list[str] = []
        for label, key, curve in own:
            if key[0] != side:
                continue
            look = CONTROL if key[2] else PALETTE[labels.index(label) % (len(PALETTE) - 1)]
            if (label, key) in fits:
                drawn.append((label, _beyond(curve, *fits[label, key])))
                looks.append(f"{look} fit")
            drawn.append((label, curve))
            looks.append(look)
        if drawn:
            plot = svg.curve_figure(said, drawn, unit="rate", looks=looks).svg
            panels.append(
                Markup('<div class="panel"><div class="paneltitle">{}</div>{}</div>').format(said, plot)
            )
    has_control = any(base for _, (_, _, base), _ in own)
    legend = [(PALETTE[i % (len(PALETTE) - 1)], text.one_line(label)) for i, label in enumerate(labels)]
    caption = (
        "How often N answers drawn to one request leave the defender none that is safe, and give the attacker one"
        " that is harmful; lower is better. Bands are intervals over requests. Dotted lines, where there are any,"
        " go on to what a beta-binomial fit says of more answers than were drawn."
    )
    if has_control:
        legend.append((CONTROL, "control that was never taught to refuse"))
        caption += " Only what sets a model apart from its control is a matter of refusing."
    where = f"under {text.reading_name(attack)}" if attack else "as a mean over attacks"
    return Figure(
        text.one_line(f"{text.title_of(measure)}: best of N {where}"),
        Markup('<div class="panels three">{}</div>').format(Markup("").join(panels)),
        caption,
        tuple(legend),
    )


def _beyond(curve: Curve, n: int, fit: Reading) -> Curve:
    """From the last point that was drawn to what a fit says further on."""
    value = fit.value or 0.0
    low, high = (fit.interval.low, fit.interval.high) if fit.interval else (value, value)
    banded = bool(curve.low and curve.high)
    return replace(
        curve,
        x=(curve.x[-1], float(n)),
        y=(curve.y[-1], value),
        low=(curve.low[-1], low) if banded else (),
        high=(curve.high[-1], high) if banded else (),
    )
