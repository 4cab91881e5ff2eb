"""Answers that were received, by what was asked: nothing is asked twice, not even after a kill."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.runs.atomic import checked_path, disk_errors, dump_json
from safewright.runs.digests import digest_json

FIELDS = ("key", "value")
"""What each row of a store has."""


def call_key(model: str, chat: Any, decoding: Any, sample: int = 0) -> str:
    """The name of one question: the digest of all its answer depends on.

    Args:
        model: The digest of the model's weights, or what a server declares of them.
        chat: The conversation.
        decoding: How it is answered.
        sample: Which of several draws.
    """
    return digest_json([model, chat, decoding, sample])


class Calls:
    """A store of received answers (plain JSON values), shared by all that ask in one process.

    An answer is written down before its asker goes on. Who asks what somebody else is asking already waits
    for that answer (single flight), from whatever thread or event loop. An answer that is not to be kept (a
    failure) is handed to those who wait, and asked again by the next.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._sinks: list[_Sink] = []
        self._flying: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()
        self.asked = 0
        """Questions that were really asked."""

    @classmethod
    def in_folder(cls, folder: Path | str) -> Calls:
        """The store in ``folder``, which other processes may use at the same time: each writes its own file.

        The folder is made for its owner alone: it holds what models said.

        Raises:
            BadInput: The folder cannot be used, or a row of it is damaged.
        """
        path = checked_path(folder)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = cls()
        rows = (row for file in sorted(path.glob("*.jsonl")) for row in _whole_rows(file))
        store.attach(rows, _Writer(path / f"{uuid.uuid4().hex}.jsonl"))
        return store

    def attach(
        self, rows: Iterable[Mapping[str, Any]], write: Callable[[Mapping[str, Any]], None]
    ) -> Callable[[], None]:
        """Take in what was received before, and write down what is received, or used, from now on.

        Args:
            rows: ``{"key": digest, "value": answer}``.
            write: Writes one such row, durably against the death of the process.

        Returns:
            Lets go of it again, whatever else was attached meanwhile; its answers stay known.
        """
        with self._lock:
            known = {row["key"]: row["value"] for row in rows}
            self._values |= known
            sink = _Sink(set(known), write)
            self._sinks.append(sink)

        def detach() -> None:
            with self._lock:
                self._sinks = [other for other in self._sinks if other is not sink]

        return detach

    def claim(self, key: str) -> tuple[Any, Future[Any] | None, bool]:
        """The answer; or who is asking for it; or the claim to ask for it oneself.

        Returns:
            ``(answer, None, False)`` where it is known, ``(None, future, False)`` where somebody is asking,
            ``(None, future, True)`` where the caller has to ask now, and to `settle` or `fail` the claim.
        """
        with self._lock:
            if key in self._values:
                self._note(key, self._values[key])
                return self._values[key], None, False
            flying = self._flying.get(key)
            if flying is not None:
                return None, flying, False
            self.asked += 1
            self._flying[key] = Future()
            return None, self._flying[key], True

    def settle(self, key: str, value: Any, *, keep: bool = True) -> None:
        """Hand over the answer to a claimed question; with ``keep`` it is written down first."""
        with self._lock:
            if keep:
                self._note(key, value)
                self._values[key] = value
            future = self._flying.pop(key)
        future.set_result(value)

    def fail(self, key: str, error: BaseException) -> None:
        """Give a claim up: those who wait get the same exception."""
        with self._lock:
            future = self._flying.pop(key)
        future.set_exception(error)

    def _note(self, key: str, value: Any) -> None:
        for sink in self._sinks:
            if key not in sink.keys:
                sink.write({"key": key, "value": value})
                sink.keys.add(key)

    async def get(
        self, key: str, ask: Callable[[], Awaitable[Any]], *, keep: Callable[[Any], bool] = lambda _: True
    ) -> Any:
        """The answer to one question, asked if need be.

        Args:
            key: See `call_key`.
            ask: Asks it; what it raises goes to all who wait.
            keep: Whether an answer is one, and stays; a failure is not kept.
        """
        import asyncio  # reading a run's folder does not need it

        value, future, mine = self.claim(key)
        if future is None:
            return value
        if not mine:
            # Shielded: who is cancelled while waiting must not cancel the others' answer.
            return await asyncio.shield(asyncio.wrap_future(future))
        try:
            value = await ask()
            self.settle(key, value, keep=keep(value))
        except BaseException as error:
            self.fail(key, error)  # also where it could not be written down: nobody may wait for ever
            raise
        return value


@dataclass
class _Sink:
    """A place where answers are written down, and those that stand there."""

    keys: set[str]
    write: Callable[[Mapping[str, Any]], None]


class _Writer:
    """Appends rows to a file of its own, made at the first one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._handle: int | None = None

    def __call__(self, row: Mapping[str, Any]) -> None:
        line = (dump_json(row, canonical=True) + "\n").encode("utf-8")
        with disk_errors(self._file.parent):
            if self._handle is None:
                self._handle = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            start = os.lseek(self._handle, 0, os.SEEK_CUR)
            try:
                while line:
                    line = line[os.write(self._handle, line) :]
            except BaseException:
                # Half a row must not become the head of the next one.
                os.ftruncate(self._handle, start)
                os.lseek(self._handle, start, os.SEEK_SET)
                raise

    def __del__(self) -> None:
        if self._handle is not None:
            os.close(self._handle)


def _whole_rows(file: Path) -> Iterable[Mapping[str, Any]]:
    """The rows of one file; what follows its last newline was torn by a kill and never acknowledged."""
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row, damage = None, str(error)
        else:
            damage = "it has no key and value"
        if not isinstance(row, dict) or not all(field in row for field in FIELDS):
            raise BadInput(
                f"{file}, line {number} is damaged: {damage}.",
                fix="Delete that line: its question is asked again.",
            )
        yield row
