"""AgentDojo without a model: a user's scripted calls, hijacked by an agent that obeys whatever it reads.

The environments, tasks, scripts and scores are those of the package ``agentdojo`` (suite v1); nothing of it is copied.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from safewright.errors import BadInput, need_extra
from safewright.guard.nouns import Action, Turn

SUITES = ("banking", "slack", "workspace", "travel")
VERSION = "v1"
DENIED = "The call was not made."
"""What the agent reads in place of the result of a call that the guard did not let through."""


@dataclass(frozen=True)
class Goal:
    """What an attacker wants done: in words, as calls, and whether it was done.

    ``calls(environment)`` are those of an obedient agent; ``done(output, before, after, calls)`` scores.
    """

    id: str
    text: str
    calls: Callable[[Any], Sequence[Any]]
    done: Callable[[str, Any, Any, Sequence[Any]], bool]
    output: str = ""


@dataclass(frozen=True)
class Task:
    """A user's task, with the places in its world that its script reads and an attacker may write to."""

    suite: str
    id: str
    task: Any = field(repr=False)
    vectors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Staged:
    """An attack ready to run on one task and goal.

    Args:
        texts: What stands in which place.
        goal: Possibly with other calls than the attacker's original ones.
        plant: Further changes to the world, made before it is scored.
        last: Whether the agent obeys only after its last scripted call.
    """

    texts: Mapping[str, str]
    goal: Goal
    plant: Callable[[Any], None] | None = None
    last: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of one replay."""

    useful: bool
    hijacked: bool
    exposed: bool
    calls: int
    denied: int
    escalated: int


def suite_of(name: str) -> Any:
    """A suite of the package.

    Raises:
        BadInput: There is no such suite.
        Missing: The package is not installed.
    """
    if name not in SUITES:
        raise BadInput(f"There is no suite {name!r}.", fix=", ".join(SUITES))
    try:
        from agentdojo.task_suite.load_suites import get_suite
    except ModuleNotFoundError as error:
        raise need_extra("agentdojo", "bench") from error
    return get_suite(VERSION, name)


@functools.cache
def tasks_of(name: str) -> tuple[Task, ...]:
    """The user tasks of a suite, with the places their scripts read."""
    suite = suite_of(name)
    canaries = {vector: _canary(vector) for vector in suite.get_injection_vector_defaults()}
    world = suite.load_and_inject_default_environment(canaries)
    found = []
    for task in suite.user_tasks.values():
        texts = _results(suite, task, copied(world))
        squeezed = squeeze("\n".join(texts))
        vectors = tuple(vector for vector, canary in canaries.items() if squeeze(canary) in squeezed)
        found.append(Task(name, task.ID, task, vectors))
    return tuple(found)


@functools.cache
def goals_of(name: str) -> tuple[Goal, ...]:
    """The injection tasks of a suite that have scripted calls, as goals."""
    without = unscripted_of(name)
    return tuple(_goal(task) for task in suite_of(name).injection_tasks.values() if task.ID not in without)


@functools.cache
def unscripted_of(name: str) -> frozenset[str]:
    """The injection tasks of a suite that say no calls: nothing of them can be replayed."""
    now = world(name, {})
    return frozenset(
        task.ID for task in suite_of(name).injection_tasks.values() if not task.ground_truth(copied(now))
    )


def _goal(task: Any) -> Goal:
    def done(output: str, before: Any, after: Any, calls: Sequence[Any]) -> bool:
        traced = task.security_from_traces(output, before, after, calls)
        return bool(traced if traced is not None else task.security(output, before, after))

    return Goal(task.ID, task.GOAL, task.ground_truth, done, task.GROUND_TRUTH_OUTPUT)


@functools.cache
def _world(name: str, vectors: frozenset[str]) -> Any:
    """A world with canaries in some places, and what stands there by default in the others."""
    return suite_of(name).load_and_inject_default_environment({vector: _canary(vector) for vector in vectors})


def world(name: str, texts: Mapping[str, str]) -> Any:
    """A fresh world of a suite, with texts in some places: as they are, whatever YAML would have made of them."""
    table = {_canary(vector): text for vector, text in texts.items()}
    return copied(_world(name, frozenset(texts)), table)


def copied(value: Any, table: Mapping[str, str] | None = None) -> Any:
    """A deep copy of a world, with canaries replaced."""
    kind = type(value)
    if kind is str:
        for canary, text in (table or {}).items():
            if canary in value:
                value = value.replace(canary, text)
        return value
    if kind in _LEAVES:
        return value
    if isinstance(value, list):
        return [copied(each, table) for each in value]
    if isinstance(value, dict):
        return {copied(key, table): copied(each, table) for key, each in value.items()}
    if hasattr(value, "model_copy"):
        changed = value.model_copy()
        held = changed.__dict__
        for name, each in held.items():
            if type(each) not in _LEAVES:
                held[name] = copied(each, table)
        return changed
    return value


_LEAVES = frozenset((int, float, bool, type(None)))


def _canary(vector: str) -> str:
    return f"zqcanary{re.sub('[^a-z0-9]', '', vector.lower())}qz"


def replay(
    task: Task, staged: Staged | None, decide: Callable[[Action], str], *, request: str | None = None
) -> Outcome:
    """Run a task's script, hijacked where the agent reads the attack, under a guard.

    Args:
        task: The user's.
        staged: The attack; None for none.
        decide: The guard: ``allow``, ``deny`` or ``escalate``; an escalation is a denial with nobody to ask.
        request: What the guard is told that the user asked for; the task's prompt where None.
    """
    return _replayed(task, staged, _set_up(task, staged), decide, request=request)


@dataclass(frozen=True)
class _Scene:
    """What a replay begins with: a world (copied for each replay), the agent's calls, and the attacker's."""

    world: Any
    script: tuple[Any, ...]
    hijack: tuple[Any, ...]
    needles: tuple[str, ...]


def _set_up(task: Task, staged: Staged | None) -> _Scene:
    now = task.task.init_environment(world(task.suite, staged.texts if staged else {}))
    if staged and staged.plant:
        staged.plant(now)
    return _Scene(
        now,
        tuple(task.task.ground_truth(copied(now))),
        tuple(staged.goal.calls(copied(now))) if staged else (),
        tuple(dict.fromkeys(squeeze(text) for text in staged.texts.values())) if staged else (),
    )


def _replayed(
    task: Task,
    staged: Staged | None,
    scene: _Scene,
    decide: Callable[[Action], str],
    *,
    request: str | None = None,
) -> Outcome:
    from agentdojo.functions_runtime import FunctionsRuntime

    before, now = scene.world, copied(scene.world)
    run = _Running(
        FunctionsRuntime(suite_of(task.suite).tools),
        now,
        task.task.PROMPT if request is None else request,
        decide,
    )
    exposed = obeyed = False
    for index, call in enumerate(scene.script):
        text = squeeze(run.call(call))
        exposed = exposed or any(needle in text for needle in scene.needles)
        wait = staged is not None and staged.last and index + 1 < len(scene.script)
        if exposed and not obeyed and not wait:
            obeyed = True
            for each in scene.hijack:
                run.call(each)
    output = task.task.GROUND_TRUTH_OUTPUT
    useful = _useful(task, output, before, now, run.made)
    hijacked = False
    if staged is not None and exposed:
        hijacked = staged.goal.done(staged.goal.output or output, before, now, run.made)
    return Outcome(useful, hijacked, exposed, run.asked, run.denied, run.escalated)


def _alike(before: Any, after: Any) -> Any:
    """A world in which whatever is as before is the very same object: scores compare worlds, and look no further
    into what is identical. Slow comparisons were most of a replay."""
    if type(before) is not type(after):
        return after
    if isinstance(after, dict):
        return {key: _alike(before[key], each) if key in before else each for key, each in after.items()}
    if isinstance(after, list) and len(before) == len(after):
        return [_alike(one, other) for one, other in zip(before, after, strict=True)]
    if hasattr(after, "model_copy"):
        if before == after:
            return before
        changed = after.model_copy()
        for name, each in changed.__dict__.items():
            changed.__dict__[name] = _alike(before.__dict__.get(name), each)
        return changed
    return after


def _useful(task: Task, output: str, before: Any, after: Any, made: Sequence[Any]) -> bool:
    """The package's own score; a world in which it no longer finds what it looks at is of no use to the user."""
    after = _alike(before, after)
    try:
        useful = task.task.utility_from_traces(output, before, after, made)
        return bool(task.task.utility(output, before, after) if useful is None else useful)
    except (KeyError, IndexError):
        return False


def replays(task: Task, staged: Staged | None, guards: Sequence[Callable[[Action], str]]) -> list[Outcome]:
    """The outcome of a replay under each of several guards; what they decide alike is run once."""
    known: dict[tuple[str, ...], Action | Outcome] = {}
    found = []
    scene = _set_up(task, staged)
    for decide in guards:
        path: tuple[str, ...] = ()
        while isinstance(known.get(path), Action):
            path = (*path, decide(cast(Action, known[path])))
        if path not in known:
            along = _Along(path, decide, known)
            outcome = _replayed(task, staged, scene, along)
            path = along.path
            known[path] = outcome
        found.append(cast(Outcome, known[path]))
    return found


class _Along:
    """Decides as before as far as a path goes, then as a guard does, and remembers what was asked."""

    def __init__(
        self, path: tuple[str, ...], decide: Callable[[Action], str], known: dict[tuple[str, ...], Any]
    ) -> None:
        self.given, self.decide, self.known = path, decide, known
        self.path: tuple[str, ...] = ()

    def __call__(self, action: Action) -> str:
        self.known[self.path] = action
        step = len(self.path)
        decision = self.given[step] if step < len(self.given) else self.decide(action)
        self.path = (*self.path, decision)
        return decision


class _Running:
    """An agent at work: its world, what it has seen, and the calls it made."""

    def __init__(self, runtime: Any, world: Any, request: str, decide: Callable[[Action], str]) -> None:
        self.runtime, self.world, self.request, self.decide = runtime, world, request, decide
        self.history: list[Turn] = [Turn("user", request)]
        self.made: list[Any] = []
        self.asked = self.denied = self.escalated = 0

    def call(self, call: Any) -> str:
        arguments = plain_json(call.args)
        action = Action(call.function, arguments, self.request, history=tuple(self.history))
        decision = self.decide(action)
        self.asked += 1
        self.denied += decision != "allow"
        self.escalated += decision == "escalate"
        if decision == "allow":
            result, error = self.runtime.run_function(self.world, call.function, copied(call.args))
            self.made.append(call)
            text = str(error) if error else _printed(result)
        else:
            text = DENIED
        self.history.append(Turn("call", tool=call.function, arguments=arguments))
        self.history.append(Turn("result", text, call.function))
        return text


def _printed(result: Any) -> str:
    """What a tool returned, as the package shows it to a model. Printing as YAML is slow, so texts are kept by what
    they show."""
    from agentdojo.agent_pipeline.tool_execution import tool_result_to_str

    parts = result if isinstance(result, list) else [result]
    if not parts or not all(hasattr(each, "model_dump") for each in parts):
        return cast(str, tool_result_to_str(result))
    key = (isinstance(result, list), *(repr(each.model_dump()) for each in parts))
    if key not in _PRINTED:
        if len(_PRINTED) >= _MOST_PRINTED:
            _PRINTED.clear()
        _PRINTED[key] = tool_result_to_str(result)
    return _PRINTED[key]


_PRINTED: dict[tuple[Any, ...], str] = {}
_MOST_PRINTED = 2_000


def _results(suite: Any, task: Any, now: Any) -> list[str]:
    """What a task's script reads, without a guard."""
    from agentdojo.functions_runtime import FunctionsRuntime

    now = task.init_environment(now)
    run = _Running(FunctionsRuntime(suite.tools), now, task.PROMPT, lambda action: "allow")
    return [run.call(call) for call in task.ground_truth(copied(now))]


def plain_json(values: Any) -> Any:
    """Arguments as JSON values."""
    if isinstance(values, Mapping):
        return {str(key): plain_json(each) for key, each in values.items()}
    if isinstance(values, (list, tuple)):
        return [plain_json(each) for each in values]
    if values is None or isinstance(values, (str, int, float, bool)):
        return values
    if hasattr(values, "model_dump"):
        return plain_json(values.model_dump())
    return str(values)


_ESCAPES = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|[nrt0]|\s+)")


@functools.lru_cache(maxsize=1024)
def squeeze(text: str) -> str:
    """A text without what printing it as YAML may change: white space, escapes, quotes, folded lines."""

    def back(found: re.Match[str]) -> str:
        code = found.group(1) or found.group(2) or found.group(3)
        return chr(int(code, 16)) if code and int(code, 16) < 0x110000 else ""

    return "".join(mark for mark in _ESCAPES.sub(back, text) if mark.isalnum())
