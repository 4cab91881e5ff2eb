"""A server of tools as a child process: one group, lines of bounded length, gone when the proxy is gone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from safewright.errors import Missing

GRACE_SECONDS = 1.0
_ID = re.compile(rb'"id"\s*:\s*(\d{1,18})')


@asynccontextmanager
async def spawned(
    command: Sequence[str],
    *,
    most_line: int,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    on_start: Callable[[int], None] | None = None,
) -> AsyncIterator[tuple[Any, Any]]:
    """The streams of a server that is run as a child, as `mcp.Client` takes them.

    A line longer than ``most_line`` bytes is dropped, and the call it answers gets an error instead; a line that is no
    message is reported to the session and dropped. What the child writes to stderr goes to ours.

    Raises:
        Missing: The command cannot be started.
    """
    import anyio
    import mcp_types as types
    from mcp.shared.message import SessionMessage

    try:
        process = await anyio.open_process(
            list(command),
            env=dict(os.environ if env is None else env),
            cwd=cwd,
            stderr=sys.stderr.fileno() if sys.stderr is not None else None,
            start_new_session=True,
        )
    except OSError as error:
        raise Missing(
            f"The server {command[0]!r} cannot be started: {error}.", fix="Check the command after --."
        ) from error
    if on_start is not None:
        on_start(process.pid)
    stdin: Any = process.stdin
    stdout: Any = process.stdout
    arrived, incoming = anyio.create_memory_object_stream[Any](0)
    outgoing, departing = anyio.create_memory_object_stream[Any](0)

    async def read() -> None:
        buffer, dropping, head = bytearray(), False, b""
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
            async with arrived:
                async for chunk in stdout:
                    buffer += chunk
                    while (end := buffer.find(b"\n")) >= 0:
                        line = bytes(buffer[:end])
                        del buffer[: end + 1]
                        if dropping or len(line) > most_line:
                            await arrived.send(_oversize(head if dropping else line[:256], most_line))
                            dropping = False
                        elif line.strip():
                            await arrived.send(parsed(line))
                    if len(buffer) > most_line:
                        head, dropping = (head if dropping else bytes(buffer[:256])), True
                        buffer.clear()

    def parsed(line: bytes) -> Any:
        try:
            return SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
        except ValueError as error:
            return error

    def _oversize(head: bytes, most: int) -> Any:
        said = f"The server sent a message of more than {most:,} bytes, which was dropped."
        found = _ID.search(head)
        if found is None:
            return ValueError(said)
        error = types.ErrorData(code=types.INTERNAL_ERROR, message=said)
        return SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=error))

    async def write() -> None:
        try:
            async with departing:
                async for message in departing:
                    line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await stdin.send(line.encode("utf-8") + b"\n")
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
            await arrived.aclose()  # so that who waits for an answer hears that there will be none

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(write)
        try:
            yield incoming, outgoing
        finally:
            with anyio.CancelScope(shield=True):
                await stop(process)
                for stream in (incoming, outgoing, arrived, departing):
                    await stream.aclose()
            group.cancel_scope.cancel()


async def stop(process: Any) -> None:
    """End a child and everything in its group: stdin closed, then TERM, then KILL."""
    import anyio

    with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.aclose()
    for step in (None, signal.SIGTERM, signal.SIGKILL):
        if step is not None:
            kill_group(process.pid, step)
        with anyio.move_on_after(GRACE_SECONDS):
            while process.returncode is None:
                await anyio.sleep(0.01)
        if process.returncode is not None:
            break
    kill_group(process.pid, signal.SIGKILL)  # what it left behind
    with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdout.aclose()


def kill_group(pid: int, number: int) -> None:
    """Signal a process group that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
