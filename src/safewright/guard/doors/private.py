"""Files of secrets: read only where nobody else can read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from safewright.errors import BadInput


def read_private(file: Path, what: str) -> str:
    """The text of a file that holds secrets, which no message shows.

    Args:
        what: What it holds, for messages: ``tokens``.

    Raises:
        BadInput: It cannot be read, or others than its owner can read it.
    """
    try:
        with open(file, encoding="utf-8") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The {what} in {file} cannot be read: {type(error).__name__}.") from error
    if stat.S_IMODE(mode) & 0o077:
        raise BadInput(
            f"Others than you can read the {what} in {file} (mode {stat.S_IMODE(mode):o}).",
            fix=f"chmod 600 {file}",
        )
    return text
