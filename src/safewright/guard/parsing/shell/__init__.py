"""Shell commands, read without running them: what they would do, to what, as whom; and what cannot be told."""

from __future__ import annotations

from safewright.guard.parsing.shell.model import Command, Effect, EffectKind, Script

__all__ = ["Command", "Effect", "EffectKind", "Script", "parse_shell"]


def parse_shell(command: str | None) -> Script:
    """What a shell command would do.

    Nothing is run. What cannot be parsed is in `Script.unparsed`, what cannot be told from the text in
    `Script.unresolved`.

    Raises:
        Missing: The parser is not installed (``pip install "safewright[guard]"``).
    """
    from safewright.guard.parsing.shell.walking import read

    return read(command)
