"""The verbs of the command line, put together."""

from __future__ import annotations

import typer

from safewright.cli import audit, compare, data, doctor, lab, listing, measure, replicate, report, treat

app = typer.Typer(
    help="Measure what a language model does wrong, and repair it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(listing.list_methods)
app.command("show")(listing.show)
app.command("audit")(audit.audit)
app.command("measure")(measure.measure)
app.command("treat")(treat.treat)
app.command("replicate")(replicate.replicate)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.add_typer(data.app, name="data")
app.add_typer(lab.app, name="lab")
app.command("doctor")(doctor.doctor)
