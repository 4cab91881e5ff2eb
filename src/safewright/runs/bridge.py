"""The one bridge from synchronous code into coroutines."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, from synchronous code.

    Inside a running event loop (a notebook, a server) the coroutine runs on a loop of its own in
    another thread, because a running loop cannot be entered twice.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="safewright-run-sync") as pool:
        return pool.submit(asyncio.run, work).result()
