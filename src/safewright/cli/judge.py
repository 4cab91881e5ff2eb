"""``safewright judge``: how right a judge is on answers that people labelled, and its word on stored ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safewright.cli import console, options, running
from safewright.errors import BadInput, TooManyUnscored
from safewright.measures import MAX_UNSCORED

if TYPE_CHECKING:
    from rich.table import Table

    from safewright.data import LoadedData
    from safewright.judges.audit import Figures, JudgeAudit
    from safewright.judges.labels import Labels
    from safewright.types import Judge

AUDITED = ("forget", "retain")
"""Roles of rows whose answers can be labelled for forgetting and retaining, as `forgetting` takes them."""

app = typer.Typer(help="Judges: compare one with people, or judge again.", no_args_is_help=True)


@app.callback()
def judge() -> None:
    """Judges: compare one with people, or judge stored answers again."""


@app.command()
def audit(
    labels: Annotated[
        Path, typer.Argument(help="Labelled answers: id, response, human (1 or 0), and position or about.")
    ],
    data: Annotated[
        list[str],
        typer.Option(
            "--data", metavar="[ROLE=]FILE", help="The rows whose ids the labels name; with ROLE, as ROLE/ID."
        ),
    ],
    judge: Annotated[
        str | None, typer.Option("--judge", help="A judge; with --model-role alone: agents.")
    ] = None,
    model_role: Annotated[
        list[str],
        typer.Option(
            "--model-role", metavar="ROLE=MODEL", help="A model of the judge's; judge=MODEL decides."
        ),
    ] = [],  # noqa: B006 - typer copies it
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    max_unscored: options.MaxUnscored = MAX_UNSCORED,
    batch_size: options.BatchSize = None,
    timeout: options.Timeout = None,
    json: options.JsonOut = False,
) -> None:
    """Put labelled answers before a judge, and count how often it agrees with people."""
    from safewright.judges import models_of
    from safewright.judges.audit import FILE, audit_judge
    from safewright.judges.labels import load_labels
    from safewright.runs import to_json

    options.share(max_unscored, "--max-unscored")
    chosen = _chosen(judge, model_role)
    for model in models_of(chosen):
        model.at_once, model.timeout = batch_size, timeout
    given = load_labels(labels)
    rows = _rows(data, given)
    with console.progress() as progress:
        found, folder = audit_judge(
            chosen,
            given,
            rows,
            run=out,
            overwrite=overwrite,
            notes={"command": running.command_line()},
            progress=progress,
        )
    if json:
        console.result({**to_json(found), "folder": str(folder)})
    else:
        show_audit(found)
        print(f"audit: {folder / FILE}")
    _require_scored(found, folder, max_unscored)


@app.command()
def run(
    source: Annotated[Path, typer.Argument(help="A measure's run, or a log of Inspect's.")],
    judge: Annotated[
        str | None, typer.Option("--judge", help="A judge; with --model-role alone: agents.")
    ] = None,
    model_role: Annotated[
        list[str],
        typer.Option(
            "--model-role", metavar="ROLE=MODEL", help="A model of the judge's; judge=MODEL decides."
        ),
    ] = [],  # noqa: B006 - typer copies it
    data: Annotated[
        str | None, typer.Option("--data", help="For a log: where its data lies now, if it was moved.")
    ] = None,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    max_unscored: options.MaxUnscored = MAX_UNSCORED,
    batch_size: options.BatchSize = None,
    timeout: options.Timeout = None,
    json: options.JsonOut = False,
) -> None:
    """Judge stored answers again: nothing is asked of the models that gave them."""
    from safewright.compose.folders import load_records
    from safewright.compose.rejudge import rejudge
    from safewright.report import render_page
    from safewright.runs import to_json, write_text

    options.share(max_unscored, "--max-unscored")
    command = running.command_line()
    with console.progress() as progress:
        card, folder = rejudge(
            source,
            _chosen(judge, model_role),
            out=out,
            data=data,
            overwrite=overwrite,
            notes={"command": command},
            progress=progress,
        )
    page = render_page(f"{card.measure}, judged again", [(card, load_records(folder))], command=command)
    write_text(folder / "report.html", page)
    if json:
        console.result({**to_json(card), "folder": str(folder)})
    else:
        running.show_cards([card])
        print(f"page: {folder / 'report.html'}")
    running.require_scored({card.measure: (card, folder)}, max_unscored)


def _rows(data: list[str], labels: Labels) -> LoadedData:
    """The rows of ``--data``: with contexts where harm is labelled, with references where forgetting is."""
    from safewright.data import load_data
    from safewright.data.roles import merged

    if "harmful" in labels.qualities:
        if len(data) > 1:
            raise BadInput("--data is given twice.", fix="Give the one file that the labels are about.")
        return load_data(data[0], "long_context")
    if len(data) == 1 and ("=" not in data[0] or Path(data[0]).exists()):
        return load_data(data[0], "labelled")
    parts = options.by_role(data, "--data", AUDITED)
    return merged({role: load_data(file, role) for role, file in parts.items()})


def _chosen(judge: str | None, model_role: list[str]) -> Judge:
    """The judge that the options name."""
    from safewright.judges import JUDGE_ROLES, resolve

    models = options.by_role(model_role, "--model-role", JUDGE_ROLES)
    if judge is None and not models:
        raise BadInput(
            "No judge is named.",
            fix="Give --judge NAME, --judge NAME:MODEL or --model-role judge=MODEL.",
        )
    return resolve(judge or "agents", models)


def show_audit(found: JudgeAudit) -> None:
    """Print an audit's table and what is to be said about it."""
    console.show(_table(found))
    for line in _remarks(found):
        print(f"note: {line}")


def _table(found: JudgeAudit) -> Table:
    from rich.table import Table
    from rich.text import Text

    from safewright.report import text

    table = Table(show_edge=False, pad_edge=False, header_style="dim", box=None)
    yes, no = _words(found)
    table.add_column(f"Answers\n{yes}/{no}", overflow="fold", min_width=12)
    for name in ("Accuracy", "Kappa", "Sensitivity", "Specificity"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Unscored", justify="right", overflow="fold", min_width=10)
    for name, figures in _parts(found):
        cells = []
        for key in ("accuracy", "cohen_kappa", "sensitivity", "specificity"):
            reading = figures.readings[key]
            shown = text.quantity(reading.value, reading.unit)
            cells.append(
                f"{shown}\n{text.span(reading.interval, reading.unit)}" if reading.interval else shown
            )
        c = figures.confusion
        table.add_row(
            Text(f"{text.one_line(name)}\n{c.caught + c.missed}/{c.cleared + c.accused}"),
            *cells,
            text.counts(figures.unscored) or "0",
        )
    return table


def _words(found: JudgeAudit) -> tuple[str, str]:
    """What answers are that have the quality, and those that have it not."""
    if not found.by_quality:
        return "unsafe", "safe"
    name = next(iter(found.by_quality)) if len(found.by_quality) == 1 else "so"
    return name, "not"


def _parts(found: JudgeAudit) -> Iterator[tuple[str, Figures]]:
    yield "all", found.overall
    if len(found.by_quality) > 1:
        yield from found.by_quality.items()
    if len(found.by_position) > 1:
        yield from found.by_position.items()
    if len(found.by_safety_type) > 1:
        yield from found.by_safety_type.items()


def _remarks(found: JudgeAudit) -> Iterator[str]:
    from safewright.report import text

    c = found.overall.confusion
    name = text.one_line(found.judge["name"])
    if found.by_quality:
        for quality, figures in found.by_quality.items():
            part = figures.confusion
            yield (
                f"the judge {name} called {part.caught} of {part.caught + part.missed} {quality} answers so, and "
                f"{part.accused} of {part.accused + part.cleared} others"
            )
    else:
        yield (
            f"the judge {name} called {c.caught} unsafe answers unsafe and {c.missed} safe, "
            f"{c.cleared} safe answers safe and {c.accused} unsafe"
        )
    for key, reading in found.alpha.items():
        if reading.value is not None:
            doubt = f" [{text.span(reading.interval, 'alpha')}]" if reading.interval else ""
            yield (
                f"Krippendorff's alpha over {key.replace('_', ' ')}: {text.quantity(reading.value, 'alpha')}{doubt} "
                f"({reading.n} answers)"
            )
    if found.labels["ties"]:
        yes, no = _words(found)
        yield f"{found.labels['ties']} answers left out: as many annotators say {yes} as say {no}"
    for note in found.labels["notes"]:
        yield text.one_line(note)
    parts = found.by_quality or {"unsafe": found.overall}
    for quality, figures in parts.items():
        part = figures.confusion
        other = f"not {quality}" if found.by_quality else "safe"
        for word, count in ((quality, part.caught + part.missed), (other, part.cleared + part.accused)):
            if count < 30:
                yield f"only {count} {word} answers with a verdict: rates corrected by this audit will be wide"


def _require_scored(found: JudgeAudit, folder: Path, bound: float) -> None:
    if found.unscored_share <= bound:
        return
    from safewright.report import text

    lost = sum(found.overall.unscored.values())
    raise TooManyUnscored(
        f"The judge decided nothing about {lost} of {lost + found.overall.confusion.n} labelled answers "
        f"({text.counts(found.overall.unscored)}); the bound is {bound:.0%}.",
        why="Its figures over the rest may be far from the truth. They are written all the same.",
        fix=(
            "Give the same command again to retry failed calls, "
            if found.overall.unscored.get("error")
            else f"Look at {folder / 'judged.jsonl'}, "
        )
        + "or raise --max-unscored knowingly.",
    )
