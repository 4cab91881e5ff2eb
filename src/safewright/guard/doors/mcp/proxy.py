"""The proxy's handlers: what a client asks is checked, passed on to the server, and read on its way back."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, SafewrightError
from safewright.guard.doors.mcp import approvals, results
from safewright.guard.doors.mcp.pins import Pinned, Pins, digest_of
from safewright.guard.doors.sessions import Sessions
from safewright.guard.nouns import Action, Principal, Verdict, read_principal

if TYPE_CHECKING:
    from safewright.guard.engine import Guard

LOG = logging.getLogger(__name__)

DEADLINE_SECONDS = 60.0
MOST_RESULT_BYTES = 1024 * 1024
MOST_PAGES = 100
OURS = "safewright/"
THEIRS = "io.modelcontextprotocol/"
WITHHELD = (
    "[The guard: what this tool says of itself changed since it was first seen. A person must accept it.]"
)


@dataclass(frozen=True)
class Known:
    """A tool as the server describes it now, and how that compares with its pin."""

    tool: Any
    pinned: Pinned
    digest: str

    @property
    def hints(self) -> dict[str, Any]:
        """What the tool says of itself, and whether that changed."""
        said = self.tool.annotations
        hints = said.model_dump(by_alias=True, exclude_none=True) if said is not None else {}
        hints.pop("title", None)
        return {**hints, **({"changed": True} if self.pinned == "changed" else {})}


@dataclass(frozen=True)
class Options:
    """How a proxy works.

    Args:
        request: What the user asked for, where the command line says; None where nobody does.
        principal: On whose behalf; None is least privilege.
        agent: What the agent is, for humans.
        trust_meta: Whether `_meta` of a call may say request, principal and session: only where the client, not the
            agent, writes it.
        deadline_s: Seconds for the server's part of a call.
        most_result: Bytes of a result; a larger one becomes an error.
        approval_s: How long a person may take to answer.
        accept_changes: Pin tools anew as they are described now.
    """

    request: str | None = None
    principal: Principal | None = None
    agent: str = ""
    trust_meta: bool = False
    deadline_s: float = DEADLINE_SECONDS
    most_result: int = MOST_RESULT_BYTES
    approval_s: float = approvals.TICKET_SECONDS
    accept_changes: bool = False


class Proxy:
    """Between a client and a server. No decision is made here: the guard's verdict is carried out.

    Args:
        guard: What decides.
        client: An entered `mcp.Client` of the server.
        pins: What the server said of its tools before.
        options: How to work.
        sessions: What was called and returned before.
    """

    def __init__(
        self, guard: Guard, client: Any, pins: Pins, options: Options, sessions: Sessions | None = None
    ) -> None:
        self.guard, self.client, self.pins, self.options = guard, client, pins, options
        self.sessions = sessions if sessions is not None else Sessions()
        self.tickets = approvals.Tickets(options.approval_s)
        self.session = uuid.uuid4().hex
        self._tools: dict[str, Known] = {}
        self._listeners: dict[int, Any] = {}

    async def call_tool(self, ctx: Any, params: Any) -> Any:
        """Check a call, make it, read its result. Whatever fails is an error result, never an error of the protocol."""
        try:
            return await self._call(ctx, params)
        except SafewrightError as error:
            LOG.warning("call of %r refused: %s", params.name, error)
            return results.error_result(f"The call was not made: {error.what} {error.fix}".strip())
        except TimeoutError:
            return results.error_result(
                "The server did not answer in time. Whether it made the call is not known.",
                failure="upstream",
            )
        except Exception as error:  # noqa: BLE001 - a protocol error would hide the reason from the model
            refused = getattr(self.client, "refused", None)
            if refused is not None:
                LOG.warning(
                    "call of %r failed: the server refused this proxy (HTTP %d)", params.name, refused
                )
                return results.error_result(
                    f"The server refused this proxy (HTTP {refused}): its token is missing, wrong, or not good for "
                    "this. There is no result.",
                    failure="upstream",
                )
            LOG.warning("call of %r failed: %s", params.name, _said(error))
            return results.error_result(
                f"The call failed ({type(error).__name__}); there is no result.", failure="upstream"
            )

    async def _call(self, ctx: Any, params: Any) -> Any:
        known = await self._known(params.name)
        if known is None:
            return results.error_result(f"There is no tool {params.name!r}.")
        arguments = dict(params.arguments or {})
        action = self.action(ctx, known, arguments)
        verdict = await self.guard.acheck(action)
        if verdict.decision == "escalate":
            answer = await self._asked(ctx, params, known, action, verdict)
            if answer is not None:
                return answer
        elif not verdict.allowed:
            return _refused("The call was denied.", verdict)
        if verdict.decision == "modify":
            arguments = dict(verdict.modified or {})
        return await self._made(ctx, params, action, arguments)

    def action(self, ctx: Any, known: Known, arguments: Mapping[str, Any]) -> Action:
        """The call as the guard is asked about it.

        Raises:
            BadInput: What `_meta` says cannot be read, or the session is too long.
        """
        request, principal, session = self._who(ctx)
        return Action(
            tool=known.tool.name,
            arguments=arguments,
            request=request,
            principal=principal,
            agent=self.options.agent,
            session=session,
            history=self.sessions.history(session),
            schema=known.tool.input_schema,
            hints=known.hints,
        )

    async def _made(self, ctx: Any, params: Any, action: Action, arguments: dict[str, Any]) -> Any:
        """Make a call that may be made, and read what comes back."""
        import anyio
        import mcp_types as types

        name = action.tool
        try:
            with anyio.fail_after(self.options.deadline_s):
                result = await self.client.session.call_tool(
                    name,
                    arguments,
                    progress_callback=ctx.session.report_progress,
                    meta=_passed_on(params.meta),
                    allow_input_required=True,
                    allow_claimed=True,
                )
        except BaseException:
            self.sessions.called(action.session, name, arguments, None)  # it may have been made all the same
            raise
        if not isinstance(result, types.CallToolResult):
            self.sessions.called(action.session, name, arguments, None)
            return results.error_result("The server asked for something that is not passed on; no result.")
        self._bounded(result)
        clean, tainted = await self._cleaned(result, name)
        # Remembered as it came: rules recompute from it what is tainted.
        self.sessions.called(action.session, name, arguments, results.text_of(result))
        if tainted:
            LOG.warning("the result of %r held instructions, which were taken out", name)
        return clean

    def _bounded(self, result: Any) -> None:
        size = len(result.model_dump_json(by_alias=True, exclude_none=True))
        if size > self.options.most_result:
            raise BadInput(
                f"The result is {size:,} bytes; at most {self.options.most_result:,} are passed on.",
                fix="Ask for less at a time.",
            )

    async def _cleaned(self, result: Any, tool: str) -> tuple[Any, bool]:
        import anyio

        with anyio.fail_after(self.guard.deadline_s):
            return await anyio.to_thread.run_sync(results.cleaned, result, tool, abandon_on_cancel=True)

    async def _asked(self, ctx: Any, params: Any, known: Known, action: Action, verdict: Verdict) -> Any:
        """Ask a person; None where the answer is yes, else what the client gets."""
        import anyio
        import mcp_types as types
        from mcp_types.version import MODERN_PROTOCOL_VERSIONS

        principal = repr(action.principal)
        call = approvals.digest_of_call(
            action.session, action.tool, action.arguments, principal, known.digest
        )
        if params.request_state is not None:
            yes = approvals.approved((params.input_responses or {}).get(approvals.QUESTION))
            if not self.tickets.redeem(params.request_state, call):
                return _refused("The approval does not belong to this call, or is too old.", verdict)
            return await self._answered(yes, verdict)
        if not approvals.can_ask(ctx.session.client_capabilities):
            return _refused("The call needs a person's approval, and nobody can be asked here.", verdict)
        message = approvals.question(action.tool, action.arguments, verdict.reasons)
        schema = dict(approvals.SCHEMA)
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            asked = types.ElicitRequest(
                params=types.ElicitRequestFormParams(message=message, requested_schema=schema)
            )
            return types.InputRequiredResult(
                input_requests={approvals.QUESTION: asked}, request_state=self.tickets.issue(call)
            )
        try:
            with anyio.fail_after(self.options.approval_s):
                answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
        except TimeoutError:
            return _refused("Nobody approved the call in time.", verdict)
        return await self._answered(approvals.approved(answer), verdict)

    async def _answered(self, yes: bool, verdict: Verdict) -> Any:
        """Write a person's answer down, where there is an audit log; None where it is yes."""
        import anyio

        resolve = getattr(self.guard.audit, "resolve", None)
        if resolve is not None and verdict.audit_id is not None:
            outcome = "approve" if yes else "deny"
            await anyio.to_thread.run_sync(
                lambda: resolve(verdict.audit_id, outcome, by="the MCP client's user")
            )
        return None if yes else _refused("The call was not approved.", verdict)

    async def list_tools(self, ctx: Any, params: Any) -> Any:
        """A page of the server's tools, without those that the principal may not use."""
        self._listeners[id(ctx.session)] = ctx.session if len(self._listeners) < 8 else None
        page = await self._page(params.cursor if params is not None else None)
        _, principal, _ = self._who(ctx)
        role = self.guard.policy.roles.get(principal.role) if principal is not None else None
        denied = role.denied_tools if role is not None else ()
        import fnmatch

        shown = [
            self._shown(tool)
            for tool in page.tools
            if not any(fnmatch.fnmatchcase(tool.name, pattern) for pattern in denied)
        ]
        return page.model_copy(update={"tools": shown})

    def _shown(self, tool: Any) -> Any:
        from safewright.guard.scanning import scan

        if self._tools[tool.name].pinned == "changed":
            told = {"description": WITHHELD, "input_schema": _bare(tool.input_schema), "title": None}
            return tool.model_copy(update={**told, "annotations": None})
        found = scan(tool.description or "", tool.name)
        return tool.model_copy(update={"description": found.sanitised}) if found.tainted else tool

    async def _page(self, cursor: str | None) -> Any:
        import anyio

        with anyio.fail_after(self.options.deadline_s):
            page = await self.client.list_tools(cursor=cursor, cache_mode="bypass")
        for tool in page.tools:
            values = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
            if self.options.accept_changes and tool.name not in self._tools:
                self.pins.accept(values)
            pinned = self.pins.see(values)
            if pinned == "changed":
                LOG.warning("the tool %r is described in another way than when it was pinned", tool.name)
            self._tools[tool.name] = Known(tool, pinned, digest_of(values))
        return page

    async def _known(self, name: str) -> Known | None:
        if name not in self._tools:
            cursor: str | None = None
            for _ in range(MOST_PAGES):
                page = await self._page(cursor)
                cursor = page.next_cursor
                if cursor is None or name in self._tools:
                    break
        return self._tools.get(name)

    async def heard(self, message: Any) -> None:
        """A notification of the server: other tools than before are looked at again, and the client is told."""
        import mcp_types as types

        if isinstance(message, types.ToolListChangedNotification):
            self._tools.clear()
            for session in [each for each in self._listeners.values() if each is not None]:
                try:
                    await session.send_tool_list_changed()
                except Exception as error:  # noqa: BLE001 - a client that went away, or a protocol without it
                    LOG.info("a client was not told that tools changed: %s", _said(error))

    async def read(self, ctx: Any, params: Any, what: str, ask: Callable[[], Any]) -> Any:
        """A resource or a prompt: bounded, read for instructions, remembered."""
        import anyio

        _, _, session = self._who(ctx)
        with anyio.fail_after(self.options.deadline_s):
            result = await ask()
        self._bounded(result)
        clean, _ = await self._cleaned(result, what)
        self.sessions.returned(session, what, results.text_of(result))
        return clean

    def _who(self, ctx: Any) -> tuple[str | None, Principal | None, str]:
        """Request, principal and session: what `_meta` says where it is trusted, else the command line."""
        meta = ctx.meta or {}
        request, principal, session = self.options.request, self.options.principal, self.session
        headers = getattr(ctx.request, "headers", None)
        if headers is not None:
            session = f"{session}:{headers.get('mcp-session-id', '')}"
        if not self.options.trust_meta:
            return request, principal, session
        for name in ("request", "session"):
            if not isinstance(meta.get(OURS + name, ""), str):
                raise BadInput(f"_meta {OURS}{name} is no text.")
        if meta.get(OURS + "principal") is not None:
            principal = read_principal(meta[OURS + "principal"])
        return meta.get(OURS + "request", request), principal, meta.get(OURS + "session", session)


def _passed_on(meta: Any) -> Any:
    """What of `_meta` the server gets: not what is ours, nor what each connection has of its own."""
    mine = ("progress_token", "progressToken")
    kept = {
        name: value
        for name, value in (meta or {}).items()
        if name not in mine and not name.startswith((OURS, THEIRS))
    }
    return kept or None


def _refused(what: str, verdict: Verdict) -> Any:
    said = " ".join((what, *verdict.reasons))
    return results.error_result(
        said, decision=verdict.decision, failure=verdict.failure, audit_id=verdict.audit_id
    )


def _bare(schema: Any) -> Any:
    """A schema without its prose."""
    if isinstance(schema, Mapping):
        return {
            name: {key: _bare(each) for key, each in value.items()}
            if name == "properties" and isinstance(value, Mapping)
            else _bare(value)
            for name, value in schema.items()
            if name not in ("description", "title", "$comment", "examples", "default")
        }
    return [_bare(each) for each in schema] if isinstance(schema, list) else schema


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]
