"""Parts of an engine that do as they are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from safewright.guard import engine
from safewright.guard.nouns import Check, Usage
from safewright.guard.parts import Analysis, Found, Key, Lesson
from safewright.guard.policy import Policy
from safewright.guard.rules import Family
from safewright.guard.views import View

POLICY = """
name = "made up"
[tools.read_note]
effect = "read"
[tools.send]
effect = "send"
identities = ["to"]
[tools.dismiss]
effect = "send"
[roles.clerk]
denied_tools = ["dismiss"]
[roles.chief]
privileged = true
"""

MAIL_AND_FETCH = """
[tools.send_email]
effect = "send"
identities = ["to"]
content = ["body"]
[tools.fetch]
effect = "fetch"
identities = ["url"]
"""
"""Two tools by which something leaves, as a policy declares them."""


def policy() -> Policy:
    return Policy.read(POLICY)


@dataclass(frozen=True)
class Settings:
    enabled: bool = True


@contextmanager
def only(monkeypatch: pytest.MonkeyPatch, **found: Callable[[View], Iterable[Check]]) -> Iterator[None]:
    """An engine whose rule families are these functions, and no others."""

    def families() -> dict[str, Family]:
        return {
            name: Family(name, name, Settings, lambda view, settings, rule=rule: rule(view))
            for name, rule in found.items()
        }

    with monkeypatch.context() as patched:
        patched.setattr(engine, "families", families)
        yield


def made(policy: Policy, *names: str) -> Policy:
    """The policy with settings for made-up families."""
    import dataclasses

    return dataclasses.replace(policy, settings={**policy.settings, **{name: Settings() for name in names}})


def check(status: Any, id: str = "made.up", **more: Any) -> Check:
    return Check(id, "integrity", f"{id} holds.", status, **more)


def passing(view: View) -> Iterator[Check]:
    yield check("pass")


def failing(view: View) -> Iterator[Check]:
    yield check("fail", advice="Read something else.")


def unknowing(view: View) -> Iterator[Check]:
    yield check("unknown", advice="Say which note.")


def breaking(view: View) -> Iterator[Check]:
    raise RuntimeError("made-up defect")
    yield


@dataclass
class FakeAudit:
    records: list[Mapping[str, Any]] = field(default_factory=list)
    error: Exception | None = None
    seconds: float = 0.0

    def append(self, record: Mapping[str, Any]) -> str:
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        self.records.append(record)
        return f"a-{len(self.records)}"

    def close(self) -> None:
        pass


@dataclass
class FakeMemory:
    found: Sequence[Found] = ()
    lessons: list[Lesson] = field(default_factory=list)
    error: Exception | None = None
    learning: Exception | None = None
    version: int = 1

    def retrieve(self, key: Key) -> Sequence[Found]:
        if self.error is not None:
            raise self.error
        return self.found

    def learn(self, lesson: Lesson) -> None:
        if self.learning is not None:
            raise self.learning
        self.lessons.append(lesson)

    def close(self) -> None:
        pass


@dataclass
class FakeAnalyst:
    analysis: Analysis | Exception = field(default_factory=Analysis)
    asked: int = 0
    seconds: float = 0.0

    async def abstract(self, view: View, seconds: float) -> tuple[Key, Usage] | Analysis | None:
        return None

    async def analyse(
        self, view: View, key: Key, found: Sequence[Found], pinned: Sequence[Check], seconds: float
    ) -> Analysis:
        import anyio

        self.asked += 1
        await anyio.sleep(self.seconds)
        if isinstance(self.analysis, Exception):
            raise self.analysis
        return self.analysis

    def close(self) -> None:
        pass
