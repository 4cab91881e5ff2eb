"""What the guard costs per call, door by door: rules only, one policy, the same call, times in one run.

Each door's calls are interleaved with what it is compared with: the engine alone for Python, Inspect-free adapters and
HTTP in process; a call without a proxy for MCP over stdio; an empty Python process for the hook, cold and warm.

    python benchmarks/guard_doors.py [--calls 200] [--hooks 20] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from safewright.guard import Action, Guard, Principal

HERE = Path(__file__).resolve().parents[1]
POLICY = 'extends = "default"\n[tools.echo]\neffect = "read"\n'
ACTION = Action("echo", {"text": "hello"}, request="say hello", principal=Principal("ann", "user"))
HOOK = [sys.executable, "-c", "from safewright.guard.doors.hook import main; main()"]


def spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: the median and the 99th percentile."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(1000 * statistics.median(ordered), 3),
        "p99_ms": round(1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
    }


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_process(folder: Path, calls: int) -> dict[str, Any]:
    """The engine alone, with an audit log, `protect`, and the HTTP door without a socket; interleaved."""
    from fastapi.testclient import TestClient

    from safewright.guard.doors.http.app import build_app
    from safewright.guard.doors.http.state import State
    from safewright.guard.doors.http.tokens import read_tokens
    from safewright.guard.nouns import action_json

    tokens = read_tokens(environment={"SAFEWRIGHT_GUARD_CHECK_TOKEN": "benchmark-0123456789"})
    plain = Guard(folder / "policy.toml")
    audited = Guard(folder / "policy.toml", audit=folder / "audit.db")
    client = TestClient(
        build_app(Guard(folder / "policy.toml"), State(folder / "state.db"), tokens),
        headers={"Authorization": "Bearer benchmark-0123456789"},
    )
    body = action_json(ACTION)
    doors: dict[str, Callable[[], Any]] = {
        "python": lambda: plain.check(ACTION),
        "python, audited": lambda: audited.check(ACTION),
        "http in process": lambda: client.post("/v1/check", json=body).raise_for_status(),
    }
    found: dict[str, list[float]] = {name: [] for name in doors}
    for number in range(calls + 10):
        for name, work in doors.items():
            took = timed(work)
            if number >= 10:
                found[name].append(took)
    for guard in (plain, audited):
        guard.close()
    return {name: spread(times) for name, times in found.items()}


def over_mcp(folder: Path, calls: int) -> dict[str, Any]:
    """A tool call over stdio, directly and through the proxy, in turn."""
    import mcp

    server = [sys.executable, "-m", "tests.guard.mcp_server"]
    cli = ["-c", "from safewright.cli import main; main()", "guard", "mcp"]
    options = ["--policy", str(folder / "policy.toml"), "--user", "user:ann", "--request", "say hello"]

    def target(command: list[str]) -> Any:
        return mcp.StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ), cwd=HERE)

    async def go() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"mcp, direct": [], "mcp, proxied": []}
        proxied = target([sys.executable, *cli, *options, "--", *server])
        async with (
            mcp.Client(target(server), cache=None) as plain,
            mcp.Client(proxied, cache=None) as guarded,
        ):
            for number in range(calls + 10):
                for name, client in zip(found, (plain, guarded), strict=True):
                    began = time.perf_counter()
                    result = await client.call_tool("echo", {"text": "hello"})
                    if result.is_error:
                        raise SystemExit(f"{name}: {result.content}")
                    if number >= 10:
                        found[name].append(time.perf_counter() - began)
        return found

    return {name: spread(times) for name, times in anyio.run(go).items()}


def hooks(folder: Path, calls: int) -> dict[str, Any]:
    """A hook answered by its own process and by the daemon, over a Python process that does nothing."""
    environ = {**os.environ, "SAFEWRIGHT_GUARD_STATE": str(folder)}
    options = ["--policy", str(folder / "policy.toml"), "--user", "user:ann"]
    given = json.dumps({"tool_name": "echo", "tool_input": {"text": "hello"}}).encode()

    def run(command: list[str]) -> None:
        done = subprocess.run(command, input=given, env=environ, capture_output=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr.decode())

    from safewright.guard.doors.hook import options_of, socket_of

    run([*HOOK, *options])
    where = socket_of(options_of(options), str(folder / "safewright-guard"))
    until = time.monotonic() + 60
    with socket.socket(socket.AF_UNIX) as probe:
        while probe.connect_ex(where) != 0:
            if time.monotonic() > until:
                raise SystemExit("the daemon did not start")
            time.sleep(0.05)
    commands = {
        "an empty Python process": [sys.executable, "-c", "pass"],
        "hook, cold": [*HOOK, *options, "--no-daemon"],
        "hook, warm": [*HOOK, *options],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    try:
        for _ in range(calls):
            for name, command in commands.items():
                found[name].append(timed(lambda command=command: run(command)))
    finally:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                ours = f"SAFEWRIGHT_GUARD_STATE={folder}".encode() in (entry / "environ").read_bytes()
                if ours and b"--daemon" in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue
    return {name: spread(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--hooks", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "policy.toml").write_text(POLICY)
        found = {
            **in_process(folder, options.calls),
            **over_mcp(folder, options.calls),
            **hooks(folder, options.hooks),
        }
    bases = {"http": "python", "python,": "python", "mcp,": "mcp, direct", "hook,": "an empty Python process"}
    for name, times in found.items():
        base = bases.get(name.split()[0])
        if base is not None and base != name:
            times["over"] = round(times["p50_ms"] / found[base]["p50_ms"], 2)
            times["over_what"] = base  # type: ignore[assignment]
        ratio = f"  {times['over']:6.2f} x {base}" if "over" in times else ""
        print(f"{name:26}p50 {times['p50_ms']:9.3f} ms  p99 {times['p99_ms']:9.3f} ms{ratio}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
