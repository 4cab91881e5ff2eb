"""python, perl, ruby, node, php: programs on a command line, in a file or a pipe, and the files they are given."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import SCALAR, Command, Effect
from safewright.guard.parsing.shell.scripts import program as run_program
from safewright.guard.parsing.shell.scripts import ran
from safewright.guard.parsing.shell.touching import paths

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

_VALUED = {"perl": "eEImMxCD", "ruby": "eIrCEK", "node": "epr", "php": "rdcef", "lua": "el"}
_LONG = ("--eval", "--print", "--require", "--import", "--loader")
_ATTACHED = {"perl": "i0lFMmxCD", "ruby": "i0FKW"}
"""Options whose value, if they have one, follows in the same word."""


def does_python(call: Call) -> str | None:
    """python -c, or a program from a here-document: read with ast."""
    from safewright.guard.parsing.shell.calls import fetched_before, script_file

    rest = call.fields[1:]
    program: str | None = None
    while rest and rest[0].startswith("-") and rest[0] != "-":
        option = rest.pop(0)
        if option == "-c" or (option.endswith("c") and option[1:2].isalpha() and not option.startswith("--")):
            program = rest.pop(0) if rest else ""
            break
        if option == "-m":
            module = rest.pop(0) if rest else ""
            from safewright.guard.parsing.shell.effects import module_effects

            effects = module_effects(call, module, rest)
            call.walk.emit(Command(call.verb, tuple(call.fields[1:])), effects, call.state)
            return None
        if option in ("-W", "-X") and rest:
            rest.pop(0)
    if program is None and (not rest or rest[0] == "-"):
        program = call.stdin
        if program is None:
            if call.state.piped:
                call.walk.found.unclear("a piped program")
                if fetched_before(call):
                    call.walk.emit(
                        Command(call.verb), [Effect("execute", "download", "host", call.verb)], call.state
                    )
                    return None
            versions = any(each in ("--version", "-V", "-h", "--help") for each in call.fields)
            call.walk.emit(Command(call.verb, tuple(call.fields[1:])), [], call.state)
            return SCALAR if versions else None
    if program is None:
        if not ran(call, rest[0], rest[1:], by="python"):
            script_file(call, rest[0])
        return None
    run_program(call, "python", program, tuple(rest), call.inside(call.verb))
    return None


def does_program(call: Call) -> str | None:
    """perl, ruby, node, php: a program on the command line is not known, unless it is plainly harmless."""
    from safewright.guard.parsing.shell.calls import script_file

    flags, programs, operands = _words(call)
    if not programs:
        if operands:
            if not ran(call, operands[0], operands[1:], by=call.verb):
                script_file(call, operands[0])
        elif call.stdin is not None:
            run_program(call, call.verb, call.stdin, (), call.inside(call.verb))
        else:
            if call.state.piped:
                call.walk.found.unclear("a piped program")
            call.walk.emit(Command(call.verb, tuple(call.fields[1:])), [], call.state)
        return None
    program = "\n".join(programs)
    run_program(call, call.verb, program, (), call.inside(call.verb))
    if operands and call.verb in ("perl", "ruby"):
        call.walk.emit(
            Command(call.verb, ("--", *operands)), _given(call, flags, program, operands), call.state
        )
    return None


def _given(call: Call, flags: set[str], program: str, operands: list[str]) -> list[Effect]:
    """What becomes of the files that a program is given: read line by line, edited in place, or its own business."""
    if flags & {"n", "p"}:
        return paths(
            call, "append" if "i" in flags else "read", operands, detail="edit" if "i" in flags else ""
        )
    if re.search(r"<(?:ARGV|<>|STDIN)?>|\bARGF\b|\bgets\b", program):
        return paths(
            call, "append" if "i" in flags else "read", operands, detail="edit" if "i" in flags else ""
        )
    if re.search(r"\bARGV\b|\bshift\b|\bpop\b", program) and any("/" in each for each in operands):
        call.walk.found.unclear("what a program does with the files it is given")
    return []


def _words(call: Call) -> tuple[set[str], list[str], list[str]]:
    """The option letters of an interpreter, the programs it is given, and the words after them."""
    wanted = {"node": "ep", "php": "r", "lua": "e"}.get(call.verb, "eE" if call.verb == "perl" else "e")
    valued, attached = _VALUED.get(call.verb, "e"), _ATTACHED.get(call.verb, "")
    flags: set[str] = set()
    programs: list[str] = []
    rest = call.fields[1:]
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            value = value if equals else rest.pop(0) if name in _LONG and rest else ""
            programs += [value] if name in ("--eval", "--print") else []
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flags.add(letter)
            if letter in wanted:
                programs.append(letters or (rest.pop(0) if rest else ""))
                break
            if letter == "i" and letter in attached:
                # The rest of the word is an ending for the old file: but `-pie` is mostly meant as `-pi -e`.
                if letters in ("e", "E") and rest:
                    programs.append(rest.pop(0))
                break
            if letter in attached:
                letters = letters.lstrip("0123456789x") if letter in "0l" else ""
            elif letter in valued:
                if not letters and rest:
                    rest.pop(0)
                break
    return flags, programs, rest
