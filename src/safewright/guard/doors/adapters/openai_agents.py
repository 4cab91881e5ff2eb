"""Tool guardrails for the package `openai-agents`: ``protect(tools, guard)`` before an agent gets its tools."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from safewright.errors import need_extra
from safewright.guard.doors.adapters.translating import (
    FAILED,
    arguments_of,
    request_of,
    text_of,
    told,
    turns_of,
)
from safewright.guard.doors.sessions import Sessions
from safewright.guard.nouns import Action, Principal

if TYPE_CHECKING:
    from safewright.guard.engine import Guard

LOG = logging.getLogger(__name__)


def protect(
    tools: Sequence[Any],
    guard: Guard,
    *,
    principal: Principal | None = None,
    request: str | None = None,
    session: str = "",
) -> list[Any]:
    """Function tools whose calls are checked before they run and whose results are read before a model sees them.

    A call that may not be made is rejected with its reasons, and the agent goes on. Arguments cannot be changed by a
    guardrail: the model is told what to call instead. A guardrail sees what a run began with, not what its tools
    returned since: calls and results are remembered here, so protect the tools once for every conversation.

    Raises:
        Missing: The package is not installed.
    """
    try:
        from agents import FunctionTool, ToolInputGuardrail, ToolOutputGuardrail
    except ImportError as error:
        raise need_extra("openai-agents", "guard") from error
    import dataclasses

    sessions = Sessions()

    async def before(data: Any) -> Any:
        return await _before(data, guard, sessions, principal, request, session)

    def after(data: Any) -> Any:
        return _after(data, sessions, session)

    checked: Any = ToolInputGuardrail(guardrail_function=before, name="safewright")
    read: Any = ToolOutputGuardrail(guardrail_function=after, name="safewright")
    made = []
    for tool in tools:
        if not isinstance(tool, FunctionTool):
            raise TypeError(f"{tool!r} is no function tool: no guardrail can stand before it")
        inputs = [*(tool.tool_input_guardrails or ()), checked]
        outputs = [read, *(tool.tool_output_guardrails or ())]
        made.append(dataclasses.replace(tool, tool_input_guardrails=inputs, tool_output_guardrails=outputs))
    return made


async def _before(
    data: Any,
    guard: Guard,
    sessions: Sessions,
    principal: Principal | None,
    request: str | None,
    session: str,
) -> Any:
    from agents import ToolGuardrailFunctionOutput

    try:
        context = data.context
        history = (*turns_of(context.turn_input), *sessions.history(session))
        action = Action(
            tool=context.tool_name,
            arguments=arguments_of(context.tool_arguments),
            request=request if request is not None else request_of(history),
            principal=principal,
            agent=str(getattr(data.agent, "name", "")),
            session=session,
            history=history,
        )
        verdict = await guard.acheck(action)
    except Exception as error:  # noqa: BLE001 - what raises here would end the run; the call is stopped instead
        LOG.warning("a call was stopped: %s: %s", type(error).__name__, error)
        return ToolGuardrailFunctionOutput.reject_content(FAILED)
    about = {"decision": verdict.decision, "failure": verdict.failure, "audit_id": verdict.audit_id}
    if verdict.decision == "allow":
        return ToolGuardrailFunctionOutput.allow(about)
    return ToolGuardrailFunctionOutput.reject_content(told(verdict), about)


def _after(data: Any, sessions: Sessions, session: str) -> Any:
    from agents import ToolGuardrailFunctionOutput

    from safewright.guard.scanning import scan

    try:
        context, text = data.context, text_of(data.output)
        arguments = arguments_of(context.tool_arguments)
        sessions.called(session, context.tool_name, arguments, text, context.tool_call_id)
        found = scan(text, context.tool_name)
    except Exception as error:  # noqa: BLE001 - a result that cannot be read is not shown
        LOG.warning("a result was withheld: %s: %s", type(error).__name__, error)
        return ToolGuardrailFunctionOutput.reject_content("The result could not be checked and is withheld.")
    if found.tainted:
        return ToolGuardrailFunctionOutput.reject_content(found.sanitised, {"spans": len(found.spans)})
    return ToolGuardrailFunctionOutput.allow()
