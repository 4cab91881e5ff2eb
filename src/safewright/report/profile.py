"""What was forgotten and what was kept, side by side, and how it stands under attack.

A reading named ``kfr[prefix]`` is ``kfr`` under the attack ``prefix``; of attack success, ``asr[none]`` is that of
plain requests, and ``asr`` the mean over attacks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from safewright.report import svg, text
from safewright.report.svg import PALETTE, Figure
from safewright.types import Reading, Scorecard

PROFILED = "forgetting"
"""The measure whose readings make a profile."""

PROFILE: Sequence[tuple[str, str]] = (
    ("kfr", "Forgotten (KFR)"),
    ("krr", "Retained (KRR)"),
    ("ls_forget", "Language, forget set (LS)"),
    ("ls_retain", "Language, retain set (LS)"),
    ("rougeL_recall_forget", "ROUGE-L recall, forget set"),
    ("rougeL_recall_retain", "ROUGE-L recall, retain set"),
)
"""Readings that are drawn, where a scorecard has them; all lie between 0 and 1."""

_ATTACKED = re.compile(r"([^\[\]/]+)\[([^\[\]]+)\]")


def is_attacked(name: str) -> bool:
    """Whether a reading's name says that it was taken under an attack."""
    return _ATTACKED.fullmatch(name) is not None


def score_name(name: str) -> str:
    """A score in words; one taken under an attack says so."""
    match = _ATTACKED.fullmatch(name)
    if match is None:
        return text.reading_name(name)
    how = {NONE: "with", MEAN_OF: "as"}.get(match[2], "on" if match[2].partition(":")[0] in SETS else "under")
    return f"{text.reading_name(match[1])} {how} {_attack(match[2])}"


def profile_figure(cards: Sequence[tuple[str, Scorecard]]) -> Figure | None:
    """Forget and retain readings of every model on one axis; None where no card has them.

    Args:
        cards: Scorecards under the labels of their models.
    """
    own = [(label, card) for label, card in cards if card.measure == PROFILED]
    rows = []
    for name, said in PROFILE:
        found = [(i, label, _named(card, name)) for i, (label, card) in enumerate(own)]
        drawn = [(i, label, reading) for i, label, reading in found if reading is not None]
        if drawn:
            better = text.better_text(drawn[0][2].better)
            rows.append(
                Markup(
                    '<div class="line"><div class="name">{}<span class="sub">{}</span></div>{}</div>'
                ).format(said, better, _strip(said, drawn, len(own)))
            )
    if not rows:
        return None
    body = Markup("").join(rows)
    axis = Markup('<div class="line"><div></div>{}</div>').format(svg.axis())
    drawn_ = Markup('<div class="profile">{}{}</div>').format(body, axis)
    legend = tuple((PALETTE[i % len(PALETTE)], text.one_line(label)) for i, (label, _) in enumerate(own))
    caption = "One row of dots for each model, in the order of the legend; intervals where they exist."
    return Figure("What was forgotten, and what was kept", drawn_, caption, legend)


def _named(card: Scorecard, name: str) -> Reading | None:
    return next((r for r in card.readings if r.name == name and r.value is not None), None)


def _strip(said: str, drawn: Sequence[tuple[int, str, Reading]], count: int) -> Markup:
    """Dots of several models below one another on the axis of rates."""
    step = 14
    parts = [
        f'<line class="grid" x1="{100 * tick:g}%" x2="{100 * tick:g}%" y1="0" y2="100%"/>'
        for tick in svg.RATE_SCALE.ticks
    ]
    words = []
    for i, label, reading in drawn:
        look, y = PALETTE[i % len(PALETTE)], step * (i + 0.5)
        value = svg.RATE_SCALE.at(reading.value or 0.0)
        if reading.interval is not None:
            low, high = (svg.RATE_SCALE.at(x) for x in (reading.interval.low, reading.interval.high))
            parts.append(f'<line class="curve {look}" x1="{low:.2f}%" x2="{high:.2f}%" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot {look}" cx="{value:.2f}%" cy="{y}" r="4"/>')
        words.append(f"{label} {text.quantity(reading.value, reading.unit)}")
    return Markup('<svg class="dots" role="img" aria-label="{}" style="height:{}px">{}</svg>').format(
        f"{said}: {', '.join(words)}", step * count, Markup("".join(parts))
    )


@dataclass(frozen=True)
class Attacks:
    """Readings under attack: a row for each attack, a column for each model or reading."""

    title: str
    better: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


PLAIN, MEAN = "no attack", "mean over attacks"
"""Rows of what has no attack in its name: without one, or over all of them."""
MEANS = ("attack_success",)
"""Measures whose readings without an attack in their name are means over attacks."""
NONE, MEAN_OF, SETS = "none", "wrappers", ("benign", "alarming")
"""In the place of an attack's name there: the plain request, the mean over wrapped ones, sets of harmless rows."""
CHANGE = "_change"
"""The end of the name of a rate's change under an attack."""


def attack_tables(cards: Sequence[tuple[str, Scorecard]]) -> tuple[Attacks, ...]:
    """One table per attacked reading where there are several models, else one with a column per reading.

    Args:
        cards: Scorecards under the labels of their models.
    """
    found: dict[tuple[str, str], dict[str, dict[str, Reading]]] = {}
    for label, card in cards:
        plain = {reading.name: reading for reading in card.readings}
        for reading in card.readings:
            match = _ATTACKED.fullmatch(reading.name)
            if match is None:
                continue
            rows = found.setdefault((card.measure, match[1]), {})
            if match[1] in plain:
                over = MEAN if card.measure in MEANS else PLAIN
                rows.setdefault(over, {})[label] = plain[match[1]]
            rows.setdefault(match[2], {})[label] = reading
    labels = list(dict.fromkeys(label for label, _ in cards))
    if len(labels) > 1:
        return tuple(
            _table(f"{text.title_of(measure)}: {text.reading_name(head)} under attack", rows, labels)
            for (measure, head), rows in found.items()
            if not head.endswith(CHANGE)  # the rows say it already
        )
    return tuple(_alone(measure, found) for measure in dict.fromkeys(measure for measure, _ in found))


def _table(title: str, rows: dict[str, dict[str, Reading]], labels: Sequence[str]) -> Attacks:
    used = [label for label in labels if any(label in row for row in rows.values())]
    ways = {reading.better for row in rows.values() for reading in row.values()}
    return Attacks(
        text.one_line(title),
        text.better_text(ways.pop() if len(ways) == 1 else "neither"),
        tuple(map(text.one_line, used)),
        tuple((_attack(name), tuple(_cell(row.get(label)) for label in used)) for name, row in rows.items()),
    )


def _alone(measure: str, found: dict[tuple[str, str], dict[str, dict[str, Reading]]]) -> Attacks:
    heads = {head: rows for (own, head), rows in found.items() if own == measure}
    rows: dict[str, dict[str, Reading]] = {}
    for head, attacked in heads.items():
        for name, by_label in attacked.items():
            rows.setdefault(name, {})[text.reading_name(head)] = next(iter(by_label.values()))
    labels = [text.reading_name(head) for head in heads]
    return _table(f"{text.title_of(measure)} under attack", rows, labels)


def _attack(name: str) -> str:
    said = text.one_line(name).replace("_", " ")
    kind, _, form = said.partition(":")
    if kind in SETS:
        return f"{kind} rows{', ' + form if form else ''}"
    return {NONE: PLAIN, MEAN_OF: "mean over wrappers"}.get(said, said)


def _cell(reading: Reading | None) -> tuple[str, str]:
    if reading is None:
        return text.NONE, ""
    below = text.span(reading.interval, reading.unit) if reading.interval else ""
    lost = f"{reading.unscored:,} unscored" if reading.unscored else ""
    return text.quantity(reading.value, reading.unit), ", ".join(part for part in (below, lost) if part)
