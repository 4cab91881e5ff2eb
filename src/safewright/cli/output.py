"""Standard output and standard error, so that their failing is not taken for anything else's."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

from safewright.errors import Incomplete


def guard() -> None:
    """Put guarded streams in the place of the process's own.

    A reader who goes away (``| head``) does not stop a command half-way: the rest is written nowhere, and
    the command ends with its own exit code. Any other failure to write a result is an error of the output,
    not of the run's folder.
    """
    sys.stdout = _guarded(sys.stdout, result=True)
    sys.stderr = _guarded(sys.stderr, result=False)


def _guarded(stream: TextIO | None, *, result: bool) -> TextIO:
    raw = _Stream(None if stream is None else stream.fileno(), result)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",  # a name or an answer the terminal cannot show is no reason to fail
        line_buffering=not result or raw.isatty(),
    )


class _Stream(io.RawIOBase):
    """A file descriptor; None is one that was closed before the command began."""

    def __init__(self, descriptor: int | None, result: bool) -> None:
        self._descriptor, self._result = descriptor, result
        self._dead = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self._descriptor is None:
            raise io.UnsupportedOperation("this stream was closed before the command began")
        return self._descriptor

    def isatty(self) -> bool:
        return self._descriptor is not None and os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._dead:
            return size
        try:
            if self._descriptor is None:
                raise OSError(9, os.strerror(9))
            return os.write(self._descriptor, data)
        except BrokenPipeError:
            self._dead = True  # nobody reads any more
        except OSError as error:
            self._dead = True
            # What cannot be said on stderr cannot be said at all: the exit code remains.
            if self._result:
                raise Incomplete(
                    f"The result cannot be written to standard output ({error.strerror}).",
                    why="What a run found is kept in its folder.",
                    fix="Send the output elsewhere and give the same command again.",
                ) from error
        return size
