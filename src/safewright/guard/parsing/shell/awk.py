"""awk programs: the commands they run, the files they write, loops that never end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import UNKNOWN, Effect
from safewright.guard.parsing.shell.options import options, value_of
from safewright.guard.parsing.shell.pids import passed_on
from safewright.guard.parsing.shell.scripts import text_of
from safewright.guard.parsing.shell.touching import on, paths

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

_TOKEN = re.compile(
    r'"((?:[^"\\]|\\.)*)"|(#[^\n]*)|([A-Za-z_]\w*)|(>>|\|&|\|\||[|>]|[;{}()\n,])|([^\s"#A-Za-z_|>;{}(),]+)',
    re.S,
)
_MOST = 1_000
_ENDLESS = re.compile(r"\bwhile\s*\(\s*(?:1|\"x\"|1\s*==\s*1)\s*\)|\bfor\s*\(\s*;\s*;\s*\)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
Token = tuple[str, str]


def does_awk(call: Call) -> list[Effect]:
    """The effects of awk, gawk and mawk."""
    words = call.fields[1:]
    _, operands = options(words, "Fvf", ("-i",))
    file = value_of(words, "-f")
    program = (text_of(call.state, file)[1] or "") if file else operands[0] if operands else ""
    files = operands if file else operands[1:]
    given = dict(each.partition("=")[::2] for each in (value_of(words, "-v") or "", *files) if "=" in each)
    found = _program(call, program, given)
    if "inplace" in words:
        return found + paths(call, "append", files, detail="edit")
    if passed_on(call) is not None:
        files = []
    return found + paths(call, "read", [each for each in files if "=" not in each])


def _program(call: Call, program: str, given: dict[str, str]) -> list[Effect]:
    tokens = list(_tokens(program))
    if len(tokens) > _MOST:
        call.walk.found.unclear("a long awk program")
        return []
    texts: dict[str, str] = dict(given)
    for one, two, three in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if one[0] == "name" and two == ("other", "=") and three[0] == "text":
            texts[one[1]] = three[1] if texts.get(one[1], three[1]) == three[1] else UNKNOWN
    found: list[Effect] = []
    for at, token in enumerate(tokens):
        if token == ("name", "system"):
            _runs(call, _joined(tokens[at + 2 :], texts, {")"}, depth=True), None)
        elif token in (("mark", "|"), ("mark", "|&")):
            if tokens[at + 1 : at + 2] == [("name", "getline")]:
                _runs(call, _joined(_back(tokens, at), texts, set()), None)
            else:
                shown = _joined(_printed(tokens, at), texts, set())
                _runs(call, _joined(tokens[at + 1 :], texts, {";", "}", "\n"}), shown)
        elif token in (("mark", ">"), ("mark", ">>")) and _prints(tokens, at):
            target = _joined(tokens[at + 1 :], texts, {";", "}", "\n"})
            found += paths(call, "append" if token[1] == ">>" else "write", [target])
    if _ENDLESS.search(program) and not re.search(r"\b(exit|break|getline|return)\b", program):
        found.append(on(call, "exhaust", "disk" if found else "memory", "system", "without end"))
    return found


def _runs(call: Call, text: str, stdin: str | None) -> None:
    if not text.strip(UNKNOWN + " "):
        call.walk.found.unclear("a command in an awk program")
        return
    inside = call.inside("awk")
    if stdin is not None:
        inside.piped = True
        if re.fullmatch(r"\s*(?:/\S*/)?(?:ba|da|z|k|a)?sh\s*", text):
            if UNKNOWN in stdin:
                call.walk.found.unclear("a command in an awk program")
            text = stdin
    call.walk.inner(text, inside)


def _tokens(program: str) -> list[Token]:
    found: list[Token] = []
    for match in _TOKEN.finditer(program):
        if match[1] is not None:
            text = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), match[1], flags=re.S)
            found.append(("text", text))
        elif match[3]:
            found.append(("name", match[3]))
        elif match[4]:
            found.append(("mark", match[4]))
        elif match[5]:
            # An assignment is told from a comparison; everything else only has to be something.
            found.append(("other", match[5]))
    return found


def _joined(tokens: list[Token], texts: dict[str, str], ends: set[str], *, depth: bool = False) -> str:
    """The text that awk makes of what stands beside each other, up to an end."""
    out, level = [], 0
    for kind, text in tokens:
        if kind == "mark":
            if text == "(" and depth:
                level += 1
            elif text in ends and level == 0:
                break
            elif text == ")" and depth:
                level -= 1
            elif text in ("(", ")"):
                continue
            else:
                out.append(" " if text == "," else UNKNOWN)
        elif kind == "text":
            out.append(text)
        else:
            out.append(texts.get(text, UNKNOWN) if kind == "name" else UNKNOWN)
    return "".join(out)


def _back(tokens: list[Token], at: int) -> list[Token]:
    """What stands before a pipe, from the last statement's end."""
    start = at
    while start and not (
        tokens[start - 1][0] == "mark" and tokens[start - 1][1] in (";", "{", "}", "\n", "(")
    ):
        start -= 1
    return tokens[start:at]


def _printed(tokens: list[Token], at: int) -> list[Token]:
    return [each for each in _back(tokens, at) if each not in (("name", "print"), ("name", "printf"))]


def _prints(tokens: list[Token], at: int) -> bool:
    return any(each in (("name", "print"), ("name", "printf")) for each in _back(tokens, at))
