"""A simple command carried out on paper: wrappers taken off, inner scripts read, output computed where it can be."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.call import Call
from safewright.guard.parsing.shell.exhausting import holds_long
from safewright.guard.parsing.shell.interpreters import does_program, does_python
from safewright.guard.parsing.shell.launching import does_environment
from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN, Command, Effect
from safewright.guard.parsing.shell.options import operands_after, options
from safewright.guard.parsing.shell.pids import named
from safewright.guard.parsing.shell.positional import does_set, does_shift
from safewright.guard.parsing.shell.printing import PRINTERS
from safewright.guard.parsing.shell.scripts import ran
from safewright.guard.parsing.shell.state import HOME, State, has_glob, place, settled

if TYPE_CHECKING:
    pass

SHELLS = frozenset(["sh", "bash", "dash", "zsh", "ksh", "ash", "rbash", "fish"])
# Wrappers whose own options may take a value, and how many operands stand before the command.
WRAPPERS: dict[str, tuple[str, int]] = {
    "nohup": ("", 0), "setsid": ("", 0), "time": ("fo", 0), "stdbuf": ("ioe", 0), "exec": ("a", 0),
    "command": ("", 0), "builtin": ("", 0), "timeout": ("ks", 1), "nice": ("n", 0), "ionice": ("cnpt", 0),
    "busybox": ("", 0), "toybox": ("", 0), "unshare": ("", 0), "strace": ("oepE", 0), "ltrace": ("oepE", 0),
    "taskset": ("", 1), "chrt": ("", 1), "systemd-run": ("pu", 0), "watch": ("n", 0), "fakeroot": ("", 0),
    "env": ("uC", 0), "doas": ("uC", 0), "sudo": ("ugpCchrtTRD", 0), "pkexec": ("", 0), "runuser": ("ug", 0),
    "xvfb-run": ("", 0), "caffeinate": ("", 0), "coproc": ("", 0), "then": ("", 0),
}  # fmt: skip
RAISING = ("sudo", "doas", "pkexec", "runuser")


def carry_out(call: Call) -> str | None:
    """Note a command's effects; what it prints, where that can be told."""
    if not call.fields:
        return ""
    verb, state = call.verb, call.state
    if len(state.calling) + len(state.wrappers) > 60:
        return None
    name = call.fields[0]
    if (
        UNKNOWN in name
        or (HOME in name and name.strip(HOME + "/") == "")
        or (has_glob(name) and name not in ("[", "[["))
    ):
        call.walk.found.unclear("the program's name")
        call.walk.emit(Command("", tuple(call.fields[1:])), [], state)
        return None
    if name in state.aliases and name not in state.calling:
        state.calling = (*state.calling, name)
        text = state.aliases[name] + " " + " ".join(requoted(each) for each in call.fields[1:])
        printed = call.walk.inner(text, state)
        state.calling = state.calling[:-1]
        return printed
    if name in state.functions:
        return call.walk.call(name, state.functions[name], call.fields[1:], state, call.stdin)
    if verb in _SPECIAL:
        return _SPECIAL[verb](call)
    if verb in WRAPPERS:
        return _wrapped(call)
    if verb in SHELLS:
        return _shell(call)
    if "/" in name and ran(call, name, call.fields[1:]):
        return None
    return _plain(call)


def _plain(call: Call) -> str | None:
    from safewright.guard.parsing.shell.effects import effects_of

    effects = effects_of(call)
    call.walk.emit(Command(call.verb, tuple(call.fields[1:])), effects, call.state)
    printer = PRINTERS.get(call.verb)
    return printer(call) if printer is not None else None


def _wrapped(call: Call) -> str | None:
    verb = call.verb
    valued, before = WRAPPERS[verb]
    rest = call.fields[1:]
    user = "root"
    while rest and rest[0].startswith("-") and rest[0] != "-":
        option = rest.pop(0)
        if option == "--":
            break
        if verb == "env" and (option in ("-S", "--split-string") or option.startswith("-S")):
            text = option[2:] if len(option) > 2 and option[1] == "S" else (rest.pop(0) if rest else "")
            return call.walk.inner(" ".join([text, *map(requoted, rest)]), call.inside(verb))
        if verb in ("strace", "ltrace") and option in ("-p", "--attach") and rest:
            effect = Effect("trace", named(rest[0]), "process", verb, resolved=UNKNOWN not in rest[0])
            call.walk.emit(Command(verb, tuple(call.fields[1:])), [effect], call.state)
            return ""
        if verb in ("taskset", "chrt", "ionice") and option in ("-p", "-cp", "-pc", "--pid"):
            call.walk.emit(Command(verb, tuple(call.fields[1:])), _priority(call), call.state)
            return ""
        takes = len(option) == 2 and option[1] in valued
        value = rest.pop(0) if takes and rest else ""
        if option.startswith("--user="):
            user = option.partition("=")[2]
        elif option in ("-u", "--user"):
            user = value or (rest.pop(0) if rest else "")
        elif (
            verb in ("sudo", "doas", "runuser") and option in ("-i", "-s", "--login", "--shell") and not rest
        ):
            call.walk.emit(Command(verb), [Effect("become", "root", "account", verb)], call.state)
            return None
        elif verb == "runuser" and option == "-c":
            return _su(call)
    if verb == "command" and call.fields[1:2] and call.fields[1] in ("-v", "-V"):
        call.walk.emit(Command("command", tuple(call.fields[1:])), [], call.state)
        return SCALAR
    rest = rest[before:]
    if verb == "coproc":
        # The grammar does not know it: `coproc NAME { …; }` and `coproc { …; }` come as words.
        rest = rest[1:] if rest[1:2] == ["{"] else rest
        rest = rest[1:] if rest[:1] == ["{"] else rest
    inside = call.inside(verb)
    while rest and re.fullmatch(r"[A-Za-z_]\w*=.*", rest[0], re.S) and verb in ("env", "sudo", "doas"):
        name, _, value = rest.pop(0).partition("=")
        does_environment(call.walk, name, value, call.state)
        inside.assign(name, value)
    if verb in RAISING:
        inside.privileged = user in ("root", "#0", "0", "")
        inside.other = not inside.privileged
        if inside.other or UNKNOWN in user:
            call.walk.emit(Command(verb), [Effect("become", user, "account", verb)], call.state)
    if not rest:
        kind = (
            [Effect("become", user, "account", verb)] if verb in RAISING and "-l" not in call.fields else []
        )
        call.walk.emit(Command(verb, tuple(call.fields[1:])), kind, call.state)
        return None
    if verb == "watch":
        inside.paced = True
        return call.walk.inner(" ".join(rest), inside)
    if verb in ("nice", "ionice"):
        inside.wrappers = (*inside.wrappers,)
    return carry_out(Call(call.walk, inside, rest, call.stdin))


def _priority(call: Call) -> list[Effect]:
    target = call.fields[-1]
    return [Effect("priority", target, "process", call.verb, resolved=UNKNOWN not in target)]


def _shell(call: Call) -> str | None:
    """A shell: with -c its text is read; else the script it is given, or what comes by a pipe."""
    rest = call.fields[1:]
    text: str | None = None
    while rest and (rest[0].startswith("-") or rest[0].startswith("+")):
        option = rest.pop(0)
        if option in ("-", "--"):
            break
        if option.startswith("--"):
            if option in ("--rcfile", "--init-file") and rest:
                ran(call, rest.pop(0), [], by=call.verb)
            continue
        if option in ("-o", "-O") and rest:
            rest.pop(0)
        if "c" in option[1:]:
            text = rest.pop(0) if rest else ""
            break
    inside = call.inside(f"{call.verb} -c" if text is not None else call.verb)
    if text is not None:
        inside.positional = tuple(rest[1:])
        if rest and "$0" in text:
            text = text.replace("$0", requoted(rest[0]))
        return _read_inner(call, text, inside, "a text given to a shell")
    if rest and ran(call, rest[0], rest[1:], by=call.verb):
        return None
    if rest and not rest[0].startswith("/dev/fd/"):
        script_file(call, rest[0])
        return None
    if rest:
        call.walk.found.unclear("a script from a substitution")
        if fetched_before(call):
            call.walk.emit(Command(call.verb), [Effect("execute", "download", "host", call.verb)], call.state)
        return None
    if call.stdin is None:
        if call.state.piped:
            kind = "download" if fetched_before(call) else "stdin"
            effect = Effect(
                "execute", kind, "host" if kind == "download" else "system", call.verb, resolved=False
            )
            effect = Effect(**{**effect.__dict__, "privileged": call.state.privileged})
            call.walk.emit(Command(call.verb), [effect], call.state)
        else:
            call.walk.emit(Command(call.verb), [], call.state)
        return None
    return _read_inner(call, call.stdin, inside, "a piped script")


def fetched_before(call: Call) -> bool:
    recent = call.walk.found.commands[-6:]
    return any(effect.kind == "fetch" for command in recent for effect in command.effects)


def _read_inner(call: Call, text: str, inside: State, what: str) -> str | None:
    if text.strip() == UNKNOWN or (UNKNOWN in text and not text.replace(UNKNOWN, "").strip()):
        fetched = fetched_before(call)
        call.walk.found.unclear(what)
        if fetched:
            call.walk.emit(Command(call.verb), [Effect("execute", "download", "host", call.verb)], call.state)
        return None
    return call.walk.inner(text, inside)


def script_file(call: Call, path: str) -> None:
    call.walk.emit(
        Command(call.verb, tuple(call.fields[1:])),
        call.walk.paths("execute", path, call.state, call.verb),
        call.state,
    )


def _eval(call: Call) -> str | None:
    text = " ".join(call.fields[1:])
    if call.stdin is None and not text:
        return ""
    state = call.state
    state.wrappers = (*state.wrappers, "eval")
    printed = _read_inner(call, text, state, "a text given to eval")
    state.wrappers = state.wrappers[:-1]
    return printed


def _source(call: Call) -> str | None:
    path = call.fields[1] if len(call.fields) > 1 else ""
    if path and ran(call, path, call.fields[2:], here=True, by="sh"):
        return None
    if path.startswith("/dev/"):
        if call.stdin is not None:
            return call.walk.inner(call.stdin, call.state)
        call.walk.found.unclear("a sourced substitution")
        return None
    if path:
        script_file(call, path)
    return None


def _su(call: Call) -> str | None:
    rest, text, users = call.fields[1:], None, []
    while rest:
        word = rest.pop(0)
        if word in ("-c", "--command") and rest:
            text = rest.pop(0)
        elif word.startswith("--command="):
            text = word.partition("=")[2]
        elif word in ("-s", "--shell", "-g", "-G", "-u") and rest:
            value = rest.pop(0)
            users += [value] if word == "-u" else []
        elif not word.startswith("-"):
            users.append(word)
    user = users[0] if users else "root"
    if user != "root" or text is None:
        call.walk.emit(
            Command(call.verb, tuple(call.fields[1:])), [Effect("become", user, "account", "su")], call.state
        )
    if text is None:
        return None
    inside = call.inside("su")
    inside.privileged, inside.other = user == "root", user != "root"
    return call.walk.inner(text, inside)


def _cd(call: Call) -> str | None:
    state = call.state
    rest = [each for each in call.fields[1:] if not (each.startswith("-") and len(each) > 1)]
    target = rest[0] if rest else HOME
    before = state.cwds
    if target == "-":
        state.cwds = state.before
    else:
        state.cwds = tuple(dict.fromkeys(place(target, cwd) for cwd in state.cwds))
    state.before = before
    entered = [effect for cwd in before for effect in _entered(call, target, cwd)]
    call.walk.emit(Command("cd", tuple(call.fields[1:])), entered, state)
    return ""


def _entered(call: Call, target: str, cwd: str) -> list[Effect]:
    if target in ("-", "", HOME) or UNKNOWN in target:
        return []
    path = place(target, cwd)
    return [
        Effect(
            "read",
            path,
            "path",
            "cd",
            privileged=call.state.privileged,
            detail="names",
            resolved=settled(path),
        )
    ]


def _xargs(call: Call) -> str | None:
    rest, replaces = call.fields[1:], None
    parallel = 1
    while rest and rest[0].startswith("-") and rest[0] != "-":
        option = rest.pop(0)
        if option in ("-I", "-i", "--replace"):
            replaces = rest.pop(0) if option == "-I" and rest else "{}"
        elif option.startswith("-I"):
            replaces = option[2:]
        elif option.startswith("-P"):
            value = option[2:] or (rest.pop(0) if rest else "1")
            parallel = int(value) if value.isdigit() else 1
        elif option in ("-n", "-L", "-d", "-s", "-a", "-E") and rest:
            rest.pop(0)
        elif option == "--":
            break
    del parallel
    given = re.split(r"[\s\0]+", call.stdin.strip()) if call.stdin else [UNKNOWN]
    given = [each.strip("'\"") for each in given if each] or [UNKNOWN]
    if len(given) > 64:
        given = [UNKNOWN]
    inside = call.inside("xargs")
    if call.stdin is None:
        inside.paced = True
    command = rest or ["echo"]
    if replaces is None:
        return carry_out(Call(call.walk, inside, [*command, *given], None))
    for each in given:
        carry_out(Call(call.walk, inside.copy(), [word.replace(replaces, each) for word in command], None))
    return None


def _find(call: Call) -> str | None:
    """find: what it lists is a pattern; -delete and -exec act on it."""
    words = call.fields[1:]
    roots = []
    while words and not words[0].startswith("-") and words[0] not in ("(", "!", ")"):
        roots.append(words.pop(0))
    while words and words[0] in ("-L", "-P", "-H"):
        words.pop(0)
        while words and not words[0].startswith("-") and words[0] not in ("(", "!", ")"):
            roots.append(words.pop(0))
    roots = roots or ["."]
    name = ""
    narrowed = [i for i, w in enumerate(words) if w in ("-name", "-iname", "-wholename", "-path", "-regex")]
    if (
        len(narrowed) == 1
        and words[narrowed[0]] in ("-name", "-iname")
        and "-not" not in words
        and "!" not in words
    ):
        name = words[narrowed[0] + 1] if narrowed[0] + 1 < len(words) else ""
    shallow = any(a == "-maxdepth" and b in ("0", "1") for a, b in itertools.pairwise(words))
    below = "/*" if shallow else "/**"
    hits = [root.rstrip("/") + below + ("/" + name if name and not shallow else "") for root in roots]
    if name and shallow:
        hits = [root.rstrip("/") + "/" + name for root in roots]
    if any(a == "-maxdepth" and b == "0" for a, b in itertools.pairwise(words)):
        hits = roots
    effects: list[Effect] = []
    for root in roots:
        effects += call.walk.paths("read", root, call.state, "find", detail="names", recursive=True)
    if "-delete" in words:
        for hit in hits:
            effects += call.walk.paths("delete", hit, call.state, "find", recursive=True, detail="bulk")
    for at, word in enumerate(words):
        if word in ("-fprint", "-fprintf", "-fls", "-fprint0") and at + 1 < len(words):
            effects += call.walk.paths("write", words[at + 1], call.state, "find")
    call.walk.emit(Command("find", tuple(call.fields[1:])), effects, call.state)
    index = 0
    while index < len(words):
        if words[index] in ("-exec", "-execdir", "-ok", "-okdir"):
            end = next((i for i in range(index, len(words)) if words[i] in (";", "+")), len(words))
            command = words[index + 1 : end]
            for hit in hits:
                filled = [word.replace("{}", hit) for word in command]
                if filled:
                    carry_out(Call(call.walk, call.inside("find"), filled, None))
            index = end
        index += 1
    return "\n".join(hits) + "\n"


def _flock(call: Call) -> str | None:
    letters, operands = options(call.fields[1:], "wEc", ("--command", "--wait", "--timeout"))
    target = operands[0] if operands else ""
    rest = operands_after(call.fields[1:], target)
    text = next(
        (call.fields[i + 1] for i, w in enumerate(call.fields[:-1]) if w in ("-c", "--command")), None
    )
    inner = text if text is not None else " ".join(requoted(each) for each in rest)
    began = len(call.walk.found.commands)
    if inner.strip():
        call.walk.inner(inner, call.inside("flock"))
    elif target.isdigit() and "u" not in letters:
        call.walk.found.held = True
    detail = "long" if holds_long(call.walk.found.commands[began:]) else "short"
    effects = [] if target.isdigit() else call.walk.paths("lock", target, call.state, "flock", detail=detail)
    call.walk.emit(Command("flock", tuple(call.fields[1:])), effects, call.state)
    call.walk.found.commands.insert(began, call.walk.found.commands.pop())
    return None


def _trap(call: Call) -> str | None:
    if len(call.fields) > 1 and call.fields[1] not in ("-", "-p", "-l", ""):
        return call.walk.inner(call.fields[1], call.inside("trap"))
    return ""


def _alias(call: Call) -> str | None:
    for word in call.fields[1:]:
        name, equals, text = word.partition("=")
        if equals:
            call.state.aliases[name] = text
    call.walk.emit(Command("alias"), [], call.state)
    return ""


def _assigns(call: Call) -> str | None:
    for word in call.fields[1:]:
        name, equals, text = word.partition("=")
        if equals and re.fullmatch(r"\w+", name):
            does_environment(call.walk, name, text, call.state)
            call.state.assign(name, text)
    call.walk.emit(Command(call.verb, tuple(call.fields[1:])), [], call.state)
    return ""


def _reads(call: Call) -> str | None:
    lines = (call.stdin or "").split("\n")
    names = [each for each in call.fields[1:] if re.fullmatch(r"[A-Za-z_]\w*", each)]
    for name in names:
        value = lines[0] if call.stdin and len(names) == 1 else UNKNOWN
        does_environment(call.walk, name, value, call.state)
        call.state.assign(name, value)
    call.walk.emit(Command("read"), [], call.state)
    return ""


def _parallel(call: Call) -> str | None:
    if ":::" in call.fields:
        at = call.fields.index(":::")
        command, given = call.fields[1:at], call.fields[at + 1 :]
        for each in given[:64]:
            filled = [word.replace("{}", each) for word in command]
            filled = filled if any("{}" in word for word in command) else [*filled, each]
            call.walk.inner(" ".join(map(requoted, filled)), call.inside("parallel"))
        return None
    call.walk.found.unclear("what parallel runs")
    return None


def _script_tool(call: Call) -> str | None:
    for at, word in enumerate(call.fields[:-1]):
        if word in ("-c", "-qc"):
            return call.walk.inner(call.fields[at + 1], call.inside("script"))
    return _plain(call)


def _at(call: Call) -> str | None:
    effects = (
        []
        if any(each in ("-l", "-c") for each in call.fields)
        else [Effect("cron", "at", "system", call.verb, privileged=call.state.privileged)]
    )
    call.walk.emit(Command(call.verb, tuple(call.fields[1:])), effects, call.state)
    if call.stdin:
        call.walk.inner(call.stdin, call.inside(call.verb))
    return None


def _chroot(call: Call) -> str | None:
    rest = [each for each in call.fields[1:] if not each.startswith("--")]
    effects = call.walk.paths("execute", rest[0], call.state, "chroot") if rest else []
    call.walk.emit(
        Command("chroot", tuple(call.fields[1:])),
        [*effects, Effect("kernel", "chroot", "system", "chroot", privileged=call.state.privileged)],
        call.state,
    )
    return carry_out(Call(call.walk, call.inside("chroot"), rest[1:], None)) if len(rest) > 1 else None


_SPECIAL: dict[str, Callable[[Call], str | None]] = {
    "eval": _eval, "source": _source, ".": _source, "su": _su, "cd": _cd, "pushd": _cd, "xargs": _xargs,
    "find": _find, "flock": _flock, "trap": _trap, "alias": _alias, "export": _assigns, "local": _assigns,
    "declare": _assigns, "typeset": _assigns, "readonly": _assigns, "read": _reads, "set": does_set,
    "shift": does_shift, "python": does_python, "python3": does_python, "python2": does_python,
    "perl": does_program, "ruby": does_program, "node": does_program, "php": does_program, "lua": does_program,
    "parallel": _parallel, "script": _script_tool, "at": _at, "batch": _at, "chroot": _chroot,
}  # fmt: skip


def requoted(word: str) -> str:
    if re.fullmatch(r"[\w./:@%+,=-]+", word):
        return word
    if any(mark in word for mark in "*?[") and not re.search(r"[\s'\"$`\\;&|<>()]", word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"


__all__ = ["SHELLS", "WRAPPERS", "Call", "carry_out", "requoted"]
