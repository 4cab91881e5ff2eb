"""The page of one treatment: what it was made from, what was checked, and every layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safewright.report import svg, text
from safewright.report.page import environment, version
from safewright.report.svg import Figure
from safewright.report.view import ModelRow
from safewright.treatments.taking import TOOK
from safewright.types import Curve, ModelRef, TreatmentResult

SHOWN = ("tensor", "loss", "loss_full", "held_loss", "held_loss_full", "kept", "distance", "rank", "pooled")
"""Columns of the layer table, where a treatment reports them."""


APART = (
    "layers",
    "config",
    "notes",
    "losses",
    "first_and_last",
    "drop_reasons",
    "coverage",
    "uncovered",
    "conventions",
)
"""Parts of a report that have a place of their own on the page."""


def render_treatment(
    result: TreatmentResult, history: Path, *, command: str = "", run: Path | None = None
) -> str:
    """The HTML page of a treatment's result.

    Args:
        result: What `safewright.treatments.treat` gave.
        history: Its provenance file.
        command: What made it.
        run: The folder of its run, which knows what it took.
    """
    found = json.loads(history.read_text("utf-8"))
    report = found.get("report", {})
    layers = report.get("layers", [])
    parents = [
        ModelRow(role, "", ModelRef(kind=p["kind"], where=p["where"], digest=p["digest"], base=p["base"]))
        for role, p in found["parents"].items()
    ]
    facts = [
        (text.one_line(key.replace("_", " ")), _fact(value))
        for key, value in report.items()
        if key not in APART
    ]
    conventions = report.get("conventions")
    settings = [(key, text.plain_value(value)) for key, value in found["treatment"]["config"].items()]
    return (
        environment()
        .get_template("treatment.html.j2")
        .render(
            title=f"{found['treatment']['name']}: {text.one_line(result.model.where)}",
            lead="",
            command=text.one_line(command),
            created="",
            version=version(),
            models=[ModelRow("result", "", result.model), *parents],
            checks=result.checks,
            notes=[text.one_line(note) for note in report.get("notes", [])],
            facts=facts,
            settings=settings,
            took=took_rows(run),
            figures=[*layer_figures({"": layers}), *loss_figures(report.get("losses"))],
            dropped=drop_rows(report),
            coverage=_fact(report["coverage"]) if "coverage" in report else "",
            uncovered=text.plain_value(report.get("uncovered") or []),
            conventions=[
                (text.one_line(str(key).replace("_", " ")), _fact(value))
                for key, value in (conventions.items() if isinstance(conventions, Mapping) else ())
            ],
            columns=[name for name in SHOWN if any(row.get(name) is not None for row in layers)],
            layers=layers,
            cell=_cell,
        )
    )


def layer_figures(layers: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Figure]:
    """The safety loss of every matrix after a repair, as a share of what fine-tuning had cost.

    Args:
        layers: Layer reports by label; of a single one the calibration rows are drawn beside the held-out
            rows. Nothing is drawn where no losses were reported.
    """
    kinds = [("held_loss", "held-out rows"), ("loss", "calibration rows")]
    drawn = []
    for label, rows in layers.items():
        for name, said in kinds if len(layers) == 1 else kinds[:1]:
            points = [
                (float(place), row[name] / row[f"{name}_full"])
                for place, row in enumerate(rows)
                if row.get(name) is not None and row.get(f"{name}_full")
            ]
            if points:
                x, y = zip(*points, strict=True)
                curve = Curve(name, x, y, x_unit="matrix, in the model's order")
                drawn.append((said if len(layers) == 1 else label, curve))
    if not drawn:
        return []
    which = "" if len(layers) == 1 else ", on rows the edit never saw"
    caption = (
        f"Share of the loss of the whole fine-tuning step{which}: 1 is the fine-tuned model, 0 the aligned."
    )
    return [svg.curve_figure("Safety loss left in every matrix", drawn, unit="score", caption=caption)]


def loss_figures(losses: Any) -> list[Figure]:
    """The losses of a training, step by step: the whole with its parts, each on its own scale.

    Args:
        losses: A list, or one for every part; anything else is not drawn.
    """
    by_part = {"loss": losses} if isinstance(losses, list) else losses
    figures: list[Figure] = []
    drawn: list[Any] = []
    for name, values in by_part.items() if isinstance(by_part, Mapping) else ():
        if values in drawn:
            continue  # a part that is the whole
        drawn.append(values)
        points = [
            (float(step), float(value))
            for step, value in enumerate(values, start=1)
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        if len(points) > 1:
            x, y = zip(*points, strict=True)
            curve = Curve(str(name), x, y, x_unit="step")
            said = text.one_line(str(name).replace("_", " "))
            figures.append(svg.curve_figure(f"Training: {said}", [(said, curve)], unit="score"))
    return figures


def took_rows(run: Path | None) -> list[tuple[str, str, str]]:
    """Time, memory and disk of a run: what was estimated and what was measured; none where neither is known."""
    file = run / TOOK if run is not None else None
    if file is None or not file.is_file():
        return []
    found = json.loads(file.read_text("utf-8"))
    shown = (
        ("Time", "seconds", text.duration),
        ("Memory", "memory_bytes", text.size),
        ("Disk", "disk_bytes", text.size),
    )

    def said(kind: str, name: str, show: Callable[[float], str]) -> str:
        value = found.get(kind, {}).get(name)
        return "–" if value is None else show(value)

    return [
        (label, said("estimated", name, show), said("measured", name, show)) for label, name, show in shown
    ]


def drop_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Step, reason and number of the rows a data pipeline dropped, most first.

    Args:
        report: A treatment's; ``drop_reasons`` maps ``STEP: REASON`` to a number.
    """
    found = report.get("drop_reasons")
    if not isinstance(found, Mapping):
        return []
    rows = []
    for name, count in sorted(found.items(), key=lambda item: (-_count(item[1]), str(item[0]))):
        step, colon, reason = str(name).partition(": ")
        rows.append(
            (text.one_line(step if colon else ""), text.one_line(reason or step), f"{_count(count):,}")
        )
    return rows


def _count(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


def _fact(value: Any) -> str:
    """A value of the summary; counts by name are written out."""
    if isinstance(value, dict):
        return ", ".join(f"{text.clean(name)} {text.plain_value(part)}" for name, part in value.items())
    return text.plain_value(value)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name in ("kept", "distance"):
        return text.quantity(value, "rate")
    return text.plain_value(value)
