"""``safewright guard policy``: look at a policy before it decides anything."""

from __future__ import annotations

import importlib.resources
import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from safewright.cli import options
from safewright.errors import ExitCode

app = typer.Typer(help="Policies: show, lint, test.", no_args_is_help=True)

File = Annotated[Path | None, typer.Argument(help="A policy in TOML, or coding; without it the default one.")]


@app.callback()
def policy() -> None:
    """Look at a policy before it decides anything."""


@app.command()
def show(file: File = None) -> int:
    """Print a policy: one of ours as it is written (default, coding), another with what it extends put in, as JSON."""
    from safewright.guard.policy import SHIPPED, Policy

    name = "default" if file is None else str(file)
    if name in SHIPPED and not (file is not None and file.exists()):
        print((importlib.resources.files("safewright.guard") / f"{name}.toml").read_text("utf-8"), end="")
        return 0

    print(jsonlib.dumps(dict(Policy.load(name).source), indent=2, ensure_ascii=False))
    return 0


@app.command()
def lint(file: File = None, json: options.JsonOut = False) -> int:
    """Say what in a policy can never apply, loosens what is usual, or is missing. Exit code 10 where something is."""
    from safewright.guard.linting import lint as linted
    from safewright.guard.policy import Policy

    found = linted(Policy.load(file) if file else Policy.default())
    if json:
        print(jsonlib.dumps([{"where": each.where, "what": each.what} for each in found]))
    else:
        for each in found:
            print(f"{each.where}: {each.what}")
        print(f"{len(found)} finding{'' if len(found) == 1 else 's'}")
    return ExitCode.GATE if found else 0


@app.command("test")
def run_cases(file: File = None, json: options.JsonOut = False) -> int:
    """Run a policy's own cases, its `test` tables. Exit code 10 where one comes out otherwise, 2 where it has none."""
    from safewright.errors import BadInput
    from safewright.guard.linting import run_tests
    from safewright.guard.policy import Policy

    found = run_tests(Policy.load(file) if file else Policy.default())
    if not found:
        raise BadInput(
            f"{file or 'The policy'} has no test.",
            fix='Add [[test]] with name, expect = "deny", and an action = { tool = …, arguments = { … } }.',
        )
    wrong = [each for each in found if not each.right]
    if json:
        rows = [
            {"name": each.name, "expect": each.expect, "got": each.got, "why": each.why} for each in found
        ]
        print(jsonlib.dumps(rows, ensure_ascii=False))
    else:
        for each in wrong:
            print(f"{each.name}: expected {' or '.join(each.expect)}, got {each.got} ({each.why})")
        print(f"{len(found) - len(wrong)} of {len(found)} as expected")
    return ExitCode.GATE if wrong else 0
