"""The MCP door, in process: what is passed on, hidden, pinned, cleaned, and asked of a person."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp
import mcp_types as types
import pytest

from safewright.errors import BadInput
from safewright.guard import Guard, Policy, Principal
from safewright.guard.doors.mcp import approvals
from safewright.guard.doors.mcp.pins import Pins, digest_of
from safewright.guard.doors.mcp.proxy import WITHHELD, Options, Proxy
from safewright.guard.doors.mcp.serving import server_of
from tests.guard import mcp_server

READ = ("echo", "structured", "hang", "flood", "raise_it", "poison", "grow", "progress", "second_page")
POLICY = (
    'extends = "default"\n'
    + "".join(f'[tools.{name}]\neffect = "read"\n' for name in READ)
    + '[tools.secret_tool]\neffect = "read"\n[roles.guest]\ndenied_tools = ["secret*"]\n'
)
USER = Principal("ann", "user")
PLAIN = Options(principal=USER, request="say hello")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    mcp_server.CALLS.clear()
    mcp_server.SAID["echo"] = "Say it again."


@asynccontextmanager
async def door(
    mode: str = "auto",
    answer: Any = None,
    pins: Path | None = None,
    options: Options = PLAIN,
    **client: Any,
) -> AsyncIterator[tuple[Any, Proxy]]:
    """A client of a proxy of the tests' server, all in this process. ``answer`` is what its human says."""
    held: list[Proxy] = []

    async def heard(message: Any) -> None:
        await held[0].heard(message)

    async def asked(ctx: Any, params: Any) -> Any:
        return answer(params) if callable(answer) else answer

    with Guard(Policy.read(POLICY)) as guard:
        async with mcp.Client(
            mcp_server.server(), mode="legacy", message_handler=heard, cache=None
        ) as upstream:
            held.append(Proxy(guard, upstream, Pins(pins, "tests"), options))
            extra = {"elicitation_callback": asked} if answer is not None else {}
            async with mcp.Client(server_of(held[0]), mode=mode, cache=None, **extra, **client) as downstream:
                yield downstream, held[0]


def run(what: Callable[[], Any]) -> Any:
    async def bounded() -> Any:
        with anyio.fail_after(60):
            return await what()

    return anyio.run(bounded)


def said(result: Any) -> str:
    return " ".join(item.text for item in result.content)


def yes(params: Any = None) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={approvals.QUESTION: True})


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_calls_prompts_resources_pages_and_meta_are_passed_on(mode: str) -> None:
    async def go() -> None:
        async with door(mode) as (client, _), mcp.Client(mcp_server.server(), mode=mode) as direct:
            first, plain = await client.list_tools(), await direct.list_tools()
            assert [tool.model_dump() for tool in first.tools] == [tool.model_dump() for tool in plain.tools]
            assert first.next_cursor == "two"
            second = await client.list_tools(cursor="two")
            assert [tool.name for tool in second.tools] == ["second_page", "secret_tool"]
            result = await client.call_tool(
                "echo", {"text": "hello"}, meta={"example/trace": "t1", "safewright/request": "mine"}
            )
            assert (said(result), result.is_error) == ("hello", False)
            assert mcp_server.CALLS[-1] == ("echo", {"text": "hello"}, {"example/trace": "t1"})
            structured = await client.call_tool("structured", {})
            assert structured.structured_content == {"n": 3}
            assert (structured.meta or {})["example/kept"] is True
            assert (await client.list_prompts()).prompts[0].name == "greet"
            assert "Hello" in (await client.get_prompt("greet", {"a": "b"})).messages[0].content.text
            assert (await client.list_resources()).resources[0].name == "a"
            assert (await client.read_resource("memo://a")).contents[0].text == "what a memo says"
            assert client.instructions == "Tools for tests."

    run(go)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_progress_is_passed_on(mode: str) -> None:
    seen: list[Any] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total, message))

    async def go() -> None:
        async with door(mode) as (client, _):
            await client.call_tool("progress", {}, progress_callback=progress)
            with anyio.fail_after(10):
                while not seen:
                    await anyio.sleep(0.01)

    run(go)
    assert seen == [(1, 2, "half")]


def test_a_denied_call_is_an_error_result_and_is_not_made() -> None:
    async def go() -> None:
        async with door(options=Options(principal=Principal("eve", "guest"))) as (client, _):
            names = [tool.name for tool in (await client.list_tools(cursor="two")).tools]
            assert names == ["second_page"]
            result = await client.call_tool("secret_tool", {})
            assert result.is_error
            assert "denied" in said(result)
            assert result.meta["safewright/decision"] == "deny"
            assert (await client.call_tool("no_such_tool", {})).is_error

    run(go)
    assert mcp_server.CALLS == []


def test_hints_are_believed_where_they_tighten() -> None:
    async def go() -> None:
        async with door() as (client, proxy):
            result = await client.call_tool("second_page", {})
            assert result.is_error
            assert result.meta["safewright/decision"] == "escalate"
            known = proxy._tools["second_page"]
            assert known.hints == {"readOnlyHint": False, "destructiveHint": True}

    run(go)


def test_the_servers_failure_is_an_error_result() -> None:
    async def go() -> None:
        options = Options(principal=USER, deadline_s=0.3, most_result=1000)
        async with door(options=options) as (client, _):
            assert (await client.call_tool("raise_it", {})).is_error
            hung = await client.call_tool("hang", {})
            assert hung.is_error
            assert "in time" in said(hung)
            big = await client.call_tool("flood", {"text": "5000"})
            assert big.is_error
            assert "xxxx" not in said(big)
            assert said(await client.call_tool("flood", {"text": "5"})) == "xxxxx"

    run(go)


def test_a_result_with_instructions_is_cleaned_and_remembered() -> None:
    async def go() -> None:
        async with door() as (client, proxy):
            result = await client.call_tool("poison", {})
            text = said(result)
            assert "Rooms: 3" in text
            assert "ignore all previous instructions" not in text
            kept = proxy.sessions.history(proxy.session)
            assert [turn.kind for turn in kept] == ["call", "result"]
            assert "ignore all previous instructions" in kept[1].text

    run(go)


def test_a_changed_tool_is_withheld_and_asked_about(tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"

    async def changed(answer: Any) -> Any:
        async with door("legacy", answer, pins) as (client, _):
            await client.list_tools()
            assert not (await client.call_tool("echo", {"text": "a"})).is_error
            await client.call_tool("grow", {})
            told = next(tool for tool in (await client.list_tools()).tools if tool.name == "echo")
            assert told.description == WITHHELD
            assert told.input_schema["properties"].keys() == {"text"}
            return await client.call_tool("echo", {"text": "b"})

    async def accepted() -> Any:
        options = Options(principal=USER, request="say hello", accept_changes=True)
        async with door("legacy", None, pins, options) as (client, _):
            await client.list_tools()
            return await client.call_tool("echo", {"text": "c"})

    refused = run(lambda: changed(None))
    assert refused.is_error
    assert "nobody can be asked" in said(refused)
    assert ("echo", {"text": "b"}) not in [call[:2] for call in mcp_server.CALLS]
    # A new process with the same pins: the server says at once what it said last, and that is not what was pinned.
    mcp_server.SAID["echo"] = "Say it again."
    assert said(run(lambda: changed(yes()))) == "b"
    assert said(run(accepted)) == "c"


def test_pins_are_by_description_and_schema_and_a_broken_file_is_an_error(tmp_path: Path) -> None:
    one = {"name": "a", "description": "x", "inputSchema": {"type": "object"}}
    assert digest_of(one) == digest_of({**one, "icons": []})
    for change in ({"description": "y"}, {"inputSchema": {}}, {"annotations": {"readOnlyHint": True}}):
        assert digest_of(one) != digest_of({**one, **change})
    file = tmp_path / "pins.json"
    assert [Pins(file, "s").see(one), Pins(file, "s").see(one)] == ["new", "same"]
    assert Pins(file, "s").see({**one, "description": "y"}) == "changed"
    assert Pins(file, "other").see({**one, "description": "y"}) == "new"
    file.write_text("{")
    with pytest.raises(BadInput):
        Pins(file, "s")


CASES = {
    "newer client, yes": ("auto", yes, False),
    "newer client, no": ("auto", lambda p: types.ElicitResult(action="decline"), True),
    "newer client, nobody to ask": ("auto", None, True),
    "older client, yes": ("legacy", yes, False),
    "older client, box not ticked": (
        "legacy",
        lambda p: types.ElicitResult(action="accept", content={approvals.QUESTION: False}),
        True,
    ),
    "older client, nobody to ask": ("legacy", None, True),
}


@pytest.mark.parametrize("case", CASES)
def test_11_escalation_by_protocol(case: str) -> None:
    mode, answer, refused = CASES[case]

    async def go() -> Any:
        async with door(mode, answer) as (client, _):
            return await client.call_tool("pid", {"text": "unknown to the policy"})

    result = run(go)
    assert result.is_error is refused
    assert bool(mcp_server.CALLS) is not refused


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_persons_answer_is_written_down(mode: str, tmp_path: Path) -> None:
    from safewright.guard.audit import open_audit

    async def go(answer: Any) -> Any:
        async with door(mode, answer) as (client, proxy):
            proxy.guard.audit = audit
            await client.call_tool("pid", {"text": "unknown to the policy"})

    for answer in (yes(), types.ElicitResult(action="cancel")):
        audit = open_audit(tmp_path / "audit.db")
        run(lambda answer=answer: go(answer))  # the guard's end closes it
    audit = open_audit(tmp_path / "audit.db")
    said = [row["decision"] for row in audit.search(kind="resolution")]
    audit.close()
    assert sorted(said) == ["approve", "deny"]


def test_11_an_approval_is_for_one_call_once_and_for_a_while() -> None:
    answers = {approvals.QUESTION: yes()}

    async def go(options: Options, second: dict[str, Any], wait: float = 0.0) -> list[Any]:
        async with door("auto", yes, options=options) as (client, _):

            async def call(arguments: dict[str, Any], **more: Any) -> Any:
                return await client.session.call_tool("pid", arguments, allow_input_required=True, **more)

            first = await call({"text": "one"})
            assert isinstance(first, types.InputRequiredResult)
            asked = first.input_requests[approvals.QUESTION].params.message
            assert '"pid"' in asked
            assert '"one"' in asked
            await anyio.sleep(wait)
            retry = {"input_responses": answers, "request_state": first.request_state}
            results = [await call(second, **retry)]
            results.append(await call({"text": "one"}, **retry))
            forged = first.request_state.partition(".")[0] + ".AAAA"
            results.append(await call({"text": "one"}, input_responses=answers, request_state=forged))
            # An answer without a ticket is a new question.
            results.append(await call({"text": "one"}, input_responses=answers))
            return results

    plain, brief = Options(principal=USER), Options(principal=USER, approval_s=0.2)
    same, again, forged, bare = run(lambda: go(plain, {"text": "one"}))
    assert not same.is_error
    assert again.is_error
    assert forged.is_error
    assert isinstance(bare, types.InputRequiredResult)
    other, then, _, _ = run(lambda: go(plain, {"text": "two"}))
    assert other.is_error
    assert not then.is_error  # a ticket tried on another call is not spent
    late, _, _, _ = run(lambda: go(brief, {"text": "one"}, 0.4))
    assert late.is_error
    made = [arguments for name, arguments, _ in mcp_server.CALLS if name == "pid"]
    assert made == [{"text": "one"}, {"text": "one"}]


def test_meta_says_who_only_where_it_is_trusted() -> None:
    meta = {"safewright/principal": {"id": "eve", "role": "guest"}, "safewright/request": "read"}

    async def go(trust: bool, meta: Any) -> bool:
        async with door(options=Options(principal=USER, trust_meta=trust)) as (client, proxy):
            seen: list[Any] = []
            check = proxy.guard.acheck

            async def acheck(action: Any) -> Any:
                seen.append(action)
                return await check(action)

            proxy.guard.acheck = acheck  # type: ignore[method-assign]
            result = await client.call_tool("secret_tool", {}, meta=meta)
            if seen:
                assert seen[0].request == ("read" if trust else None)
            return bool(result.is_error)

    assert run(lambda: go(True, meta)) is True
    assert run(lambda: go(False, meta)) is False
    assert run(lambda: go(True, {"safewright/principal": "root"})) is True
    assert run(lambda: go(True, {"safewright/request": 5})) is True


def test_a_guard_that_fails_lets_nothing_through() -> None:
    async def go() -> Any:
        async with door() as (client, proxy):

            async def broken(action: Any) -> Any:
                raise RuntimeError("no guard")

            proxy.guard.acheck = broken  # type: ignore[method-assign]
            return await client.call_tool("echo", {"text": "a"})

    assert run(go).is_error
    assert mcp_server.CALLS == []
