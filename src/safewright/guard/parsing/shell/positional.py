"""The ways in which a command can be read: variables that may have several values, arguments that may be shifted."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import UNKNOWN, Command
from safewright.guard.parsing.shell.state import MOST_SHIFTED, State
from safewright.guard.parsing.shell.trees import feeds_itself

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

MOST_READINGS = 16


def readings(state: State, text: str) -> Iterator[dict[str, str]]:
    """The values that variables in a text may have, one reading after the other.

    Meanwhile the state has the positional arguments of that reading; at the end it has what the readings left.
    """
    rows = _rows(state, text)
    if not state.others and (len(rows) == 1 or state.positional is None):
        yield from rows
        return
    possible = (state.positional, *state.others)
    if len(possible) * len(rows) > MOST_READINGS:
        possible = (None,)
    left: list[tuple[str, ...] | None] = []
    for given, row in itertools.product(possible, rows):
        state.positional, state.others = given, ()
        yield row
        left += [state.positional, *state.others]
    state.stand(left)


def _rows(state: State, text: str) -> list[dict[str, str]]:
    several = {name: values for name, values in state.values.items() if len(values) > 1}
    if not several:
        return [{}]
    names = {each: each for each in several} | {
        each: state.named(each) for each in state.references if state.named(each) in several
    }
    used = {name: several[name] for said, name in names.items() if re.search(rf"\b{re.escape(said)}\b", text)}
    count = 1
    for values in used.values():
        count *= len(values)
    if count > MOST_READINGS:
        used = dict.fromkeys(used, (UNKNOWN,))
    return [dict(zip(used, row, strict=True)) for row in itertools.product(*used.values())]


def rounds_of(state: State, text: str, times: int | None, exact: bool) -> tuple[int, str]:
    """How often a loop's body is read, and after which of these rounds it may end where it shifts: some, or all.

    Args:
        state: What holds in the loop.
        text: Its body.
        times: How often it runs, as far as is known.
        exact: Whether it runs just as often as that.
    """
    rounds = 2 if times != 1 and feeds_itself(text) else 1
    if times == 1 or not state.positional or not re.search(r"\bshift\b", text):
        return rounds, ""
    if exact and times is not None and times <= MOST_SHIFTED:
        return max(times, 1), "all"
    return max(rounds, min(len(state.positional), MOST_SHIFTED)), "some"


def does_shift(call: Call) -> str | None:
    """``shift N``: by a number that cannot be told, it may be by any."""
    state = call.state
    by = call.fields[1] if len(call.fields) > 1 else "1"
    given = state.positional
    if given is not None and by.isdigit():
        state.positional = given[int(by[:6]) :] if int(by[:6]) <= len(given) else given
    elif given is not None:
        state.stand([given[cut:] for cut in range(min(len(given), MOST_SHIFTED) + 1)])
    call.walk.emit(Command("shift", tuple(call.fields[1:])), [], state)
    return ""


def does_set(call: Call) -> str | None:
    """``set``: what follows its options are the new positional arguments."""
    rest = call.fields[1:]
    while rest and rest[0][:1] in ("-", "+") and rest[0] not in ("-", "--"):
        option = rest.pop(0)
        if option.endswith("o") and rest and not option.startswith("--"):
            rest.pop(0)
    if rest[:1] in (["--"], ["-"]):
        call.state.positional = tuple(rest[1:])
    elif rest:
        call.state.positional = tuple(rest)
    call.walk.emit(Command("set", tuple(call.fields[1:])), [], call.state)
    return ""
