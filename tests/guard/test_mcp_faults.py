"""The MCP proxy as a process, before servers that hang, die, flood and talk nonsense."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp
import pytest

from tests.guard.test_mcp import run, said

HERE = Path(__file__).parents[2]
SERVER = [sys.executable, "-m", "tests.guard.mcp_server"]
TOOLS = ("echo", "hang", "flood", "garbage", "pid", "spawn")
POLICY = 'extends = "default"\n' + "".join(f'[tools.{name}]\neffect = "read"\n' for name in TOOLS)
CLI = [sys.executable, "-c", "from safewright.cli import main; main()", "guard", "mcp"]


def parameters(folder: Path, *options: str, server: list[str] | None = None) -> mcp.StdioServerParameters:
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    command = [*CLI, "--policy", str(policy), "--user", "user:ann", *options, "--", *(server or SERVER)]
    return mcp.StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ), cwd=HERE)


@asynccontextmanager
async def proxy(folder: Path, *options: str, server: list[str] | None = None) -> AsyncIterator[Any]:
    async with mcp.Client(parameters(folder, *options, server=server), cache=None) as client:
        yield client


@contextmanager
def over_http(program: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process that serves tools over HTTP, and its address; ``program`` ends with the app's name ``app``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program += f"\nimport uvicorn\nuvicorn.run(app, port={port}, log_level='error')\n"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=HERE)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield process, f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def gone(*pids: int) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_11_killed_hung_flooding_and_babbling_servers_give_error_results(tmp_path: Path) -> None:
    pids: list[int] = []

    async def go() -> None:
        options = ("--upstream-deadline", "2", "--most-result", "100000")
        async with proxy(tmp_path, *options) as client:
            assert said(await client.call_tool("echo", {"text": "hello"})) == "hello"
            for name in ("pid", "spawn"):
                pids.append(int(said(await client.call_tool(name, {}))))
            hung = await client.call_tool("hang", {})
            assert hung.is_error
            assert "in time" in said(hung)
            for size in ("200000", "5000000"):  # over the proxy's bound, and over what it reads of a line
                big = await client.call_tool("flood", {"text": size})
                assert big.is_error
                assert len(said(big)) < 1000
            assert not (await client.call_tool("garbage", {})).is_error  # noise between messages is dropped
            assert said(await client.call_tool("echo", {"text": "still"})) == "still"
            os.kill(pids[0], signal.SIGKILL)
            for _ in range(2):
                dead = await client.call_tool("echo", {"text": "hello"})
                assert dead.is_error
                assert "hello" not in said(dead)

    run(go)
    assert gone(*pids)


def test_11_a_server_killed_while_it_works_gives_an_error_result(tmp_path: Path) -> None:
    async def go() -> Any:
        async with proxy(tmp_path, "--upstream-deadline", "30") as client:
            pid = int(said(await client.call_tool("pid", {})))
            results: list[Any] = []

            async def call() -> None:
                results.append(await client.call_tool("hang", {}))

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await anyio.sleep(0.5)
                os.kill(pid, signal.SIGKILL)
            return results[0]

    began = time.monotonic()
    assert run(go).is_error
    assert time.monotonic() - began < 25  # it did not wait for the deadline


def test_the_server_and_its_children_end_with_the_proxy(tmp_path: Path) -> None:
    """A client that hangs up, a proxy that is told to stop, one that is killed."""
    for how in ("hang up", "term", "kill"):
        pids: list[int] = []
        command = parameters(tmp_path)
        process = subprocess.Popen(
            [command.command, *command.args],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        calls = ({"name": name, "arguments": {}} for name in ("pid", "spawn"))
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        }
        _send(process, {"id": 1, "method": "initialize", "params": hello})
        _send(process, {"method": "notifications/initialized"})
        for number, call in enumerate(calls, start=2):
            _send(process, {"id": number, "method": "tools/call", "params": call})
        while len(pids) < 2:
            answer = _receive(process)
            if answer.get("id", 0) >= 2:
                pids.append(int(answer["result"]["content"][0]["text"]))
        if how == "hang up":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM if how == "term" else signal.SIGKILL)
        process.wait(20)
        if how == "kill":  # its server reads the end of its input; what that one started is its own business
            assert gone(pids[0])
            os.kill(pids[1], signal.SIGKILL)
        else:
            assert gone(*pids), how


def _send(process: Any, message: dict[str, Any]) -> None:
    import json

    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    process.stdin.flush()


def _receive(process: Any) -> Any:
    import json

    return json.loads(process.stdout.readline())


@pytest.mark.parametrize("server", [["/no/such/server"], [sys.executable, "-c", "pass"]])
def test_a_server_that_does_not_start_is_said_so(tmp_path: Path, server: list[str]) -> None:
    command = parameters(tmp_path, server=server)
    done = subprocess.run(
        [command.command, *command.args], cwd=HERE, input=b"", capture_output=True, timeout=90
    )
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"server" in done.stderr


def test_wrong_options_are_said_so(tmp_path: Path) -> None:
    for options in ([], ["--url", "http://127.0.0.1:9/mcp", "--header", "nocolon"]):
        done = subprocess.run([*CLI, *options], input=b"", capture_output=True, timeout=90)
        assert (done.returncode, done.stdout) == (2, b""), done.stderr


def test_a_server_over_http(tmp_path: Path) -> None:
    program = "from tests.guard.mcp_server import server\napp = server().streamable_http_app()"
    with over_http(program) as (process, url):
        policy = tmp_path / "policy.toml"
        policy.write_text(POLICY)
        options = [
            "--policy",
            str(policy),
            "--upstream-deadline",
            "3",
            "--url",
            url,
        ]
        target = mcp.StdioServerParameters(
            command=CLI[0], args=[*CLI[1:], *options], env=dict(os.environ), cwd=HERE
        )

        async def go() -> None:
            async with mcp.Client(target, cache=None) as client:
                assert said(await client.call_tool("echo", {"text": "hello"})) == "hello"
                assert (await client.call_tool("hang", {})).is_error
                process.kill()
                process.wait()
                assert (await client.call_tool("echo", {"text": "hello"})).is_error

        run(go)
