"""Scripts that a command has itself written, or made by a substitution: they are read before they run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import UNKNOWN, Command, Effect
from safewright.guard.parsing.shell.state import MOST_TEXT, State, place

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

MOST_FILES = 64
_SHEBANG = re.compile(r"#!\s*(?:\S*/env\s+(?:-S\s+)?)?(?:\S*/)?([a-z]+)")


def wrote(state: State, path: str, text: str | None, *, more: bool = False) -> None:
    """Remember what a file holds that the script writes (or adds to)."""
    texts = state.found.texts
    for cwd in state.cwds:
        name = place(path, cwd)
        if UNKNOWN in name or (name not in texts and len(texts) >= MOST_FILES):
            continue
        before = texts.get(name, "") if more else ""
        known = len(state.cwds) == 1 and text is not None and before is not None
        whole = (before or "") + (text or "")
        texts[name] = whole if known and len(whole) <= MOST_TEXT else None


def copied(state: State, source: str, target: str, into: str) -> None:
    """Remember that a file of the script's now also is elsewhere: at a path, or in a folder of that name."""
    texts = state.found.texts
    for cwd in state.cwds:
        name = place(source, cwd)
        if name in texts:
            for path in (target, f"{target.rstrip('/')}/{into}"):
                wrote(state, path, texts[name])


def text_of(state: State, path: str) -> tuple[bool, str | None]:
    """Whether the script has written a file, and its text."""
    texts = state.found.texts
    if path in texts:
        return True, texts[path]
    for cwd in state.cwds:
        name = state.found.followed(place(path, cwd), itself=False)
        if name in texts:
            return True, texts[name]
    return False, None


def ran(call: Call, path: str, arguments: list[str], *, here: bool = False, by: str = "") -> bool:
    """Read a script of the script's own where it is run; whether it is one.

    Args:
        call: Who runs it.
        path: The script.
        arguments: Its arguments.
        here: Whether it is sourced: it runs in the shell's own state.
        by: The interpreter; empty where the script names it.
    """
    written, text = text_of(call.state, path)
    if not written:
        return False
    from safewright.guard.parsing.shell.calls import SHELLS, fetched_before

    state = call.state if here else call.inside(by or "script")
    if text is None or text.strip(UNKNOWN + " \n") == "":
        call.walk.found.unclear("a script that the command writes")
        if fetched_before(call):
            call.walk.emit(Command(call.verb), [Effect("execute", "download", "host", call.verb)], state)
        return True
    key = "script " + path
    if key in state.calling:
        if state.background or state.piped:
            effect = Effect(
                "exhaust", "processes", "system", "script", detail="a script that multiplies itself"
            )
            call.walk.emit(Command(call.verb), [effect], state)
        return True
    named = _SHEBANG.match(text)
    language = by or (named[1] if named else "sh")
    kept = state.calling, state.positional
    state.calling = (*state.calling, key)
    if language in SHELLS or language == "sh":
        state.positional = tuple(arguments)
        call.walk.inner(text.replace("$0", path) if "$0" in text else text, state)
    else:
        program(call, language, text, tuple(arguments), state)
    state.calling, state.positional = kept
    return True


def program(call: Call, language: str, text: str, arguments: tuple[str, ...], state: State) -> None:
    """Read a program of another language than the shell's, and the commands that it runs."""
    from safewright.guard.parsing.shell.programs import read_other, read_python

    if language.startswith(("python", "pypy")):
        effects, scripts, unclear = read_python(text, arguments, call)
    elif language == "awk":
        effects, scripts, unclear = [], [], ["an awk program"]
    else:
        effects, scripts, unclear = read_other(language, text, call)
    for why in unclear:
        call.walk.found.unclear(why)
    call.walk.emit(Command(call.verb, ("-c", text)), effects, call.state)
    for script in scripts:
        if script.strip(UNKNOWN + " \n"):
            call.walk.inner(script, state.copy())
        else:
            call.walk.found.unclear("a command of a program")
