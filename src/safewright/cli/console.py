"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safewright.runs import to_json

PLAIN_EVERY = 10.0
"""Seconds between plain progress lines."""


def say(text: str) -> None:
    """A line for the reader, on stderr."""
    print(text, file=sys.stderr, flush=True)


def result(obj: Any) -> None:
    """A result as JSON, on stdout."""
    # Outside UTF-8 every other letter is an escape: the text stays JSON whatever the terminal's letters are.
    plain = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    print(json.dumps(to_json(obj), ensure_ascii=not plain, indent=2))


def show(drawn: Any) -> None:
    """A table for the reader, on stdout."""
    from rich.console import Console

    # Names and paths come from the user: brackets and colons in them are no markup.
    Console(markup=False, emoji=False).print(drawn)


@contextmanager
def progress() -> Iterator[Any]:
    """A callback ``(what, done, total)`` that shows how far the work is, its rate and the time left."""
    if sys.stderr.isatty():
        with _bar() as callback:
            yield callback
    else:
        yield _Lines()


@contextmanager
def _bar() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)
            if done >= total:
                bar.remove_task(tasks.pop(what))

        yield show


class _Lines:
    """Plain progress lines, at most one in `PLAIN_EVERY` seconds per kind of work."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[float, int]] = {}
        self.last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, first = self.begun.setdefault(what, (now, done))
        if done >= total:
            self.begun.pop(what)
        if now - self.last < PLAIN_EVERY:
            return
        self.last = now
        rate = (done - first) / (now - start) if now > start else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
        say(f"{what}: {done}/{total} ({rate:.1f}/s{left})")
