"""Recorded calls judged again: what another policy would have said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput
from safewright.guard.audit.record import request_of

if TYPE_CHECKING:
    from safewright.guard.nouns import Verdict
    from safewright.guard.policy import Policy


@dataclass(frozen=True)
class Change:
    """A call that is now decided otherwise."""

    id: str
    tool: str
    before: str
    after: str
    because: tuple[str, ...]


@dataclass(frozen=True)
class Replayed:
    """What a replay came to.

    ``redacted`` records could not be judged again, for want of their arguments; ``environments`` were judged without
    the environment they were made in. ``moves`` counts pairs of decisions, before and after.
    """

    judged: int = 0
    redacted: int = 0
    unreadable: int = 0
    environments: int = 0
    moves: Mapping[str, int] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()


def replay(records: Iterable[Mapping[str, Any]], policy: Policy, *, preset: str = "hardened") -> Replayed:
    """Judge recorded calls again under a policy, without memory. Where a model was asked, its recorded answers are
    used.

    Raises:
        BadInput: No record keeps what its call said.
    """
    from safewright.guard.nouns import read_action

    judge = _Judge(policy, preset)
    redacted = unreadable = environments = judged = 0
    moves: Counter[str] = Counter()
    changes: list[Change] = []
    try:
        for record in records:
            if record.get("kind") != "decision":
                continue
            kept = request_of(record)
            if kept is None:
                redacted += 1
                continue
            try:
                action = read_action(kept) if record.get("failure") != "invalid_action" else None
            except BadInput:
                action = None
            if action is None:
                unreadable += 1  # no valid call then, and none now
                continue
            verdict = judge.verdict(action, record)
            judged += 1
            environments += record.get("environment") is not None
            moves[f"{record.get('found')} → {verdict.found}"] += 1
            if verdict.found != record.get("found"):
                changes.append(_change(record, verdict))
    finally:
        judge.close()
    if redacted and not judged and not unreadable:
        raise BadInput(
            f"None of the {redacted} recorded decisions keeps its call.",
            why="This log is redacted: it holds digests, from which a call cannot be judged again.",
            fix="Begin a log that keeps them: safewright guard audit init FILE --raw",
        )
    return Replayed(judged, redacted, unreadable, environments, dict(moves), tuple(changes))


class _Judge:
    """Guards under the new policy: one of rules alone, and one per record that a model answered."""

    def __init__(self, policy: Policy, preset: str) -> None:
        from safewright.guard.engine import Guard

        self._policy, self._preset = policy, preset
        self._rules = Guard(policy)

    def verdict(self, action: Any, record: Mapping[str, Any]) -> Verdict:
        answers = record.get("answers")
        if not answers:
            return self._rules.check(action)
        from safewright.guard.analyst import ReplayAnalyst
        from safewright.guard.engine import Guard

        options: dict[str, Any] = {"preset": self._preset}
        analyst = ReplayAnalyst([record], self._policy, **options)
        backend: Any = "llm" if self._preset == "faithful" else "hybrid"
        with Guard(self._policy, backend=backend, model=analyst, **options) as guard:
            return guard.check(action)

    def close(self) -> None:
        self._rules.close()


def _change(record: Mapping[str, Any], verdict: Verdict) -> Change:
    stopped = [check.id for check in verdict.checks if check.status in ("fail", "unknown")]
    if verdict.failure is not None:
        stopped = [verdict.failure]
    return Change(
        str(record.get("id")),
        str(record.get("tool")),
        str(record.get("found")),
        verdict.found,
        tuple(stopped),
    )
