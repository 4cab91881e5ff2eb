"""`safewright guard serve` under load: calls a second, latencies, errors, and whether each is in the audit log.

wrk keeps some connections busy with calls that are allowed, denied and escalated, and then, for scale, with
``/healthz``, which judges nothing. Audit rows are counted against what the server says it answered, and against what
wrk received (which may miss those under way when it stops). Where wrk is not installed, nothing is run.

    python benchmarks/guard_http.py [--seconds 60] [--workers 2] [--connections 16] [--memory] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

CALLS = [
    {"tool": "bash", "arguments": {"cmd": "ls -l /var/log"}, "request": "list the logs"},
    {"tool": "bash", "arguments": {"cmd": "rm -rf /etc"}, "request": "tidy up"},
    {
        "tool": "bash",
        "arguments": {"cmd": "mv notes.txt notes.old"},
        "request": "rename notes.txt to notes.old",
    },
    {
        "tool": "sql_query",
        "arguments": {"query": "SELECT name FROM clients WHERE id = 7"},
        "request": "who is client 7?",
    },
    {"tool": "mystery", "arguments": {"what": "this"}},
]
LUA = """
local bodies = { %s }
local threads, turn = {}, 0
function setup(thread) table.insert(threads, thread) end
function init(args) ok, other, said = 0, 0, { allow = 0, modify = 0, escalate = 0, deny = 0 } end
function request()
  turn = turn + 1
  return wrk.format("%s", "%s", { ["Content-Type"] = "application/json" }, bodies[(turn - 1) %% #bodies + 1])
end
function response(status, headers, body)
  if status == 200 then ok = ok + 1 else other = other + 1 end
  local word = string.match(body, '"decision": "(%%a+)"')
  if word and status == 200 then said[word] = (said[word] or 0) + 1 end
end
function done(summary, latency, requests)
  local counts = { ok = 0, other = 0, allow = 0, modify = 0, escalate = 0, deny = 0 }
  for _, thread in ipairs(threads) do
    counts.ok = counts.ok + thread:get("ok")
    counts.other = counts.other + thread:get("other")
    for word, count in pairs(thread:get("said")) do counts[word] = counts[word] + count end
  end
  local e = summary.errors
  io.write(string.format('RESULT {"requests": %%d, "seconds": %%.3f, "ok": %%d, "other": %%d, "allow": %%d, '
    .. '"modify": %%d, "escalate": %%d, "deny": %%d, "socket_errors": %%d, "p50_ms": %%.2f, "p99_ms": %%.2f, '
    .. '"max_ms": %%.2f}\\n', summary.requests, summary.duration / 1e6, counts.ok, counts.other, counts.allow,
    counts.modify, counts.escalate, counts.deny, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
"""


def script(home: Path, method: str, path: str, bodies: list[str]) -> Path:
    """A script for wrk that asks one path, with bodies in turn."""
    quoted = ", ".join(f"[==[{body}]==]" for body in bodies) or '""'
    file = home / f"ask{path.replace('/', '_')}.lua"
    file.write_text(LUA % (quoted, method, path))
    return file


def wrk(url: str, file: Path, seconds: int, connections: int) -> dict[str, Any]:
    """What wrk counted."""
    command = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(file), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"wrk said nothing:\n{done.stdout}\n{done.stderr}")
    result: dict[str, Any] = json.loads(found[1])
    result["per_second"] = round(result["requests"] / result["seconds"], 1)
    return result


def read(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as reply:
        return str(reply.read().decode())


def answered(url: str) -> int:
    """How many calls the server says it gave a verdict on, once all workers have told."""
    before, total = -1, -2
    while before != total:
        before = total
        time.sleep(2.5)
        found = re.search(r'requests_total\{route="/v1/check",status="200"\} (\d+)', read(f"{url}/metrics"))
        total = int(found[1]) if found else 0
    return total


def begun(home: Path, workers: int, memory: bool) -> tuple[subprocess.Popen[bytes], str]:
    """A server, and its address."""
    told = home / "told"
    command = [sys.executable, "-m", "safewright", "guard", "serve", "--port", "0", "--workers", str(workers)]
    command += ["--audit", str(home / "audit.db"), *(["--memory", str(home / "memory.db")] if memory else [])]
    with open(told, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"OMP_NUM_THREADS": "1"})
    for _ in range(600):
        found = re.search(r"guarding at (http://\S+)", told.read_text())
        if found:
            try:
                read(f"{found[1]}/readyz")
                return process, found[1]
            except OSError:
                pass
        time.sleep(0.1)
    raise SystemExit(f"the server did not come up:\n{told.read_text()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--memory", action="store_true", help="With a memory, too.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        print(json.dumps({"not run": "wrk is not installed (Debian: apt-get install wrk)"}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        process, url = begun(home, arguments.workers, arguments.memory)
        try:
            bodies = [json.dumps(call) for call in CALLS]
            check = wrk(
                url, script(home, "POST", "/v1/check", bodies), arguments.seconds, arguments.connections
            )
            handled = answered(url)
            floor = wrk(
                url,
                script(home, "GET", "/healthz", []),
                max(3, arguments.seconds // 10),
                arguments.connections,
            )
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
        from safewright.guard.audit.chain import verify

        with sqlite3.connect(home / "audit.db") as database:
            (rows,) = database.execute("SELECT COUNT(*) FROM audit").fetchone()
        sound = verify(home / "audit.db").sound
    result = {
        "check": check,
        "healthz": {name: floor[name] for name in ("per_second", "p50_ms", "p99_ms")},
        "p50_over_healthz": round(check["p50_ms"] / floor["p50_ms"], 2),
        "errors": check["other"] + check["socket_errors"],
        "answered_by_the_server": handled,
        "audit_rows": rows,
        "lost": handled - rows,
        "under_way_at_the_end": handled - check["ok"],
        "chain_sound": sound,
        "exit_code": code,
        "workers": arguments.workers,
        "connections": arguments.connections,
        "memory": arguments.memory,
        "processors": os.cpu_count(),
    }
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    if result["errors"] or result["lost"] or not sound or code:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
