"""The client against real sockets that are dead, hung, slow, or say something else than a permission."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.guard import Action, Guard, Verdict
from safewright.guard.doors.client import GuardClient, read_verdict
from safewright.guard.nouns import read_action
from tests.guard.http_door import ALLOWED, CHECK, DENIED, ESCALATED, serving

CALL = read_action(ALLOWED)
Answer = Callable[[socket.socket], None]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """An address where every connection gets what a function does."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def accept() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                answer(connection)
            except OSError:
                pass

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.close()


def heard(connection: socket.socket) -> None:
    """Read a request, head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)


def said(status: str, body: bytes, kind: str = "application/json", more: str = "") -> Answer:
    def answer(connection: socket.socket) -> None:
        heard(connection)
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        connection.sendall(head.encode() + body)

    return answer


def verdict(**changed: Any) -> bytes:
    found = {**Verdict("allow", "allow").as_json(), **changed}
    return json.dumps({name: value for name, value in found.items() if value != "LEFT OUT"}).encode()


def hung(connection: socket.socket) -> None:
    heard(connection)
    time.sleep(60)


def dripping(connection: socket.socket) -> None:
    """One byte at a time, each well within any time-out of a single read."""
    heard(connection)
    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def dripping_body(connection: socket.socket) -> None:
    heard(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


def broken_off(connection: socket.socket) -> None:
    heard(connection)
    body = verdict()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body) + 1}\r\n\r\n"
    connection.sendall(head.encode() + body)


def large(connection: socket.socket) -> None:
    heard(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    for _ in range(6000):
        connection.sendall(b" " * 1024)
    connection.sendall(verdict())


FAULTS: dict[str, Answer] = {
    "hung": hung,
    "dripping head": dripping,
    "dripping body": dripping_body,
    "closed at once": lambda connection: None,
    "closed after the question": heard,
    "broken off": broken_off,
    "too large": large,
    "garbage": lambda connection: connection.sendall(b"\x00\xff garbage\r\n\r\n"),
    "no JSON": said("200 OK", b"allow"),
    "empty": said("200 OK", b""),
    "a list": said("200 OK", b'["allow"]'),
    "a word": said("200 OK", b'"allow"'),
    "not called JSON": said("200 OK", verdict(), "text/html"),
    "only the word": said("200 OK", b'{"decision": "allow"}'),
    "another word": said("200 OK", verdict(decision="ALLOW")),
    "a true": said("200 OK", verdict(decision=True)),
    "a null": said("200 OK", verdict(decision=None)),
    "a list of words": said("200 OK", verdict(decision=["allow"])),
    "twice": said("200 OK", verdict()[:-1] + b', "decision": "allow"}'),
    "modify without arguments": said("200 OK", verdict(decision="modify")),
    "allow with arguments": said("200 OK", verdict(modified={"a": 1})),
    "checks of another shape": said("200 OK", verdict(checks=[{"id": 1}])),
    "reasons of another shape": said("200 OK", verdict(reasons="none")),
    "no usage": said("200 OK", verdict(usage=None)),
    "another failure": said("200 OK", verdict(failure="none")),
    "a field left out": said("200 OK", verdict(checks="LEFT OUT")),
    "201": said("201 Created", verdict()),
    "206": said("206 Partial Content", verdict()),
    "redirect": said("307 Temporary Redirect", b"", more="Location: http://127.0.0.1:1/\r\n"),
    "401": said("401 Unauthorized", verdict()),
    "403": said("403 Forbidden", verdict()),
    "422": said("422 Unprocessable", verdict()),
    "429": said("429 Too Many", verdict()),
    "500": said("500 Error", verdict()),
    "503": said("503 Unavailable", verdict()),
}


def denied(found: Verdict) -> None:
    assert not found.allowed
    assert (found.decision, found.found, found.failure) == ("deny", "deny", "upstream")
    assert found.reasons
    assert found.audit_id is None


@pytest.mark.parametrize("fault", FAULTS)
def test_11_http_the_client_denies_whatever_is_no_permission(fault: str) -> None:
    with server(FAULTS[fault]) as url:
        # Those that never end are cut off; the others get all the time that a busy machine may need.
        seconds = 0.7 if fault.startswith(("hung", "drip")) else 30.0
        with GuardClient(url, CHECK, timeout=seconds) as client:
            began = time.monotonic()
            denied(client.check(CALL))
            denied(asyncio.run(client.acheck(CALL)))
            assert time.monotonic() - began < 60


def test_the_client_denies_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with GuardClient(f"http://127.0.0.1:{port}") as client:
        denied(client.check(CALL))
    with GuardClient("http://no-such-host.invalid", timeout=20) as client:
        denied(client.check(CALL))


def test_the_client_takes_the_four_decisions_as_they_are() -> None:
    for decision, modified in (
        ("allow", None),
        ("modify", {"to": ["ann"]}),
        ("escalate", None),
        ("deny", None),
    ):
        body = verdict(decision=decision, found=decision, modified=modified, more="is passed over")
        with server(said("200 OK", body)) as url, GuardClient(url) as client:
            found = client.check(CALL)
            assert (found.decision, found.modified, found.failure) == (decision, modified, None)
            assert found.allowed is (decision in ("allow", "modify"))


def test_a_described_environment_is_sent_along() -> None:
    from safewright.guard.environments import read_environment

    asked: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        data = b""
        while b"/home/ann" not in data:
            data += connection.recv(65536)
        asked.append(data.partition(b"\r\n\r\n")[2])
        body = verdict()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    where = read_environment({"/home/ann/a": {"owner": "ann", "mode": "0600"}})
    with server(answer) as url, GuardClient(url) as client:
        assert client.check(Action("look", environment=where)).allowed
    entry = json.loads(asked[0])["environment"]["/home/ann/a"]
    assert (entry["owner"], entry["mode"]) == ("ann", 0o600)


def test_what_a_guard_says_survives_the_way() -> None:
    for call in (ALLOWED, DENIED, ESCALATED):
        ours = Guard().check(read_action(call))
        assert read_verdict(json.loads(json.dumps(ours.as_json()))) == ours


def test_the_client_denies_what_it_cannot_send() -> None:
    with GuardClient("http://127.0.0.1:9") as client:
        for arguments in ({"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, {"a": "x" * 70_000}, None):
            found = client.check(Action("look", arguments))  # type: ignore[arg-type]
            assert (found.decision, found.failure) == ("deny", "invalid_action")


def test_proxies_of_the_environment_do_not_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def allow_all(connection: socket.socket) -> None:
        said("200 OK", verdict())(connection)

    with server(allow_all) as proxy, socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
        gone.close()
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with GuardClient(url) as client:
            denied(client.check(CALL))


def test_a_client_is_not_made_of_nonsense() -> None:
    for url, token, timeout in (
        ("ftp://x", None, 1.0),
        ("127.0.0.1:8200", None, 1.0),
        ("http://x", "a\nb", 1.0),
        ("http://x", "", 1.0),
        ("http://x", None, 0.0),
        ("http://x", None, float("nan")),
    ):
        with pytest.raises(BadInput):
            GuardClient(url, token, timeout)


def test_one_client_serves_threads_loops_and_running_loops() -> None:
    with server(said("200 OK", verdict(), more="Connection: close\r\n")) as url, GuardClient(url) as client:
        with ThreadPoolExecutor(8) as pool:
            assert all(found.allowed for found in pool.map(lambda _: client.check(CALL), range(24)))

        async def inside() -> None:
            assert client.check(CALL).allowed
            assert (await client.acheck(CALL)).allowed
            await client.aclose()

        asyncio.run(inside())
        asyncio.run(inside())
        client.close()
        assert client.check(CALL).allowed


def test_11_http_a_killed_worker_is_a_denial_and_the_next_one_answers(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2", "--deadline", "30") as served:
        with GuardClient(served.url, CHECK, timeout=60) as client:
            assert client.check(CALL).allowed
            until(lambda: len(served.workers) == 2)
            # A writer that holds the audit log keeps verdicts from leaving: a request under way, for certain.
            holder = sqlite3.connect(tmp_path / "audit.db", isolation_level=None)
            holder.execute("BEGIN IMMEDIATE")
            with ThreadPoolExecutor(1) as pool:
                for _ in range(
                    5
                ):  # the log is waited for 5 s: on a slow machine that may be too short to see
                    found = pool.submit(client.check, CALL)
                    until(lambda: found.done() or "safewright_guard_in_flight 1" in metrics(served.url))  # noqa: B023
                    if not found.done():
                        break
                killed = served.workers
                for worker in killed:
                    os.kill(worker, signal.SIGKILL)
                denied(found.result(60))
            holder.execute("ROLLBACK")
            holder.close()
            until(lambda: len(set(served.workers) - set(killed)) == 2)
            until(lambda: client.check(CALL).allowed)
        from safewright.guard.audit.chain import verify

        assert verify(tmp_path / "audit.db").sound


def metrics(url: str) -> str:
    import httpx

    return httpx.get(f"{url}/metrics", timeout=60, trust_env=False).text


def until(true: Callable[[], bool]) -> None:
    """Wait for something that is bound to happen."""
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)
