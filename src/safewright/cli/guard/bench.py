"""``safewright guard bench``: how well a guard decides, in figures."""

from __future__ import annotations

import typer

from safewright.cli.guard import bench_agentdojo, bench_csv

app = typer.Typer(help="Measure a guard: labelled calls of your own, hijacked replays.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure how well a guard decides."""


app.command("csv")(bench_csv.bench_csv)
app.command("agentdojo")(bench_agentdojo.bench_agentdojo)
