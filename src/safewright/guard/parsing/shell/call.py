"""A command at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.state import State

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.walking import _Walk as Walk


@dataclass
class Call:
    """A command at hand: its words, and where it stands."""

    walk: Walk
    state: State
    fields: list[str]
    stdin: str | None

    @property
    def verb(self) -> str:
        """The program's base name."""
        return self.fields[0].rsplit("/", 1)[-1] if self.fields else ""

    def inside(self, wrapper: str) -> State:
        """A state for what a wrapper runs."""
        state = self.state.copy()
        state.wrappers = (*state.wrappers, wrapper)
        return state
