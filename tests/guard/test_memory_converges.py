"""Check 8: with an oracle that deletes exactly what is wrong, memory comes to the truth, and stays there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safewright.guard.memory import open_memory
from safewright.guard.memory.learning import Item, merged
from safewright.guard.memory.vectors import Hashed
from safewright.guard.nouns import Check
from tests.guard.statehelp import check, key, lesson

KEY = key("bash|rm|file")
POOL = [
    "The target belongs to the user.",
    "Nothing outside the named folder is touched.",
    "No file of the system is changed.",
    "The request names what is removed.",
    "A backup exists.",
    "No link leads elsewhere.",
]
WRONG = ["The moon is full.", "The file name is short.", "It is a weekday.", "The user has a printer."]


def named(statement: str) -> str:
    return statement.split(".")[0].lower().replace(" ", "-")


def cosine(memory: Any, truth: list[str]) -> float:
    """Of all non-tombstoned checks with the true ones, as one text each."""
    found = memory.retrieve(KEY)
    have = sorted(each.statement for each in found[0].checks) if found else []
    if not have:
        return 0.0
    one, two = Hashed().embed(["\n".join(have), "\n".join(sorted(truth))])
    return float(one @ two / np.sqrt(float(one @ one) * float(two @ two)))


def visit(memory: Any, truth: list[str], session: str) -> None:
    """The analyzer adds one missing true check; the executor deletes exactly the wrong ones and keeps the others."""
    found = next(iter(memory.retrieve(KEY)), None)
    have = {each.name: each.statement for each in found.checks} if found else {}
    checks = [
        check(name, "pass" if statement in truth else "deleted", statement, "memory")
        for name, statement in have.items()
    ]
    missing = [each for each in truth if each not in have.values()]
    checks += [check(named(each), "pass", each) for each in missing[:1]]
    memory.learn(lesson(KEY, *checks, session=session, found=found))


@pytest.mark.parametrize("preset", ["faithful", "hardened"])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("settled", [False, True], ids=["fresh", "settled"])
def test_08_memory_reaches_the_truth_and_stays(tmp_path: Path, preset: str, size: int, settled: bool) -> None:
    rng = random.Random(size)
    for start in range(6):
        truth = rng.sample(POOL, size)
        corrupted = rng.sample(WRONG, rng.randint(0, 4)) + rng.sample(truth, rng.randint(0, size))
        memory = open_memory(tmp_path / f"{start}.db", preset=preset)
        for session in range(6 if settled else 1):
            begun = [check(named(each), "pass", each) for each in corrupted]
            memory.learn(
                lesson(KEY, *begun, session=f"before {session}", found=(*memory.retrieve(KEY), None)[0])
            )
        bound = size if preset == "faithful" else size + 2
        values = []
        for number in range(bound + 5):
            visit(memory, truth, f"visit {number}")
            values.append(round(cosine(memory, truth), 6))
        assert values[bound - 1 :] == [1.0] * 6, (truth, corrupted, values)
        memory.close()


names = st.sampled_from(["a", "b", "c"])
statuses: Any = st.sampled_from(["pass", "fail", "unknown", "deleted"])
visits = st.lists(
    st.tuples(
        st.lists(
            st.builds(lambda n, s: Check(n, "integrity", f"It is {n}.", s, "llm", "new"), names, statuses),
            max_size=4,
        ),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(visits)
def test_a_check_goes_only_when_two_clean_sessions_struck_it_out(story: Any) -> None:
    items: dict[Any, Item] = {}
    strikes: dict[Any, set[int]] = {}
    for checks, session, tainted in story:
        who = session.to_bytes(8, "big")
        after = merged(items, checks, who, tainted=tainted).items
        standing = {one.id for one in checks if one.status != "deleted"}
        for one in checks:
            name = (one.category, one.id)
            if one.status == "deleted" and one.id not in standing and not tainted:
                strikes.setdefault(name, set()).add(session)
        for name, before in items.items():
            now = after[name]  # nothing is ever forgotten by learning
            if before.state != "tombstoned" and now.state == "tombstoned":
                assert len(strikes[name]) >= 2
            if tainted:
                assert now == before
        for name, now in after.items():
            if now.shown and (name not in items or not items[name].shown):
                assert not tainted  # what a tainted session brings is not shown
                strikes.pop(name, None)
        items = dict(after)
