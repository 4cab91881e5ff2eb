"""How effects are noted: on paths, on other things, and by what never ends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from safewright.guard.parsing.shell.model import UNKNOWN, Effect
from safewright.guard.parsing.shell.options import value_of

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.calls import Call


def on(call: Call, kind: Any, target: str, thing: Any, detail: str = "") -> Effect:
    return Effect(
        kind, target, thing, call.verb, privileged=call.state.privileged, detail=detail,
        resolved=UNKNOWN not in target,
    )  # fmt: skip


def paths(call: Call, kind: Any, targets: list[str], **more: Any) -> list[Effect]:
    return [
        effect
        for target in targets
        for effect in call.walk.paths(kind, target, call.state, call.verb, **more)
    ]


BOTTOMLESS = re.compile(r"^/dev/(zero|urandom|random|full)$")


def endless(call: Call) -> list[Effect]:
    """Producers without an end, where nothing bounds them."""
    words = call.fields[1:]
    bottomless = call.verb == "yes" or any(BOTTOMLESS.match(each) for each in words)
    all_but = value_of(words, "-c", "-n", "--bytes", "--lines") if call.verb == "head" else None
    # `head -c -1` is all but the last, and of what never ends that is all.
    if (
        not (all_but or "").startswith("-")
        and call.verb in ("head", "od", "xxd", "hexdump")
        and any(
            each.startswith(("-c", "-n", "-N", "-l", "--bytes")) or re.fullmatch(r"-\d+", each)
            for each in words
        )
    ):
        limit = next((size_of(each) for each in words if size_of(each) is not None), None)
        if limit is None and any(UNKNOWN in each for each in words) and any(map(BOTTOMLESS.match, words)):
            call.walk.found.unclear("the size of what is made")
        return [on(call, "exhaust", "disk", "system", str(limit))] if limit and limit > 2**30 else []
    if not bottomless or call.state.paced or call.verb in ("ls", "stat", "file"):
        return []
    if call.verb == "yes" and call.state.piped:
        return []
    if (
        call.verb == "tail"
        or call.state.piped
        or call.verb in ("cat", "yes", "tac", "sort", "base64", "od", "strings", "head")
    ):
        return [
            on(
                call,
                "exhaust",
                "memory" if call.verb in ("tail", "tac", "sort") else "disk",
                "system",
                "without end",
            )
        ]
    return [on(call, "exhaust", "cpu", "system", "without end")]


def amount_of(text: str) -> int | None:
    """The number in ``10M``, ``4kB`` or ``64x1K``; None where it is none."""
    total = 1
    for part in text.split("x"):
        match = re.fullmatch(r"(\d{1,15})(?:([kKmMgGtTpPeE])(?:i?[bB])?|[cwbB])?", part)
        if match is None:
            return None
        total *= int(match[1]) * 1024 ** " kmgtpe".index((match[2] or " ").lower())
    return total


def size_of(text: str) -> int | None:
    """The bytes in ``10M``, ``-c5G`` or ``bs=1M``; None where it is no size."""
    match = re.search(r"(?:^|=|-c|-n|-l|-s|\+)(\d{1,15})([kKmMgGtTpPeE]?)(?:i?[bB])?$", text)
    if match is None:
        return None
    power = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}[match[2].lower()]
    return int(int(match[1]) * 1024**power)
