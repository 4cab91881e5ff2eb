"""The replay on AgentDojo for other guards' rules: invariant-ai's rule language, LlamaFirewall's rule scanners.

    python benchmarks/guard_peers.py --invariant PYTHON --llamafirewall PYTHON [--limit N]

PYTHON is the interpreter of an environment of its own that has the package (pip install invariant-ai; pip install
llamafirewall). Each answers through a process of that interpreter. Without it, or where it cannot start, the peer is
*not run*, and the reason is printed. Nothing of them needs a network, a key or weights as it is used here:

* invariant-ai: one rule in its language, of the kind its documentation shows: no call with side effects after a tool's
  output (its detector of injections needs weights, and is left out).
* LlamaFirewall: its regular expressions and its scanner of invisible characters, on every tool's output; what they
  block ends the session (its PromptGuard needs weights, AlignmentCheck a model behind a key, CodeShield is for code).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from safewright.guard.bench import agentdojo
from safewright.guard.bench.arms import Arm, arms, deployed
from safewright.guard.nouns import Action

INVARIANT = """
import json, sys
from invariant.analyzer import LocalPolicy
names = json.loads(sys.stdin.readline())
policy = LocalPolicy.from_string('''
raise "a call with side effects after a tool's output" if:
    (output: ToolOutput) -> (call: ToolCall)
    call.function.name in %s
''' % json.dumps(names))
print("ready", flush=True)
for line in sys.stdin:
    try:
        found = policy.analyze(json.loads(line)["trace"]).errors
    except RuntimeError as error:  # it gives up on long traces: what it cannot check is not let through
        print(error, file=sys.stderr)
        found = True
    print("deny" if found else "allow", flush=True)
"""
LLAMAFIREWALL = """
import asyncio, json, sys
from llamafirewall.llamafirewall_data_types import ToolMessage
from llamafirewall.scanners.hidden_ascii_scanner import HiddenASCIIScanner
from llamafirewall.scanners.regex_scanner import RegexScanner
scanners, seen = (RegexScanner(), HiddenASCIIScanner()), {}
sys.stdin.readline()
print("ready", flush=True)
def blocked(text):
    if text not in seen:
        message = ToolMessage(content=text)
        seen[text] = any(asyncio.run(each.scan(message)).decision.value == "block" for each in scanners)
    return seen[text]
for line in sys.stdin:
    print("deny" if any(map(blocked, json.loads(line)["results"])) else "allow", flush=True)
"""


class NotRun(Exception):  # noqa: N818 - an outcome, not an error
    """The peer cannot be asked here."""


def peer(python: str | None, code: str, names: list[str]) -> Callable[[Action], str]:
    """Decisions of a peer in a process of its own.

    Raises:
        NotRun: It does not start.
    """
    if not python:
        raise NotRun("no interpreter was named that has it")
    try:
        process = subprocess.Popen(
            [python, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise NotRun(str(error)) from error
    send, receive = process.stdin, process.stdout
    if send is None or receive is None:
        raise NotRun("no pipes")
    send.write(json.dumps(names) + "\n")
    send.flush()
    while (line := receive.readline()) and line.strip() != "ready":
        pass  # a package may greet first
    if not line:
        said = process.stderr.read().strip().splitlines() if process.stderr else []
        raise NotRun(said[-1] if said else "it ended before it was ready")
    return _asking(process, send, receive)


def _asking(process: Any, send: Any, receive: Any) -> Callable[[Action], str]:
    def decide(action: Action) -> str:
        line = {
            "trace": _trace(action),
            "results": [turn.text for turn in action.history if turn.kind == "result"],
        }
        send.write(json.dumps(line) + "\n")
        send.flush()
        answer = receive.readline().strip()
        if answer not in ("allow", "deny"):
            raise NotRun("it went away")
        return str(answer)

    return decide


def _trace(action: Action) -> list[dict[str, Any]]:
    """A history and the call, as messages of a chat."""
    messages: list[dict[str, Any]] = []
    number = 0
    for turn in action.history:
        if turn.kind == "user":
            messages.append({"role": "user", "content": turn.text})
        elif turn.kind == "call":
            number += 1
            messages.append(_call(number, turn.tool, turn.arguments))
        elif turn.kind == "result":
            messages.append({"role": "tool", "tool_call_id": str(number), "content": turn.text})
    return [*messages, _call(number + 1, action.tool, action.arguments)]


def _call(number: int, tool: str, arguments: Any) -> dict[str, Any]:
    function = {"name": tool, "arguments": dict(arguments)}
    return {"role": "assistant", "content": "",
            "tool_calls": [{"id": str(number), "type": "function", "function": function}]}  # fmt: skip


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--invariant", metavar="PYTHON")
    parser.add_argument("--llamafirewall", metavar="PYTHON")
    parser.add_argument("--limit", type=int, help="user tasks of each suite")
    parser.add_argument("--attack", action="append", default=[])
    chosen = parser.parse_args()
    policy = deployed()
    effects = {spec.pattern: spec.effect for spec in policy.tools}
    names = [name for name, effect in effects.items() if effect not in ("read", "fetch") and "*" not in name]
    table = [arm for arm in arms() if arm.name in ("allow-all", "standard", "strict")]
    for name, python, code in (
        ("invariant-ai rule", chosen.invariant, INVARIANT),
        ("LlamaFirewall rule scanners", chosen.llamafirewall, LLAMAFIREWALL),
    ):
        try:
            decide = peer(python, code, names)
            decide(Action("send_money", {"recipient": "x"}, "hello"))
            table.append(Arm(name, "a peer", decide, name))
        except (NotRun, BrokenPipeError) as why:
            print(f"{name}: not run ({why})", file=sys.stderr)
    result = agentdojo.bench(
        ("banking", "slack"), only_attacks=chosen.attack, limit=chosen.limit, table=table
    )
    print(agentdojo.markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
