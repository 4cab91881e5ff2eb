"""``safewright compare A B``: what changed between two runs, record by record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safewright.cli import console
from safewright.cli.options import JsonOut, Seed


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of the first run (before).")],
    b: Annotated[Path, typer.Argument(help="Folder of the second run (after).")],
    level: Annotated[float, typer.Option("--level", help="Confidence level of the intervals.")] = 0.95,
    seed: Seed = 0,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page here.")] = None,
    json: JsonOut = False,
) -> None:
    """Compare two runs on the records they share, paired, with Holm-adjusted p-values."""
    from safewright.compose.compare import compare as compare_runs
    from safewright.report import comparison_table, render_comparison
    from safewright.runs import write_text

    found = compare_runs(a, b, level=level, seed=seed)
    if html is not None:
        write_text(html, render_comparison(found, title=f"{a} → {b}"))
    if json:
        console.result(found)
    else:
        console.show(comparison_table(found))
