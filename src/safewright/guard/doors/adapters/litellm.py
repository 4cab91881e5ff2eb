"""A guardrail for LiteLLM's proxy: MCP tool calls before they are made, and calls in a model's answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from safewright.errors import need_extra
from safewright.guard.doors.adapters.translating import FAILED, arguments_of, request_of, told, turns_of
from safewright.guard.nouns import Action, Principal

if TYPE_CHECKING:
    from safewright.guard.engine import Guard

LOG = logging.getLogger(__name__)
MCP_CALL = "call_mcp_tool"


def guardrail(guard: Guard, *, principal_of: Callable[[Any], Principal | None] | None = None) -> Any:
    """A `CustomGuardrail` for ``litellm_settings.callbacks``. It cannot be switched off by a request.

    A call that may not be made ends in HTTP 403 with the reasons (MCP), or is taken out of the model's answer, with the
    reasons in its place (chat). ``principal_of`` says for whom from the proxy's key; without it, least privilege.

    Raises:
        Missing: LiteLLM is not installed.
    """
    try:
        from fastapi.exceptions import HTTPException
        from litellm.integrations.custom_guardrail import CustomGuardrail
        from litellm.types.guardrails import GuardrailEventHooks
    except ImportError as error:
        raise need_extra("litellm", "guard") from error
    events = (GuardrailEventHooks.pre_mcp_call, GuardrailEventHooks.post_call)

    def principal(key: Any) -> Principal | None:
        if principal_of is not None:
            return principal_of(key)
        user = getattr(key, "user_id", None)
        return Principal(str(user)) if user else None

    async def asked(tool: str, arguments: Any, data: Mapping[str, Any], key: Any, request: bool) -> Any:
        """The verdict on a call, or why there is none, as text."""
        try:
            history = turns_of(_plain(message) for message in data.get("messages") or ()) if request else ()
            action = Action(
                tool=tool,
                arguments=arguments_of(arguments),
                request=request_of(history),
                principal=principal(key),
                agent="litellm",
                session=str(data.get("litellm_session_id") or data.get("litellm_trace_id") or ""),
                history=history,
            )
            return await guard.acheck(action)
        except Exception as error:  # noqa: BLE001 - a guard that fails lets nothing through
            LOG.warning("a call was stopped: %s: %s", type(error).__name__, error)
            return FAILED

    async def refusal(call: Any, data: Mapping[str, Any], key: Any) -> str:
        """Why a call of a model's answer may not be made; empty where it may, its arguments narrowed if need be."""
        import json

        verdict = await asked(call.function.name, call.function.arguments, data, key, True)
        if isinstance(verdict, str):
            return verdict
        if verdict.decision == "modify":
            call.function.arguments = json.dumps(dict(verdict.modified or {}))
        return "" if verdict.allowed else told(verdict)

    class Guardrail(CustomGuardrail):  # type: ignore[misc, unused-ignore]
        """Checks tool calls."""

        def should_run_guardrail(self, data: Any, event_type: Any) -> bool:
            """Always, for calls of tools: what a request says of guardrails is the agent's to write."""
            return event_type in events

        async def async_pre_call_hook(
            self, user_api_key_dict: Any, cache: Any, data: Any, call_type: Any
        ) -> Any:
            """Check an MCP tool call."""
            if str(getattr(call_type, "value", call_type)) != MCP_CALL:
                return data
            verdict = await asked(
                str(data.get("mcp_tool_name") or ""),
                data.get("mcp_arguments"),
                data,
                user_api_key_dict,
                False,
            )
            if isinstance(verdict, str) or not verdict.allowed:
                text = verdict if isinstance(verdict, str) else told(verdict)
                raise HTTPException(status_code=403, detail={"error": text})
            if verdict.decision == "modify":
                return {**data, "modified_arguments": dict(verdict.modified or {})}
            return data

        async def async_post_call_success_hook(self, data: Any, user_api_key_dict: Any, response: Any) -> Any:
            """Take calls out of an answer that may not be made."""
            for choice in getattr(response, "choices", None) or ():
                message = choice.message
                kept, reasons = [], []
                for call in message.tool_calls or ():
                    why = await refusal(call, data, user_api_key_dict)
                    reasons += [f"{call.function.name}: {why}"] if why else []
                    kept += [] if why else [call]
                if reasons:
                    message.tool_calls = kept or None
                    message.content = "\n".join([*([message.content] if message.content else []), *reasons])
                    choice.finish_reason = "tool_calls" if kept else "stop"
            return response

        async def async_post_call_streaming_iterator_hook(
            self, user_api_key_dict: Any, response: Any, request_data: Any
        ) -> AsyncGenerator[Any, None]:
            """Hold back a streamed answer where it may call tools, until its calls were checked."""
            if not request_data.get("tools"):
                async for chunk in response:
                    yield chunk
                return
            from litellm import stream_chunk_builder

            chunks = [chunk async for chunk in response]
            whole: Any = stream_chunk_builder(chunks)
            for choice in getattr(whole, "choices", None) or ():
                for call in choice.message.tool_calls or ():
                    before = call.function.arguments
                    why = await refusal(call, request_data, user_api_key_dict)
                    if why or call.function.arguments != before:
                        text = why or "The call's arguments must be narrowed; ask again without streaming."
                        raise HTTPException(status_code=403, detail={"error": text})
            for chunk in chunks:
                yield chunk

    return Guardrail(guardrail_name="safewright", default_on=True, event_hook=list(events))


def _plain(message: Any) -> Mapping[str, Any]:
    return message if isinstance(message, Mapping) else message.model_dump()
