"""One small tree of errors. Each carries the exit code of its kind and a line that says what to do.

A message has three parts: what happened (with the value), why it matters, what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of every ``safewright`` command; 1 is never used on purpose."""

    OK = 0
    BAD_INPUT = 2
    NUMERICAL = 3
    INCOMPLETE = 4
    MISSING = 5
    UNDECIDED = 6
    GATE = 10
    UNSCORED = 11
    INTERNAL = 70


class SafewrightError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: What happened, with the offending value.
        why: Why it matters; may be empty where ``what`` says it.
        fix: What to do: a command, an option, or the nearest valid name.
    """

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(" ".join(part for part in (what, why, fix) if part))


class BadInput(SafewrightError):  # noqa: N818 - read as a noun: "raise BadInput"
    """An option, folder, file or row the user gave cannot be used as it is (exit 2)."""

    exit_code = ExitCode.BAD_INPUT


class NumericalFailure(SafewrightError):  # noqa: N818
    """Arithmetic failed: non-finite numbers, a factorisation that does not exist (exit 3)."""

    exit_code = ExitCode.NUMERICAL


class Incomplete(SafewrightError):  # noqa: N818
    """Work stopped half-way and can be resumed by the same command (exit 4)."""

    exit_code = ExitCode.INCOMPLETE


class Missing(SafewrightError):  # noqa: N818
    """A dependency, weights, data or a network peer is not there (exit 5)."""

    exit_code = ExitCode.MISSING


class GateFailed(SafewrightError):  # noqa: N818
    """A result did not pass a check it had to pass, or a claim is refuted (exit 10)."""

    exit_code = ExitCode.GATE


class TooManyUnscored(SafewrightError):  # noqa: N818
    """The measure ran, but more records than allowed carry no score (exit 11)."""

    exit_code = ExitCode.UNSCORED


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for a mistyped name: the nearest valid one, or all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Valid names: {', '.join(names)}." if names else "There are none."


def need_extra(package: str, extra: str) -> Missing:
    """The error for an optional dependency that is not installed, with its install line."""
    return Missing(
        f"The package {package!r} is not installed.",
        fix=f"Install it with: pip install 'safewright[{extra}]'",
    )
