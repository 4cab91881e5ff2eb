"""Arithmetic whose outcome follows from the text."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from safewright.guard.parsing.shell.model import SCALAR

_MOST = 10**15
_OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


def computed(text: str, known: Callable[[str], str | None]) -> str:
    """An arithmetic expansion's number; a scalar where it cannot be told."""
    inner = text.removeprefix("$((").removesuffix("))").removeprefix("$[").removesuffix("]").strip()
    if len(inner) > 200 or not re.fullmatch(r"[\w\s$+*/%()-]*", inner):
        return SCALAR
    try:
        tree = ast.parse(re.sub(r"\$(?=\w)", "", inner), mode="eval")
        value = number_of(tree.body, known)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return SCALAR
    return SCALAR if value is None else str(value)


def number_of(node: Any, known: Callable[[str], str | None]) -> int | None:
    """The whole number that an expression of numbers comes to; None where it cannot be told, or is huge."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int) and abs(node.value) < _MOST else None
    if isinstance(node, ast.Name):
        text = known(node.id)
        return int(text) if text is not None and re.fullmatch(r"-?\d{1,15}", text) else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = number_of(node.operand, known)
        return None if value is None else -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        one, two = number_of(node.left, known), number_of(node.right, known)
        if one is None or two is None:
            return None
        if isinstance(node.op, (ast.Pow, ast.LShift)):
            return _power(one, two) if isinstance(node.op, ast.Pow) else _power(2, two, one)
        does = _OPERATORS.get(type(node.op))
        value = does(one, two) if does is not None else None
        return None if value is None or abs(value) > _MOST**2 else value
    return None


def _power(base: int, power: int, times: int = 1) -> int | None:
    return base**power * times if 0 <= power <= 60 and abs(base) <= 1024 else None
