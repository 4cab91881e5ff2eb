"""`safewright guard serve`: workers that share everything, Ctrl-C, and what it refuses to begin with."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from safewright.guard.audit.chain import verify
from tests.guard.http_door import ALLOWED, CHECK, ESCALATED, OPERATOR, TOKENS, as_who, command, serving

BOSS = as_who(OPERATOR)


def test_workers_share_keys_approvals_counters_and_the_audit_log(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2", "--memory", str(tmp_path / "memory.db")) as served:

        def ask(call: Any, **headers: str) -> httpx.Response:
            # A connection of its own each time: any worker may take it.
            return httpx.post(
                f"{served.url}/v1/check",
                json=call,
                headers={**as_who(CHECK), "Connection": "close", **headers},
                timeout=60,
                trust_env=False,
            )

        with ThreadPoolExecutor(8) as pool:
            plain = list(pool.map(lambda n: ask({**ALLOWED, "session": str(n)}), range(60)))
            keyed = list(pool.map(lambda n: ask(ALLOWED, **{"Idempotency-Key": f"k{n % 5}"}), range(40)))
            list(pool.map(lambda _: ask(ESCALATED), range(8)))
        assert {reply.json()["decision"] for reply in plain + keyed} == {"allow"}
        assert len({reply.json()["audit_id"] for reply in keyed}) == 5
        url = f"{served.url}/v1/escalations"
        (each,) = httpx.get(url, headers=BOSS, trust_env=False).json()["escalations"]
        assert each["asked"] == 8
        body = {"digest": each["digest"]}
        assert (
            httpx.post(f"{url}/{each['id']}/approve", json=body, headers=BOSS, trust_env=False).status_code
            == 200
        )
        with ThreadPoolExecutor(8) as pool:
            found = [reply.json()["decision"] for reply in pool.map(lambda _: ask(ESCALATED), range(8))]
        assert found.count("allow") == 1
        assert found.count("escalate") == 7
        assert httpx.get(f"{served.url}/readyz", trust_env=False).json()["ready"] is True
        expected = {"workers": 2, 'requests_total{route="/v1/check",status="200"}': 60 + 40 + 8 + 8}
        deadline = time.monotonic() + 60
        while not expected.items() <= (counted := _counted(served.url)).items():  # told each second
            assert time.monotonic() < deadline, counted
            time.sleep(0.5)
        records = verify(tmp_path / "audit.db")
        assert records.sound
        # 60 calls, 5 keys, 16 escalated ones, an approval given and used.
        assert _rows(tmp_path) == 60 + 5 + 16 + 2
    assert "Traceback" not in served.told.read_text()
    assert "the guard has ended" in served.told.read_text()


def _counted(url: str) -> dict[str, float]:
    """Counters of all workers, as far as they have told."""
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name.removeprefix("safewright_guard_"): float(value) for name, value in pairs}


def _rows(home: Path) -> int:
    import sqlite3

    with sqlite3.connect(home / "audit.db") as database:
        return int(database.execute("SELECT COUNT(*) FROM audit").fetchone()[0])


def test_one_worker_keeps_its_state_where_it_is_told_and_ends_well(tmp_path: Path) -> None:
    kept = ("--state", str(tmp_path / "state.db"))
    for _ in range(2):
        with serving(tmp_path, *kept) as served:
            reply = httpx.post(
                f"{served.url}/v1/check",
                json=ALLOWED,
                headers={**as_who(CHECK), "Idempotency-Key": "over-restarts"},
                trust_env=False,
                timeout=60,
            )
            assert reply.json()["decision"] == "allow"
            wrong = httpx.get(f"{served.url}/healthz", headers={"Host": "evil.example"}, trust_env=False)
            assert wrong.status_code == 421
    assert reply.headers["Idempotent-Replayed"] == "true"
    assert _rows(tmp_path) == 1


def test_without_tokens_it_guards_this_machine_and_has_no_operator(tmp_path: Path) -> None:
    env = dict.fromkeys(TOKENS, "")
    with serving(tmp_path, env=env) as served:
        assert (
            httpx.post(f"{served.url}/v1/check", json=ALLOWED, trust_env=False).json()["decision"] == "allow"
        )
        assert httpx.get(f"{served.url}/v1/audit", trust_env=False).status_code == 403
        assert "no operator" in served.told.read_text()


def refused(home: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """What a server that may not begin says."""
    done = subprocess.run(
        command(home, *arguments),
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | dict.fromkeys(TOKENS, "") | (env or {}),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in refused(tmp_path, "--port", port)
        assert port in refused(tmp_path, "--port", port, "--workers", "2")


def test_other_machines_need_a_token(tmp_path: Path) -> None:
    said = refused(tmp_path, "--host", "0.0.0.0")
    assert "SAFEWRIGHT_GUARD_CHECK_TOKEN" in said
    operator_only = {"SAFEWRIGHT_GUARD_OPERATOR_TOKEN": OPERATOR}
    assert "SAFEWRIGHT_GUARD_CHECK_TOKEN" in refused(tmp_path, "--host", "0.0.0.0", env=operator_only)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_cannot_be_used_is_said_before_anything_listens(tmp_path: Path, workers: str) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("on_unknown = 'allow'")
    assert "on_unknown" in refused(tmp_path, "--policy", str(broken), "--workers", workers)


def test_tokens_that_others_can_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"check {CHECK}\n")
    file.chmod(0o640)
    assert re.search("chmod 600", refused(tmp_path, "--tokens", str(file)))
