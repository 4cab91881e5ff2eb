"""The verbs of the command line, put together."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from safewright.cli import (
    audit,
    compare,
    data,
    doctor,
    guard,
    judge,
    lab,
    listing,
    matrix,
    measure,
    replicate,
    report,
    serve,
    treat,
)

app = typer.Typer(
    help="Measure what a language model does wrong, and repair it.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def version(
    shown: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Measure what a language model does wrong, and repair it."""
    if shown:
        print(importlib.metadata.version("safewright"))
        raise typer.Exit


app.command("list")(listing.list_methods)
app.command("show")(listing.show)
app.command("audit")(audit.audit)
app.command("measure")(measure.measure)
app.command("treat")(treat.treat)
app.command("matrix")(matrix.matrix)
app.command("replicate")(replicate.replicate)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("serve")(serve.serve)
app.add_typer(data.app, name="data")
app.add_typer(guard.app, name="guard")
app.add_typer(judge.app, name="judge")
app.add_typer(lab.app, name="lab")
app.command("doctor")(doctor.doctor)
