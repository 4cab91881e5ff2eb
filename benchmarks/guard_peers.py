"""The replay on AgentDojo for other guards' rules: invariant-ai's rule language, LlamaFirewall's rule scanners.

    python benchmarks/guard_peers.py --invariant PYTHON --llamafirewall PYTHON [--suite NAME …] [--attack NAME …]

PYTHON is the interpreter of an environment of its own that has the package (pip install invariant-ai; pip install
llamafirewall). Each answers through one process of that interpreter for the whole run. A peer that is not named, or
does not start, is *not run*, and the output says so. Used as here, nothing of them needs a network, a key or weights:

* invariant-ai: a rule on flows in its language, of the kind its documentation shows, asked of the pending call: no call
  with side effects after a tool's output. After any output, with its own limit of checking cycles (100) and with that
  raised (INVARIANT_MAX_ITERATIONS); and after texts from outside only, by the names of the tools that return them. Its
  detector of injections, which its documentation adds to such a rule, needs weights, and is left out.
* LlamaFirewall: its regular expressions and its scanner of invisible characters, on every tool's output; what they
  block ends the session. As they ship, and without the expressions for personal data, which any e-mail address meets.
  Its PromptGuard needs weights, AlignmentCheck a model behind a key, CodeShield is for code: left out.

Where a peer gives up, crashes or hangs, the call is not made, as with a proxy that fails; that is counted by itself.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safewright.guard.bench import agentdojo
from safewright.guard.bench.arms import Arm, arms, deployed
from safewright.guard.bench.replay import SUITES
from safewright.guard.nouns import Action
from safewright.runs import digest_json
from safewright.stats import wilson

INVARIANT = """
import importlib.metadata, json, os, sys
from invariant.analyzer import LocalPolicy
RULE = '''
raise "a call with side effects after a tool's output" if:
    (output: ToolOutput) -> (call: ToolCall)
    call.function.name in %s
'''
told = json.loads(sys.stdin.readline())
every = LocalPolicy.from_string(RULE % json.dumps(told["effects"]))
outside = LocalPolicy.from_string(
    RULE % json.dumps(told["effects"])
    + "    tool_call(output).function.name in " + json.dumps(told["outside"])
)
def asked(policy, trace, limit):
    os.environ["INVARIANT_MAX_ITERATIONS"] = limit
    try:
        return "deny" if policy.analyze_pending(trace[:-1], trace[-1:]).errors else "allow"
    except RuntimeError as error:
        if "Maximum checking cycles" not in str(error):
            raise
        return "gave up"
print(json.dumps({"ready": importlib.metadata.version("invariant-ai")}), flush=True)
for line in sys.stdin:
    trace = json.loads(line)["trace"]
    shipped = asked(every, trace, "100")
    raised = asked(every, trace, "1000000") if shipped == "gave up" else shipped
    # The narrower rule cannot find what the wider one does not.
    narrow = asked(outside, trace, "1000000") if raised != "allow" else "allow"
    print(json.dumps({"any output": shipped, "any output, limit raised": raised,
                      "outside texts, limit raised": narrow}), flush=True)
"""
LLAMAFIREWALL = """
import asyncio, importlib.metadata, json, sys
from llamafirewall.llamafirewall_data_types import ToolMessage
from llamafirewall.scanners.hidden_ascii_scanner import HiddenASCIIScanner
from llamafirewall.scanners.regex_scanner import RegexScanner
sys.stdin.readline()
wording, hidden = RegexScanner(), HiddenASCIIScanner()
wording.patterns = {name: each for name, each in wording.patterns.items() if name == "Prompt injection"}
ways, seen = {"as shipped": (RegexScanner(), hidden), "without personal data": (wording, hidden)}, {}
def blocked(way, text):
    if (way, text) not in seen:
        message = ToolMessage(content=text)
        seen[way, text] = any(asyncio.run(each.scan(message)).decision.value == "block" for each in ways[way])
    return seen[way, text]
print(json.dumps({"ready": importlib.metadata.version("llamafirewall")}), flush=True)
for line in sys.stdin:
    texts = [each["content"] for each in json.loads(line)["trace"] if each["role"] == "tool"]
    said = {way: "deny" if any(blocked(way, text) for text in texts) else "allow" for way in ways}
    print(json.dumps(said), flush=True)
"""
PEERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "invariant-ai": (
        INVARIANT,
        ("any output", "any output, limit raised", "outside texts, limit raised"),
    ),
    "LlamaFirewall": (LLAMAFIREWALL, ("as shipped", "without personal data")),
}
"""A peer's program, and the ways in which it answers every question."""
SPOT = 50
"""Every so many of the questions that are taken for known are asked all the same."""
OUTSIDE = (
    "read_file", "get_most_recent_transactions",
    "read_channel_messages", "read_inbox", "get_webpage",
    "get_unread_emails", "get_received_emails", "search_emails", "search_calendar_events", "get_day_calendar_events",
    "get_file_by_id", "search_files", "search_files_by_filename", "list_files",
    "get_rating_reviews_for_hotels", "get_rating_reviews_for_restaurants", "get_rating_reviews_for_car_rental",
)  # fmt: skip
"""Tools that return what others wrote, by what the package says of them."""
SECONDS = 60.0
"""How long a peer may take to answer, or to start."""
MOST_STARTS = 10
"""How often a peer that ends or hangs is started; after that it counts as failed without being asked."""
FAILED = "failed"


Trace = Sequence[Mapping[str, Any]]


class NotRun(Exception):  # noqa: N818 - an outcome, not an error
    """The peer cannot be asked here."""


@dataclass
class Peer:
    """A peer in a process of its own, asked once about each trace.

    Args:
        python: The interpreter that has it.
        code: Its program: reads what it is told, says that it is ready, then answers a line with a line.
        told: Names of the tools with side effects, and of those that return texts from outside.
        ways: What it answers for.
        key: What of a trace its rules read: traces alike in that are asked about once, and every `SPOT`th once more.
        seconds: How long an answer may take.
    """

    python: str
    code: str
    told: Mapping[str, Sequence[str]]
    ways: Sequence[str]
    key: Callable[[Trace], Any] = list
    seconds: float = SECONDS
    version: str = ""
    starts: int = 0
    trouble: str = ""
    spent: float = 0.0
    known: dict[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    met: int = 0
    spots: int = 0
    _process: Any = field(default=None, repr=False)
    _lines: Any = field(default=None, repr=False)
    _errors: Any = field(default=None, repr=False)

    def start(self) -> None:
        """Start its process.

        Raises:
            NotRun: It does not start.
        """
        # A file, not a pipe: a peer that writes its errors to a pipe nobody reads comes to a halt.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                [self.python, "-c", self.code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError as error:
            raise NotRun(str(error)) from error
        self.starts += 1
        self._lines = queue.Queue()
        threading.Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True).start()
        said = self._answer(json.dumps(self.told))
        if said is None or "ready" not in said:
            self.stop()
            raise NotRun(self._last_error() or "it was not ready in time")
        self.version = str(said["ready"])

    def _last_error(self) -> str:
        self._errors.seek(0)
        last = self._errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        return last[0][:200] if last else ""

    def ask(self, trace: Trace) -> Mapping[str, str]:
        """What it says of a trace that ends in a pending call, in each of its ways: allow, deny, or why neither.

        Raises:
            ValueError: It answers otherwise than to a trace that was taken to be alike.
        """
        key = digest_json(self.key(trace))
        if key in self.known:
            self.met += 1
            if self.met % SPOT == 0:
                self.spots += 1
                said = self._timed(trace)
                if said != self.known[key] and FAILED not in said.values():
                    raise ValueError(f"{said} now, {self.known[key]} to a trace taken to be alike")
            return self.known[key]
        said = self._timed(trace)
        if FAILED not in said.values():
            self.known[key] = said
        return said

    def _timed(self, trace: Trace) -> Mapping[str, str]:
        began = time.perf_counter()
        said = self._asked(json.dumps({"trace": trace}))
        self.spent += time.perf_counter() - began
        return said

    def _asked(self, line: str) -> Mapping[str, str]:
        failed = dict.fromkeys(self.ways, FAILED)
        if self._process is None:
            if self.starts >= MOST_STARTS:
                return failed
            try:
                self.start()
            except NotRun as why:
                self.trouble = str(why)
                return failed
        said = self._answer(line)
        if said is None or set(said) != set(self.ways):
            self.stop()  # the next question starts it anew
            self.trouble = self._last_error() or "no answer in time"
            return failed
        return said

    def _answer(self, line: str) -> Mapping[str, str] | None:
        """Its answer; None where it ends or takes too long."""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return None
        until = time.monotonic() + self.seconds
        while (left := until - time.monotonic()) > 0:
            try:
                said = self._lines.get(timeout=left)
            except queue.Empty:
                return None
            if said is None:
                return None
            if said.startswith("{"):  # a package may greet first
                found = json.loads(said)
                return {str(name): str(each) for name, each in found.items()}
        return None

    def stop(self) -> None:
        """End its process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _read(stream: Any, lines: Any) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


@dataclass
class Tally:
    """What a peer was asked in one of its ways, and where it said neither yes nor no."""

    calls: int = 0
    failed_calls: int = 0
    replays: int = 0
    failed_replays: int = 0
    _failed: bool = False

    def count(self, *, first: bool, failed: bool) -> None:
        """Count a question: the first of its replay or a later one."""
        self.calls += 1
        self.failed_calls += failed
        if first:
            self.replays += 1
            self._failed = False
        if failed and not self._failed:
            self.failed_replays += 1
            self._failed = True


def arm(name: str, way: str, peer: Peer, tally: Tally) -> Arm:
    """A way of a peer as an arm of the replay: where it says neither yes nor no, the call is not made."""

    def decide(action: Action) -> str:
        said = peer.ask(trace_of(action))[way]
        failed = said not in ("allow", "deny")
        tally.count(first=len(action.history) == 1, failed=failed)
        return "deny" if failed else said

    return Arm(f"{name}: {way}", "a peer", decide, f"{name}: {way}")


def names_of(trace: Trace) -> Any:
    """What a rule on the flow between tools reads: who speaks, and which tools are called."""
    return [
        [each["role"], *(call["function"]["name"] for call in each.get("tool_calls", ()))] for each in trace
    ]


def outputs_of(trace: Trace) -> Any:
    """What a scanner of outputs reads."""
    return [each["content"] for each in trace if each["role"] == "tool"]


KEYS: Mapping[str, Callable[[Trace], Any]] = {"invariant-ai": names_of, "LlamaFirewall": outputs_of}


def trace_of(action: Action) -> list[dict[str, Any]]:
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


def failures(tallies: Mapping[str, Tally]) -> str:
    """The table of what peers gave up on."""
    lines = [
        "| Peer | Calls asked about | Gave up, crashed or hung, of these | Replays with such a call, % |",
        "|---|---|---|---|",
    ]
    for name, tally in tallies.items():
        lines.append(
            f"| {name} | {tally.calls:,} | {tally.failed_calls:,} | {_share(tally.failed_replays, tally.replays)} |"
        )
    return "\n".join(lines)


def _share(k: int, n: int) -> str:
    if not n:
        return "–"
    interval = wilson(k, n)
    return f"{100 * k / n:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}] of {n:,}"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--invariant", metavar="PYTHON", default="")
    parser.add_argument("--llamafirewall", metavar="PYTHON", default="")
    parser.add_argument("--suite", action="append", default=[], choices=SUITES)
    parser.add_argument("--limit", type=int, help="user tasks of each suite")
    parser.add_argument("--attack", action="append", default=[])
    chosen = parser.parse_args()
    effects = [
        spec.pattern
        for spec in deployed().tools
        if spec.effect not in ("read", "fetch") and "*" not in spec.pattern
    ]
    table = [each for each in arms() if each.name in ("allow-all", "standard", "strict")]
    tallies: dict[str, Tally] = {}
    running: list[Peer] = []
    about: list[str] = []
    interpreters = {"invariant-ai": chosen.invariant, "LlamaFirewall": chosen.llamafirewall}
    began = time.perf_counter()
    try:
        for name, (code, ways) in PEERS.items():
            peer = Peer(interpreters[name], code, {"effects": effects, "outside": OUTSIDE}, ways, KEYS[name])
            try:
                if not peer.python:
                    raise NotRun("no interpreter was named that has it")
                peer.start()
            except NotRun as why:
                about.append(f"* {name}: **not run** ({why}).")
                continue
            running.append(peer)
            for way in ways:
                made = arm(name, way, peer, tallies.setdefault(f"{name}: {way}", Tally()))
                table.append(made)
        result = agentdojo.bench(
            chosen.suite or SUITES,
            only_attacks=chosen.attack,
            limit=chosen.limit,
            table=table,
            progress=lambda what, done, of: print(f"{what}: {done} of {of}", end="\r", file=sys.stderr),
        )
        for peer in running:
            name = next(each for each, (code, _) in PEERS.items() if code == peer.code)
            trouble = f"; trouble: {peer.trouble}" if peer.trouble else ""
            about.append(
                f"* {name} {peer.version}: asked about {len(peer.known):,} traces that differ in what its rules "
                f"read, and about {peer.spots:,} once more, which agreed; {peer.spent:.0f} s, "
                f"starts: {peer.starts}{trouble}."
            )
    finally:
        for peer in running:
            peer.stop()
    print(agentdojo.markdown(result))
    print("Others:\n\n" + "\n".join(about))
    if tallies:
        print("\n" + failures(tallies))
    print(f"\n{time.perf_counter() - began:.0f} s in all.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
