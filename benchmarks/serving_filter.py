"""What serving without reasoning costs: the filter over a model's own time, and the door over the server behind it.

Filter: a lab model's answers token by token, as the server takes them in, over `generate` of the same prompts one at
a time (CPU seconds); and the filter alone, microseconds a piece. Door: streams of a made-up server through
`safewright serve --upstream` over the same streams read directly, one client and several.

    python benchmarks/serving_filter.py [--prompts 24] [--repeats 5] [--out results.json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from safewright.models import load
from safewright.models.hf import HfModel
from safewright.models.serving.local import LocalSource
from safewright.models.serving.replies import Telling
from safewright.models.serving.requests import Asked
from safewright.models.streaming import ReasoningFilter
from safewright.types import Chat, Decoding

WORDS = [f"{a}{b}{c}" for a in "bdklmr" for b in "aeiou" for c in "nprstvz"]
NEW, PIECES = 128, 300
TEXT = "<think> " + "we look at this once more . " * 40 + "</think> " + "Fold it twice . " * 20


def local(prompts: int, repeats: int) -> dict[str, Any]:
    """Seconds of the server's own way, without sockets, over those of `generate`, batch size one; CPU seconds."""
    from safewright.lab.tiny import Shape, save, tiny_model, word_tokenizer

    chats: list[Chat] = [
        ({"role": "user", "content": " ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(24))},)
        for i in range(prompts)
    ]
    how = Decoding(max_new_tokens=NEW)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = word_tokenizer(WORDS)
        save(tiny_model(Shape(positions=512, spread=0.3), tokenizer, seed=0), tokenizer, Path(scratch))
        model = load(scratch, device="cpu", batch_size=1)
        if not isinstance(model, HfModel):
            raise SystemExit("no local engine")

        source = LocalSource(model, "toy", most_tokens=NEW)

        async def filtered() -> list[str]:
            told = []
            for chat in chats:
                asked = Asked("toy", tuple(chat), {}, stream=True)
                telling = Telling("one", asked, source.visible, source.model)
                told.append("".join([telling.take(event) async for event in source.events(asked)]))
            return told

        plain = [answer.answer for answer in model.generate(chats, how)]
        if asyncio.run(filtered()) != plain:
            raise SystemExit("the two ways do not say the same")
        seconds: dict[str, list[float]] = {"filtered": [], "plain": []}
        for _ in range(repeats):
            start = time.process_time()
            for chat in chats:
                model.generate([chat], how)
            seconds["plain"].append(time.process_time() - start)
            start = time.process_time()
            asyncio.run(filtered())
            seconds["filtered"].append(time.process_time() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "tokens": sum(len(text.split()) for text in plain),
        "filtered_over_plain": round(median["filtered"] / median["plain"], 3),
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
    }


def alone(repeats: int) -> dict[str, float]:
    """Microseconds of the filter a piece of four letters."""
    pieces = [TEXT[i : i + 4] for i in range(0, len(TEXT), 4)]
    found = []
    for _ in range(repeats * 20):
        shown = ReasoningFilter(prompt_known=True)
        start = time.perf_counter()
        for piece in pieces:
            shown.feed(piece)
        shown.close()
        found.append((time.perf_counter() - start) / len(pieces))
    return {"microseconds_a_piece": round(statistics.median(found) * 1e6, 2)}


async def stated(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that streams `TEXT` in pieces, two milliseconds apart, as a model would."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: *(\d+)", head.lower())[1]) if b"POST" in head else 0  # type: ignore[index]
            await reader.readexactly(length)
            if b"POST" not in head:
                body = b'{"data": [{"id": "toy"}]}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
                continue
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            size = max(1, len(TEXT) // PIECES)
            for at in range(0, len(TEXT), size):
                _send(writer, {"index": 0, "delta": {"content": TEXT[at : at + size]}, "finish_reason": None})
                await writer.drain()
                await asyncio.sleep(0.002)
            _send(writer, {"index": 0, "delta": {}, "finish_reason": "stop"})
            done = b"data: [DONE]\n\n"
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _send(writer: asyncio.StreamWriter, choice: Any) -> None:
    line = f"data: {json.dumps({'choices': [choice]})}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(line), line))


def door(clients: int, repeats: int) -> dict[str, float]:
    """Seconds of streams read through the door over seconds of the same streams read directly."""
    loop = asyncio.new_event_loop()
    behind = loop.run_until_complete(asyncio.start_server(stated, "127.0.0.1", 0))
    port = behind.sockets[0].getsockname()[1]
    threading.Thread(target=loop.run_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as home:
        told = Path(home) / "stderr"
        command = [
            sys.executable,
            "-m",
            "safewright",
            "serve",
            "--upstream",
            f"http://127.0.0.1:{port}/v1#toy",
        ]
        with open(told, "wb") as err:
            process = subprocess.Popen(
                [*command, "--port", "0", "--log", f"{home}/log.jsonl"], stderr=err, env=os.environ
            )
        try:
            while not (found := re.search(r"at (http://\S+)", told.read_text())) and process.poll() is None:
                time.sleep(0.05)
            if found is None:
                raise SystemExit(told.read_text())
            time.sleep(0.5)
            seconds: dict[str, list[float]] = {"door": [], "direct": []}
            for _ in range(repeats):
                for name, base in (("direct", f"http://127.0.0.1:{port}/v1"), ("door", found[1])):
                    start = time.perf_counter()
                    asyncio.run(read(base, clients))
                    seconds[name].append(time.perf_counter() - start)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
            loop.call_soon_threadsafe(loop.stop)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "door_over_direct": round(median["door"] / median["direct"], 3),
        "direct_s": round(median["direct"], 3),
    }


async def read(base: str, clients: int) -> None:
    """As many streams at once, read to their end."""
    import httpx

    payload = {"model": "toy", "messages": [{"role": "user", "content": "a boat"}], "stream": True}

    async def one(client: Any) -> None:
        async with client.stream("POST", f"{base}/chat/completions", json=payload) as response:
            async for _ in response.aiter_lines():
                pass

    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = {
        "local": local(given.prompts, given.repeats),
        "filter": alone(given.repeats),
        "door, 1 client": door(1, given.repeats),
        "door, 16 clients": door(16, given.repeats),
    }
    print(json.dumps(result, indent=2))
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
