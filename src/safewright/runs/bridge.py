"""The bridges from synchronous code into coroutines."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

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


class Background:
    """An event loop in a thread of its own, for coroutines that run while the caller goes on.

    Use it as a context manager: what still runs at its end is cancelled and waited for.
    """

    def __init__(self) -> None:
        import asyncio
        import threading

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="safewright-background", daemon=True)

    def _run(self) -> None:
        while True:
            try:
                self._loop.run_forever()
                return
            except (KeyboardInterrupt, SystemExit):
                # A task ended with it, and its future holds it for who waits. asyncio also ends the loop then,
                # in which the other tasks, and their clean-up, would wait for ever.
                continue

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine; its future is for any thread."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.submit(_wind_up()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _wind_up() -> None:
    """Cancel every other task of the running loop and wait for its end."""
    import asyncio

    loop = asyncio.get_running_loop()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
