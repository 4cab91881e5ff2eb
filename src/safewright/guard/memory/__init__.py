"""The guard's memory: checks that were made for a kind of call, and how well each has stood.

`evidence` is arithmetic alone; the store is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safewright.guard.memory.store import SqliteMemory, open_memory

__all__ = ["SqliteMemory", "open_memory"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from safewright.guard.memory import store

    return getattr(store, name)
