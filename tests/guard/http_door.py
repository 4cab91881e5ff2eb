"""What the tests of the HTTP door share: an app in process, a server in a process of its own, and tokens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from safewright.guard import Guard
from safewright.guard.doors.http.app import build_app
from safewright.guard.doors.http.state import State
from safewright.guard.doors.http.tokens import Tokens, read_tokens

CHECK, OPERATOR = "check-token-0123456789", "operator-token-0123456789"
TOKENS: Mapping[str, str] = {
    "SAFEWRIGHT_GUARD_CHECK_TOKEN": CHECK,
    "SAFEWRIGHT_GUARD_OPERATOR_TOKEN": OPERATOR,
}
POLICY = """
extends = "default"
[tools.look]
effect = "read"
[tools.look_up]
effect = "read"
[roles.guest]
denied_tools = ["look"]
"""
ALLOWED: Mapping[str, Any] = {
    "tool": "look",
    "arguments": {"place": "hall"},
    "request": "look at the hall",
    "principal": {"id": "ann", "role": "user"},
}
DENIED: Mapping[str, Any] = {**ALLOWED, "principal": {"id": "g", "role": "guest"}}
ESCALATED: Mapping[str, Any] = {"tool": "mystery", "arguments": {"what": "this"}, "session": "s1"}


def as_who(token: str | None) -> dict[str, str]:
    """The header of a token."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def known() -> Tokens:
    """The tokens of `TOKENS`."""
    return read_tokens(environment=TOKENS)


def policy(home: Path) -> Path:
    """A policy with a tool that is allowed, denied to guests, and none that is called mystery."""
    file = home / "policy.toml"
    file.write_text(POLICY)
    return file


def guard_of(home: Path, *, audit: bool = True, memory: bool = False, **options: Any) -> Guard:
    """A guard under that policy, with its files in a folder."""
    return Guard(
        policy(home),
        audit=home / "audit.db" if audit else None,
        memory=home / "memory.db" if memory else None,
        **options,
    )


@contextmanager
def door(
    home: Path, *, tokens: Tokens | None = None, guard: Guard | None = None, **options: Any
) -> Iterator[Any]:
    """A client of an app in this process."""
    from starlette.testclient import TestClient

    with_audit = guard if guard is not None else guard_of(home)
    app = build_app(
        with_audit, State(home / "state.db"), tokens if tokens is not None else known(), **options
    )
    with TestClient(app, headers=as_who(CHECK)) as client:
        yield client


@dataclass
class Served:
    """A server process: its address and what it said so far."""

    process: subprocess.Popen[bytes]
    url: str
    told: Path

    @property
    def workers(self) -> list[int]:
        """The processes that judge."""
        found = []
        for each in Path("/proc").iterdir():
            try:
                after = (each / "stat").read_text().rpartition(")")[2].split()
                spawned = b"spawn_main" in (each / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            if each.name.isdecimal() and int(after[1]) == self.process.pid and spawned:
                found.append(int(each.name))
        return found


def command(home: Path, *arguments: str) -> list[str]:
    """`safewright guard serve` with a policy and an audit log in a folder."""
    options = ["--policy", str(policy(home)), "--audit", str(home / "audit.db"), "--port", "0"]
    return [sys.executable, "-m", "safewright", "guard", "serve", *options, *arguments]


@contextmanager
def serving(home: Path, *arguments: str, env: Mapping[str, str] = TOKENS) -> Iterator[Served]:
    """`safewright guard serve` on a free port, ended by Ctrl-C."""
    told = home / "serve.stderr"
    with open(told, "wb") as out:
        process = subprocess.Popen(
            command(home, *arguments),
            stdout=out,
            stderr=out,
            env=os.environ | dict(env),
            start_new_session=True,
        )
    try:
        yield Served(process, _address(process, told), told)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, told.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def _address(process: subprocess.Popen[bytes], told: Path) -> str:
    import httpx

    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"guarding at (http://\S+)", told.read_text())
        if found:
            try:
                if httpx.get(f"{found[1]}/healthz", timeout=2, trust_env=False).status_code == 200:
                    return found[1]
            except httpx.TransportError:
                pass
        time.sleep(0.1)
    pytest.fail(f"the server did not come up:\n{told.read_text()[-3000:]}")
