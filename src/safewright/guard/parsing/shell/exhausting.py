"""Pipelines that take without bound, locks that are held for long."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import Command, Effect
from safewright.guard.parsing.shell.touching import on

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

MANY = 1_000
_KEEPS = frozenset(["tee", "split", "dd", "sort", "tac", "tail", "sponge"])
_FILTERS = frozenset(
    [
        "cat", "tr", "sed", "awk", "gawk", "mawk", "grep", "nl", "rev", "base64", "gzip", "bzip2", "xz", "zstd", "xxd",
        "od", "pv", "paste", "fold", "cut",
    ]
)  # fmt: skip
_CHANGING = ("create", "write", "append", "log", "mount")


def count_of(text: str) -> int | None:
    """How many words or lines ``{1..N}`` or ``seq N`` make; None where a text has neither."""
    match = re.search(r"\{-?\d+\.\.(\d{1,12})", text) or re.search(
        r"\bseq\s+(?:-\w+\s+)*(?:\d+\s+){0,2}(\d{1,12})", text
    )
    return int(match[1]) if match else None


def of_pipeline(text: str, first: list[Command], rest: list[Command]) -> list[Effect]:
    """What a pipeline takes that its commands alone do not: a source without end that is kept, a command per line.

    Args:
        text: Its first part.
        first: The commands of its first part.
        rest: Those of its other parts, redirections among them.
    """
    endless = any(each.verb == "yes" for each in first)
    verbs = {each.verb for each in rest}
    kept = [each for each in rest if each.verb.startswith((">", "&>")) and each.effects]
    if endless and (verbs & _KEEPS - {"dd"} or (kept and verbs - {each.verb for each in kept} <= _FILTERS)):
        return [Effect("exhaust", "disk", "system", "yes", detail="without end")]
    count = count_of(text)
    if count is not None and count >= MANY:
        for each in rest:
            per_line = each.loops != 1 or {"xargs", "parallel"} & set(each.wrappers)
            if per_line and any(effect.kind in _CHANGING for effect in each.effects):
                return [Effect("exhaust", "disk", "system", each.verb, detail=f"{count} times")]
    return []


def does_sleep(call: Call) -> list[Effect]:
    """A sleep does nothing, but what holds a lock meanwhile keeps others waiting."""
    if call.walk.found.held and any(is_long(each) for each in call.fields[1:]):
        return [on(call, "exhaust", "lock", "system", "held long")]
    return []


def is_long(text: str) -> bool:
    """Whether a time is more than a minute and a half."""
    match = re.fullmatch(r"(\d{1,12})(?:\.\d*)?([smhd]?)", text)
    if match is None:
        return text in ("infinity", "inf")
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]] >= 100
