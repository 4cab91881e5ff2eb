"""What the engine's parts hand each other: keys, what memory holds, and what an analyst found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from safewright.guard.nouns import NOTHING, Check, Decision, Effect, Failure, Usage

if TYPE_CHECKING:
    from safewright.guard.views import View

Privilege = Literal["least", "user", "privileged"]
State = Literal["quarantined", "active", "tombstoned"]


@dataclass(frozen=True)
class Key:
    """What kind of action a call is, without its concrete files, users and values: what memory is keyed by.

    Args:
        text: The canonical form; the only thing that is embedded and compared.
        natural: A line for people and models that says the same in words.
        effect: The class of its side effect; entries of another class are never retrieved for it.
        privilege: As whom it would run.
        criteria: Digest of what checks may be about (the policy's criteria).
    """

    text: str
    natural: str
    effect: Effect
    privilege: Privilege
    criteria: str


@dataclass(frozen=True)
class Remembered:
    """A check in memory, with its evidence: how often it stood, how often it was struck out."""

    category: str
    name: str
    statement: str
    state: State
    pos: int = 0
    neg: int = 0
    origin: str = "llm"


@dataclass(frozen=True)
class Found:
    """An entry of memory that a key retrieved; ``version`` is what an update must find unchanged."""

    entry: int
    key: Key
    score: float
    checks: tuple[Remembered, ...]
    hits: int
    stable: bool
    version: int


@dataclass(frozen=True)
class Lesson:
    """What one complete verdict teaches memory.

    Args:
        key: Of the judged call.
        found: The entry it was judged to belong to; None where it is new.
        checks: Those that were judged, deleted ones among them; pinned rules are not memory's to hold.
        decision: What came of it.
        session: Confirmations from one session count once.
        tainted: Whether the session had read instruction-like text: its new checks stay in quarantine.
        arguments: Of the call; what a check quotes of them is not taken in, and they are not kept.
    """

    key: Key
    found: Found | None
    checks: tuple[Check, ...]
    decision: Decision
    session: str
    tainted: bool
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Memory(Protocol):
    """What the engine asks of a memory. Errors are raised; the engine turns them into failures."""

    @property
    def version(self) -> int:
        """Grows with every change."""

    def retrieve(self, key: Key) -> Sequence[Found]:
        """The entries most like a key, best first."""

    def learn(self, lesson: Lesson) -> None:
        """Take in what a verdict taught; nothing where the memory is frozen."""

    def close(self) -> None:
        """Close it."""


class Audit(Protocol):
    """What the engine asks of an audit log: the record is on disk when this returns."""

    def append(self, record: Mapping[str, Any]) -> str:
        """Add a record; its id."""

    def close(self) -> None:
        """Close it."""


@dataclass(frozen=True)
class Case:
    """A call under examination: what its rules found, and what memory knows of its kind."""

    view: View
    checks: tuple[Check, ...]
    key: Key
    found: tuple[Found, ...] = ()
    failure: Failure | None = None
    detail: str = ""
    usage: Usage = NOTHING


@dataclass(frozen=True)
class Analysis:
    """What a language model found about a call.

    Args:
        checks: Origin `memory` or `new`; deleted ones among them.
        belongs: Whether the call is of the retrieved entry's kind, so that its checks may be written there.
        failure: Why there is no valid answer; the checks then count for nothing.
        answers: The model's raw texts, for replay.
    """

    checks: tuple[Check, ...] = ()
    belongs: bool = False
    usage: Usage = NOTHING
    failure: Failure | None = None
    detail: str = ""
    answers: tuple[str, ...] = field(default=())


class Analyst(Protocol):
    """A language model that examines a call."""

    async def abstract(self, view: View, seconds: float) -> tuple[Key, Usage] | Analysis | None:
        """The call's key in the model's words (step-back); None to take the deterministic one; an `Analysis` with a
        failure where the model gave none."""

    async def analyse(
        self, view: View, key: Key, found: Sequence[Found], pinned: Sequence[Check], seconds: float
    ) -> Analysis:
        """Propose and judge checks for a call. Failures are returned, not raised."""

    def close(self) -> None:
        """Close it."""
