"""The MCP proxy's other side: a server that wants a token, one that asks for things, one whose call is cancelled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import mcp
import mcp_types as types
import pytest

from safewright.errors import BadInput
from safewright.guard import Guard, Policy, Principal
from safewright.guard.doors.mcp.headers import exposed, read_headers
from safewright.guard.doors.mcp.pins import Pins
from safewright.guard.doors.mcp.proxy import WITHHELD, Options, Proxy
from safewright.guard.doors.mcp.serving import server_of
from tests.guard import mcp_server
from tests.guard.test_mcp import door, run, said
from tests.guard.test_mcp_faults import CLI, HERE, _receive, _send, over_http, parameters, proxy

TOKEN = "tok-4f1c9a7788d2e6b0aa55"
POLICY = 'extends = "default"\n' + "".join(
    f'[tools.{name}]\neffect = "read"\n' for name in ("echo", "hang", "ask")
)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """The address of a server that answers nobody without the token that stands in a file."""
    (tmp_path / "accepted").write_text(TOKEN)
    program = f"""
from tests.guard.mcp_server import server
inner = server().streamable_http_app()
async def app(scope, receive, send):
    if scope["type"] == "http":
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        if given != "Bearer " + open({str(tmp_path / "accepted")!r}).read():
            headers = [(b"www-authenticate", b'Bearer realm="tests"'), (b"content-type", b"text/plain")]
            await send({{"type": "http.response.start", "status": 401, "headers": headers}})
            await send({{"type": "http.response.body", "body": b"who are you?"}})
            return
    await inner(scope, receive, send)
"""
    with over_http(program) as (_, url):
        yield url


def command(folder: Path, url: str, *options: str) -> list[str]:
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    return [*CLI, "--policy", str(policy), "--user", "user:ann", "--url", url, *options]


@pytest.mark.parametrize("way", ["environment", "file"])
def test_a_server_that_wants_a_token_gets_it_and_nobody_else_sees_it(
    tmp_path: Path, guarded: str, way: str
) -> None:
    environment = dict(os.environ)
    log = tmp_path / "stderr"
    if way == "environment":
        environment["SERVER_TOKEN"] = TOKEN
        options = ["--token-env", "SERVER_TOKEN"]
    else:
        secret = tmp_path / "headers"
        secret.touch(0o600)
        secret.write_text(f"# for the tests' server\nAuthorization: Bearer {TOKEN}\n")
        options = ["--header-file", str(secret)]
    started = command(tmp_path, guarded, *options, "--audit", str(tmp_path / "audit.db"))
    target = mcp.StdioServerParameters(command=started[0], args=started[1:], env=environment, cwd=HERE)

    async def go() -> None:
        with log.open("w") as errors:
            async with mcp.Client(mcp.stdio_client(target, errlog=errors), cache=None) as client:
                assert said(await client.call_tool("echo", {"text": "hello"})) == "hello"
                shown = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout
                assert "--url" in shown
                assert TOKEN not in shown
                (tmp_path / "accepted").write_text("another")  # as when a token runs out
                refused = await client.call_tool("echo", {"text": "hello"})
                assert refused.is_error
                assert "HTTP 401" in said(refused)
                assert refused.meta["safewright/failure"] == "upstream"
                (tmp_path / "accepted").write_text(TOKEN)
                assert said(await client.call_tool("echo", {"text": "again"})) == "again"

    run(go)
    (tmp_path / "accepted").unlink()
    assert "HTTP 401" in log.read_text()
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.name != "headers":
            assert TOKEN.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("token", [None, "tok-wrong-4f1c9a7788d2"])
def test_without_the_right_token_it_does_not_start(tmp_path: Path, guarded: str, token: str | None) -> None:
    options = [] if token is None else ["--token-env", "SERVER_TOKEN"]
    done = subprocess.run(
        command(tmp_path, guarded, *options),
        cwd=HERE,
        env={**os.environ, "SERVER_TOKEN": token or ""},
        input=b"",
        capture_output=True,
        timeout=90,
    )
    assert (done.returncode, done.stdout) == (5, b""), done.stderr
    assert b"HTTP 401" in done.stderr
    assert b"--token-env" in done.stderr
    assert (token or "tok-").encode() not in done.stderr


def test_headers_are_read_and_what_is_wrong_is_said_without_them(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.touch(0o600)
    file.write_text(f"\n# a note\nX-Key:  {TOKEN} \n")
    found = read_headers(["X-Team: red: one"], token_env="T", file=file, environment={"T": f" {TOKEN}\n"})
    assert found == {"X-Team": "red: one", "X-Key": TOKEN, "Authorization": f"Bearer {TOKEN}"}
    wrong: list[dict[str, Any]] = [
        {"lines": [f"no colon {TOKEN}"]},
        {"lines": [f"two words: {TOKEN}"]},
        {"lines": ["X-Key:"]},
        {"lines": [f"X-Key: {TOKEN}\nX-Other: b"]},
        {"lines": [f"X-Key: {TOKEN}é"]},
        {"lines": [f"x-key: {TOKEN}"], "file": file},
        {"lines": [f"authorization: {TOKEN}"], "token_env": "T"},
        {"token_env": "MISSING"},
        {"file": tmp_path / "missing"},
    ]
    for each in wrong:
        with pytest.raises(BadInput) as caught:
            read_headers(**each, environment={"T": TOKEN})
        assert TOKEN not in f"{caught.value.what} {caught.value.why} {caught.value.fix}"
    file.chmod(0o640)
    with pytest.raises(BadInput, match="Others than you"):
        read_headers(file=file)


def test_headers_in_the_clear_are_noticed() -> None:
    headers = {"Authorization": "x"}
    assert exposed("http://tools.example/mcp", headers)
    assert exposed("http://127.tools.example/mcp", headers)
    assert not exposed("http://tools.example/mcp", {})
    for url in (
        "https://tools.example/mcp",
        "http://127.0.0.1:1/mcp",
        "http://localhost/mcp",
        "http://[::1]:1/",
    ):
        assert not exposed(url, headers)


def test_a_token_for_a_server_that_a_command_starts_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [*CLI, "--token-env", "SERVER_TOKEN", "--", "true"],
        env={**os.environ, "SERVER_TOKEN": TOKEN},
        cwd=HERE,
        input=b"",
        capture_output=True,
        timeout=90,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert TOKEN.encode() not in done.stderr


def raw(folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.guard.mcp_raw_server", str(folder / "heard")]


def heard(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "heard").read_text().splitlines()]


def _policy(folder: Path) -> list[str]:
    policy = folder / "own.toml"
    policy.write_text(POLICY)
    return ["--policy", str(policy)]


def test_what_a_server_asks_of_the_client_is_refused_and_was_not_offered(tmp_path: Path) -> None:
    """The client could do all of it; the proxy says of itself that it cannot, and answers with errors."""

    async def never(*args: Any) -> Any:
        raise AssertionError("passed on")

    async def go() -> Any:
        target = parameters(tmp_path, *_policy(tmp_path), server=raw(tmp_path))
        able = {"sampling_callback": never, "elicitation_callback": never, "list_roots_callback": never}
        async with mcp.Client(target, cache=None, **able) as client:
            with anyio.fail_after(30):
                answers = json.loads(said(await client.call_tool("ask", {})))
            assert said(await client.call_tool("echo", {})) == "hello"  # and the connection lives on
            return answers

    answers = run(go)
    for method in ("sampling/createMessage", "elicitation/create", "roots/list", "made/up"):
        assert answers[f"q-{method}"]["code"] in (-32600, -32601), method
    assert answers["q-made/up"]["code"] == -32601
    assert answers["q-ping"] == {}
    hello = next(each for each in heard(tmp_path) if each.get("method") == "initialize")
    assert not {"sampling", "elicitation", "roots"} & set(hello["params"]["capabilities"])


def test_a_cancelled_call_is_cancelled_at_the_server(tmp_path: Path) -> None:
    started = parameters(tmp_path, *_policy(tmp_path), server=raw(tmp_path))
    process = subprocess.Popen(
        [started.command, *started.args],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        }
        _send(process, {"id": 1, "method": "initialize", "params": hello})
        _receive(process)
        _send(process, {"method": "notifications/initialized"})
        _send(process, {"id": 2, "method": "tools/call", "params": {"name": "hang", "arguments": {}}})
        call = _until(tmp_path, "tools/call")
        _send(process, {"method": "notifications/cancelled", "params": {"requestId": 2, "reason": "enough"}})
        cancelled = _until(tmp_path, "notifications/cancelled")
        assert cancelled["params"]["requestId"] == call["id"]
        _send(process, {"id": 3, "method": "tools/call", "params": {"name": "echo", "arguments": {}}})
        answer = _receive(process)
        while answer.get("id") != 3:
            answer = _receive(process)
        assert answer["result"]["content"][0]["text"] == "hello"
    finally:
        process.kill()
        process.wait()


def _until(folder: Path, method: str) -> dict[str, Any]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (folder / "heard").exists():
            for each in heard(folder):
                if each.get("method") == method:
                    return each
        time.sleep(0.05)
    raise AssertionError(f"the server never heard {method}")


def test_a_call_out_of_time_is_cancelled_at_the_server(tmp_path: Path) -> None:
    async def go() -> Any:
        options = (*_policy(tmp_path), "--upstream-deadline", "1")
        async with proxy(tmp_path, *options, server=raw(tmp_path)) as client:
            return await client.call_tool("hang", {})

    assert run(go).is_error
    call = next(each for each in heard(tmp_path) if each.get("method") == "tools/call")
    assert _until(tmp_path, "notifications/cancelled")["params"]["requestId"] == call["id"]


def test_a_server_that_answers_by_asking_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newer protocol's way of asking: the question is the result."""

    async def asking(ctx: Any, params: Any) -> Any:
        form = types.ElicitRequestFormParams(
            message="Your password?", requested_schema={"type": "object", "properties": {}}
        )
        wanted = types.ElicitRequest(params=form)
        return types.InputRequiredResult(input_requests={"who": wanted}, request_state="s")

    async def never(*args: Any) -> Any:
        raise AssertionError("passed on")

    monkeypatch.setattr(mcp_server, "call_tool", asking)

    async def go() -> Any:
        guard = Guard(Policy.read(POLICY))
        async with mcp.Client(mcp_server.server(), cache=None) as upstream:
            proxy = Proxy(guard, upstream, Pins(None, "tests"), Options(principal=Principal("ann", "user")))
            async with mcp.Client(server_of(proxy), cache=None, elicitation_callback=never) as client:
                return await client.call_tool("echo", {"text": "hello"})

    result = run(go)
    assert result.is_error
    assert "not passed on" in said(result)
    assert "password" not in said(result)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_that_tools_changed_is_passed_on(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a client of an older protocol; a newer one subscribes, which the proxy does not offer."""
    told: list[Any] = []

    async def hears(message: Any) -> None:
        told.append(message)

    async def go() -> None:
        async with door(mode, message_handler=hears) as (client, _):
            await client.list_tools()
            await client.call_tool("grow", {})
            if mode == "legacy":
                with anyio.fail_after(20):
                    while not told:
                        await anyio.sleep(0.01)
            shown = next(tool for tool in (await client.list_tools()).tools if tool.name == "echo")
            assert shown.description == WITHHELD  # whether told or not

    monkeypatch.setitem(mcp_server.SAID, "echo", "Say it again.")
    run(go)
    assert any(isinstance(each, types.ToolListChangedNotification) for each in told) == (mode == "legacy")
