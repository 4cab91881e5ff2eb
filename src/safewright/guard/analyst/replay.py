"""Decisions made again from the answers that an audit log holds: the same calls, no model."""

from __future__ import annotations

import functools
import json
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from safewright.errors import BadInput
from safewright.guard.analyst.transport import Failed, Message, Reply

if TYPE_CHECKING:
    from safewright.guard.analyst.llm import LLMAnalyst
    from safewright.guard.policy import Policy

ANSWERS = "answers"
"""The field of a record that holds a decision's raw answers, oldest first (`Analysis.answers`)."""


class Recorded:
    """A client that answers with what was recorded, in order, and fails where nothing is left."""

    def __init__(self, answers: Iterable[str]) -> None:
        self._left = deque(answers)

    async def ask(
        self, messages: Sequence[Message], schema: Mapping[str, Any], seconds: float, most_tokens: int
    ) -> Reply:
        """The next recorded reply."""
        if not self._left:
            raise Failed("llm_connection", "nothing more is recorded of this decision")
        return read_reply(self._left.popleft())

    def close(self) -> None:
        """Nothing to let go of."""


def read_reply(line: str) -> Reply:
    """A recorded reply.

    Raises:
        Failed: The failure that was recorded, or the line is no record of a reply.
    """
    try:
        kept = json.loads(line)
        if "failure" in kept:
            raise Failed(
                kept["failure"],
                kept["detail"],
                repairable=kept["again"],
                tokens_in=kept["in"],
                tokens_out=kept["out"],
            )
        return Reply(kept["text"], kept["stop"], kept["in"], kept["out"])
    except (ValueError, KeyError, TypeError) as error:
        raise Failed("llm_unparsed", f"a recorded answer that cannot be read: {error!r}"[:200]) from error


class ReplayAnalyst:
    """An `Analyst` whose model is an audit log: each call is answered by what was answered then.

    A call is found by its tool, arguments and session; where a call was made more than once, the records
    are used in order. A call without a record ends as `llm_connection`. Rules run as they do now, and memory is the one
    that is given: with the memory of that time (or frozen, or none) the verdicts are the same.

    Args:
        records: Of an audit log that keeps raw values (`open_audit(path, raw=True).records()`), oldest first.
        policy: The policy then.
        options: As for `LLMAnalyst`, as they were then.

    Raises:
        BadInput: A decision's record was redacted: it does not say what was asked and answered.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]], policy: Policy, **options: Any) -> None:
        self._records: dict[str, deque[tuple[str, ...]]] = defaultdict(deque)
        for record in records:
            if record.get("kind", "decision") != "decision":
                continue
            action = record.get("action")
            if not isinstance(action, Mapping) or not isinstance(record.get(ANSWERS), (list, tuple)):
                raise BadInput(
                    "A record holds no call and no answers of a model.",
                    why="It was redacted when it was written.",
                    fix="Replay needs a log that was opened with raw=True.",
                )
            if record[ANSWERS]:
                self._records[_named(action)].append(tuple(record[ANSWERS]))
        options.setdefault("cache_seconds", 0.0)
        self._make = functools.partial(_analyst, policy, options)
        self._now: Any = WeakKeyDictionary()

    async def abstract(self, view: Any, seconds: float) -> Any:
        """The key that the model wrote then, where it wrote one."""
        return await self._of(view).abstract(view, seconds)

    async def analyse(self, view: Any, key: Any, found: Any, pinned: Any, seconds: float) -> Any:
        """What the model's answers of then come to."""
        analyst = self._of(view)
        self._now.pop(view, None)
        return await analyst.analyse(view, key, found, pinned, seconds)

    def _of(self, view: Any) -> Any:
        if view not in self._now:
            action = view.action
            name = _named(
                {"tool": action.tool, "arguments": dict(action.arguments), "session": action.session}
            )
            waiting = self._records.get(name)
            self._now[view] = self._make(Recorded(waiting.popleft() if waiting else ()))
        return self._now[view]

    def close(self) -> None:
        """Nothing to let go of."""


def _analyst(policy: Policy, options: Mapping[str, Any], client: Recorded) -> LLMAnalyst:
    from safewright.guard.analyst.llm import LLMAnalyst

    return LLMAnalyst(client, policy, **options)


def _named(action: Mapping[str, Any]) -> str:
    """What a record is found by."""
    from safewright.runs import digest_json

    return digest_json({name: action.get(name) for name in ("tool", "arguments", "session")})
