"""``safewright guard serve``: the guard behind an HTTP address."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.cli import console
from safewright.cli.guard import opening
from safewright.errors import BadInput, ExitCode, Incomplete, need_extra

OPTIONS = "SAFEWRIGHT_GUARD_SERVING"
"""Where workers find what the server was told: options only, no secrets."""
GRACE_SECONDS = 5
"""What connections have to end in once the server is told to."""
HEALTH_SECONDS = 30
"""A worker that does not answer its parent for so long is replaced."""
APPROVAL_SECONDS = 600.0


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.")] = 8200,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Processes that judge.")] = 1,
    tokens: Annotated[
        Path | None,
        typer.Option(
            "--tokens", metavar="FILE", help="Lines SCOPE TOKEN [NAME]; scopes: check, operator. Mode 0600."
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="What workers share; without it, forgotten at the end."),
    ] = None,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, help="Calls one worker judges at the same time; more get 429.")
    ] = 32,
    approvals: Annotated[
        float,
        typer.Option(
            "--approvals", help="Seconds an escalated call waits, and an operator's decision holds."
        ),
    ] = APPROVAL_SECONDS,
    names: Annotated[
        list[str],
        typer.Option(
            "--name", metavar="HOST", help="What else requests may call this machine (Host header)."
        ),
    ] = [],  # noqa: B006 - typer copies it
    local: Annotated[
        bool, typer.Option("--local", help="Look at this machine's files (read-only) to decide.")
    ] = False,
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
    """Judge calls over HTTP: POST /v1/check, an operator's page at /console. Ctrl-C ends it.

    Tokens come from SAFEWRIGHT_GUARD_CHECK_TOKEN and SAFEWRIGHT_GUARD_OPERATOR_TOKEN, or from --tokens. Without one
    for checks, this machine alone may ask; without one for operators, nobody may decide or look.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise need_extra(error.name or "uvicorn", "guard") from error
    from safewright.guard.doors.http.tokens import read_tokens

    if not approvals > 0:
        raise BadInput(f"--approvals is {approvals}.", fix="A number of seconds above 0.")
    known = read_tokens(tokens)
    here = _local(host)
    if known.open and not here:
        raise BadInput(
            f"--host {host} can be reached from other machines, and no token is set.",
            why="Whoever reaches the port could learn what the guard lets through.",
            fix="Set SAFEWRIGHT_GUARD_CHECK_TOKEN, or give --tokens, or leave out --host.",
        )
    home = None if state is not None else tempfile.mkdtemp(prefix="safewright-guard-")
    try:
        told: dict[str, Any] = {
            "guard": {
                "policy": _path(policy),
                "memory": _path(memory),
                "audit": _path(audit),
                "backend": backend,
                "model": model,
                "preset": preset,
                "deadline": deadline,
                "mode": mode,
                "on_unknown": on_unknown,
                "freeze": freeze,
                "namespace": namespace,
            },
            "tokens": _path(tokens),
            "state": _path(state) or str(Path(home or "") / "state.db"),
            "at_once": at_once,
            "approvals": approvals,
            "hosts": ["localhost", "127.0.0.1", "::1", host.lower(), *(name.lower() for name in names)]
            if here or names
            else None,
            "local": local,
        }
        application = _built(told)  # what is wrong with the options is said here, once
        from safewright.cli.serve import _listening

        with _listening(host, port) as listener:
            shown, taken = listener.getsockname()[:2]
            address = f"http://{f'[{shown}]' if ':' in shown else shown}:{taken}"
            console.say(f"guarding at {address} ({_said(known, audit, workers)}); Ctrl-C ends it")
            if workers == 1:
                config = _config(uvicorn, application)
                try:
                    uvicorn.Server(config).run(sockets=[listener])
                except KeyboardInterrupt:  # raised once it has shut down
                    pass
            else:
                _close(application)
                os.environ[OPTIONS] = json.dumps(told)
                _supervise(uvicorn, workers, listener)
    finally:
        os.environ.pop(OPTIONS, None)
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)
    console.say("the guard has ended")
    return ExitCode.OK


def worker() -> Any:
    """The application of one worker process; uvicorn calls this there."""
    return _built(json.loads(os.environ[OPTIONS]))


def _built(told: dict[str, Any]) -> Any:
    from safewright.guard.doors.http.app import build_app
    from safewright.guard.doors.http.state import State
    from safewright.guard.doors.http.tokens import read_tokens

    options: dict[str, Any] = {
        name: Path(value) if name in ("policy", "memory", "audit") and value else value
        for name, value in told["guard"].items()
    }
    environment = None
    if told["local"]:
        from safewright.guard.environments import LocalEnvironment

        environment = LocalEnvironment()
    guard = opening.opened(**options)
    try:
        state = State(Path(told["state"]))
    except BaseException:
        guard.close()
        raise
    application = build_app(
        guard,
        state,
        read_tokens(Path(told["tokens"]) if told["tokens"] else None),
        at_once=told["at_once"],
        hosts=told["hosts"],
        environment=environment,
        approval_seconds=told["approvals"],
        model=told["guard"]["model"],
    )
    application.state.parts = (guard, state)
    return application


def _close(application: Any) -> None:
    for part in application.state.parts:
        part.close()


def _config(uvicorn: Any, application: Any, **more: Any) -> Any:
    return uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **more,
    )


def _supervise(uvicorn: Any, workers: int, listener: Any) -> None:
    """Run workers until Ctrl-C; one that dies is replaced.

    Raises:
        Incomplete: They cannot begin.
    """
    from uvicorn.supervisors import Multiprocess

    config = _config(
        uvicorn,
        "safewright.cli.guard.serve:worker",
        factory=True,
        workers=workers,
        timeout_worker_healthcheck=HEALTH_SECONDS,
    )
    supervisor = Multiprocess(config, sockets=[listener])
    supervisor.run()
    if any(process.exitcode == uvicorn.config.STARTUP_FAILURE for process in supervisor.processes):
        raise Incomplete("The workers could not begin.", fix="See the lines above; --workers 1 may say more.")


def _local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _said(tokens: Any, audit: Path | None, workers: int) -> str:
    said = [
        f"{workers} worker{'s' if workers > 1 else ''}",
        "no token needed for checks" if tokens.open else "checks need a token",
    ]
    if not tokens.has("operator"):
        said.append("no operator: escalated calls are denied")
    elif audit is None:
        said.append("no --audit: escalated calls are denied")
    else:
        said.append("console at /console")
    return ", ".join(said)
