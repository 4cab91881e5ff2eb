"""A server of tools in bare JSON lines, which asks its client for things. What it hears goes to the file in argv."""

from __future__ import annotations

import json
import sys
from typing import Any

NAMES = ("ask", "hang", "echo")
QUESTIONS = (
    ("sampling/createMessage", {"messages": [], "maxTokens": 5}),
    (
        "elicitation/create",
        {"message": "Who are you?", "requestedSchema": {"type": "object", "properties": {}}},
    ),
    ("roots/list", {}),
    ("made/up", {}),
    ("ping", {}),
)


def send(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def text(number: Any, said: str) -> None:
    send({"id": number, "result": {"content": [{"type": "text", "text": said}]}})


def main() -> None:
    answers: dict[str, Any] = {}
    asking: Any = None
    with open(sys.argv[1], "a", encoding="utf-8") as heard:
        for line in sys.stdin:
            heard.write(line)
            heard.flush()
            message = json.loads(line)
            method, number = message.get("method"), message.get("id")
            if method == "initialize":
                server = {"name": "raw", "version": "1"}
                capabilities = {"tools": {}}
                send({"id": number, "result": {"protocolVersion": "2025-06-18", "capabilities": capabilities,
                                               "serverInfo": server}})  # fmt: skip
            elif method == "tools/list":
                tools = [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]
                send({"id": number, "result": {"tools": tools}})
            elif method == "tools/call" and message["params"]["name"] == "ask":
                asking = number
                for asked, params in QUESTIONS:
                    send({"id": f"q-{asked}", "method": asked, "params": params})
            elif method == "tools/call" and message["params"]["name"] == "echo":
                text(number, "hello")
            elif method is None:
                answers[str(number)] = message.get("error") or message.get("result")
                if len(answers) == len(QUESTIONS):
                    text(asking, json.dumps(answers))
            elif method != "tools/call" and number is not None:
                send({"id": number, "error": {"code": -32601, "message": "Method not found"}})


if __name__ == "__main__":
    main()
