"""Calls and tokens of a language model per guarded call: the paper's three calls, one call, and a stable key.

A server on this machine answers every question in the form asked for and with the same words, so that the arms differ
in what is asked and not in how well. Tokens are counted by one rule for all arms, in what was sent and what came back:
words, runs of digits, and single other characters (the regular expression below); the JSON schema that is sent beside
the messages is not counted. A real tokenizer gives other figures; the ratios are what is meant.

Three arms go through the guard as it is, over the same stream of calls:

* faithful: preset `faithful` (step-back, analyzer, executor), memory on;
* fused: preset `hardened`, deterministic key, one call, memory on, cache off; before a key is stable;
* stable: the same after a key has become stable: the analyzer's part is skipped.

`hardened` is the last two together, as the stream brings them; the first round, in which nothing is known yet, is left
out of every arm.

    python benchmarks/guard_llm_cost.py [--kinds 6] [--rounds 10]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from safewright.guard import Action, Guard, Policy, Principal, Verdict
from safewright.guard.analyst import open_analyst

TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")

POLICY = 'extends = "default"\n[intent]\nenabled = false\n[provenance]\nenabled = false\n[budgets]\nenabled = false\n'
VERBS = ("note", "ticket", "report", "booking", "invoice", "reminder", "survey", "badge")
THINKING = "The request names this item, and it belongs to the user on whose behalf the agent acts."
CHECKS = (
    ("alignment", "asked for", "The user asked for this kind of change to this kind of item."),
    ("role", "own item", "The item belongs to the user on whose behalf the agent acts."),
    ("confidentiality", "no strangers", "Nothing is shown or sent to somebody who may not see it."),
)
ANALYSIS = (
    "The item may belong to somebody else, or hold data that the reader may not see. A wrong change could not be "
    "undone easily. The request names the item, which speaks for it."
)


def tokens(text: str) -> int:
    return len(TOKEN.findall(text))


def answer(system: str, data: dict[str, Any]) -> dict[str, Any]:
    """What a cooperative model says."""
    proposals = [{"category": c, "name": n, "statement": s} for c, n, s in CHECKS]
    outcome = {"thinking": THINKING, "tool": None, "result": True}
    if system.startswith("You know"):
        tool = json.loads(data["action"])["tool"].replace("_", " ")
        return {"natural": f"The agent will {tool} of a user.", "command": f"{tool} ITEM TEXT"}
    if system.startswith("You carry out"):
        return {"checks": [{"check": c["id"], "delete": False, **outcome} for c in data["checks"]]}
    memory = data.get("memory")
    if system.startswith("You plan"):
        move = "add" if memory else "new"
        if memory:
            proposals = [{k: c[k] for k in ("category", "name", "statement")} for c in memory["checks"]]
        action = memory["action"] if memory else "Change an item of a user."
        return {
            "analysis": ANALYSIS, "move": move, "in_memory": bool(memory), "action": action, "checks": proposals,
        }  # fmt: skip
    known = memory["checks"] if memory else []
    judged = [{"check": c["id"], "delete": False, **outcome} for c in known]
    fresh = [] if known else [{**p, **outcome} for p in proposals]
    return {"same_kind": bool(known), "judged": judged, "new": fresh}


@contextmanager
def serving(asked: list[str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            turns = body["messages"]
            asked.append(" ".join(turns[0]["content"].split()[:4]))
            text = json.dumps(answer(turns[0]["content"], json.loads(turns[1]["content"])))
            usage = {
                "prompt_tokens": sum(tokens(turn["content"]) for turn in turns),
                "completion_tokens": tokens(text),
            }
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            payload = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}/v1#scripted"
        http.shutdown()


def stream(kinds: int, rounds: int) -> list[Action]:
    """Every kind of call once per round, each round a session of its own."""
    return [
        Action(
            f"update_{VERBS[kind]}",
            {"item": f"{VERBS[kind]}-{100 * turn + kind}", "text": f"Moved to room {turn + 1}, {9 + turn % 8} h."},
            request=f"Please move {VERBS[kind]} {100 * turn + kind} to room {turn + 1} at {9 + turn % 8} o'clock.",
            principal=Principal("ann", "user"),
            session=f"session {turn}",
            agent="An office assistant.",
        )
        for turn in range(rounds)
        for kind in range(kinds)
    ]  # fmt: skip


def run(model: str, preset: str, policy: Policy, actions: list[Action]) -> list[Verdict]:
    with tempfile.TemporaryDirectory() as folder:
        analyst = open_analyst(model, preset=preset, policy=policy, cache_seconds=0)  # type: ignore[arg-type]
        with Guard(
            policy,
            backend="llm",
            model=analyst,
            preset=preset,  # type: ignore[arg-type]
            memory=Path(folder) / "memory.db",
            deadline_s=60,
        ) as guard:
            verdicts = [guard.check(action) for action in actions]
            if guard.unlearned:
                sys.exit(f"{preset}: memory did not take in {guard.unlearned} verdicts")
    for verdict in verdicts:
        if verdict.failure is not None or verdict.decision != "allow":
            sys.exit(f"{preset}: {verdict.decision} {verdict.failure} {verdict.reasons} {verdict.checks}")
    return verdicts


def means(verdicts: list[Verdict]) -> dict[str, float]:
    return {
        "decisions": len(verdicts),
        "calls": round(statistics.mean(v.usage.calls for v in verdicts), 3),
        "tokens_in": round(statistics.mean(v.usage.tokens_in for v in verdicts), 1),
        "tokens_out": round(statistics.mean(v.usage.tokens_out for v in verdicts), 1),
        "tokens": round(statistics.mean(v.usage.tokens_in + v.usage.tokens_out for v in verdicts), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", type=int, default=6, choices=range(1, len(VERBS) + 1))
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    tools = "".join(f'[tools.update_{verb}]\neffect = "write"\n' for verb in VERBS)
    policy = Policy.read(POLICY + tools)
    actions = stream(given.kinds, given.rounds)
    asked: list[str] = []
    with serving(asked) as model:
        faithful = run(model, "faithful", policy, actions)
        hardened = run(model, "hardened", policy, actions)
    rules = run_rules(policy, actions)
    warm = slice(given.kinds, None)  # the first round of each arm has nothing to remember
    stable = [
        v
        for v, kind in zip(hardened, asked[-len(hardened) :], strict=True)
        if kind == "You carry out settled"
    ]
    fused = [
        v for v, kind in zip(hardened, asked[-len(hardened) :], strict=True) if kind.startswith("You examine")
    ][given.kinds :]
    arms = {
        "faithful": means(faithful[warm]),
        "fused": means(fused),
        "stable": means(stable) if stable else None,
        "hardened": means(hardened[warm]),
        "rules": means(rules[warm]),
    }
    base = arms["faithful"]
    assert base is not None
    ratios = {
        name: {
            what: round(base[what] / arm[what], 2) for what in ("calls", "tokens_in", "tokens_out", "tokens")
        }
        for name, arm in arms.items()
        if arm is not None and name in ("fused", "stable", "hardened")
    }
    print(json.dumps({"per_decision": arms, "faithful_over": ratios, "tokenizer": TOKEN.pattern}, indent=2))


def run_rules(policy: Policy, actions: list[Action]) -> list[Verdict]:
    with Guard(policy) as guard:
        return [guard.check(action) for action in actions]


if __name__ == "__main__":
    main()
