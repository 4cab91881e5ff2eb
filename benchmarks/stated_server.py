"""A chat server that admits so many calls at once over all models, queues the rest, and fails now and then.

    python benchmarks/stated_server.py --admit 64 --latency 1.0 --errors 0.05

It prints its port, answers ``POST /v1/chat/completions`` after the latency, and tells at ``GET /stats`` what it
saw: calls, failures, when the first request came and the last response left, and how often each question was
answered. Which calls fail depends on their number alone.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import time
from typing import Any


class Stated:
    """What the server does and what it saw."""

    def __init__(self, admit: int, latency: float, errors: float) -> None:
        self.admit = asyncio.Semaphore(admit)
        self.latency, self.errors = latency, errors
        self.calls = self.failures = self.peak = self.under_way = 0
        self.first = self.last = 0.0
        self.answered: dict[str, int] = {}

    def stats(self) -> dict[str, Any]:
        repeats = sum(count - 1 for count in self.answered.values())
        return {
            "calls": self.calls,
            "failures": self.failures,
            "questions": len(self.answered),
            "repeats": repeats,
            "peak": self.peak,
            "wall": self.last - self.first,
            "under_way": self.under_way,
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                body = await reader.readexactly(length)
                status, reply = await self.answer(head.split(b" ", 2)[1].decode(), body)
                data = json.dumps(reply).encode()
                heads = f"Content-Type: application/json\r\nContent-Length: {len(data)}"
                writer.write(f"HTTP/1.1 {status} X\r\n{heads}\r\n\r\n".encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/stats":
            return 200, self.stats()
        if path.endswith("/models"):
            return 200, {"data": [{"id": "target"}, {"id": "judge"}]}
        self.first = self.first or time.monotonic()
        self.calls += 1
        number = self.calls
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)
        async with self.admit:
            await asyncio.sleep(self.latency)
        self.under_way -= 1
        self.last = time.monotonic()
        fails = int(number * self.errors) > int((number - 1) * self.errors)
        if fails:
            self.failures += 1
            return 500, {"error": {"message": "a stated failure"}}
        key = hashlib.sha256(body).hexdigest()
        self.answered[key] = self.answered.get(key, 0) + 1
        # The end of a prompt says which agent it is for; parsing 40 kB would cost more than the answer.
        tail = body[-400:]
        text = (
            str(int(key[0] in "01")) if b"Verdict:" in tail else f"A reply of some words, number {key[:6]}."
        )
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--admit", type=int, default=64)
    parser.add_argument("--latency", type=float, default=1.0)
    parser.add_argument("--errors", type=float, default=0.05)
    given = parser.parse_args()
    stated = Stated(given.admit, given.latency, given.errors)
    server = await asyncio.start_server(stated.serve, "127.0.0.1", 0, limit=2**20, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
