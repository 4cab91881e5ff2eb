"""``safewright guard policy``: look at a policy before it decides anything."""

from __future__ import annotations

import typer

app = typer.Typer(help="Policies: show, lint, test.", no_args_is_help=True)


@app.callback()
def policy() -> None:
    """Look at a policy before it decides anything."""
