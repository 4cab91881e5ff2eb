"""``safewright report DIR``: the page of a finished run, drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safewright.cli import console
from safewright.cli.options import JsonOut


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run or an audit.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables instead.")] = False,
    json: JsonOut = False,
) -> None:
    """Draw the page of a finished run again, or print it as Markdown or JSON."""
    from safewright.compose.folders import load_cards, load_command
    from safewright.report import render_markdown, render_page
    from safewright.runs import write_text

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
