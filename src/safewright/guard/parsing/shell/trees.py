"""Questions about syntax trees and loops, apart from what a walk knows."""

from __future__ import annotations

import re
from typing import Any

from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN


def leaves(node: Any) -> bool:
    """Whether a loop's body can end the loop: break, exit or return, not in another shell's text."""
    if node.type == "command":
        return node.text.split()[:1] in ([b"break"], [b"exit"], [b"return"])
    inside = (child for child in node.named_children if child.type not in ("subshell", "function_definition"))
    return any(leaves(child) for child in inside)


def feeds_itself(text: str) -> bool:
    """Whether a loop's body changes variables, so that its second round differs from its first."""
    return re.search(r"(?m)(?:^|[;\s])\w+\+?=[^=]|\bcd\s", text) is not None


def common(values: list[str]) -> str:
    """What many values have in common: their folder, and an unknown name in it."""
    folders = {value.rpartition("/")[0] for value in values}
    if any(".." in value or UNKNOWN in value for value in values) or len(folders) > 1:
        return UNKNOWN
    folder = folders.pop()
    return f"{folder}/{SCALAR}" if folder else SCALAR


def depth(root: Any) -> int:
    """How deeply a tree is nested, found without recursion."""
    deepest, level, cursor = 0, 0, root.walk()
    while True:
        if cursor.goto_first_child():
            level += 1
            deepest = max(deepest, level)
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return deepest
            level -= 1
