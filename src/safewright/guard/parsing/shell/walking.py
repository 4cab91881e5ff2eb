"""From a shell text to a script."""

from __future__ import annotations

from safewright.guard.parsing.shell.model import Script


def read(command: str | None) -> Script:
    """What a shell text is read as."""
    return Script(command or "", unparsed=("not yet read",))
