"""The guard: it decides, before an agent's call is made, whether it may be made.

The names below are loaded when they are first used; importing the room costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safewright.guard.engine import Guard
    from safewright.guard.nouns import Action, Check, Entry, Environment, Principal, Turn, Verdict
    from safewright.guard.policy import Policy

_HOMES = {
    "safewright.guard.engine": ("Guard",),
    "safewright.guard.nouns": ("Action", "Check", "Entry", "Environment", "Principal", "Turn", "Verdict"),
    "safewright.guard.policy": ("Policy",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["Action", "Check", "Entry", "Environment", "Guard", "Policy", "Principal", "Turn", "Verdict"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
