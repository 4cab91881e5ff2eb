"""One trace through every door: the same calls, the same memory, the same verdicts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from safewright.guard import Action, Guard
from safewright.guard.nouns import action_json, read_action
from tests.guard import http_door
from tests.guard.fakes import MAIL_AND_FETCH

TRACE = [
    read_action(json.loads(line))
    for line in (Path(__file__).parent / "parity_trace.jsonl").read_text("utf-8").splitlines()
]
TRACE.append(replace(TRACE[0], arguments={"command": "ls a\0b"}))  # no file of actions can hold it
POLICY = """
extends = "default"
[tools.read_file]
effect = "read"
[tools.send_money]
effect = "pay"
identities = ["recipient"]
amounts = ["amount"]
[tools.delete_file]
effect = "delete"
[tools.forbidden]
effect = "read"
[roles.user]
denied_tools = ["forbidden"]
"""
KNOWN_BY_SOME = {"tool.shaped"}
"""What only a door can say that knows a tool's schema: MCP."""


class Recording(Guard):
    """A guard that keeps its verdicts, for doors that do not show them whole."""

    last: Any = None

    def check(self, action: Action) -> Any:
        self.last = super().check(action)
        return self.last

    async def acheck(self, action: Action) -> Any:
        self.last = await super().acheck(action)
        return self.last


def of(verdict: Any) -> dict[str, Any]:
    """What must be equal of a verdict: not its audit id, not how long it took."""
    values = verdict if isinstance(verdict, dict) else verdict.as_json()
    checks = [
        (check["id"], check["status"]) for check in values["checks"] if check["id"] not in KNOWN_BY_SOME
    ]
    return {"checks": checks, **{name: values[name] for name in ("decision", "failure", "modified")}}


def python(guard: Recording, action: Action, home: Path) -> Any:
    return of(guard.check(action))


def hook(guard: Recording, action: Action, home: Path) -> Any:
    """In the shape and by the events of a coding agent."""
    from safewright.guard.doors.hook import options_of
    from safewright.guard.doors.hook_daemon import Answerer

    options = ["--policy", str(home / "policy.toml"), "--user", "user:ann", "--no-environment"]
    answerer = Answerer(options_of(options), None)
    answerer.guard.close()
    answerer.guard = guard

    def event(name: str, **values: Any) -> Any:
        reply = answerer.reply({"hook_event_name": name, "session_id": "s", **values}, "")
        assert reply["code"] == 0 or "verdict" in reply, reply
        return reply

    calls = {turn.id: turn for turn in action.history if turn.kind == "call"}
    for turn in action.history:
        if turn.kind == "user":
            event("UserPromptSubmit", prompt=turn.text)
        elif turn.kind == "result":
            call = {"tool_name": turn.tool, "tool_input": dict(calls[turn.id].arguments)}
            event("PostToolUse", tool_response=turn.text, tool_use_id=turn.id, **call)
    reply = event("PreToolUse", tool_name=action.tool, tool_input=dict(action.arguments))
    assert (reply["code"] == 0) == (reply["verdict"]["decision"] == "allow")
    return of(reply["verdict"])


def http(guard: Recording, action: Action, home: Path) -> Any:
    from starlette.testclient import TestClient

    app = http_door.build_app(guard, http_door.State(home / "state.db"), http_door.known())
    # Not entered: the app's end would close the guard, which the next call needs.
    client = TestClient(app, headers=http_door.as_who(http_door.CHECK))
    answer = client.post("/v1/check", json=action_json(action))
    if answer.status_code != 200:  # the door refuses by itself what cannot be read
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["decision"] == "deny"
        return of(guard.check(action)) if "invalid_action" in answer.text else answer.text
    return of(answer.json())


def inspect(guard: Recording, action: Action, home: Path) -> Any:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageTool, ChatMessageUser
    from inspect_ai.tool import ToolCall, ToolCallView

    import safewright.inspect_plugin.approver as door

    name = json.dumps({"policy": str(home)})
    door.GUARDS[name] = guard
    history: list[Any] = []
    for turn in action.history:
        if turn.kind == "user":
            history.append(ChatMessageUser(content=turn.text))
        elif turn.kind == "call":
            call = ToolCall(id=turn.id, function=turn.tool, arguments=dict(turn.arguments))
            history.append(ChatMessageAssistant(content="", tool_calls=[call]))
        else:
            history.append(ChatMessageTool(content=turn.text, function=turn.tool, tool_call_id=turn.id))
    asked = ToolCall(id="now", function=action.tool, arguments=dict(action.arguments))
    history.append(ChatMessageAssistant(content="", tool_calls=[asked]))
    opened, door._opened = door._opened, lambda options: guard
    try:
        approve: Any = door.guard(principal="user:ann")
    finally:
        door._opened = opened
    given = anyio.run(lambda: approve("", asked, ToolCallView(), history))
    decision = {"approve": "allow", "reject": "deny"}.get(given.decision, given.decision)
    modified = dict(given.modified.arguments) if given.modified is not None else None
    assert decision == guard.last.decision
    return of({**given.metadata, "decision": decision, "modified": modified})


def mcp(guard: Recording, action: Action, home: Path) -> Any:
    import mcp_types as types
    from mcp import Client
    from mcp.server.lowlevel import Server

    from safewright.guard.doors.mcp.pins import Pins
    from safewright.guard.doors.mcp.proxy import Options, Proxy
    from safewright.guard.doors.mcp.serving import server_of

    made: list[Any] = []

    async def list_tools(ctx: Any, params: Any) -> Any:
        return types.ListToolsResult(tools=[types.Tool(name=action.tool, input_schema={"type": "object"})])

    async def call_tool(ctx: Any, params: Any) -> Any:
        made.append(params.arguments)
        return types.CallToolResult(content=[])

    async def go() -> Any:
        upstream = Server("tests", on_list_tools=list_tools, on_call_tool=call_tool)
        async with Client(upstream, cache=None) as client:
            options = Options(request=action.request, principal=action.principal)
            proxy = Proxy(guard, client, Pins(None, "tests"), options)
            proxy.sessions.add(proxy.session, action.history)
            async with Client(server_of(proxy), cache=None) as agent:
                return await agent.call_tool(action.tool, dict(action.arguments))

    result = anyio.run(go)
    assert bool(made) == guard.last.allowed
    assert result.is_error is not guard.last.allowed
    return of(guard.last)


def chat(action: Action) -> list[dict[str, Any]]:
    """The history as messages of the chat interface."""
    found: list[dict[str, Any]] = []
    for turn in action.history:
        if turn.kind == "call":
            function = {"name": turn.tool, "arguments": json.dumps(dict(turn.arguments))}
            call = {"id": turn.id, "type": "function", "function": function}
            found.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif turn.kind == "result":
            found.append({"role": "tool", "tool_call_id": turn.id, "content": turn.text})
        else:
            found.append({"role": turn.kind, "content": turn.text})
    return found


def openai_agents(guard: Recording, action: Action, home: Path) -> Any:
    from agents import function_tool

    from safewright.guard.doors.adapters.openai_agents import protect

    tool = protect([function_tool(lambda: "", name_override="x")], guard, principal=action.principal)[0]
    context = SimpleNamespace(
        tool_name=action.tool,
        tool_arguments=json.dumps(dict(action.arguments)),
        tool_call_id="now",
        turn_input=chat(action),
    )
    data: Any = SimpleNamespace(context=context, agent=SimpleNamespace(name="tests"))
    output = anyio.run(tool.tool_input_guardrails[0].run, data)
    assert (output.behavior["type"] == "allow") == (guard.last.decision == "allow")
    return of(guard.last)


def langchain(guard: Recording, action: Action, home: Path) -> Any:
    from langchain_core.messages import ToolMessage, convert_to_messages

    from safewright.guard.doors.adapters.langchain import guarding

    call = {"name": action.tool, "args": dict(action.arguments), "id": "now", "type": "tool_call"}
    messages = convert_to_messages(chat(action))
    from langchain_core.messages import AIMessage

    messages.append(AIMessage("", tool_calls=[call]))
    from langgraph.prebuilt.tool_node import ToolCallRequest

    asked = ToolCallRequest(call, None, {"messages": messages}, None)  # type: ignore[arg-type]
    made: list[Any] = []

    def handler(request: Any) -> Any:
        made.append(request)
        return ToolMessage("", tool_call_id="now")

    guarding(guard, principal=action.principal).wrap_tool_call(asked, handler)
    assert bool(made) == guard.last.allowed
    return of(guard.last)


def litellm(guard: Recording, action: Action, home: Path) -> Any:
    from safewright.guard.doors.adapters.litellm import guardrail

    door = guardrail(guard, principal_of=lambda key: action.principal)
    function = SimpleNamespace(name=action.tool, arguments=json.dumps(dict(action.arguments)))
    message = SimpleNamespace(content=None, tool_calls=[SimpleNamespace(id="now", function=function)])
    answer = SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="tool_calls")])
    anyio.run(door.async_post_call_success_hook, {"messages": chat(action)}, None, answer)
    assert bool(message.tool_calls) == guard.last.allowed
    return of(guard.last)


DOORS: dict[str, Callable[[Recording, Action, Path], Any]] = {
    each.__name__: each for each in (hook, http, inspect, mcp, openai_agents, langchain, litellm)
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, and a memory that has seen the trace once."""
    folder = tmp_path_factory.mktemp("parity")
    (folder / "policy.toml").write_text(POLICY + MAIL_AND_FETCH)
    with Guard(folder / "policy.toml", memory=folder / "memory.db") as guard:
        guard.check_many(TRACE)
    return folder


def opened(home: Path, name: str) -> Recording:
    """A guard over a copy of the memory, frozen."""
    copy = home / name
    copy.mkdir()
    for file in home.glob("memory.db*"):
        shutil.copy(file, copy / file.name)
    return Recording(home / "policy.toml", memory=copy / "memory.db", freeze=True)


@pytest.fixture(scope="module")
def expected(home: Path) -> list[Any]:
    with opened(home, "python") as guard:
        return [python(guard, action, home) for action in TRACE]


def test_the_trace_is_worth_replaying(expected: list[Any]) -> None:
    assert len(expected) >= 12
    assert {each["decision"] for each in expected} >= {"allow", "deny", "escalate"}
    assert "invalid_action" in {each["failure"] for each in expected}
    assert sum(len(action.history) > 1 for action in TRACE) >= 3


@pytest.mark.parametrize("door", DOORS)
def test_every_door_gives_the_same_verdicts(
    door: str, home: Path, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with opened(home, door) as guard:
        place = home / door
        (place / "policy.toml").write_text(POLICY + MAIL_AND_FETCH)
        found = [DOORS[door](guard, action, place) for action in TRACE]
    for action, one, other in zip(TRACE, expected, found, strict=True):
        assert one == other, action


def test_the_hook_as_a_process_gives_the_same_verdicts(home: Path, expected: list[Any]) -> None:
    """An action in the shape of the other doors, through a real process."""
    import subprocess
    import sys

    program = "from safewright.guard.doors.hook import main; main()"
    options = ["--policy", str(home / "policy.toml"), "--no-daemon", "--verdict"]
    for action, verdict in list(zip(TRACE, expected, strict=True))[:5]:
        done = subprocess.run(
            [sys.executable, "-c", program, *options],
            input=json.dumps(action_json(action)).encode(),
            capture_output=True,
            timeout=90,
        )
        assert of(json.loads(done.stdout)) == verdict
        assert done.returncode == (0 if verdict["decision"] == "allow" else 2)
