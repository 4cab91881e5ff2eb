"""The Inspect door to the guard: an approver, and tools whose results are scanned before the model sees them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from inspect_ai.approval import Approval, Approver, approver
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageTool, ChatMessageUser
from inspect_ai.tool import Tool, ToolCall, ToolCallView, ToolDef

from safewright.guard.engine import DEADLINE_SECONDS, Guard
from safewright.guard.nouns import Action, Principal, Turn, Verdict, named_principal, read_principal
from safewright.guard.scanning import scan
from safewright.inspect_plugin.provider import told

GUARDS: dict[str, Guard] = {}
"""Guards by their options: the samples of an evaluation share one."""


@approver(name="guard")
def guard(
    policy: str | None = None,
    memory: str | None = None,
    audit: str | None = None,
    backend: Any = "rules",
    model: str | None = None,
    preset: Any = "hardened",
    deadline: float = DEADLINE_SECONDS,
    on_unknown: Any = None,
    mode: Any = "enforce",
    freeze: bool = False,
    namespace: str = "default",
    principal: str | dict[str, Any] | None = None,
    request: str | None = None,
    human: bool = False,
) -> Approver:
    """Let Safewright's guard approve tool calls: ``approvers: [{name: safewright/guard, tools: "*"}]``.

    Args:
        policy, memory, audit, backend, model, preset, deadline, on_unknown, mode, freeze, namespace: As `Guard` takes
            them.
        principal: On whose behalf the agent acts: ``ROLE:ID``, or an object with id, role and attributes.
        request: What the user asked for; the first user message where None.
        human: Whether another approver stands behind this one: escalations, and failures, then go to it. Without it
            Inspect rejects what is escalated.
    """
    options = {
        "policy": policy, "memory": memory, "audit": audit, "backend": backend, "model": model, "preset": preset,
        "deadline_s": deadline, "on_unknown": on_unknown, "mode": mode, "freeze": freeze, "namespace": namespace,
        "approver": human,
    }  # fmt: skip
    with told():
        opened = _opened(options)
        acting_for = _principal(principal)

    async def approve(
        message: str, call: ToolCall, view: ToolCallView, history: list[ChatMessage]
    ) -> Approval:
        try:
            if call.parse_error:
                return Approval(
                    decision="reject",
                    explanation="The call's arguments could not be read.",
                    metadata={"failure": "invalid_action"},
                )
            action = action_of(call, history, principal=acting_for, request=request)
            return approval_of(await opened.acheck(action), call)
        except Exception as error:  # noqa: BLE001 - an approver that raises ends the whole sample
            return Approval(
                decision="reject",
                explanation="The safety check could not be completed, so the call was not made.",
                metadata={"failure": "internal", "detail": f"{type(error).__name__}: {error}"[:500]},
            )

    return approve


def _opened(options: dict[str, Any]) -> Guard:
    name = json.dumps(options, sort_keys=True, default=str)
    if name not in GUARDS:
        GUARDS[name] = Guard(**options)
    return GUARDS[name]


def _principal(given: str | dict[str, Any] | None) -> Principal | None:
    if given is None:
        return None
    if isinstance(given, str):
        return named_principal(given)
    return read_principal(given)


def action_of(
    call: ToolCall,
    history: Sequence[ChatMessage],
    *,
    principal: Principal | None = None,
    request: str | None = None,
) -> Action:
    """The action that a tool call of Inspect's is.

    ``history`` ends with the assistant's message that holds the call; the other calls of that message are its
    siblings. Some providers number the calls of every message from one, so an earlier call may have the same id.
    """
    now = max(
        (n for n, message in enumerate(history) if isinstance(message, ChatMessageAssistant)), default=-1
    )
    turns: list[Turn] = []
    siblings: tuple[Turn, ...] = ()
    asked = request
    session = ""
    for n, message in enumerate(history):
        if isinstance(message, ChatMessageUser):
            asked = message.text if asked is None else asked
            session = session or message.id or ""
            turns.append(Turn("user", message.text))
        elif isinstance(message, ChatMessageTool):
            said = message.text
            if message.error is not None:  # what the model is shown in place of a result
                said = "\n".join(dict.fromkeys(text for text in (said, message.error.message) if text))
            turns.append(Turn("result", said, message.function or "", id=message.tool_call_id or ""))
        elif isinstance(message, ChatMessageAssistant):
            calls = message.tool_calls or []
            if message.text:
                turns.append(Turn("assistant", message.text))
            if n == now and any(each.id == call.id for each in calls):
                siblings = tuple(_turn(each) for each in calls if each.id != call.id)
            else:
                turns.extend(_turn(each) for each in calls)
    return Action(
        tool=call.function,
        arguments=call.arguments,
        request=asked,
        principal=principal,
        session=session,
        history=tuple(turns),
        siblings=siblings,
    )


def _turn(call: ToolCall) -> Turn:
    return Turn("call", tool=call.function, arguments=call.arguments, id=call.id)


def approval_of(verdict: Verdict, call: ToolCall) -> Approval:
    """What Inspect is to do; checks, audit id and policy go into its log."""
    decisions: dict[str, Any] = {
        "allow": "approve", "modify": "modify", "escalate": "escalate", "deny": "reject",
    }  # fmt: skip
    modified = None
    if verdict.decision == "modify" and verdict.modified is not None:
        modified = replace(call, arguments=dict(verdict.modified))
    return Approval(
        decision=decisions[verdict.decision],
        modified=modified,
        explanation=" ".join(verdict.reasons) or None,
        metadata={
            "found": verdict.found,
            "failure": verdict.failure,
            "checks": [
                {"id": each.id, "status": each.status, "method": each.method, "evidence": each.evidence}
                for each in verdict.checks
            ],
            "audit_id": verdict.audit_id,
            "policy": verdict.policy,
            "latency_ms": verdict.latency_ms,
        },
    )


def scanned(source: Tool) -> Tool:
    """A tool whose text results lose what reads like instructions to the model, before the model sees them.

    An approver decides before a call and cannot see its result; this can. Wrap the tools that read from outside.
    """
    known = ToolDef(source)

    async def execute(**arguments: Any) -> Any:
        result = await source(**arguments)
        return scan(result, known.name).sanitised if isinstance(result, str) else result

    return ToolDef(
        tool=execute,
        name=known.name,
        description=known.description,
        parameters=known.parameters,
        parallel=known.parallel,
        viewer=known.viewer,
        model_input=known.model_input,
        options=known.options,
    ).as_tool()
