"""Audit records and entries of memory, as the address shows and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from safewright.errors import SafewrightError
from safewright.guard.doors.http.state import Escalation

REACH_SECONDS = 2.0
"""How long a model's server may take to say that it is there."""


def used_record(escalation: Escalation, by: str, audit_id: str | None) -> dict[str, Any]:
    """What the audit log says of an approval that is used up. Arguments stay out: the digest names them.

    Args:
        by: Who asked.
        audit_id: The escalation that the approval turns into a permission.
    """
    principal = escalation.call.get("principal") or {}
    return {
        "kind": "approval_used",
        "time": datetime.now(UTC).isoformat(timespec="microseconds"),
        "tool": escalation.call.get("tool", ""),
        "session": escalation.call.get("session", ""),
        "principal": {"id": principal.get("id", ""), "role": principal.get("role", "")}
        if principal
        else None,
        "decision": "allow",
        "call": escalation.digest,
        "approved": escalation.audit_id,
        "approved_by": escalation.decided_by,
        "escalated": audit_id,
        "by": by,
    }


def page(
    audit: Any, before: int | None, limit: int, decision: str | None
) -> tuple[list[dict[str, Any]], int | None]:
    """Audit records, newest first, and where the next page begins."""
    found = audit.search(before=before, most=limit, decision=decision)
    return found, int(found[-1]["seq"]) if len(found) == limit else None


def one(audit: Any, name: str) -> dict[str, Any] | None:
    """An audit record by its id, with what an operator decided about it."""
    record = audit.get(name)
    if record is None:
        return None
    resolution = audit.resolution(name)
    return {**record, "resolution": resolution} if resolution else dict(record)


def explained(record: Mapping[str, Any]) -> str:
    """What a record says, in words."""
    if record.get("kind") == "approval_used":
        return (
            f"The call of {record.get('tool')} was let through once: {record.get('approved_by')} had approved it "
            f"(record {record.get('approved')})."
        )
    from safewright.guard.audit.explain import explain

    resolution = record.get("resolution")
    return explain(record, resolution if isinstance(resolution, Mapping) else None)


def entry_json(row: Any) -> dict[str, Any]:
    """An entry of memory, without its vector and seals."""
    return {
        "id": row.id,
        "namespace": row.ns,
        "key": row.key.text,
        "natural": row.key.natural,
        "effect": row.key.effect,
        "privilege": row.key.privilege,
        "created": row.created,
        "updated": row.updated,
        "hits": row.hits,
        "stable": row.stable,
        "version": row.version,
        "checks": [asdict(item.remembered()) for _, item in sorted(row.items.items())],
    }


async def reached(model: str) -> str:
    """Whether a model's server answers; a model that runs elsewhere is asked when a call is judged."""
    if not model.startswith(("http://", "https://")):
        return "ok"
    import httpx

    from safewright.models._http import api_key
    from safewright.models.endpoint import parse_endpoint

    key = api_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        base, _ = parse_endpoint(model)
        async with (
            httpx.AsyncClient(timeout=REACH_SECONDS, trust_env=False) as client,
            client.stream("GET", f"{base}/models", headers=headers) as response,
        ):
            return "ok" if response.status_code < 500 else f"not reached: HTTP {response.status_code}"
    except (httpx.HTTPError, SafewrightError) as error:
        return f"not reached: {type(error).__name__}"
