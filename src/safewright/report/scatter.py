"""Hidden states as a picture: along the harm direction, and across it, before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from safewright.report import svg, text
from safewright.report.svg import Figure, Scale
from safewright.types import Record, Scorecard

SETS: Mapping[str, tuple[str, str]] = {
    "benign": ("dot s1", "benign"),
    "harmful": ("dot s2", "harmful"),
    "wrapped_benign": ("ring s1", "benign, wrapped"),
    "wrapped_harmful": ("ring s2", "harmful, wrapped"),
}
"""Looks and names of the groups, in the order they are drawn: what lies on top comes last."""

POSITIONS: Mapping[str, str] = {
    "prompt_end": "at the prompt's last token",
    "decision": "at the last token before the verdict",
}
LAYERS = ("middle", "last")
MODELS: Mapping[str, str] = {"before": "before", "target": "after"}

MOST = 120
"""Points of a group that are drawn, evenly spaced over its rows."""

Point = tuple[float, float]
Panels = Mapping[tuple[str, str], Mapping[str, Sequence[Point]]]
"""Points by group, by layer and model."""


def harm_figures(card: Scorecard, records: Sequence[Record], label: str, *, several: bool) -> list[Figure]:
    """One figure per position of a scorecard whose records hold projections of states; none where they do not.

    Args:
        card: The scorecard; its readings give the areas under the panels' titles.
        records: Its records; ``harm`` of their meta holds, by model role and position, ``middle`` and ``last``:
            the place along the harm direction and across it.
        label: Its model's name.
        several: Whether the page shows several models, so that titles must name this one.
    """
    whose = f" · {text.one_line(label)}" if several else ""
    figures = []
    for position, said in POSITIONS.items():
        panels = _panels(records, position)
        if panels:
            title = f"{text.title_of(card.measure)}: states {said}{whose}"
            figures.append(_figure(title, card, position, panels))
    return figures


def _panels(records: Sequence[Record], position: str) -> Panels:
    found: dict[tuple[str, str], dict[str, list[Point]]] = {}
    for layer in LAYERS:
        for model in MODELS:
            for record in records:
                point = _point(record, model, position, layer)
                name = str(record.meta.get("set"))
                if point is not None and name in SETS:
                    found.setdefault((layer, model), {}).setdefault(name, []).append(point)
    return found


def _point(record: Record, model: str, position: str, layer: str) -> Point | None:
    """A record's place in a panel; None where ``harm`` of its meta is something else, as data may bring."""
    here: Any = record.meta.get("harm")
    for key in (model, position, layer):
        if not isinstance(here, Mapping):
            return None
        here = here.get(key)
    if not isinstance(here, Sequence) or isinstance(here, str) or len(here) != 2:
        return None
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in here):
        return None
    return float(here[0]), float(here[1])


def _figure(title: str, card: Scorecard, position: str, panels: Panels) -> Figure:
    across = svg.scale_over(
        [-1.0, 1.0, *(x for groups in panels.values() for own in groups.values() for x, _ in own)]
    )
    alone = len({model for _, model in panels}) == 1
    drawn = Markup("").join(
        Markup('<div class="panel"><div class="paneltitle">{}</div>{}</div>').format(
            _heading(card, position, layer, model, alone=alone),
            _plot(f"{title}, {_named(layer, model, alone=alone)}", groups, across),
        )
        for (layer, model), groups in panels.items()
    )
    used = [name for name in SETS if any(name in groups for groups in panels.values())]
    key = Markup("").join(
        Markup(
            '<li><svg class="key" aria-hidden="true"><circle class="{}" cx="50%" cy="50%" r="4"/></svg>{}</li>'
        ).format(*SETS[name])
        for name in used
    )
    most = max(len(own) for groups in panels.values() for own in groups.values())
    caption = (
        "Along: the harm direction of plain requests, whose harmful ones lie at +1 and benign ones at"
        f" {text.MINUS}1 on average. Across: the first principal component of the rest, in the same unit."
        + (f" {MOST} rows of a group are drawn." if most > MOST else "")
    )
    body = Markup('<div class="panels">{}</div><ul class="legend pointkey">{}</ul>').format(drawn, key)
    return Figure(text.one_line(title), body, caption)


def _named(layer: str, model: str, *, alone: bool) -> str:
    return f"{layer} layer" if alone else f"{MODELS[model]}, {layer} layer"


def _heading(card: Scorecard, position: str, layer: str, model: str, *, alone: bool) -> Markup:
    """A panel's title, with the areas under the ROC curve that it shows."""
    apart = [
        part for part in ("middle" if layer == "middle" else "", "" if model == "target" else model) if part
    ]
    kind = "layer" if layer == "middle" else "model"
    ending = f"/{kind}/{', '.join(apart)}" if apart else ""
    by_name = {reading.name: reading for reading in card.readings}
    areas = []
    for name, said in (("cv_auc", "plain"), ("transfer_auc", "wrapped")):
        reading = by_name.get(f"{name}_{position}{ending}")
        if reading is not None and reading.value is not None:
            span = f" ({text.span(reading.interval, reading.unit)})" if reading.interval else ""
            areas.append(f"AUC {said} {text.quantity(reading.value, reading.unit)}{span}")
    return Markup('{} <span class="sub">{}</span>').format(
        _named(layer, model, alone=alone), ", ".join(areas)
    )


def _plot(label: str, groups: Mapping[str, Sequence[Point]], across: Scale) -> Markup:
    up = svg.scale_over([y for own in groups.values() for _, y in own])
    lines = [
        f'<line class="{"zero" if tick == 0 else "grid"}" x1="{across.at(tick):.2f}%" x2="{across.at(tick):.2f}%"'
        ' y1="0" y2="100%"/>'
        for tick in across.ticks
    ]
    lines += [
        f'<line class="guide" x1="{across.at(mean):.2f}%" x2="{across.at(mean):.2f}%" y1="0" y2="100%"/>'
        for mean in (-1.0, 1.0)
    ]
    marks, words = [], []
    for name, (look, said) in SETS.items():
        own = groups.get(name, ())
        if not own:
            continue
        step = max(1.0, len(own) / MOST)
        for place in range(min(len(own), MOST)):
            x, y = own[int(place * step)]
            marks.append(
                f'<circle class="{look}" cx="{across.at(x):.2f}%" cy="{100 - up.at(y):.2f}%" r="3.5"/>'
            )
        mean = sum(x for x, _ in own) / len(own)
        words.append(f"{said} {text.quantity(mean, 'score')} on average over {len(own)}")
    ticks = "".join(
        f'<text class="tick" x="{across.at(tick):.2f}%" y="12"'
        f' text-anchor="{"start" if not i else "middle" if i < len(across.ticks) - 1 else "end"}">'
        f"{svg.tick_text(tick, '')}</text>"
        for i, tick in enumerate(across.ticks)
    )
    return Markup(
        '<div class="cloud" role="img" aria-label="{}"><svg class="points" aria-hidden="true">{}{}</svg>'
        '<svg class="x" aria-hidden="true">{}</svg><div class="unit" aria-hidden="true">benign ← harm direction →'
        " harmful</div></div>"
    ).format(
        text.one_line(f"{label}: {'; '.join(words)}"),
        Markup("".join(lines)),
        Markup("".join(marks)),
        Markup(ticks),
    )
