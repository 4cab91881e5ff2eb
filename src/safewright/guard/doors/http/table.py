"""Every route of the address, in one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safewright.guard.doors.http import bodies, page
from safewright.guard.doors.http.checking import Checking
from safewright.guard.doors.http.operating import Operating
from safewright.guard.doors.http.routes import Call, Reply, Route

NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**62}
LIMIT = {"type": "integer", "minimum": 1, "maximum": 500, "default": 100}
DECISION = {"type": "string", "enum": ["allow", "modify", "escalate", "deny"]}


def routes_of(checking: Checking, operating: Operating, tell: Callable[[], None]) -> list[Route]:
    """The routes that some handlers answer.

    Args:
        tell: Shows the other workers what this one has counted.
    """

    async def metrics(call: Call) -> Reply:
        return await operating.metrics(tell)

    def one(_: Any) -> int:
        return 1

    return [
        Route(
            "POST",
            "/v1/check",
            checking.check,
            "Whether a call may be made.",
            "check",
            bodies.VerdictTold,
            bodies.ActionBody,
            weight=one,
            replayed=True,
        ),
        Route(
            "POST",
            "/v1/check/batch",
            checking.batch,
            "Whether some calls may be made, each for itself.",
            "check",
            bodies.BatchTold,
            bodies.BatchBody,
            weight=lambda body: len(body.actions),
            replayed=True,
        ),
        Route(
            "POST",
            "/v1/results/scan",
            checking.scan,
            "What a tool returned, without what reads like instructions.",
            "check",
            bodies.ScanTold,
            bodies.ScanBody,
            weight=one,
        ),
        Route(
            "GET",
            "/v1/escalations/{id}",
            checking.waiting,
            "What has become of an escalated call.",
            "check",
            bodies.StateTold,
            errors=(404,),
        ),
        Route(
            "GET",
            "/v1/escalations",
            operating.escalations,
            "Calls that wait for an operator.",
            "operator",
            bodies.EscalationsTold,
            query={"limit": LIMIT},
            errors=(404,),
        ),
        Route(
            "POST",
            "/v1/escalations/{id}/approve",
            operating.approve,
            "Let an escalated call be made once; it has to be asked again, exactly as it was.",
            "operator",
            bodies.EscalationTold,
            bodies.DecisionBody,
            errors=(404, 409),
        ),
        Route(
            "POST",
            "/v1/escalations/{id}/deny",
            operating.deny,
            "Deny an escalated call.",
            "operator",
            bodies.EscalationTold,
            bodies.DecisionBody,
            errors=(404, 409),
        ),
        Route(
            "GET",
            "/v1/audit",
            operating.records,
            "Audit records, newest first.",
            "operator",
            bodies.RecordsTold,
            query={"limit": LIMIT, "before": NUMBER, "decision": DECISION},
            errors=(404,),
        ),
        Route(
            "GET",
            "/v1/audit/{id}",
            operating.record,
            "One audit record, and what it says in words.",
            "operator",
            bodies.RecordTold,
            errors=(404,),
        ),
        Route(
            "GET",
            "/v1/memory",
            operating.entries,
            "What memory holds.",
            "operator",
            bodies.EntriesTold,
            query={"limit": LIMIT, "after": {**NUMBER, "default": 0}},
            errors=(404,),
        ),
        Route(
            "GET",
            "/v1/memory/{id}",
            operating.entry,
            "One entry of memory, with what happened to it.",
            "operator",
            bodies.EntryTold,
            errors=(404,),
        ),
        Route(
            "PATCH",
            "/v1/memory/{id}",
            operating.override,
            "Say that checks of an entry were wrong: it counts against them, or drops them for good.",
            "operator",
            bodies.EntryTold,
            bodies.OverrideBody,
            errors=(404, 409),
        ),
        Route(
            "DELETE",
            "/v1/memory/{id}",
            operating.forget,
            "Drop all checks of an entry for good; the entry stays, so that they do not come back.",
            "operator",
            bodies.EntryTold,
            errors=(404, 409),
        ),
        Route("GET", "/healthz", operating.health, "Whether the server answers.", None, bodies.HealthTold),
        Route("GET", "/readyz", operating.ready, "Whether calls can be judged.", None, bodies.ReadyTold),
        Route("GET", "/metrics", metrics, "Counters for Prometheus.", None, "text/plain"),
        Route("GET", "/console", page.console, "The operator's page.", None, "text/html"),
    ]
