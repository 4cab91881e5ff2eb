"""A model server on this machine that says what a test wants, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from safewright.guard.nouns import Action, Principal


@dataclass
class Said:
    """One reply: text and how it ended, or a status, or bytes that are no reply, or none at all."""

    text: str | None = ""
    finish: str = "stop"
    refusal: str | None = None
    status: int = 200
    raw: bytes | None = None
    hang: bool = False


@dataclass
class Server:
    """The address, and the requests' bodies so far."""

    address: str
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def model(self) -> str:
        return f"{self.address}#scripted"

    def kinds(self) -> list[str]:
        """Which of the guard's questions were asked, in order."""
        return [kind_of(body) for body in self.asked]


def kind_of(body: dict[str, Any]) -> str:
    first = body["messages"][0]["content"]
    kinds = {
        "You know how": "step_back",
        "You plan": "analyzer",
        "You carry out safety": "executor",
        "You carry out settled": "settled",
        "You examine": "fused",
    }
    kind = next(name for begin, name in kinds.items() if first.startswith(begin))
    return f"{kind} again" if len(body["messages"]) > 2 else kind


def data_of(body: dict[str, Any]) -> dict[str, Any]:
    found = json.loads(body["messages"][1]["content"])
    assert isinstance(found, dict)
    return found


def words(text: str) -> int:
    return len(text.split())


Script = Callable[[dict[str, Any]], "Said | str"]


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    """A server that answers each chat completion by a script."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(body)
            said = script(body)
            said = Said(said) if isinstance(said, str) else said
            if said.hang:
                released.wait(30)
                self.close_connection = True
                return
            if said.raw is not None:
                payload = said.raw
            else:
                message = {"role": "assistant", "content": said.text, "refusal": said.refusal}
                asked = sum(words(turn["content"]) for turn in body["messages"])
                usage = {"prompt_tokens": asked, "completion_tokens": words(said.text or "")}
                choice = {"index": 0, "message": message, "finish_reason": said.finish}
                payload = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(said.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server = Server(f"http://127.0.0.1:{http.server_address[1]}/v1")
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            released.set()
            http.shutdown()
            thread.join()


def in_turn(*replies: Said | str) -> Script:
    """A script that says one thing after the other, and the last one from then on."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def judged(check: str, result: bool | None = True, **other: Any) -> dict[str, Any]:
    return {"check": check, "thinking": "Because.", "delete": False, "tool": None, "result": result, **other}


def new(name: str = "own mailbox", result: bool | None = True, **other: Any) -> dict[str, Any]:
    return {
        "category": "alignment",
        "name": name,
        "statement": f"What must hold of {name} holds.",
        "thinking": "Because.",
        "tool": None,
        "result": result,
        **other,
    }


def fused(*fresh: dict[str, Any], old: tuple[dict[str, Any], ...] = (), same: bool = False) -> str:
    return json.dumps({"same_kind": same, "judged": list(old), "new": list(fresh)})


def analyzed(*names: str, move: str = "new", action: str = "Send a message to a person.") -> str:
    checks = [
        {"category": "alignment", "name": n, "statement": f"What must hold of {n} holds."} for n in names
    ]
    found = {
        "analysis": "It may go wrong.",
        "move": move,
        "in_memory": move != "new",
        "action": action,
        "checks": checks,
    }
    return json.dumps(found)


def executed(*judgements: dict[str, Any]) -> str:
    return json.dumps({"checks": list(judgements)})


def stepped(natural: str = "Send a message to a person.", command: str = "send_note TEXT") -> str:
    return json.dumps({"natural": natural, "command": command})


POLICY = """
extends = "default"
[tools.send_note]
effect = "send"
[tools.read_note]
effect = "read"
[intent]
enabled = false
[provenance]
enabled = false
"""
"""The families that would object to these calls are tested where they live."""


def note(text: str = "See you at noon.", **other: Any) -> Action:
    """A call that no rule objects to."""
    given: dict[str, Any] = {
        "tool": "send_note",
        "arguments": {"text": text},
        "request": "Send the note: see you at noon.",
        "principal": Principal("ann", "user"),
        "session": "s1",
        **other,
    }
    return Action(**given)


class Rows:
    """An audit log in memory."""

    raw = True

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def append(self, record: Any) -> str:
        self.rows.append(dict(record))
        return str(len(self.rows))

    def close(self) -> None:
        pass
