"""Process ids that are looked up by name: `kill $(pgrep NAME)`, `ps | grep NAME | awk | xargs kill`, pid files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import SCALAR
from safewright.guard.parsing.shell.options import options, value_of

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

MARK = SCALAR + "pid:"
"""Stands before the name of the processes whose ids these are: ``*`` for all, ``user:NAME``, ``port:NUMBER``."""


def named(target: str) -> str:
    """A target of kill or renice, with the name that its id was looked up by."""
    _, mark, name = target.partition(MARK)
    if not mark:
        return target
    return name if name.startswith("user:") else f"name:{name}"


def _mark(name: str) -> str:
    return MARK + re.sub(r"\s+", "\u00a0", name.strip()) + "\n"


def printed_pids(call: Call) -> str | None:
    """What pgrep, pidof, ps and lsof -t print."""
    words, verb = call.fields[1:], call.verb
    if verb == "pgrep" and any(re.match(r"-[a-zA-Z]*v|--inverse", each) for each in words):
        return _mark("*")
    if verb in ("pgrep", "pidof"):
        names = options(words, "uUgGPtsdFS" if verb == "pgrep" else "o")[1]
        user = value_of(words, "-u", "-U", "--euid") if verb == "pgrep" else None
        if names:
            return "".join(map(_mark, names))
        return _mark(f"user:{user}") if user else _mark("*")
    if verb == "lsof":
        short = [each for each in words if re.match(r"-\w*t", each)]
        port = next((match[1] for each in words if (match := re.search(r":(\d+)$", each))), None)
        return _mark(f"port:{port}") if short and port else None
    user = value_of(words, "-u", "-U", "--user")
    name = value_of(words, "-C")
    if value_of(words, "-p", "--pid"):
        return None
    return _mark(name or (f"user:{user}" if user else "*"))


def passed_on(call: Call) -> str | None:
    """Ids that come by a pipe, after a command that picks columns or lines."""
    given = call.stdin
    if given is None or not given.startswith(MARK):
        return None
    words, verb = call.fields[1:], call.verb
    if verb in ("head", "tail"):
        return given if any(each.startswith("+") for each in words) or MARK + "*" not in given else None
    if verb in ("grep", "egrep", "fgrep"):
        letters, operands = options(words, "efmABC")
        pattern = value_of(words, "-e") or (operands[0] if operands else "")
        return given if "v" in letters or not re.search(r"[A-Za-z]{2}", pattern) else _mark(_plain(pattern))
    if verb in ("awk", "gawk", "mawk", "sed"):
        program = next((each for each in words if not each.startswith("-")), "")
        match = re.search(r"(?<!!)/([^/]*[A-Za-z]{2}[^/]*)/", program) if verb != "sed" else None
        match = match or re.search(r'[=~]\s*"([^"]+)"', program)
        return _mark(_plain(match[1])) if match else given
    return given


def _plain(pattern: str) -> str:
    return re.sub(r"\[(.)\]", r"\1", pattern).strip("^$")
