"""Variables that make other programs run something: what a shell looks up, loads, or asks before each prompt."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import UNKNOWN, under
from safewright.guard.parsing.shell.scripts import text_of
from safewright.guard.parsing.shell.state import HOME, State, place
from safewright.guard.parsing.shell.versioning import plain_ssh, runs

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.walking import _Walk as Walk

_COMMANDS = frozenset(
    [
        "BROWSER",
        "EDITOR",
        "FCEDIT",
        "GIT_ASKPASS",
        "GIT_EDITOR",
        "GIT_EXTERNAL_DIFF",
        "GIT_PAGER",
        "GIT_PROXY_COMMAND",
        "GIT_SEQUENCE_EDITOR",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "LESSCLOSE",
        "LESSOPEN",
        "MANPAGER",
        "PAGER",
        "PROMPT_COMMAND",
        "SSH_ASKPASS",
        "SUDO_EDITOR",
        "SYSTEMD_PAGER",
        "VISUAL",
    ]
)
"""Their values are commands."""
_PROMPTS = frozenset(["PS0", "PS1", "PS2", "PS3", "PS4", "PROMPT"])
"""Substitutions in their values are commands."""
_LOADED = frozenset(
    [
        "BASH_ENV",
        "DYLD_INSERT_LIBRARIES",
        "GCONV_PATH",
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_PARAMETERS",
        "GIT_CONFIG_SYSTEM",
        "GIT_TEMPLATE_DIR",
        "LD_AUDIT",
        "LD_PRELOAD",
        "MAKEFILES",
        "PERL5DB",
        "PYTHONSTARTUP",
        "ZDOTDIR",
    ]
)
"""Their values are loaded, or run, by programs that have nothing to do with them."""
_OPTIONS = {
    "PERL5OPT": r"-[mMIdx]",
    "RUBYOPT": r"-[rI]",
    "NODE_OPTIONS": r"(?:^|\s)(?:-r\b|--(?:require|import|loader|experimental-loader))",
    "JAVA_TOOL_OPTIONS": r"-(?:javaagent|agentpath|agentlib|Xbootclasspath)",
    "_JAVA_OPTIONS": r"-(?:javaagent|agentpath|agentlib|Xbootclasspath)",
    "MAKEFLAGS": r"--eval|-\w*f|SHELL=",
    "GNUMAKEFLAGS": r"--eval|-\w*f|SHELL=",
}
"""Options in their values that load something."""
_SEARCHED = frozenset(["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "GIT_EXEC_PATH", "CDPATH"])
_FOR_PROGRAMS = re.compile(r"/(?:s?bin|\.bin|shims|Scripts|lib(?:32|64)?|libexec)(?:/|$)")
_PLAIN = re.compile(r"[\w./+@-]+(?:\s+-[\w=-]*)*")
MOST_FOLDERS = 128
_SHARED = ("/tmp", "/var/tmp", "/dev/shm")


def does_environment(walk: Walk, name: str, value: str, state: State) -> None:
    """Note what a variable's value makes other programs do."""
    name = state.named(name.partition("[")[0])
    if name in _COMMANDS:
        _command(walk, name, value, state)
    elif name in _PROMPTS and re.search(r"\$\(|`", value):
        walk.inner(f': "{value}"' if '"' not in value else value, state.copy())
    elif name in _SEARCHED:
        entries = list(dict.fromkeys(value.split(":")))
        if len(entries) > MOST_FOLDERS:
            walk.found.unclear(f"that many folders in {name}")
        for entry in entries[:MOST_FOLDERS]:
            _searched(walk, name, entry, state)
    elif name in _LOADED or (name == "ENV" and ("/" in value or UNKNOWN in value or HOME in value)):
        _loaded(walk, name, value, state)
    elif re.fullmatch(r"GIT_CONFIG_KEY_\d+", name) and runs(value):
        walk.found.unclear("a program that git runs")
    elif name in _OPTIONS and re.search(_OPTIONS[name], value):
        walk.found.unclear(f"what {name} loads")


def _command(walk: Walk, name: str, value: str, state: State) -> None:
    if name.startswith("LESS"):
        # Marks before the command say how its output is taken.
        value = value.lstrip("|-")
    if not value.strip() or (name != "PROMPT_COMMAND" and _PLAIN.fullmatch(value)):
        return
    if not value.strip(UNKNOWN + HOME + " "):
        walk.found.unclear(f"the command in {name}")
        return
    if name.startswith("GIT_SSH") and plain_ssh(value):
        return
    inside = state.copy()
    inside.wrappers = (*inside.wrappers, name)
    walk.inner(value, inside)


def _loaded(walk: Walk, name: str, value: str, state: State) -> None:
    if not value.strip() or value == "/dev/null":
        return
    written, text = text_of(state, value)
    if written and text is not None and name in ("BASH_ENV", "ENV"):
        inside = state.copy()
        inside.wrappers = (*inside.wrappers, name)
        walk.inner(text, inside)
        return
    walk.found.unclear(f"what {name} loads")


def _searched(walk: Walk, name: str, entry: str, state: State) -> None:
    """A folder in which programs or libraries are looked for: one that others may write to is none of the system's."""
    if name == "CDPATH" or (not entry and name != "PATH") or entry == UNKNOWN + UNKNOWN:
        return
    if not entry.strip(UNKNOWN):
        if name == "PATH" or entry == "":
            walk.found.unclear(f"a folder in {name}")
        return
    for cwd in state.cwds:
        path = place(entry, cwd)
        if entry.startswith(UNKNOWN):
            # Where a variable of the host's leads is not known; that a folder of programs is meant can be told.
            if not _FOR_PROGRAMS.search(entry):
                walk.found.unclear(f"a folder in {name}")
            continue
        walk.found.searched.add(path)
        if path == "." or under(path, _SHARED) or (path == cwd and name == "PATH"):
            walk.found.unclear(f"a folder in {name} that anybody may write to")


def searched(walk: Walk) -> None:
    """Programs that the script itself writes into a folder it then looks for programs in."""
    for path in walk.found.texts:
        if posixpath.dirname(path) in walk.found.searched:
            walk.found.unclear("a program that is found by its name, and written by the command")
