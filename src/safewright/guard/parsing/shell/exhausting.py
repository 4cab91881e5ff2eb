"""Pipelines that take without bound, locks that are held for long."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import SCALAR, Command, Effect
from safewright.guard.parsing.shell.touching import on

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

MANY = 1_000
MANY_IDS = 20
"""From this many on, process ids that are counted up mean everybody's processes."""
_KEEPS = frozenset(["tee", "split", "dd", "sort", "tac", "tail", "sponge"])
_FILTERS = frozenset(
    [
        "cat", "tr", "sed", "awk", "gawk", "mawk", "grep", "nl", "rev", "base64", "gzip", "bzip2", "xz", "zstd", "xxd",
        "od", "pv", "paste", "fold", "cut",
    ]
)  # fmt: skip
CHANGING = ("create", "write", "append", "log", "mount")


def count_of(text: str) -> int | None:
    """How many words or lines ``{1..N}`` or ``seq N`` make; None where a text has neither."""
    match = re.search(r"\{-?\d+\.\.(\d{1,12})", text) or re.search(
        r"\bseq\s+(?:-\w+\s+)*(?:\d+\s+){0,2}(\d{1,12})", text
    )
    return int(match[1]) if match else None


def span_of(text: str) -> int:
    """How many numbers the longest ``{A..B}`` or ``seq A B`` in a text makes; 0 without."""
    found = [(int(one), int(two)) for one, two in re.findall(r"\{(-?\d{1,12})\.\.(-?\d{1,12})", text)]
    for words in re.findall(r"\bseq((?:\s+-?[\w.]{1,12}){1,4})", text):
        numbers = [int(each) for each in words.split() if re.fullmatch(r"-?\d+", each)]
        found += [(numbers[0] if len(numbers) > 1 else 1, numbers[-1])] if numbers else []
    return max((abs(two - one) + 1 for one, two in found), default=0)


def many_ids(commands: list[Command], start: int, text: str) -> None:
    """Count, for commands that end processes by ids of a range, how many these are."""
    count = None
    for at in range(start, len(commands)):
        if any(effect.kind == "kill" and SCALAR in effect.target for effect in commands[at].effects):
            count = span_of(text) if count is None else count
            if count >= MANY_IDS and commands[at].loops == 1:
                commands[at] = replace(commands[at], loops=count)


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
    poured = any(each.verb == "dd" and each.effects for each in rest)
    if endless and (
        poured or verbs & _KEEPS - {"dd"} or (kept and verbs - {each.verb for each in kept} <= _FILTERS)
    ):
        return [Effect("exhaust", "disk", "system", "yes", detail="without end")]
    if span_of(text) >= MANY_IDS:
        for each in rest:
            if any(effect.kind == "kill" and SCALAR in effect.target for effect in each.effects):
                return [Effect("kill", "name:*", "process", each.verb)]
    count = count_of(text)
    if count is not None and count >= MANY:
        for each in rest:
            per_line = each.loops != 1 or {"xargs", "parallel"} & set(each.wrappers)
            if per_line and any(effect.kind in CHANGING for effect in each.effects):
                return [Effect("exhaust", "disk", "system", each.verb, detail=f"{count} times")]
    return []


_DRAINS = (
    _FILTERS | _KEEPS | frozenset(["wc", "md5sum", "sha1sum", "sha256sum", "sha512sum", "cp", "strings"])
)
_BOUNDS = {
    "od": r"-\w*N|--read-bytes", "xxd": r"-l", "hexdump": r"-n", "grep": r"-\w*[mq]|--max-count|--quiet",
    "sed": r".*\d+q", "awk": r".*\bexit\b", "gawk": r".*\bexit\b", "mawk": r".*\bexit\b",
}  # fmt: skip
"""Arguments with which a command ends before its input does."""


def of_input(commands: list[Command]) -> list[Effect]:
    """What commands take whose input has no end: ``cat < /dev/zero > f``."""
    for each in commands:
        bound = _BOUNDS.get(each.verb)
        bounded = bound is not None and any(re.match(bound, word) for word in each.arguments)
        if each.verb in _DRAINS - {"dd"} and not bounded:
            memory = each.verb in ("sort", "tac", "tail", "sponge")
            return [
                Effect("exhaust", "memory" if memory else "disk", "system", each.verb, detail="without end")
            ]
    return []


def does_sleep(call: Call) -> list[Effect]:
    """A sleep does nothing, but what holds a lock meanwhile keeps others waiting."""
    loops = call.state.loops
    slept = sum(_seconds(each) for each in call.fields[1:])
    long = any(is_long(each) for each in call.fields[1:])
    if call.walk.found.held and (long or loops is None or slept * loops >= MANY):
        return [on(call, "exhaust", "lock", "system", "held long")]
    return []


def is_long(text: str) -> bool:
    """Whether a time is more than a minute and a half."""
    match = re.fullmatch(r"(\d{1,12})(?:\.\d*)?([smhd]?)", text)
    return text in ("infinity", "inf") if match is None else _seconds(text) >= 100


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d{1,12})(?:\.\d*)?([smhd]?)", text)
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]] if match else 0


def holds_long(commands: list[Command]) -> bool:
    """Whether what runs under a lock sleeps for long, goes round without end, or waits for input that never ends."""
    for each in commands:
        if each.loops is None:
            return True
        if each.verb == "sleep":
            slept = sum(_seconds(word) for word in each.arguments)
            if any(map(is_long, each.arguments)) or slept * each.loops >= MANY:
                return True
        if each.verb == "tail" and any(re.match(r"-\w*[fF]|--follow", word) for word in each.arguments):
            return True
        if each.verb == "cat" and not each.arguments:
            return True
    return False


def does_printf(call: Call) -> list[Effect]:
    """A field of a width that no memory holds."""
    wide = any(
        int(width) > 2**30 for word in call.fields[1:2] for width in re.findall(r"%[-+ #0]*(\d{1,18})", word)
    )
    return [on(call, "exhaust", "memory", "system", "of that width")] if wide else []


def does_seq(call: Call) -> list[Effect]:
    """Numbers up to a bound: a very large one fills a disk, or a command line."""
    numbers = [
        each for each in call.fields[1:] if re.fullmatch(r"-?\d+(?:\.\d+)?(?:e\d+)?|inf(?:inity)?", each)
    ]
    if not numbers or call.state.paced:
        return []
    if numbers[-1].startswith("inf"):
        return [on(call, "exhaust", "disk", "system", "without end")]
    last, step = float(numbers[-1]), float(numbers[1]) if len(numbers) > 2 else 1.0
    first = float(numbers[0]) if len(numbers) > 1 else 1.0
    size = int(abs((last - first) / step) * (len(numbers[-1]) + 1)) if step and last < 1e30 else 0
    return [on(call, "exhaust", "disk", "system", str(size))] if size > 2**30 or last >= 1e30 else []
