"""A threaded server on 127.0.0.1 that answers like a chat endpoint, or fails in a chosen way."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What the server does with one request: answer, wait first, or break off inside the body."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    drip: float = 0.0
    """Seconds between the bytes of the body."""


def said(
    text: str | None, *, finish: Any = "stop", tokens: int = 3, prompt: int = 5, **message: Any
) -> Reply:
    """A well-formed completion that says ``text``."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
    }
    return answered({"choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": tokens}})


def answered(plain: Any, status: int = 200, **headers: str) -> Reply:
    """Any JSON with any status; underscores in header names become hyphens."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps(plain).encode(), status, names)


def complains(status: int, message: str, **headers: str) -> Reply:
    """An error reply in the usual shape."""
    return answered({"error": {"message": message}}, status, **headers)


def echo(request: dict[str, Any], number: int) -> Reply:
    """The last turn, in capitals."""
    return said(request["messages"][-1]["content"].upper())


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the default of 5 drops connections that come all at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients that hang up are part of the play
            super().handle_error(request, client_address)


class FaultServer:
    """Counts what it is asked. ``behave(request, number)`` decides each reply, ``number`` from 1 on;
    ``models`` is the reply to ``GET /v1/models``."""

    def __init__(self) -> None:
        self.behave: Callable[[dict[str, Any], int], Reply] = echo
        self.models = answered({"object": "list", "data": [{"id": "toy", "created": 1, "root": "toy"}]})
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.connections: set[Any] = set()
        """The clients' addresses of the requests."""
        self.now = self.most = 0
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._http = _Http(("127.0.0.1", 0), self._handler())
        self.base = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def hold(self) -> None:
        """Keep every request waiting until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def close(self) -> None:
        self.release()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                with server._lock:
                    server.paths.append(self.path)
                    server.keys.append(self.headers.get("Authorization"))
                self._send(server.models)

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.connections.add(self.client_address)
                    server.requests.append(request)
                    server.paths.append(self.path)
                    server.keys.append(self.headers.get("Authorization"))
                    number = len(server.requests)
                    server.now += 1
                    server.most = max(server.most, server.now)
                try:
                    server._open.wait(30)
                    self._send(server.behave(request, number))
                finally:
                    with server._lock:
                        server.now -= 1

            def _send(self, reply: Reply) -> None:
                if reply.delay:
                    time.sleep(reply.delay)
                try:
                    self.send_response(reply.status)
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(reply.body)))
                    self.end_headers()
                    body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
                    for at in range(0, len(body), 1 if reply.drip else max(1, len(body))):
                        self.wfile.write(body[at : at + 1] if reply.drip else body)
                        self.wfile.flush()
                        time.sleep(reply.drip)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client has given this request up
                if reply.cut:
                    self.close_connection = True

        return Handler
