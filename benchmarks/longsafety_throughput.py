"""LongSafety against a stated server: wall time over the ideal, and the client's CPU beside a bare client's.

    python benchmarks/longsafety_throughput.py [--instances 300] [--words 5500] [--latency 1.0] [--inspect]

The server (`stated_server.py`) admits 64 calls at once over all roles and queues the rest; five in a hundred fail
with HTTP 500. Ideal: attempts x latency / 64. Wall: first request to last response, as the server sees them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ADMITTED = 64
WORDS = ("zor", "blim", "kade", "murn", "pelt", "quil", "vun", "hosk", "sabe", "toma", "lirk", "wug")


def write_rows(file: Path, instances: int, words: int) -> None:
    """Instances of made-up words."""
    with open(file, "w") as handle:
        for number in range(instances):
            text = " ".join(
                WORDS[(number * 7 + k * (1 + number % 5) + k // 97) % len(WORDS)] for k in range(words)
            )
            row = {"id": number, "instruction": f"What is to be said of number {number}?", "context": text}
            handle.write(json.dumps(row) + "\n")


def stats(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats") as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def start_server(latency: float, errors: float) -> tuple[subprocess.Popen[str], int]:
    command = [
        sys.executable,
        str(HERE / "stated_server.py"),
        "--latency",
        str(latency),
        "--errors",
        str(errors),
    ]
    server = subprocess.Popen([*command, "--admit", str(ADMITTED)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def direct(port: int, data: Path, folder: Path) -> list[str]:
    at = f"http://127.0.0.1:{port}/v1"
    command = [
        sys.executable,
        "-m",
        "safewright",
        "measure",
        "longsafety",
        f"{at}#target",
        "--data",
        str(data),
    ]
    command += ["--model-role", f"judge={at}#judge", "--batch-size", str(ADMITTED), "--out", str(folder)]
    return command


def through_inspect(port: int, data: Path, folder: Path) -> list[str]:
    at = f"http://127.0.0.1:{port}/v1"
    command = [
        str(Path(sys.executable).parent / "inspect"),
        "eval",
        "safewright/longsafety",
        "--display",
        "none",
    ]
    command += ["--model", f"safewright/{at}#target", "--model-role", f"judge=safewright/{at}#judge"]
    command += ["-T", f"data={data}", "--log-dir", str(folder), "-M", f"batch_size={ADMITTED}"]
    return [*command, "--max-samples", "64", "--max-connections", str(ADMITTED)]


BARE = """
import asyncio, json, resource, sys
from openai import AsyncOpenAI
async def main():
    port, file = sys.argv[1:]
    client = AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    gate = asyncio.Semaphore(64)
    rows = [json.loads(line) for line in open(file)]
    async def ask(text):
        async with gate:
            await client.chat.completions.create(model="target", messages=[{"role": "user", "content": text}])
    before = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    await asyncio.gather(*(ask(row["context"]) for row in rows))
    print((sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - before) / len(rows))
asyncio.run(main())
"""


def bare_client(data: Path) -> float:
    """CPU seconds a bare client of the openai package takes for one call with such a prompt."""
    server, port = start_server(0.05, 0.0)
    try:
        command = [sys.executable, "-c", BARE, str(port), str(data)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)
    finally:
        server.kill()


def measure(command: list[str], port: int, instances: int) -> dict[str, float]:
    before, started = children_cpu(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    found = stats(port)
    return {
        **found,
        "cpu_per_instance": (children_cpu() - before) / instances,
        "seconds": time.monotonic() - started,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=300)
    parser.add_argument("--words", type=int, default=5500)
    parser.add_argument("--latency", type=float, default=1.0)
    parser.add_argument("--errors", type=float, default=0.05)
    parser.add_argument(
        "--inspect", action="store_true", help="Through inspect eval in the place of the direct path."
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data, folder = Path(place, "rows.jsonl"), Path(place, "run")
        write_rows(data, given.instances, given.words)
        server, port = start_server(given.latency, given.errors)
        try:
            make = through_inspect if given.inspect else direct
            found = measure(make(port, data, folder), port, given.instances)
        finally:
            server.kill()
        ideal = found["calls"] * given.latency / ADMITTED
        bare = bare_client(data)
        way = "through Inspect" if given.inspect else "direct"
        print(f"{way}, {given.instances} instances of {given.words} words")
        print(
            f"calls {found['calls']:.0f} ({found['failures']:.0f} failed), questions {found['questions']:.0f} "
            f"(expected {6 * given.instances}), answered twice {found['repeats']:.0f}"
        )
        print(
            f"wall {found['wall']:.2f} s, ideal {ideal:.2f} s: {found['wall'] / ideal:.3f} of it; "
            f"{found['calls'] / found['wall']:.1f} calls/s"
        )
        print(
            f"client CPU {1000 * found['cpu_per_instance']:.1f} ms an instance, the process's start and end among it; "
            f"a bare client takes {1000 * bare:.2f} ms a call, {6000 * bare:.1f} ms for six"
        )


if __name__ == "__main__":
    main()
