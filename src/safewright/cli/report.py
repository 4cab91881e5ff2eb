"""``safewright report DIR``: the page of a finished run, drawn again, or of a log of Inspect's."""

from __future__ import annotations

import json as json_
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.cli import console
from safewright.cli.options import JsonOut


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run, audit, judge's audit or treatment's run; or Inspect's LOG.eval or log folder."
        ),
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables instead.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="For a log: the folder of its page; by default LOGS-report.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="For a log: where its data lies now, if it was moved.")
    ] = None,
    viewer: Annotated[
        bool, typer.Option("--viewer", help="For a log: put Inspect's log viewer beside the page (11 MB).")
    ] = False,
    json: JsonOut = False,
) -> None:
    """Draw the page of a finished run, audit, treatment or log, or print it as Markdown or JSON."""
    from safewright.cli.judge import show_audit
    from safewright.compose.ablation import ABLATION_FILE
    from safewright.compose.folders import load_cards, load_command
    from safewright.compose.inspect_log import is_log
    from safewright.compose.matrix import MATRIX_FILE
    from safewright.errors import BadInput
    from safewright.judges.audit import FILE as AUDIT
    from safewright.judges.audit import load_audit
    from safewright.report import render_markdown, render_page
    from safewright.runs import write_text

    if is_log(folder):
        _log(folder, out, data, viewer, markdown, json)
        return
    if out is not None or data is not None or viewer:
        raise BadInput(f"{folder} is no log of Inspect's.", fix="Leave out --out, --data and --viewer.")
    if (folder / MATRIX_FILE).is_file():
        _matrix(folder, json)
        return
    if (folder / ABLATION_FILE).is_file():
        _ablation(folder, markdown, json)
        return
    if (folder / "result.json").is_file() and not list(folder.glob("**/scorecard.json")):
        _treatment(folder, json)
        return
    if (folder / AUDIT).is_file():
        audit = load_audit(folder)
        if json:
            console.result(audit)
        else:
            show_audit(audit)
        return
    cards = load_cards(folder)
    if json:
        console.result([card for card, _ in cards])
        return
    if markdown:
        print(render_markdown(folder.name, [card for card, _ in cards]))
        return
    page = render_page(f"Run {folder.name}", cards, command=load_command(folder))
    write_text(folder / "report.html", page)
    print(f"page: {folder / 'report.html'}")


def _matrix(folder: Path, json: bool) -> None:
    """The pages of a finished matrix, its arms' among them."""
    from safewright.cli.matrix import write_pages
    from safewright.compose.folders import load_command
    from safewright.compose.matrix import load_matrix
    from safewright.report import matrix_console

    found = load_matrix(folder)
    page = write_pages(found, folder, load_command(folder))
    if json:
        console.result(found)
        return
    for drawn in matrix_console(found):
        console.show(drawn)
    print(f"page: {page}")


def _ablation(folder: Path, markdown: bool, json: bool) -> None:
    """The page and tables of a finished comparison of arms."""
    from safewright.cli.ablating import write_tables
    from safewright.compose.ablation import load_ablation
    from safewright.compose.folders import load_command
    from safewright.report import ablation_console, ablation_markdown

    found = load_ablation(folder)
    page = write_tables(found, folder, load_command(folder))
    if json:
        console.result(found)
        return
    if markdown:
        print(ablation_markdown(found), end="")
        return
    for drawn in ablation_console(found):
        console.show(drawn)
    print(f"page: {page}")


def _log(logs: Path, out: Path | None, data: str | None, viewer: bool, markdown: bool, json: bool) -> None:
    """Scorecards, records and the page of Inspect's logs of our tasks."""
    from safewright.compose import inspect_log
    from safewright.report import render_markdown, render_page
    from safewright.runs import write_text

    files = inspect_log.logs_in(logs)
    files, found = _scored_logs(files, data)
    if markdown:
        print(render_markdown(logs.stem, [card for card, _ in found]))
        return
    # Not inside the folder of logs: an eval-set would take a bundled copy of a log for one of its own.
    home = logs.resolve() if logs.is_dir() else logs.resolve().parent
    beside = home.with_name(f"{home.name}-report")
    target = out or (beside if logs.is_dir() else beside / logs.stem)
    if viewer:
        where = inspect_log.bundle_viewer(files, target)
        found = [(inspect_log.with_viewer(card, where), records) for card, records in found]
    for file, (card, records) in zip(files, found, strict=True):
        inspect_log.write_card(target if len(files) == 1 else target / file.stem, card, records)
    write_text(target / "report.html", render_page(f"Log {logs.stem}", found))
    if json:
        console.result([card for card, _ in found])
    else:
        print(f"page: {target / 'report.html'}")


def _scored_logs(files: Sequence[Path], data: str | None) -> tuple[list[Path], list[Any]]:
    """The logs with something scored, and what they say; the others are named, unless there is nothing else."""
    from safewright.compose.inspect_log import scorecard_of
    from safewright.errors import Incomplete

    kept, found, problems = [], [], []
    for file in files:
        try:
            found.append(scorecard_of(file, data=data))
            kept.append(file)
        except Incomplete as error:
            problems.append(error)
    if not kept:
        raise problems[0]
    for problem in problems:
        console.say(f"note: left out: {problem.what}")
    return kept, found


def _treatment(folder: Path, json: bool) -> None:
    """The page of a finished treatment, from its run's folder."""
    from safewright.compose.folders import load_command
    from safewright.errors import BadInput
    from safewright.report import render_treatment
    from safewright.runs import from_json, write_text
    from safewright.types import TreatmentResult

    plain = json_.loads((folder / "result.json").read_text("utf-8"))
    if "history" not in plain:
        raise BadInput(f"{folder} is the run of a stage that has no page.", fix="Name the run of a model.")
    result = from_json(TreatmentResult, plain)
    if json:
        console.result(result)
        return
    history = Path(result.history)
    if not history.is_file():
        raise BadInput(f"The model of {folder} is gone: there is no {history}.", fix="Treat the model again.")
    write_text(
        folder / "report.html", render_treatment(result, history, command=load_command(folder), run=folder)
    )
    print(f"page: {folder / 'report.html'}")
