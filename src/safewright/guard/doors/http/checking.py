"""Calls in, verdicts out: the part of the address that agents' hosts use."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from safewright.errors import BadInput
from safewright.guard.doors.http.metrics import Counts
from safewright.guard.doors.http.records import used_record
from safewright.guard.doors.http.refusals import Refused
from safewright.guard.doors.http.routes import Call
from safewright.guard.doors.http.state import Escalation, State, expired
from safewright.guard.doors.http.tokens import Bearer
from safewright.guard.engine import Guard
from safewright.guard.nouns import Action, Environment, Principal, Turn, Verdict
from safewright.runs import digest_json

APPROVAL_SECONDS = 600.0
"""How long a call waits for an operator, and how long an operator's decision holds."""
REFUSED = "An operator decided that this call may not be made."
LOST = "The safety check could not be completed, so the call was not made."

Judged = tuple[Verdict, Escalation | None]


class Checking:
    """What becomes of calls.

    Args:
        guard: It decides.
        state: Where escalated calls wait.
        counts: What is counted.
        operated: Whether there is an operator who decides escalated calls, and an audit log that says so.
        environment: Where calls would run that do not say it themselves.
        approval_seconds: How long a call waits for an operator, and how long a decision holds.
    """

    def __init__(
        self,
        guard: Guard,
        state: State,
        counts: Counts,
        *,
        operated: bool,
        environment: Environment | None = None,
        approval_seconds: float = APPROVAL_SECONDS,
    ) -> None:
        self.guard, self.state, self.counts, self.operated = guard, state, counts, operated
        self.environment, self.approval_seconds = environment, approval_seconds

    async def check(self, call: Call) -> dict[str, Any]:
        """The verdict on one call."""
        action = self._action(call.body)
        return _told(await self._judged(action, await self.guard.acheck(action), call.bearer), call.bearer)

    async def batch(self, call: Call) -> dict[str, Any]:
        """The verdicts on some calls."""
        actions = [self._action(body) for body in call.body.actions]
        verdicts = await self.guard.acheck_many(actions)
        judged = [
            await self._judged(action, verdict, call.bearer)
            for action, verdict in zip(actions, verdicts, strict=True)
        ]
        return {"verdicts": [_told(each, call.bearer) for each in judged]}

    async def scan(self, call: Call) -> dict[str, Any]:
        """What a tool returned, without what reads like instructions."""
        import anyio

        from safewright.guard.scanning import scan

        found = await anyio.to_thread.run_sync(scan, call.body.text, call.body.tool)
        spans = [
            {"start": span.start, "end": span.end, "kind": span.kind, "text": span.text}
            for span in found.spans
        ]
        return {"tainted": found.tainted, "spans": spans, "sanitised": found.sanitised}

    async def waiting(self, call: Call) -> dict[str, Any]:
        """What has become of an escalated call."""
        import anyio

        found = await anyio.to_thread.run_sync(self.state.escalation, call.path["id"])
        if found is None:
            raise Refused(404, "unknown", "No such call waits.")
        state = "expired" if expired(found) else found.state
        return {"id": found.id, "state": state, "expires": found.expires}

    def _action(self, body: Any) -> Action:
        """The call that a body describes; whether it is a valid one, the engine says."""
        return Action(
            tool=body.tool,
            arguments=body.arguments,
            request=body.request,
            principal=Principal(**body.principal.model_dump()) if body.principal else None,
            agent=body.agent,
            session=body.session,
            history=tuple(Turn(**turn.model_dump()) for turn in body.history),
            siblings=tuple(Turn(**turn.model_dump()) for turn in body.siblings),
            environment=self._environment(body.environment),
            schema=body.schema_,
            hints=body.hints,
        )

    def _environment(self, paths: Mapping[str, Any] | None) -> Environment | None:
        if paths is None:
            return self.environment
        from safewright.guard.environments import read_environment

        try:
            # Only what was said: what was not has its own default there.
            return read_environment(
                {path: entry.model_dump(exclude_unset=True) for path, entry in paths.items()}
            )
        except BadInput as error:
            raise Refused(422, "schema", error.what[:500]) from error

    async def _judged(self, action: Action, verdict: Verdict, bearer: Bearer) -> Judged:
        found: Judged = (verdict, None)
        if verdict.decision == "escalate" and self.operated:
            import anyio

            found = await anyio.to_thread.run_sync(self._asked, action, verdict, bearer)
        self.counts.verdict(found[0])
        return found

    def _asked(self, action: Action, verdict: Verdict, bearer: Bearer) -> Judged:
        """An escalated call, as an operator decided it; it waits where none has. Runs in a thread."""
        call = bound(action)
        digest = digest_json({**call, "policy": verdict.policy})
        found = self.state.ask(digest, call, verdict.reasons, verdict.audit_id, self.approval_seconds)
        if found is None or found.state == "pending":
            return verdict, found
        if found.state == "denied":
            return replace(verdict, decision="deny", reasons=(REFUSED,)), found
        try:
            if self.guard.audit is None:
                raise OSError("there is no audit log")
            # The approval is used up by now: what cannot be written down costs it.
            self.guard.audit.append(used_record(found, bearer.name, verdict.audit_id))
        except Exception as error:  # noqa: BLE001 - what is not written down is not let through
            print(f"safewright guard: an approval was not recorded: {error}", file=sys.stderr, flush=True)
            return replace(verdict, decision="deny", reasons=(LOST,), failure="audit_unavailable"), None
        return replace(verdict, decision="allow", reasons=()), found


def bound(action: Action) -> dict[str, Any]:
    """What an operator's decision is bound to: all of a call but what went before it, which grows as it waits."""
    principal = action.principal
    return {
        "tool": action.tool,
        "arguments": dict(action.arguments),
        "request": action.request,
        "principal": None
        if principal is None
        else {"id": principal.id, "role": principal.role, "attributes": dict(principal.attributes)},
        "agent": action.agent,
        "session": action.session,
    }


def _told(judged: Judged, bearer: Bearer) -> dict[str, Any]:
    """A verdict as it is told. Evidence is for operators: who holds a token of the other kind talks to the agent."""
    verdict, place = judged
    found = verdict.as_json()
    if not bearer.may("operator"):
        for check in found["checks"]:
            check["evidence"] = ""
        found["detail"] = ""
    found["escalation"] = (
        None if place is None else {"id": place.id, "state": place.state, "expires": place.expires}
    )
    return found
