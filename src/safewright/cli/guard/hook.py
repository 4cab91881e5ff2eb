"""``safewright guard hook``: the answer to a coding agent's hook. What runs is in guard/doors/hook.py."""

from __future__ import annotations

import typer


def hook(context: typer.Context) -> None:
    """Answer a coding agent's pre-tool hook: JSON on stdin, exit code 0 to let a call run, 2 to stop it.

    For example, in the agent's settings: safewright-guard-hook --policy guard.toml || exit 2
    """
    from safewright.guard.doors.hook import main

    main(context.args)
