"""``git config``: keys whose values git runs, now and with every later command in the repository."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import UNKNOWN

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

_COMMANDS = re.compile(
    r"core\.(?:editor|pager|sshcommand|askpass|fsmonitor|gitproxy)|sequence\.editor|pager\..+|gpg\.(?:.+\.)?program"
    r"|diff\.(?:external|.+\.(?:command|textconv))|filter\..+\.(?:clean|smudge|process)|merge\..+\.driver"
    r"|(?:merge|diff)tool\..+\.(?:cmd|path)|(?:browser|man)\..+\.(?:cmd|path)|interactive\.difffilter"
    r"|remote\..+\.(?:uploadpack|receivepack)|uploadpack\.packobjectshook|credential\.(?:.+\.)?helper"
    r"|sendemail\..*cmd|trailer\..+\.(?:cmd|command)",
    re.I,
)
_FOLDERS = re.compile(
    r"core\.hookspath|init\.templatedir|include(?:if\..+)?\.path|core\.attributesfile", re.I
)
_ALIASES = re.compile(r"alias\..+|submodule\..+\.update", re.I)
_PLAIN = re.compile(r"(?:true|false|[A-Za-z][\w.-]*)(?:\s+-[\w=.-]*)*")
_LOOKS = frozenset(
    ["--get", "--get-all", "--get-regexp", "--get-urlmatch", "--get-color", "--list", "-l", "--unset", "--unset-all",
     "--remove-section", "--rename-section", "--edit", "-e", "--name-only", "--show-origin"]
)  # fmt: skip


def does_config(call: Call, words: list[str]) -> None:
    """Note what ``git config WORDS`` will have git run."""
    rest = list(words)
    if set(rest) & _LOOKS:
        return
    operands: list[str] = []
    while rest:
        word = rest.pop(0)
        if word in ("-f", "--file", "--blob", "--type", "--default", "--value", "--comment"):
            rest = rest[1:]
        elif not word.startswith("-") or operands:
            operands.append(word)
    if operands[:1] in (["get"], ["list"], ["unset"], ["remove-section"], ["rename-section"], ["edit"]):
        return
    operands = operands[1:] if operands[:1] == ["set"] else operands
    if len(operands) < 2:
        return
    key, value = operands[0], operands[1].strip()
    if UNKNOWN in key:
        call.walk.found.unclear("a setting of git that cannot be told")
    elif _FOLDERS.fullmatch(key):
        if value != "/dev/null":
            call.walk.found.unclear("a folder whose programs git runs")
    elif _ALIASES.fullmatch(key) and not value.startswith("!"):
        return
    elif (_COMMANDS.fullmatch(key) or _ALIASES.fullmatch(key)) and not _PLAIN.fullmatch(value):
        if value.startswith("/") and " " not in value:
            call.walk.found.unclear("a program that git runs")
        elif value:
            call.walk.inner(value.removeprefix("!").replace("%f", UNKNOWN), call.inside("git config"))
