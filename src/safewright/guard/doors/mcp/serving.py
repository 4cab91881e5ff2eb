"""A proxy put together: the server's side, our handlers, the client's side."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, Missing, SafewrightError, need_extra
from safewright.guard.doors.mcp.headers import REFUSED, exposed
from safewright.guard.doors.mcp.pins import Pins
from safewright.guard.doors.mcp.proxy import Options, Proxy
from safewright.guard.doors.mcp.spawning import kill_group, spawned

if TYPE_CHECKING:
    from safewright.guard.engine import Guard

LOG = logging.getLogger(__name__)

CONNECT_SECONDS = 60.0


@asynccontextmanager
async def proxied(
    guard: Guard,
    *,
    command: Sequence[str] = (),
    url: str = "",
    headers: Mapping[str, str] | None = None,
    pins: Path | None = None,
    options: Options | None = None,
    children: list[int] | None = None,
) -> AsyncIterator[tuple[Any, Proxy]]:
    """A low-level `mcp` server that stands before the one that ``command`` starts or ``url`` names.

    Raises:
        BadInput: Neither or both are given, or the pins cannot be read.
        Missing: The extra is not installed, or the server cannot be started or reached.
    """
    if bool(command) == bool(url):
        raise BadInput(
            "Give either a command or a URL.", fix="safewright guard mcp -- COMMAND …, or --url http://…/mcp"
        )
    try:
        import anyio
        import mcp  # noqa: F401 - whether it is there
    except ImportError as error:
        raise need_extra("mcp", "guard") from error
    held: list[Proxy] = []

    async def heard(message: Any) -> None:
        for proxy in held:
            await proxy.heard(message)

    options = options if options is not None else Options()
    link = Link()

    async def keep(*, task_status: Any) -> None:
        try:
            async with AsyncExitStack() as stack:
                link.client = await _connected(stack, command, url, headers, options, children, heard, link)
                task_status.started()
                await link.over.wait()
        except Exception as error:
            if link.client is None:
                raise
            # What fails later ends the link, not the proxy: calls get an error result.
            LOG.warning("the server of tools is gone: %s", _first(error))
        finally:
            link.client = None

    try:
        async with anyio.create_task_group() as group:
            with anyio.fail_after(CONNECT_SECONDS):
                await group.start(keep)
            proxy = Proxy(guard, link, pins_of(pins, command, url), options)
            held.append(proxy)
            yield server_of(proxy), proxy
            link.over.set()
    except ExceptionGroup as error:
        first = _first(error)
        if isinstance(first, TimeoutError):
            first = Missing("The server of tools did not answer.", fix="Run its command by hand.")
        raise (first if isinstance(first, SafewrightError) else error) from None


class Link:
    """The client of a server that may go away; asking it for anything then is an error."""

    def __init__(self) -> None:
        import anyio

        self.client: Any = None
        self.over = anyio.Event()
        self.refused: int | None = None
        """The status with which the server last refused us over HTTP; None where its last answer was another."""

    async def answered(self, response: Any) -> None:
        """See an answer over HTTP. What a stream of events is told says nothing of calls."""
        if response.request.method != "POST":
            return
        self.refused = response.status_code if response.status_code in REFUSED else None

    def __getattr__(self, name: str) -> Any:
        if self.client is None:
            raise Missing("The server of tools is gone.", fix="Start it, and this proxy, again.")
        return getattr(self.client, name)


async def _connected(
    stack: AsyncExitStack,
    command: Sequence[str],
    url: str,
    headers: Mapping[str, str] | None,
    options: Options,
    children: list[int] | None,
    heard: Any,
    link: Link,
) -> Any:
    """A client of the server, entered on a stack.

    It has no callbacks: so it says of itself that it can neither sample, nor ask a person, nor list roots, and a server
    that asks all the same gets an error.
    """
    import mcp

    transport: Any
    if command:
        longest = 4 * options.most_result + 64 * 1024
        started = children.append if children is not None else None
        transport = spawned(command, most_line=longest, on_start=started)
    else:
        transport = await _over_http(url, headers, stack, link)
    try:
        return await stack.enter_async_context(mcp.Client(transport, message_handler=heard, cache=None))
    except (mcp.MCPError, OSError, ExceptionGroup) as error:
        first = _first(error)
        if isinstance(first, SafewrightError):
            raise first from error
        if link.refused is not None:
            raise Missing(
                f"The server of tools refused this proxy (HTTP {link.refused}).",
                why="It was given no token."
                if not headers
                else "It did not accept the headers it was given.",
                fix="Give a token with --token-env VARIABLE, or headers with --header-file FILE.",
            ) from error
        raise Missing(f"The server of tools cannot be reached: {first}.") from error


def pins_of(file: Path | None, command: Sequence[str], url: str) -> Pins:
    """The pins of a server, by what starts or names it."""
    return Pins(file, url or "\0".join(command).replace("\0", " "))


async def _over_http(url: str, headers: Mapping[str, str] | None, stack: AsyncExitStack, link: Link) -> Any:
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    if exposed(url, headers or {}):
        LOG.warning("headers go to another machine without encryption: use https")
    client = await stack.enter_async_context(create_mcp_http_client(headers=dict(headers or {})))
    client.event_hooks["response"].append(link.answered)
    return streamable_http_client(url, http_client=client)


def server_of(proxy: Proxy) -> Any:
    """A server with a handler for everything that the other one offers."""
    from mcp.server.lowlevel import Server

    client = proxy.client
    has, info = client.server_capabilities, client.server_info
    handlers: dict[str, Any] = {"on_list_tools": proxy.list_tools, "on_call_tool": proxy.call_tool}

    async def prompts(ctx: Any, params: Any) -> Any:
        return await client.list_prompts(cursor=_cursor(params), cache_mode="bypass")

    async def prompt(ctx: Any, params: Any) -> Any:
        what = f"prompts/{params.name}"
        return await proxy.read(
            ctx, params, what, lambda: client.session.get_prompt(params.name, params.arguments)
        )

    async def resources(ctx: Any, params: Any) -> Any:
        return await client.list_resources(cursor=_cursor(params), cache_mode="bypass")

    async def templates(ctx: Any, params: Any) -> Any:
        return await client.list_resource_templates(cursor=_cursor(params), cache_mode="bypass")

    async def resource(ctx: Any, params: Any) -> Any:
        what = f"resources/{params.uri}"
        return await proxy.read(ctx, params, what, lambda: client.session.read_resource(params.uri))

    async def completion(ctx: Any, params: Any) -> Any:
        argument = {"name": params.argument.name, "value": params.argument.value}
        context = params.context.arguments if params.context is not None else None
        return await client.session.complete(ref=params.ref, argument=argument, context_arguments=context)

    if has.prompts is not None:
        handlers |= {"on_list_prompts": prompts, "on_get_prompt": prompt}
    if has.resources is not None:
        handlers |= {
            "on_list_resources": resources,
            "on_list_resource_templates": templates,
            "on_read_resource": resource,
        }
    if has.completions is not None:
        handlers["on_completion"] = completion
    return Server(
        info.name if info is not None else "safewright-guard",
        version=info.version if info is not None else "",
        instructions=_instructions(client.instructions),
        **handlers,
    )


def _instructions(text: str | None) -> str | None:
    from safewright.guard.scanning import scan

    return scan(text, "instructions").sanitised if text else text


def _cursor(params: Any) -> str | None:
    return params.cursor if params is not None else None


async def serve_stdio(guard: Guard, **how: Any) -> None:
    """Serve a client on standard input and output until it hangs up. Everything else goes to standard error.

    Raises:
        BadInput, Missing: As for `proxied`.
    """
    import anyio
    from mcp.server.lowlevel import NotificationOptions
    from mcp.server.stdio import stdio_server

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="safewright guard: %(message)s")
    children: list[int] = []

    async def end_on_signals() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as heard:
            async for number in heard:
                # A thread waits for standard input and cannot be interrupted: leave without it.
                for pid in children:
                    kill_group(pid, signal.SIGTERM)
                await anyio.sleep(0.2)
                for pid in children:
                    kill_group(pid, signal.SIGKILL)
                os._exit(128 + number)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(end_on_signals)
            async with (
                proxied(guard, children=children, **how) as (server, _),
                stdio_server() as (read, write),
            ):
                offered = server.create_initialization_options(NotificationOptions(tools_changed=True))
                await server.run(read, write, offered)
            group.cancel_scope.cancel()
    except ExceptionGroup as error:
        first = _first(error)
        raise (first if isinstance(first, SafewrightError) else error) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
