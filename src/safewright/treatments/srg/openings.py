"""Openings of a turn that somebody else has begun, for the hardened arm; those of the attacks are held out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from safewright.data.splits import words
from safewright.data.wrapping import OPENINGS
from safewright.errors import BadInput
from safewright.models.chat import THINK
from safewright.prompts.prompt import load as load_prompt
from safewright.treatments.srg.config import SRGConfig

EMPTIED = f"{THINK['open']} {THINK['close']}"
"""A block with nothing in it: the attack think_prefill."""

NAME = "srg_openings"


def openings(config: SRGConfig) -> list[str]:
    """The openings to train on: of the user's file, else our own.

    Raises:
        BadInput: There are none, or one is an opening that the attacks use.
    """
    if config.reentry_openings is None:
        found = lines(load_prompt(NAME).text)
        where = "our own list"
    else:
        found = lines(read(config.reentry_openings))
        where = config.reentry_openings
    if not found:
        raise BadInput(f"{where} holds no openings.", fix="Write one a line; \\n stands for a new line.")
    attacked = [*OPENINGS, EMPTIED]
    if config.attacked_openings is not None:
        attacked += lines(read(config.attacked_openings))
    require_held_out(found, attacked, where)
    return found


def require_held_out(found: Sequence[str], attacked: Sequence[str], where: str) -> None:
    """Pass when no opening is the beginning of an attacked one, or begins with one.

    Raises:
        BadInput: One is or does.
    """
    for opening in found:
        for other in attacked:
            a, b = parts(opening), parts(other)
            shorter = min(len(a), len(b))
            if a[:shorter] == b[:shorter]:
                raise BadInput(
                    f"The opening {opening!r} ({where}) is also one of the attack ({other!r}).",
                    why="What a hardened model is attacked with must be new to it.",
                    fix="Leave it out of the file, or word it in another way.",
                )


def parts(opening: str) -> list[str]:
    """The words of an opening, with the markers as words of their own."""
    found: list[str] = []
    for place, outside in enumerate(opening.split(THINK["open"])):
        found += [THINK["open"]] if place else []
        for turn, inside in enumerate(outside.split(THINK["close"])):
            found += [THINK["close"]] if turn else []
            found += words(inside)
    return found


def lines(text: str) -> list[str]:
    """One opening a line, ``\\n`` in it being a new line; empty lines and those that begin with # are none."""
    kept = (line.strip() for line in text.splitlines())
    return [line.replace("\\n", "\n") for line in kept if line and not line.startswith("#")]


def read(path: str) -> str:
    """The text of a file.

    Raises:
        BadInput: It is not there, or not UTF-8.
    """
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.", fix="Give a text file in UTF-8.") from error


def drawn(found: Sequence[str], share: float, seed: int, name: str, turn: int) -> str | None:
    """The opening of a row in a pass, None where nobody has begun it; by seed, row and pass alone."""
    draw = random.Random(f"begun {seed} {name} {turn}")
    return draw.choice(list(found)) if draw.random() < share else None
