"""Prompts that leave an answer no room: one wording for all engines, with numbers that can be read back."""

from __future__ import annotations

import re

from safewright.types import Decoding, Generation

_COUNTS = re.compile(r"the prompt has (\d+) tokens, the context (\d+)\b")


def least_room(how: Decoding) -> int:
    """The tokens that a prompt must leave for its answer."""
    return min(how.least_room, how.max_new_tokens)


def overlong(prompt: int, context: int, least: int = 1, *, said: str = "") -> Generation:
    """What becomes of a prompt that leaves fewer than ``least`` tokens of the context; ``said`` are a server's
    own words."""
    why = f"the prompt has {prompt} tokens, the context {context}"
    if prompt < context:
        why += f"; an answer needs at least {least}"
    return Generation("", "", "", True, "overlong", 0, f"{why}: {said}" if said else why)


def overlong_counts(generation: Generation) -> tuple[int, int] | None:
    """The tokens of an overlong prompt and of the context; None where it is not overlong, or nobody counted."""
    found = _COUNTS.match(generation.error) if generation.stop == "overlong" else None
    return (int(found[1]), int(found[2])) if found else None
