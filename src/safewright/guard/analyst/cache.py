"""Answers that are still good: a call made again within seconds, of which nothing else has changed."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from safewright.guard.nouns import Check
from safewright.guard.parts import Analysis, Found, Key
from safewright.runs import digest_json

if TYPE_CHECKING:
    from safewright.guard.views import View

MOST = 512


class Cache:
    """Complete analyses, for some seconds each.

    Only the model's part of a decision is kept: rules and probes run on every call, and what they found is part of the
    question. An analysis without an objection is not kept where anything in the decision came from a probe, since
    what a probe saw may have changed unseen.

    Args:
        seconds: How long; 0 keeps nothing.
        clock: Seconds, monotonic.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._kept: OrderedDict[str, tuple[float, Analysis]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, question: str) -> Analysis | None:
        """The analysis of a question, where it is still good."""
        with self._lock:
            entry = self._kept.get(question)
            if entry is None or self._clock() >= entry[0]:
                self._kept.pop(question, None)
                return None
            return entry[1]

    def put(self, question: str, analysis: Analysis, pinned: Sequence[Check]) -> None:
        """Keep an analysis, where it may be."""
        if self.seconds <= 0 or analysis.failure is not None:
            return
        objected = any(check.status == "fail" for check in analysis.checks)
        probed = any(check.method == "probe" for check in (*pinned, *analysis.checks))
        if probed and not objected:
            return
        with self._lock:
            self._kept[question] = (self._clock() + self.seconds, analysis)
            self._kept.move_to_end(question)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)


def question_of(view: View, key: Key, found: Sequence[Found], pinned: Sequence[Check], how: str) -> str:
    """A digest of all that decides what a model is asked about a call, and of whose session it is."""
    action = view.action
    who = action.principal
    return digest_json(
        {
            "how": how,
            "policy": view.policy.digest,
            "key": [key.text, key.effect, key.privilege, key.criteria],
            "tool": action.tool,
            "arguments": dict(action.arguments),
            "request": action.request,
            "agent": action.agent,
            "session": action.session,
            "principal": [who.id, who.role, dict(who.attributes)] if who else None,
            # What probes saw of the environment, and what the history did to the call, stand in the findings.
            "findings": [[check.id, check.status, check.evidence] for check in pinned],
            "memory": [
                [each.entry, each.stable, [[c.category, c.name, c.statement, c.state] for c in each.checks]]
                for each in found[:1]
            ],
        }
    )
