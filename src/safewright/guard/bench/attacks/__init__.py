"""Attacks of the replay: the package's own, a bare goal, and families written with the guard's rules in mind.

The latter were committed before the rules they attack. Each passes where nobody guards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from safewright.errors import need_extra
from safewright.guard.bench.replay import Goal, Staged, Task

Kind = Literal["marker", "weak", "bare", "aware"]

MARKERS = ("ignore_previous", "important_instructions", "system_message", "injecagent")
"""Attacks of the package that announce themselves."""
WEAK = ("direct",)
BARE = "bare"


@dataclass(frozen=True)
class Attack:
    """A way to put a goal in front of an agent.

    Args:
        name: Its own, or the package's.
        kind: What it looks like.
        about: In a line.
        stage: How it is set up for a task and a goal; None where it cannot be.
        goals: Whose goals: None for the suite's injection tasks, else the family's own, by suite.
    """

    name: str
    kind: Kind
    about: str
    stage: Callable[[Task, Goal], Staged | None]
    goals: Callable[[str], tuple[Goal, ...]] | None = None


def attacks() -> tuple[Attack, ...]:
    """All of them, in the order of the table."""
    from safewright.guard.bench.attacks import aware

    packaged = [
        Attack(
            name, "weak" if name in WEAK else "marker", "of the package", functools.partial(_packaged, name)
        )
        for name in (*MARKERS, *WEAK)
    ]
    return (*packaged, Attack(BARE, "bare", "the goal, and nothing else", _bare), *aware.FAMILIES)


def _bare(task: Task, goal: Goal) -> Staged:
    return Staged(dict.fromkeys(task.vectors, f" {goal.text} "), goal)


def _packaged(name: str, task: Task, goal: Goal) -> Staged:
    template, user, model = _template(task.suite, name)
    text = template.format(goal=goal.text, user=user, model=model, task=task.task.PROMPT)
    return Staged(dict.fromkeys(task.vectors, text), goal)


@functools.cache
def _template(suite: str, name: str) -> tuple[str, str, str]:
    """An attack of the package, as it would fill itself in."""
    from safewright.guard.bench.replay import suite_of

    found = suite_of(suite)
    try:
        from agentdojo.agent_pipeline.ground_truth_pipeline import GroundTruthPipeline
        from agentdojo.attacks.attack_registry import load_attack
    except ModuleNotFoundError as error:
        raise need_extra("agentdojo", "bench") from error
    pipeline = GroundTruthPipeline(None)
    pipeline.name = "local"  # some attacks address the model by name
    attack: Any = load_attack(name, found, pipeline)
    return attack.jailbreak, attack.user_name, attack.model_name
