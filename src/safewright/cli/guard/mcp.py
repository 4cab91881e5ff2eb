"""``safewright guard mcp``: a proxy between an agent's client and a server of tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safewright.cli.guard import opening


def mcp(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND …", help="What starts the server, after --.")
    ] = None,
    url: Annotated[str, typer.Option("--url", help="A server that runs: its streamable HTTP address.")] = "",
    header: Annotated[
        list[str],
        typer.Option(
            "--header",
            metavar="NAME:VALUE",
            help="For --url. May be repeated. Others on this machine can see it: for a secret, use the next two.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    token_env: Annotated[
        str | None,
        typer.Option(
            "--token-env", metavar="VARIABLE", help="For --url: what holds the token to send as Bearer."
        ),
    ] = None,
    header_file: Annotated[
        Path | None,
        typer.Option(
            "--header-file",
            metavar="FILE",
            help="For --url: NAME: VALUE lines in a file that only you can read.",
        ),
    ] = None,
    pins: Annotated[
        Path | None,
        typer.Option(
            "--pins", metavar="FILE", help="Where the tools' descriptions are pinned across starts."
        ),
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Pin the tools anew, as they are described now.")
    ] = False,
    trust_meta: Annotated[
        bool,
        typer.Option("--trust-meta", help="Let the client say request, principal and session in _meta."),
    ] = False,
    request: Annotated[str | None, typer.Option("--request", help="What the user asked for.")] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="[ROLE:]ID", help="On whose behalf.")] = None,
    upstream_deadline: Annotated[
        float, typer.Option("--upstream-deadline", help="Seconds for the server's part of a call.")
    ] = 60.0,
    most_result: Annotated[
        int, typer.Option("--most-result", help="Bytes of a result; a larger one becomes an error.")
    ] = 1024 * 1024,
    policy: opening.PolicyFile = None,
    memory: opening.MemoryFile = None,
    audit: opening.AuditFile = None,
    backend: opening.Backend = "rules",
    model: opening.Model = None,
    preset: opening.Preset = "hardened",
    deadline: opening.Deadline = 8.0,
    mode: opening.Mode = "enforce",
    on_unknown: opening.OnUnknown = None,
    freeze: opening.Freeze = False,
    namespace: opening.Namespace = "default",
) -> int:
    """Stand between an MCP client, which starts this command, and a server of tools.

    For example: safewright guard mcp --policy guard.toml -- npx some-server
    """
    from safewright.errors import BadInput, need_extra
    from safewright.guard.doors.mcp.headers import read_headers
    from safewright.guard.doors.mcp.proxy import Options
    from safewright.guard.nouns import named_principal

    try:
        import anyio

        from safewright.guard.doors.mcp.serving import serve_stdio
    except ImportError as error:
        raise need_extra(error.name or "mcp", "guard") from error
    if not upstream_deadline > 0:
        raise BadInput(f"--upstream-deadline is {upstream_deadline}.", fix="A number of seconds above 0.")
    if most_result <= 0:
        raise BadInput(f"--most-result is {most_result}.", fix="A number of bytes above 0.")
    if url and not url.startswith(("http://", "https://")):
        raise BadInput(f"--url {url!r} is no address.", fix="For example: --url http://127.0.0.1:8000/mcp")
    headers = read_headers(header, token_env=token_env, file=header_file)
    if headers and not url:
        raise BadInput(
            "Headers go to a server at a --url; one that a command starts has none.",
            fix="A command reads its keys from the environment it is started in.",
        )
    principal = None if user is None else named_principal(user)
    options = Options(
        request=request,
        principal=principal,
        trust_meta=trust_meta,
        deadline_s=upstream_deadline,
        most_result=most_result,
        accept_changes=accept_changes,
    )
    with opening.opened(
        policy,
        memory,
        audit,
        backend=backend,
        model=model,
        preset=preset,
        deadline=deadline,
        mode=mode,
        on_unknown=on_unknown,
        freeze=freeze,
        namespace=namespace,
    ) as guard:

        async def serve() -> None:
            await serve_stdio(
                guard, command=tuple(command or ()), url=url, headers=headers, pins=pins, options=options
            )

        anyio.run(serve)
    return 0
