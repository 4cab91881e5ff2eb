"""The guard's memory and audit log: retrieval beside embedding every record each time, and what commits cost.

Retrieval is timed on one thread with all entries in one class (the worst case), after a change by another writer each
time (so that the index is brought up to date). The other way is what a store without an index does: every record's
text embedded again for each call. Both use the default embedding, so the ratio is of work, not of models.

    OMP_NUM_THREADS=1 python benchmarks/guard_retrieval.py [--sizes 10000,100000] [--calls 200]
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safewright.guard.audit import open_audit
from safewright.guard.memory import SqliteMemory, open_memory, rows
from safewright.guard.memory.learning import Item
from safewright.guard.memory.vectors import Hashed, cosines, norms_of
from safewright.guard.nouns import Check
from safewright.guard.parts import Key, Lesson

VERBS = ("copy", "move", "remove", "send", "pay", "read", "list", "open", "close", "share")
THINGS = ("file", "folder", "mail", "invoice", "user", "row", "table", "page", "channel", "event")


def key(number: int) -> Key:
    verb, thing = VERBS[number % 10], THINGS[number // 10 % 10]
    text = f"tool_{number // 100}|{verb}|{thing}|{thing}_id:string,amount:number|write|user"
    return Key(text, f"{verb} a {thing}", "write", "user", "c")


def filled(path: Path, size: int) -> SqliteMemory:
    """A memory of some entries with three checks each, written in a few transactions."""
    memory = open_memory(path)
    embedding = Hashed()
    items = {
        ("integrity", name): Item("integrity", name, f"The {name} is what the user asked for.", pos=3)
        for name in ("target", "amount", "owner")
    }
    for start in range(0, size, 10_000):
        keys = [key(number) for number in range(start, min(size, start + 10_000))]
        vectors = embedding.embed([each.text for each in keys])
        with memory.database.writing() as connection:
            changed = rows.bump(connection)
            for each, vector in zip(keys, vectors, strict=True):
                row = rows.insert_row(connection, "default", each, embedding.name, vector.tobytes(), changed)
                rows.write_row(connection, memory.sealer, replace(row, items=items, hits=1), {}, changed)
    return memory


def spread(job: Callable[[int], Any], calls: int) -> dict[str, float]:
    """p50 and p95 in milliseconds."""
    times = []
    for number in range(calls):
        start = time.perf_counter()
        job(number)
        times.append(1000 * (time.perf_counter() - start))
    return {
        "p50_ms": round(statistics.median(times), 3),
        "p95_ms": round(statistics.quantiles(times, n=20)[18], 3),
    }


def retrieval(folder: Path, size: int, calls: int) -> dict[str, Any]:
    memory = filled(folder / f"{size}.db", size)
    writer = open_memory(folder / f"{size}.db")
    start = time.perf_counter()
    memory.retrieve(key(0))
    first = time.perf_counter() - start
    check = Check("target", "integrity", "The target is what the user asked for.", "pass", "llm", "memory")
    found: dict[str, Any] = {"entries": size, "index_built_s": round(first, 2)}
    # New kinds of calls are compared with all entries; one that was asked before, with what came since.
    for kind, keys in (("new", calls), ("known", 10)):
        walls, cpus, before = [], [], memory.embedded
        for number in range(calls):
            at = key(number % keys * 37 % size)
            writer.learn(Lesson(at, None, (check,), "allow", str(number), False))
            start, cpu = time.perf_counter(), time.thread_time()
            entries = memory.retrieve(at)
            walls.append(1000 * (time.perf_counter() - start))
            cpus.append(1000 * (time.thread_time() - cpu))
            if entries[0].key != at:
                raise SystemExit(f"retrieved {entries[0].key.text} for {at.text}")
        found[kind] = {
            "p50_ms": round(statistics.median(walls), 3),
            "p95_ms": round(statistics.quantiles(walls, n=20)[18], 3),
            "cpu_p95_ms": round(statistics.quantiles(cpus, n=20)[18], 3),
            "embedded_per_call": (memory.embedded - before) / calls,
        }
    every, embedding = [key(number).text for number in range(size)], Hashed()
    start = time.thread_time()
    vectors = embedding.embed([*every, key(7).text])
    cosines(vectors[:-1], norms_of(vectors[:-1]), vectors[-1]).argmax()
    again = 1000 * (time.thread_time() - start)
    memory.close()
    writer.close()
    return {
        **found,
        "embedding_all_cpu_ms": round(again, 1),
        "ratio_to_new": round(again / found["new"]["cpu_p95_ms"], 1),
        "ratio_to_known": round(again / found["known"]["cpu_p95_ms"], 1),
    }


def commits(folder: Path, count: int) -> dict[str, Any]:
    """A record of 1 kB a commit, under both settings of SQLite, and records appended by threads together."""
    found: dict[str, Any] = {}
    for setting in ("NORMAL", "FULL"):
        connection = sqlite3.connect(folder / f"{setting}.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={setting}")
        connection.execute("CREATE TABLE t (x TEXT)")
        insert = connection.execute
        found[setting] = spread(
            lambda _, insert=insert: insert("INSERT INTO t VALUES (?)", ("x" * 1000,)), count
        )
        connection.close()
    found["full_over_normal"] = round(found["FULL"]["p50_ms"] / found["NORMAL"]["p50_ms"], 1)
    record = {"kind": "decision", "tool": "t", "padding": "x" * 800}
    for threads in (1, 8):
        log = open_audit(folder / f"a{threads}.db", patience=60)

        def append(log: Any = log) -> None:
            for _ in range(count // 2):
                log.append(record)

        start = time.perf_counter()
        working = [threading.Thread(target=append) for _ in range(threads)]
        for each in working:
            each.start()
        for each in working:
            each.join()
        taken = time.perf_counter() - start
        found[f"audit_{threads}_threads"] = {
            "ms_per_record": round(1000 * taken / (threads * (count // 2)), 3),
            "records_per_commit": round(threads * (count // 2) / log.batches, 2),
        }
        log.close()
    one, eight = found["audit_1_threads"]["ms_per_record"], found["audit_8_threads"]["ms_per_record"]
    found["one_over_eight_threads"] = round(one / eight, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--calls", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [retrieval(Path(folder), int(size), given.calls) for size in given.sizes.split(",")]
        print(json.dumps({"retrieval": found, "commits": commits(Path(folder), given.calls)}, indent=2))


if __name__ == "__main__":
    main()
