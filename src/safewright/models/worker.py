"""An engine in a process of its own: Inspect's bookkeeping and the model's then never wait for each other.

Both take the interpreter for themselves: beside Inspect's event loop an engine that launches many small
operations loses a quarter of its speed and more. Requests and answers cross two pipes as lines of JSON.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any, BinaryIO

from safewright import errors
from safewright.errors import Missing, SafewrightError
from safewright.models.batching import Batcher, Said
from safewright.runs import from_json, to_json
from safewright.runs.atomic import dump_json
from safewright.types import Chat, Decoding, Generation, ModelRef


class Worker:
    """The parent's side: a process that holds one model.

    Args:
        ref: The model.
        options: Further arguments of `safewright.models.load`.
        batch: Requests that are enough to begin.

    Raises:
        SafewrightError: What opening the model raised.
        Missing: The process ended before the model was open.
    """

    def __init__(self, ref: ModelRef, options: dict[str, Any], batch: int) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Future[dict[str, Any]]] = {}
        self._last = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._reader = threading.Thread(target=self._read, name="safewright-worker", daemon=True)
        self._reader.start()
        try:
            opened = self._send({"ref": ref, "options": options, "batch": batch}).result()
        except BaseException:
            self.close()
            raise
        self.conventions: dict[str, Any] = opened["conventions"]

    async def ask(self, chat: Chat, how: Decoding) -> Said:
        """What the model says, and its prompt's tokens; what stops the engine is raised."""
        found = await asyncio.wrap_future(self._send({"chat": chat, "how": how}))
        return from_json(Generation, found["said"]), found["prompt"]

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a text."""
        found: list[int] = (await asyncio.wrap_future(self._send({"text": text})))["tokens"]
        return found

    def close(self) -> None:
        """End the process; it lets go of the model."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._reader is not threading.current_thread():
            self._reader.join(10)
        self._process.wait(10)

    def _send(self, request: dict[str, Any]) -> Future[dict[str, Any]]:
        future: Future[dict[str, Any]] = Future()
        pipe: Any = self._process.stdin
        with self._lock:
            self._last += 1
            self._open[self._last] = future
            try:
                pipe.write((dump_json({"id": self._last, **request}, canonical=True) + "\n").encode())
                pipe.flush()
            except (OSError, ValueError):
                self._open.pop(self._last, None)
                future.set_exception(self._gone())
        return future

    def _read(self) -> None:
        pipe: Any = self._process.stdout
        for line in pipe:
            reply = json.loads(line)
            with self._lock:
                future = self._open.pop(reply["id"])
            if not future.set_running_or_notify_cancel():
                continue
            if "error" in reply:
                future.set_exception(_raised(reply["error"]))
            else:
                future.set_result(reply)
        with self._lock:
            left, self._open = list(self._open.values()), {}
        for future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(self._gone())

    def _gone(self) -> Missing:
        return Missing(
            f"The model's process ended with status {self._process.poll()}.",
            fix="Look at its words on stderr; where memory ran out, use a smaller batch: -M batch_size=N.",
        )


def _raised(plain: dict[str, str]) -> Exception:
    """An error of the worker's, as the same kind of error here."""
    kind = getattr(errors, plain["kind"], None)
    if isinstance(kind, type) and issubclass(kind, SafewrightError):
        return kind(plain["what"], why=plain["why"], fix=plain["fix"])
    return RuntimeError(f"{plain['kind']}: {plain['what']}")


def _plain(error: BaseException) -> dict[str, str]:
    if isinstance(error, SafewrightError):
        return {"kind": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
    return {"kind": type(error).__name__, "what": str(error), "why": "", "fix": ""}


class _Replies:
    """The worker's side of the pipe back; many threads may answer."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def send(self, number: int, reply: dict[str, Any]) -> None:
        line = (dump_json({"id": number, **reply}, canonical=True) + "\n").encode()
        with self._lock:
            self._pipe.write(line)
            self._pipe.flush()

    def settle(self, number: int, future: Future[Said]) -> None:
        error = future.exception()
        if error is not None:
            self.send(number, {"error": _plain(error)})
            return
        said, prompt = future.result()
        self.send(number, {"said": to_json(said), "prompt": prompt})


def main() -> None:
    """Serve one model over stdin and stdout, until stdin ends: the parent is gone, or has had enough."""
    from safewright.models import load
    from safewright.models.chat import token_ids

    # Ctrl-C is the parent's to handle: it closes stdin when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries that print must not print into the answers.
    replies = _Replies(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    first = json.loads(sys.stdin.buffer.readline())
    try:
        loaded: Any = load(from_json(ModelRef, first["ref"]), **first["options"])
    except Exception as error:  # noqa: BLE001 - the parent raises it
        replies.send(first["id"], {"error": _plain(error)})
        return
    replies.send(first["id"], {"conventions": to_json(loaded.conventions)})
    batcher = Batcher(loaded, first["batch"])
    for line in sys.stdin.buffer:
        request = json.loads(line)
        number = request["id"]
        if "text" in request:
            replies.send(number, {"tokens": token_ids(loaded.tokenizer, request["text"], special=False)})
            continue
        future = batcher.submit(request["chat"], from_json(Decoding, request["how"]))
        future.add_done_callback(functools.partial(replies.settle, number))
    os._exit(0)  # nobody waits for what is still being answered


if __name__ == "__main__":
    main()
