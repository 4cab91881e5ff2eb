"""Editors and pagers that are told on a command line or by a pipe what to do: files they write, commands they run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import UNKNOWN, Effect
from safewright.guard.parsing.shell.options import value_of
from safewright.guard.parsing.shell.scripts import text_of
from safewright.guard.parsing.shell.touching import paths

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

_VALUED = frozenset(
    [
        "-c",
        "--cmd",
        "-S",
        "-s",
        "-u",
        "-U",
        "-i",
        "-T",
        "-w",
        "-W",
        "-t",
        "-q",
        "--remote-send",
        "--remote-expr",
    ]
)
_RANGE = r"(?:[\d.,$%;+\-]|'[\w<>]|/[^/]*/|\?[^?]*\?|\\[/?&])*"
_MODIFIER = re.compile(
    r"[:\s]+|(?:sil(?:ent)?|uns(?:ilent)?|keepj(?:umps)?|keepp(?:atterns)?|keepa(?:lt)?|kee(?:pmarks)?|lockm(?:arks)?"
    r"|noa(?:utocmd)?|nos(?:wapfile)?|verb(?:ose)?|vert(?:ical)?|lefta(?:bove)?|abo(?:veleft)?|rightb(?:elow)?"
    r"|bel(?:owright)?|to(?:pleft)?|bo(?:tright)?|tab|hid(?:e)?|conf(?:irm)?|san(?:dbox)?|windo|tabdo|bufdo|argdo"
    r"|cdo|cfdo|ldo|lfdo)!?(?=\s)"
)
"""What stands before a command and only says how, or where else, it is run."""
_RUNS = re.compile(rf"{_RANGE}\s?(?:(r|re|rea|read|w|wr|write|e|E|f)\s+)?!(?!$)(.+)", re.S)
_EVERY = re.compile(r"[\d.,$%]*\s?(?:g(?:lobal)?!?|v(?:global)?)([/#@,])(?:(?!\1).)*\1", re.S)
_TERMINAL = re.compile(r"ter(?:m(?:inal)?)?(?:\s+\+\+\S+)*\s+(.+)", re.S)
_FILES = re.compile(
    rf"({_RANGE})\s?"
    r"(wq?|wr|write|sav(?:eas)?|up(?:date)?|x|xit|W|r|re|rea|read|e|edit|E|f|vie?w|sp(?:lit)?|tabe(?:dit)?)"
    r"!?\s+(?:>>\s*)?([^!\s]\S*)"
)
_DARK = re.compile(
    r"\b(?:system|systemlist|libcall|libcallnr|writefile|delete|rename|mkdir|setfperm|job_start|jobstart|termopen"
    r"|term_start|popen|execute?|exe|norm(?:al)?|so(?:urce)?|runtime|au(?:tocmd)?|py(?:thon)?3?(?:file|x)?|lua(?:file|do)?"
    r"|perl(?:do)?|ruby(?:do)?|tcl(?:do)?|mz(?:scheme)?|call|eval)\b|\blet\s+&|=\s*!|<C-R>|\\<"
)
_SYSTEM = re.compile(
    r"\b(?:system|systemlist|termopen|jobstart|job_start)\(\s*(?:'([^']*)'|\"([^\"\\]*)\")\s*\)"
)
_SETS = re.compile(r"(?:se|set|setl|setlocal|setg|setglobal|setf|setfiletype)(?:\s.*)?", re.S)
_SET_PROGRAMS = re.compile(
    r"\b(?:sh|shell|shcf|shellcmdflag|\w*prg|\w*expr|\w*func|kp|mp|gp|ep|fp|pexpr|keywordprg)\s?="
)
_KEYS = re.compile(r"norm(?:al)?!? [\w ^$%{}()\[\]<>=,.;+-]*")
_SEARCH = re.compile(r"/[^/]*|\?[^?]*", re.S)
_INSERTS = re.compile(rf"\s*{_RANGE}\s*[aic]\s*$")


def does_edit(call: Call) -> list[Effect]:
    """An editor: its files are changed, its commands read."""
    rest, commands, files, found = list(call.fields[1:]), [], [], []
    silent = call.verb in ("ed", "ex", "red")
    while rest:
        word = rest.pop(0)
        if word.startswith("+") and len(word) > 1:
            commands.append(word[1:])
        elif word.startswith("+") or word == "--":
            continue
        elif word in _VALUED or (call.verb == "ed" and word == "-p"):
            if call.verb in ("ed", "ex", "red") and word in ("-s", "-S"):
                continue
            value = rest.pop(0) if rest else ""
            if word in ("-c", "--cmd", "--remote-send"):
                commands.append(value)
            elif word == "--remote-expr":
                call.walk.found.unclear("a program of an editor")
            elif word in ("-S", "-s", "-u") and value not in ("NONE", "NORC", "DEFAULTS", ""):
                found += _script(call, value, commands)
        elif word.startswith("-") and len(word) > 1:
            silent = silent or bool(re.fullmatch(r"-\w*[eE]s?\w*", word))
            if word.startswith(("-c", "-S")) and len(word) > 2:
                commands.append(word[2:])
        else:
            files.append(word)
    if call.verb == "emacs" or call.verb.startswith("emacs"):
        return _emacs(call)
    if call.verb in ("nano", "micro", "pico"):
        return paths(call, "append", files, detail="edit")
    if call.verb in ("ed", "red"):
        for each in files:
            _ = each.startswith("!") and call.walk.inner(each[1:], call.inside(call.verb))
        files = [each for each in files if not each.startswith("!")]
    if silent and call.stdin is not None:
        commands += _lines(call.stdin)
    elif silent and call.state.piped:
        call.walk.found.unclear("what an editor is told by a pipe")
    for command in commands:
        found += _told(call, command)
    return found + paths(call, "append", files, detail="edit")


def _script(call: Call, path: str, commands: list[str]) -> list[Effect]:
    written, text = text_of(call.state, path)
    if written and text is not None:
        commands += _lines(text)
        return []
    if written:
        call.walk.found.unclear("a script that the command writes")
    return paths(call, "execute", [path])


def _lines(text: str) -> list[str]:
    """The commands among lines: what is inserted, up to a full stop, is text."""
    found, inserting = [], False
    for line in text.split("\n"):
        if inserting:
            inserting = line.strip() != "."
        elif line.strip():
            found.append(line)
            inserting = _INSERTS.match(line) is not None
    return found


def _told(call: Call, command: str) -> list[Effect]:
    """One command of an editor's own language."""
    if UNKNOWN in command.lstrip(": ")[:1]:
        call.walk.found.unclear("a command of an editor")
        return []
    command = _bare(command)
    if every := _EVERY.match(command):
        command = _bare(command[every.end() :])
    if match := _RUNS.match(command):
        inside = call.inside(call.verb)
        inside.piped = (match[1] or "")[:1] == "w"
        call.walk.inner(match[2], inside)
        return []
    if match := _TERMINAL.match(command):
        call.walk.inner(match[1], call.inside(call.verb))
        return []
    if match := _SYSTEM.search(command):
        call.walk.inner(match[1] or match[2] or "", call.inside(call.verb))
        return []
    found: list[Effect] = []
    # `!` after a bar runs a command too; a bar in a pattern only makes parts that say nothing.
    for part in map(_bare, command.split("|")) if "|" in command else [command]:
        if part is not command and (match := _RUNS.match(part)):
            call.walk.inner(match[2], call.inside(call.verb))
        elif match := _FILES.match(part):
            writes = match[2][0] in "wsuxW" and not match[2].startswith("sp")
            found += paths(call, "write" if writes else "read", [match[3]])
        elif _SETS.fullmatch(part):
            if _SET_PROGRAMS.search(part):
                call.walk.found.unclear("programs that an editor runs")
        elif _KEYS.fullmatch(part):
            continue
        elif not _SEARCH.fullmatch(part) and _DARK.search(_unquoted(part)):
            call.walk.found.unclear("a command of an editor")
    return found


def _bare(command: str) -> str:
    """A command without what only says how it is run; its gaps are single blanks."""
    command = re.sub(r"\s+", " ", command)
    at = 0
    while match := _MODIFIER.match(command, at):
        at = match.end()
    return command[at:]


def _unquoted(part: str) -> str:
    """A command without what a substitution looks for and puts in its place (but ``\\=`` there is a program)."""
    match = re.match(rf"{_RANGE}\s?s(?:ubstitute)?([/#@,])", part)
    return "" if match and "\\=" not in part and not re.search(r"[ ,]e\b\s*$", part) else part


def _emacs(call: Call) -> list[Effect]:
    words = call.fields[1:]
    found = []
    for at, word in enumerate(words):
        if word.lstrip("-").partition("=")[0] in ("eval", "execute", "f", "funcall"):
            text = word.partition("=")[2] or (words[at + 1] if at + 1 < len(words) else "")
            for match in re.finditer(
                r'\((?:shell-command|shell-command-to-string|async-shell-command)\s+"([^"\\]*)"', text
            ):
                call.walk.inner(match[1], call.inside(call.verb))
            if re.search(r"shell|process|delete|write|rename|load|eval|copy|chmod|set-file|url-", text):
                call.walk.found.unclear("a program of an editor")
        elif word.lstrip("-") in ("l", "load", "script") and at + 1 < len(words):
            found += paths(call, "execute", [words[at + 1]])
        elif (
            not word.startswith(("-", "+"))
            and not words[at - 1].startswith("--")
            and (at == 0 or words[at - 1] not in ("-l", "-f", "-eval", "-load", "-script"))
        ):
            found += paths(call, "append", [word], detail="edit")
    return found


def does_page(call: Call) -> list[Effect]:
    """``less +!command``, ``man -P command``: pagers that run something."""
    words = call.fields[1:]
    if call.verb == "man":
        pager = value_of(words, "-P", "--pager")
        if pager and re.search(r"\s|/", pager):
            call.walk.inner(pager, call.inside("man"))
        return []
    for word in words:
        if match := re.match(r"\++\s*!(.+)", word, re.S):
            call.walk.inner(match[1], call.inside(call.verb))
    return paths(call, "read", [each for each in words if not each.startswith(("-", "+"))])
