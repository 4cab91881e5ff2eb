"""Middleware for LangChain 1 agents: ``create_agent(model, tools, middleware=[guarding(guard)])``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from safewright.errors import need_extra
from safewright.guard.doors.adapters.translating import FAILED, request_of, text_of, told, turns_of
from safewright.guard.nouns import Action, Principal, Verdict

if TYPE_CHECKING:
    from safewright.guard.engine import Guard

LOG = logging.getLogger(__name__)
_ROLES = {"human": "user", "ai": "assistant", "tool": "tool"}


def guarding(
    guard: Guard,
    *,
    principal: Principal | None = None,
    request: str | None = None,
    session: str = "",
    agent: str = "",
) -> Any:
    """Middleware that checks every tool call before it runs, and reads its result before the model does.

    Raises:
        Missing: LangChain is not installed.
    """
    try:
        from langchain.agents.middleware import AgentMiddleware
        from langchain_core.messages import ToolMessage
    except ImportError as error:
        raise need_extra("langchain", "guard") from error

    def action(asked: Any) -> Action:
        state = asked.state
        messages = state["messages"] if isinstance(state, dict) else getattr(state, "messages", state)
        id = str(asked.tool_call.get("id") or "")
        turns = turns_of([_plain(message) for message in messages])
        done = {turn.id for turn in turns if turn.kind == "result"}
        waiting = tuple(turn for turn in turns if turn.kind == "call" and turn.id not in done)
        history = tuple(turn for turn in turns if turn not in waiting)
        return Action(
            tool=asked.tool_call["name"],
            arguments=asked.tool_call["args"],
            request=request if request is not None else request_of(history),
            principal=principal,
            agent=agent,
            session=session,
            history=history,
            siblings=tuple(turn for turn in waiting if turn.id != id),
        )

    def refused(asked: Any, text: str, verdict: Verdict | None = None) -> Any:
        artifact = {"decision": verdict.decision, "audit_id": verdict.audit_id} if verdict else None
        call = asked.tool_call
        return ToolMessage(
            text, tool_call_id=call.get("id") or "", name=call["name"], status="error", artifact=artifact
        )

    def carried_out(asked: Any, verdict: Verdict) -> Any:
        """The call to make; None where there is none."""
        if verdict.decision == "allow":
            return asked
        if verdict.decision == "modify":
            return asked.override(tool_call={**asked.tool_call, "args": dict(verdict.modified or {})})
        return None

    def read(result: Any, asked: Any) -> Any:
        from safewright.guard.scanning import scan

        if not isinstance(result, ToolMessage):
            LOG.warning("the result of %r is a command, which is not read", asked.tool_call["name"])
            return result
        found = scan(text_of(result.content), asked.tool_call["name"])
        return result.model_copy(update={"content": found.sanitised}) if found.tainted else result

    def failed(asked: Any, error: Exception) -> Any:
        LOG.warning("a call was stopped: %s: %s", type(error).__name__, error)
        return refused(asked, FAILED)

    class Guarding(AgentMiddleware):  # type: ignore[type-arg, misc, unused-ignore]
        """Checks tool calls."""

        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            """Check a call, make it, read its result."""
            try:
                verdict = guard.check(action(request))
                call = carried_out(request, verdict)
            except Exception as error:  # noqa: BLE001 - a guard that fails lets nothing through
                return failed(request, error)
            if call is None:
                return refused(request, told(verdict), verdict)
            return read(handler(call), request)

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            """Check a call, make it, read its result."""
            try:
                verdict = await guard.acheck(action(request))
                call = carried_out(request, verdict)
            except Exception as error:  # noqa: BLE001 - a guard that fails lets nothing through
                return failed(request, error)
            if call is None:
                return refused(request, told(verdict), verdict)
            return read(await handler(call), request)

    return Guarding()


def _plain(message: Any) -> dict[str, Any]:
    """A LangChain message as one of the chat interface."""
    plain: dict[str, Any] = {"role": _ROLES.get(message.type, message.type), "content": message.content}
    if message.type == "ai":
        calls = message.tool_calls
        plain["tool_calls"] = [{"id": c["id"], "name": c["name"], "arguments": c["args"]} for c in calls]
    elif message.type == "tool":
        plain["tool_call_id"] = message.tool_call_id
    return plain
