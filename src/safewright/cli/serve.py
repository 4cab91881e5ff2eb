"""``safewright serve MODEL``: an OpenAI-compatible address that keeps a model's reasoning to itself."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.cli import console, options
from safewright.errors import BadInput, ExitCode, need_extra

KEY_VARIABLE = "SAFEWRIGHT_SERVE_KEY"
"""What clients have to bring as their bearer token, where it is set."""
MOST_TOKENS = 5120
"""Tokens of one answer: 4,096 to think and 1,024 to answer."""
GRACE_SECONDS = 5
"""What connections have to end in once the server is told to."""


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model folder, adapter or hub id. With --upstream: the folder whose recipe and chat template "
            "the server behind uses; optional."
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream", metavar="URL", help="Answer from a running server: http://host:port/v1#NAME."
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.")] = 8100,
    name: Annotated[str | None, typer.Option("--name", help="What clients call the model.")] = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="File for whole answers; default runs/serve-NAME.jsonl. Only added to."),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option("--max-tokens", min=1, help="The most tokens an answer may have, reasoning included."),
    ] = MOST_TOKENS,
    allow_openings: Annotated[
        bool,
        typer.Option("--allow-openings", help="Let clients begin the model's turn (continue_final_message)."),
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    timeout: options.Timeout = None,
) -> int:
    """Serve a model without its reasoning: /v1/chat/completions and /v1/models, streamed or not.

    What stands between the model's reasoning markers (its recipe's, or those its chat template writes) never
    leaves the server; whole answers are kept in the log. Ctrl-C ends it.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise need_extra(error.name or "uvicorn", "serve") from error
    from safewright.models.serving.app import build_app
    from safewright.models.serving.replies import Log

    key = _key(host)
    with _listening(host, port) as listener:
        state: dict[str, Any] = {}
        source = _source(
            model, upstream, name, device, dtype, timeout, max_tokens, lambda: state["server"].should_exit
        )
        file = log or Path("runs") / f"serve-{re.sub(r'[^A-Za-z0-9._-]+', '-', source.name)}.jsonl"
        written = Log(file)
        app = build_app(source, written, most_tokens=max_tokens, openings=allow_openings, key=key)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
        )
        state["server"] = server = uvicorn.Server(config)
        shown, taken = listener.getsockname()[:2]
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{taken}/v1"
        console.say(f"serving {source.name} at {address} (whole answers: {file}); Ctrl-C ends it")
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # raised once it has shut down
            pass
        finally:
            written.close()
    console.say("the server has ended")
    return ExitCode.OK


def _key(host: str) -> str | None:
    """The key that clients have to bring.

    Raises:
        BadInput: There is none, and others than this machine can reach the server.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    local = host in ("localhost", "::1") or host.startswith("127.")
    if key is None and not local:
        raise BadInput(
            f"--host {host} can be reached from other machines, and no key is set.",
            why="Whoever reaches the port could use the model.",
            fix=f"Set the environment variable {KEY_VARIABLE}, or leave out --host.",
        )
    return key


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, before anything is loaded.

    Raises:
        BadInput: The address is taken, not this machine's, or no address.
    """
    if not 0 <= port <= 65535:
        raise BadInput(f"--port is {port}.", fix="It must lie in [0, 65535]; 0 takes a free one.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(
            f"Nothing can listen on {host}, port {port}: {reason}.",
            fix="Give another --port (0: a free one).",
        ) from error
    return listener


def _source(
    model: str | None,
    upstream: str | None,
    name: str | None,
    device: str,
    dtype: str,
    timeout: float | None,
    most_tokens: int,
    ending: Callable[[], bool],
) -> Any:
    if upstream is not None:
        if (device, dtype, name) != ("auto", "auto", None):
            raise BadInput("--device, --dtype and --name are the server's behind.", fix="Leave them out.")
        return _behind(upstream, model, timeout, most_tokens)
    if model is None:
        raise BadInput("No model is given.", fix="safewright serve MODEL, or --upstream URL")
    if timeout is not None:
        raise BadInput("--timeout is for a server behind.", fix="Leave it out, or give --upstream.")
    if model.startswith(("http://", "https://", "inspect:")):
        raise BadInput(f"{model} runs elsewhere.", fix=f"safewright serve --upstream {model}")
    from safewright.models import load
    from safewright.models.hf import HfModel
    from safewright.models.serving.local import LocalSource

    loaded = load(model, device=device, dtype=dtype, batch_size=1, need=frozenset({"generate"}))
    if not isinstance(loaded, HfModel):
        raise BadInput(f"{model} is no model that runs here.", fix="Give its folder.")
    called = name or model.rstrip("/").rpartition("/")[2] or model
    return LocalSource(loaded, called, most_tokens=most_tokens, ending=ending)


def _behind(upstream: str, model: str | None, timeout: float | None, most_tokens: int) -> Any:
    """A running server as the source; a model folder says how its answers are to be read."""
    from safewright.models.chat import THINK, declared_markers, opens_reasoning, render
    from safewright.models.endpoint import DEFAULT_TIMEOUT, endpoint_ref
    from safewright.models.engine import EngineOptions
    from safewright.models.opening import open_tokenizer
    from safewright.models.references import resolve
    from safewright.models.serving.upstream import UpstreamSource

    EngineOptions(timeout=timeout)  # checks it
    recipe, opened, visible = None, None, dict(THINK)
    if model is not None:
        ref = resolve(model)
        tokenizer, recipe = open_tokenizer(ref), ref.recipe
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        visible = dict((recipe.visible if recipe else None) or declared_markers(template) or THINK)
        opened = opens_reasoning(render(tokenizer, [{"role": "user", "content": "?"}]), visible)
    return UpstreamSource(
        endpoint_ref(upstream),
        visible,
        recipe=recipe,
        opened=opened,
        most_tokens=most_tokens,
        timeout=timeout or DEFAULT_TIMEOUT,
    )
