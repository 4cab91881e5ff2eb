"""The ``safewright`` command: how it starts, and how every failure leaves it.

Nothing heavy is imported here: Ctrl-C must find its handler in place before the slow imports begin.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

INTERRUPTED = 130
"""What typer's runner returns for Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code (`safewright.errors.ExitCode`)."""
    _occupy()
    _hook(sys.argv[1:] if arguments is None else arguments)
    heard = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # nohup and the like ask to ignore it
    _on_signals(_leave, heard)
    # Libraries ask these once, at import: quiet, without pings, without forked-tokenizer warnings.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # What a library will rename in its next version is ours to see in tests, not a user's.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|trl)\b")
    from safewright.cli import app, output

    assert app is not None  # imported for its cost: from here on a command is at work
    sys.unraisablehook = _redeliver
    code = 0
    try:
        output.guard()
        _on_signals(_interrupt, heard)
        code = run(arguments)
    except KeyboardInterrupt:  # a second one, while the first was being told
        code = _stopped()
    finally:
        # What remains is the interpreter's own end: dying there by the signal is quiet.
        _on_signals(signal.SIG_DFL, heard)
    sys.exit(code)


def _hook(arguments: Sequence[str]) -> None:
    """Leave for ``guard hook`` at once: nothing that could fail with another exit code may come before it."""
    if list(arguments[:2]) != ["guard", "hook"]:
        return
    try:
        from safewright.guard.doors.hook import main as answer

        answer(arguments[2:])
    except BaseException:  # noqa: BLE001 - a coding agent lets a call run on every code but 2
        os.write(2, b"The guard failed, so the call was not made.\n")
    os._exit(2)


def _occupy() -> None:
    """Let no file become descriptor 0, 1 or 2: what is printed there would be written into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command; its error, if any, stands on stderr."""
    try:
        from safewright.cli.app import app

        given = _checked(sys.argv[1:] if arguments is None else arguments)
        result = app(given, standalone_mode=False, prog_name="safewright")
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as error:
        # Typer's runner leaves this way when a pipe breaks; no verb of ours does.
        return _failed(error.__context__ or error)
    except Exception as error:  # noqa: BLE001 - the last door: every kind has its words and its code
        return _failed(error)
    return _stopped() if result == INTERRUPTED else int(result or 0)


def _checked(arguments: Sequence[str]) -> list[str]:
    """The arguments, which the record of the run repeats.

    Raises:
        BadInput: One is not UTF-8, or holds a NUL.
    """
    from safewright.errors import BadInput

    for argument in arguments:
        shown = argument.encode("utf-8", "backslashreplace").decode()
        if shown != argument or "\0" in argument:
            raise BadInput(
                f"The argument {shown!r} is not UTF-8 text.",
                why="It could not be written into the record of the run.",
                fix="Rename the file, or give it by another path.",
            )
    return list(arguments)


def _failed(error: BaseException) -> int:
    """Say what went wrong, and give its exit code."""
    import traceback

    from typer.exceptions import TyperException

    from safewright.errors import ExitCode, SafewrightError

    if _interrupted(error):
        return _stopped()
    if isinstance(error, SafewrightError):
        return _say(error.exit_code, error.what, error.why, error.fix)
    if isinstance(error, TyperException):
        if not _usage(error)[0]:
            return ExitCode.BAD_INPUT  # no verb was given: the help, which says all, is already printed
        return _say(ExitCode.BAD_INPUT, *_usage(error))
    if isinstance(error, OSError):
        said = _system(error)
        if said is not None:
            return _say(said.exit_code, said.what, said.why, said.fix)
    traceback.print_exception(error)
    return _say(
        ExitCode.INTERNAL,
        "This is an error in Safewright itself.",
        "",
        "Please report it with the lines above and the command.",
    )


def _interrupted(error: BaseException) -> bool:
    """Whether an error is what a library made of Ctrl-C, as half-way imports do."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        if isinstance(each, KeyboardInterrupt):
            return True
        seen.add(id(each))
        waiting += [each.__cause__, each.__context__]
    return False


def _system(error: OSError) -> Any:
    """Our error for what the system says about a place the user named; None where it may be our own fault."""
    from safewright.errors import BadInput, Incomplete
    from safewright.runs.atomic import CLOSED, FULL

    place = error.filename2 or error.filename
    if error.errno in FULL:
        return Incomplete(
            f"No space left while writing to {place or 'the disk'} ({error.strerror}).",
            why="Everything written before is kept.",
            fix="Free some space and give the same command again: it goes on from here.",
        )
    if not _folder_is_there():
        return BadInput("The current folder was deleted.", fix="Change to another folder.")
    # A file of the user's that is missing has its own words elsewhere: here it may be one of ours.
    if isinstance(error, FileNotFoundError) or error.errno not in CLOSED or place is None:
        return None
    return BadInput(
        f"{place} cannot be used ({error.strerror}).",
        fix="Check the path and its permissions, or choose another.",
    )


def _folder_is_there() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _on_signals(handler: Any, heard: bool) -> None:
    signal.signal(signal.SIGTERM, handler)
    if heard:
        signal.signal(signal.SIGINT, handler)


def _leave(number: int, frame: Any) -> None:
    """Leave at once: while modules are imported nothing is open, and an exception might be lost in them."""
    os.write(2, _STOPPED.encode())
    os._exit(4)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _redeliver(lost: Any) -> None:
    """Send a Ctrl-C again that arrived where exceptions are dropped (a destructor, a callback)."""
    if lost.exc_type is None or not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    import threading

    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()


def _usage(error: Any) -> tuple[str, str, str]:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "safewright"
    return message, "", f"See: {path} --help"


_STOPPED = """error: Stopped before the end.
  Everything done so far is kept.
  Give the same command again: it goes on from there.
"""


def _stopped() -> int:
    print(_STOPPED, end="", file=sys.stderr, flush=True)
    return 4


def _say(code: int, what: str, why: str, fix: str) -> int:
    lines = [f"error: {what}", *([f"  {why}"] if why else []), *([f"  {fix}"] if fix else [])]
    print("\n".join(lines), file=sys.stderr, flush=True)
    return int(code)
