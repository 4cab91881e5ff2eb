"""``safewright report DIR``: the page of a finished run, drawn again."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

import typer

from safewright.cli import console
from safewright.cli.options import JsonOut


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, an audit or a treatment's run.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables instead.")] = False,
    json: JsonOut = False,
) -> None:
    """Draw the page of a finished run, audit or treatment again, or print it as Markdown or JSON."""
    from safewright.compose.folders import load_cards, load_command
    from safewright.report import render_markdown, render_page
    from safewright.runs import write_text

    if (folder / "result.json").is_file() and not list(folder.glob("**/scorecard.json")):
        _treatment(folder, json)
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
    write_text(folder / "report.html", render_treatment(result, history, command=load_command(folder)))
    print(f"page: {folder / 'report.html'}")
