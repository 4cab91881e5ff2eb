"""The ``safewright`` command: its verbs, and how every failure leaves it."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from safewright.cli import audit, compare, data, doctor, lab, listing, measure, report
from safewright.errors import ExitCode, SafewrightError
from safewright.runs.run import disk_errors

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
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.add_typer(data.app, name="data")
app.add_typer(lab.app, name="lab")
app.command("doctor")(doctor.doctor)

INTERRUPTED = 130
"""What typer's runner returns for Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code (`safewright.errors.ExitCode`)."""
    # Libraries ask these once, at import: quiet, without pings, without forked-tokenizer warnings.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(int(run(arguments)))


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command; its error, if any, stands on stderr."""
    try:
        with disk_errors(Path.cwd()):
            result = app(arguments, standalone_mode=False, prog_name="safewright")
    except SafewrightError as error:
        return _say(error.exit_code, error.what, error.why, error.fix)
    except TyperException as error:
        return _say(ExitCode.BAD_INPUT, *_usage(error))
    except KeyboardInterrupt:
        result = INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout went away (``| head``): nothing more to say, nothing went wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception:  # noqa: BLE001 - the last door: shown whole, with the code of an internal error
        traceback.print_exc()
        return _say(
            ExitCode.INTERNAL,
            "This is an error in Safewright itself.",
            "",
            "Please report it with the lines above and the command.",
        )
    if result == INTERRUPTED:
        return _say(
            ExitCode.INCOMPLETE,
            "Stopped before the end.",
            "Everything answered so far is kept.",
            "Give the same command again: it goes on from there.",
        )
    return int(result or 0)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _usage(error: TyperException) -> tuple[str, str, str]:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "safewright"
    return message, "", f"See: {path} --help"


def _say(code: ExitCode, what: str, why: str, fix: str) -> int:
    lines = [f"error: {what}", *([f"  {why}"] if why else []), *([f"  {fix}"] if fix else [])]
    print("\n".join(lines), file=sys.stderr, flush=True)
    return code
