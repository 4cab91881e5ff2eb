"""Work with a deadline: a job that hangs is abandoned, and its thread replaced."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

MOST_HANGING = 128
"""Abandoned jobs that may still be running. With as many, nothing new is begun: they would only get in its way."""


class Workers:
    """Daemon threads for synchronous work that may hang: a parser, a probe on a dead mount, a locked file.

    Python cannot end a thread. One whose job runs over its time is left alone and not waited for; the next job gets
    another, up to `MOST_HANGING` of them.
    """

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self.abandoned = 0
        self._hanging: list[Future[Any]] = []

    def run(self, seconds: float, job: Callable[..., T], *arguments: Any) -> T:
        """The job's result, within some seconds.

        Raises:
            TimeoutError: It took longer, and may still be running; or too many that did still are.
        """
        if os.getpid() != self._process:  # threads do not come along into a fork
            self._idle, self._lock, self._process = [], threading.Lock(), os.getpid()
            self._hanging = []
        with self._lock:
            if len(self._hanging) >= MOST_HANGING:
                self._hanging = [each for each in self._hanging if not each.done()]
                if len(self._hanging) >= MOST_HANGING:
                    raise TimeoutError(
                        f"{len(self._hanging)} jobs that ran over their time are still running."
                    )
            worker = self._idle.pop() if self._idle else _Worker()
        future: Future[T] = worker.submit(job, arguments)
        try:
            result = future.result(max(seconds, 0.0))
        except TimeoutError:
            if not future.done():
                with self._lock:
                    self.abandoned += 1
                    self._hanging = [each for each in self._hanging if not each.done()] + [future]
                worker.stop()
                raise
            self._back(worker)
            raise
        except BaseException:
            self._back(worker) if future.done() else worker.stop()
            raise
        self._back(worker)
        return result

    def _back(self, worker: _Worker) -> None:
        with self._lock:
            self._idle.append(worker)

    def close(self) -> None:
        """Let the idle threads end."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.stop()


class _Worker:
    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._work, name="safewright-guard", daemon=True).start()

    def submit(self, job: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.put((job, arguments, future))
        return future

    def stop(self) -> None:
        self._jobs.put(None)

    def _work(self) -> None:
        while (taken := self._jobs.get()) is not None:
            job, arguments, future = taken
            try:
                future.set_result(job(*arguments))
            except BaseException as error:  # noqa: BLE001 - it belongs to who waits
                future.set_exception(error)
            del taken, job, arguments, future
