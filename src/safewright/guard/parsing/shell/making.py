"""make: recipes of a makefile that comes by a pipe, or that the command has written, are read as a shell would."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import UNKNOWN, Effect
from safewright.guard.parsing.shell.scripts import text_of
from safewright.guard.parsing.shell.state import MOST_TEXT
from safewright.guard.parsing.shell.touching import on

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

MOST_CALLED = 32
_FILES = ("GNUmakefile", "makefile", "Makefile")
_OWN = {
    "CC": "cc",
    "CXX": "c++",
    "RM": "rm -f",
    "AR": "ar",
    "MAKE": "make",
    "LD": "ld",
    "AS": "as",
    "SHELL": "/bin/sh",
}
_SHELLS = re.compile(
    r"(?:/(?:usr/)?(?:local/)?bin/(?:env\s+)?)?(?:ba|da|z|k|a)?sh(?:\s+-[euxo]+(?:\s+pipefail)?)*"
)
_ASSIGNED = re.compile(r"\s*(?:export\s+|override\s+)*([A-Za-z_][\w.]*)\s*(:{0,3}=|\?=|\+=|!=)\s*(.*)")
_RULE = re.compile(r"([^\t#=:][^#=:]*):{1,2}(?!=)([^=;]*)(?:;(.*))?$")
_INCLUDED = re.compile(r"^[ ]*[-s]?include[ \t]+([^\n#]*)", re.M)
_FLAGS = re.compile(
    r"\.SHELLFLAGS[ \t]*(?::{0,3}|\+|\?)=(?![ \t]*(?:-[a-z]+|pipefail)(?:[ \t]+(?:-[a-z]+|pipefail))*[ \t]*$)",
    re.M,
)
_CALLED = re.compile(r"\$[({]shell\s+")
_NAMED = re.compile(r"\$(?:\(([\w.@<^*?]+)\)|\{([\w.@<^*?]+)\}|([@<^*?\w]))")


def does_make(call: Call) -> list[Effect]:
    """The effects of make itself; what its recipes do is read where their text is known."""
    words = call.fields[1:]
    given: dict[str, str] = {}
    named: list[str] = []
    rest = list(words)
    texts: list[str] = []
    folder = ""
    while rest:
        word = rest.pop(0)
        if word in ("-f", "--file", "--makefile", "-C", "--directory", "-I", "-o", "-W", "--eval", "-E"):
            # The grammar leaves out a lone `-` before a here-document.
            value = rest.pop(0) if rest else "-"
            if word in ("-f", "--file", "--makefile"):
                named.append(value)
            elif word in ("-C", "--directory"):
                folder += value.rstrip("/") + "/"
            elif word in ("--eval", "-E"):
                texts.append(value)
        elif match := re.match(r"(?:-[bBdeikLmnpqrRsStvw]*f|--file=|--makefile=)(.*)", word, re.S):
            named.append(match[1] or (rest.pop(0) if rest else "-"))
        elif word.startswith("--eval="):
            texts.append(word.partition("=")[2])
        elif match := re.fullmatch(r"([A-Za-z_][\w.]*)(?::{0,3}|\+|\?|!)=(.*)", word, re.S):
            given[match[1]] = match[2]
            texts.append(f"{match[1]} = {match[2]}")
    if "SHELL" in given and not _SHELLS.fullmatch(given["SHELL"].strip()):
        call.walk.found.unclear("the shell that make runs its recipes with")
    if not named:
        named = [each for each in _FILES if text_of(call.state, folder + each)[0]][:1]
    for each in named:
        if each in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
            if call.stdin is None or not call.stdin.strip(UNKNOWN + " \n"):
                call.walk.found.unclear("a makefile that comes by a pipe")
            else:
                texts.append(call.stdin)
        else:
            written, text = text_of(call.state, each if each.startswith("/") else folder + each)
            if written and text is None:
                call.walk.found.unclear("a makefile that the command writes")
            texts += [text] if written and text is not None else []
    for each in [name for text in texts for name in _INCLUDED.findall(text)]:
        for name in each.split()[:MOST_CALLED]:
            written, text = text_of(call.state, name if name.startswith("/") else folder + name)
            if written and text is None:
                call.walk.found.unclear("a makefile that the command writes")
            texts += [text] if text is not None and text not in texts else []
    if any(map(_FLAGS.search, [*words, *texts])):
        call.walk.found.unclear("the shell that make runs its recipes with")
    shown = any(
        re.fullmatch(r"-[bBeikLmpqrRsStvw]*n\w*|--dry-run|--just-print|--recon", each) for each in words
    )
    if any("\n" in each or "$" in each or ":" in each for each in texts):
        _read(call, "\n".join(texts), given)
    return (
        [on(call, "package", "make install", "package", "make")] if "install" in words and not shown else []
    )


def _read(call: Call, text: str, given: dict[str, str]) -> None:
    values = {**_OWN}
    commands: list[str] = []
    target, sources = "", ""
    if re.search(
        r"^\s*(?:\.RECIPEPREFIX|define\b|\.ONESHELL|load\b)|\$[({](?:eval|call|guile|file)\b", text, re.M
    ):
        call.walk.found.unclear("a makefile that is a program")
    if len(_CALLED.findall(text)) > MOST_CALLED:
        call.walk.found.unclear("a makefile that runs many programs as it is read")
        return
    for line in text.replace("\\\n", " ").split("\n"):
        for called in _CALLED.finditer(line):
            commands.append(_filled(_inner(line, called), values, target, sources))
        if line.startswith("\t"):
            commands.append(_filled(line.strip().lstrip("@-+ "), values, target, sources))
        elif match := _ASSIGNED.fullmatch(line):
            name, how, value = match.groups()
            if how == "!=":
                commands.append(_filled(value, values, "", ""))
            value = _filled(value, values, "", "", recipe=False)
            value = f"{values.get(name, '')} {value}" if how == "+=" else value
            values[name] = given.get(name, value)[:MOST_TEXT]
            if name == "SHELL" and not _SHELLS.fullmatch(values[name].strip()):
                call.walk.found.unclear("the shell that make runs its recipes with")
        elif match := _RULE.match(line):
            target, sources = match[1].strip(), match[2].strip()
            commands += (
                [_filled(match[3].strip().lstrip("@-+ "), values, target, sources)] if match[3] else []
            )
    if commands:
        call.walk.inner("\n".join(each for each in commands if each), call.inside("make"))


def _inner(line: str, match: re.Match[str]) -> str:
    """What stands in ``$(shell …)``, up to its bracket."""
    level, ends = 1, {"(": ")", "{": "}"}[match[0][1]]
    for at in range(match.end(), len(line)):
        level += (line[at] == match[0][1]) - (line[at] == ends)
        if level == 0:
            return line[match.end() : at]
    return line[match.end() :]


def _filled(text: str, values: dict[str, str], target: str, sources: str, *, recipe: bool = True) -> str:
    """A line with make's variables in their places; two dollars are the shell's own one."""
    own = {"@": target, "<": sources.split(" ")[0], "^": sources, "*": UNKNOWN, "?": sources}

    def one(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[3]
        return own.get(name, values.get(name, "" if name in values else UNKNOWN))

    parts = [_NAMED.sub(one, part) for part in text.split("$$")]
    parts = [re.sub(r"\$[({][^)}$]{0,200}[)}]", UNKNOWN, part) for part in parts]
    return ("$" if recipe else "$$").join(parts)[:MOST_TEXT]
