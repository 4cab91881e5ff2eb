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


_TAKE = {
    "filter-branch": r"--(?:tree|index|msg|env|commit|parent|tag-name)-filter|--setup",
    "rebase": r"-x|--exec",
    "difftool": r"-x|--extcmd",
    "grep": r"-O|--open-files-in-pager",
    "fetch": r"--upload-pack",
    "pull": r"--upload-pack",
    "clone": r"-u|--upload-pack",
    "ls-remote": r"--upload-pack|--exec",
    "push": r"--receive-pack|--exec",
    "archive": r"--exec",
}
"""Options whose values git runs."""


def plain_ssh(command: str) -> bool:
    """Whether a command that git connects with is ssh, with options that run nothing."""
    plain = re.fullmatch(r"ssh(?:\s+[\w./=@:~+-]+)*", command)
    return plain is not None and re.search(r"(?:Proxy|Local)Command", command, re.I) is None


def runs(key: str) -> bool:
    """Whether a setting names what git runs."""
    return any(each.fullmatch(key.strip()) for each in (_COMMANDS, _FOLDERS, _ALIASES))


def does_setting(call: Call, text: str) -> None:
    """``git -c KEY=VALUE``."""
    key, equals, value = text.partition("=")
    if equals:
        does_config(call, [key, value])


def runs_commands(call: Call, verb: str, words: list[str]) -> None:
    """Read the commands that ``git VERB WORDS`` is told to run."""
    from safewright.guard.parsing.shell.calls import requoted

    commands: list[str] = []
    if verb == "bisect" and words[:1] == ["run"]:
        commands.append(" ".join(map(requoted, words[1:])))
    elif verb == "submodule" and "foreach" in words:
        rest = words[words.index("foreach") + 1 :]
        while rest and rest[0].startswith("-"):
            rest = rest[1:]
        commands.append(rest[0] if len(rest) == 1 else " ".join(map(requoted, rest)))
    option = re.compile(rf"({_TAKE[verb]})(?:=|$)(.*)", re.S) if verb in _TAKE else None
    for at, word in enumerate(words):
        if option is not None and (match := option.match(word)):
            attached = "=" in word[len(match[1]) :][:1] or verb == "grep"
            commands.append(match[2] if attached else "".join(words[at + 1 : at + 2]))
        elif (verb == "grep" and word.startswith("-O")) or (
            verb in ("rebase", "difftool") and word.startswith("-x")
        ):
            commands.append(word[2:])
        elif verb in ("clone", "fetch", "pull", "ls-remote", "remote", "submodule") and word.startswith(
            "ext::"
        ):
            commands.append(word.removeprefix("ext::").replace("%S", "x").replace("%G", ""))
        elif verb in ("clone", "init") and word.startswith("--template=") and word != "--template=":
            call.walk.found.unclear("a folder whose programs git runs")
        elif verb == "clone" and word in ("-c", "--config"):
            does_setting(call, "".join(words[at + 1 : at + 2]))
        elif verb == "clone" and word.startswith("--config="):
            does_setting(call, word.partition("=")[2])
    for each in commands:
        if each.strip() and each not in ("git-upload-pack", "git-receive-pack"):
            call.walk.inner(each, call.inside("git"))


def does_config(call: Call, words: list[str]) -> None:
    """Note what ``git config WORDS`` will have git run."""
    rest = list(words[1:] if words[:1] == ["set"] else words)
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
    if len(operands) < 2:
        return
    key, value = operands[0], operands[1].strip()
    if UNKNOWN in key:
        call.walk.found.unclear("a setting of git that cannot be told")
    elif _FOLDERS.fullmatch(key):
        if value != "/dev/null":
            call.walk.found.unclear("a folder whose programs git runs")
    elif (_ALIASES.fullmatch(key) and not value.startswith("!")) or (
        key.lower() == "core.sshcommand" and plain_ssh(value)
    ):
        return
    elif (_COMMANDS.fullmatch(key) or _ALIASES.fullmatch(key)) and not _PLAIN.fullmatch(value):
        if value.startswith("/") and " " not in value:
            call.walk.found.unclear("a program that git runs")
        elif value:
            call.walk.inner(value.removeprefix("!").replace("%f", UNKNOWN), call.inside("git config"))
