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


def stray(node: Any) -> list[Any]:
    """Words behind a redirection that the grammar takes for a part of it: ``rm -rf 2>/dev/null /etc``."""
    if node.type == "file_redirect":
        closes = any(child.type in (">&-", "<&-") for child in node.children)
        return list(node.children_by_field_name("destination")[0 if closes else 1 :])
    if node.type != "heredoc_redirect":
        return []
    inside = [child for child in node.named_children if child.type == "file_redirect"]
    return [*node.children_by_field_name("argument"), *(word for each in inside for word in stray(each))]


def last_command(node: Any) -> Any:
    """The command whose redirections these are, where they hang on a list or a pipeline; None without one."""
    while node is not None and node.type != "command":
        if node.type == "redirected_statement":
            node = node.child_by_field_name("body")
        elif node.type in ("list", "pipeline", "negated_command") and node.named_children:
            node = node.named_children[-1]
        else:
            return None
    return node


def unticked(node: Any) -> str | None:
    """The script of a substitution in backticks in which others stand: the grammar reads these as words."""
    text = node.text.decode("utf-8", "replace")
    nested = node.type == "command_substitution" and text.startswith("`") and "\\`" in text
    return re.sub(r"\\([$`\\])", r"\1", text[1:-1]) if nested else None


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
