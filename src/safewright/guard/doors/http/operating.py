"""The operator's part of the address: escalated calls, the audit log, memory, and how the server is."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from safewright.errors import BadInput, SafewrightError
from safewright.guard.doors.http import metrics as written
from safewright.guard.doors.http import records
from safewright.guard.doors.http.checking import Checking
from safewright.guard.doors.http.refusals import Refused
from safewright.guard.doors.http.routes import Call, Reply
from safewright.guard.doors.http.state import Escalation, State
from safewright.guard.engine import Guard

T = TypeVar("T")
READY_SECONDS = 2.0
"""How long what `/readyz` found is told again."""


class Operating:
    """What operators see and decide.

    Args:
        guard: Its audit log, memory and model are looked at.
        state: Where escalated calls wait.
        checking: Judges them.
        model: The reference of the guard's model.
    """

    def __init__(self, guard: Guard, state: State, checking: Checking, model: str | None = None) -> None:
        self.guard, self.state, self.checking, self.model = guard, state, checking, model
        self._ready: tuple[float, dict[str, str]] = (0.0, {})

    async def escalations(self, call: Call) -> dict[str, Any]:
        """The calls that wait."""
        self._audit()
        found = await _thread(self.state.pending, call.query["limit"])
        return {"escalations": [asdict(each) for each in found]}

    async def approve(self, call: Call) -> dict[str, Any]:
        """Let an escalated call be made once."""
        return await self._decide(call, approve=True)

    async def deny(self, call: Call) -> dict[str, Any]:
        """Deny an escalated call."""
        return await self._decide(call, approve=False)

    async def _decide(self, call: Call, *, approve: bool) -> dict[str, Any]:
        audit, by = self._audit(), call.bearer.name

        def record(found: Escalation) -> None:
            try:
                audit.resolve(
                    found.audit_id, "approve" if approve else "deny", by=by, note=f"call {found.digest}"
                )
            except BadInput as error:
                raise Refused(409, "decided", error.what) from error

        def decide() -> Escalation | None:
            if self.state.escalation(call.path["id"]) is None:
                raise Refused(404, "unknown", "No such call waits.")
            seconds = self.checking.approval_seconds
            return self.state.decide(call.path["id"], call.body.digest, approve, by, seconds, record)

        found = await _thread(decide)
        if found is None:
            raise Refused(409, "decided", "This call waits no longer, or it is another one than was shown.")
        return asdict(found)

    async def records(self, call: Call) -> dict[str, Any]:
        """A page of the audit log."""
        query = call.query
        found, following = await _thread(
            records.page, self._audit(), query["before"], query["limit"], query["decision"]
        )
        return {"records": found, "next": following}

    async def record(self, call: Call) -> dict[str, Any]:
        """One record."""
        found = await _thread(records.one, self._audit(), call.path["id"])
        if found is None:
            raise Refused(404, "unknown", "There is no such record.")
        return {"record": found, "explanation": records.explained(found)}

    async def entries(self, call: Call) -> dict[str, Any]:
        """A page of memory."""
        memory, limit = self._memory(), call.query["limit"]
        rows = await _thread(lambda: memory.entries(most=limit, after=call.query["after"]))
        return {
            "entries": [records.entry_json(row) for row in rows],
            "next": rows[-1].id if len(rows) == limit else None,
        }

    async def entry(self, call: Call) -> dict[str, Any]:
        """One entry."""
        return await _thread(self._entry, call.path["id"])

    async def override(self, call: Call) -> dict[str, Any]:
        """Checks of an entry were wrong."""
        return await _thread(self._override, call, call.body.checks, call.body.tombstone)

    async def forget(self, call: Call) -> dict[str, Any]:
        """All checks of an entry are dropped."""
        return await _thread(self._override, call, None, True)

    def _entry(self, name: str) -> dict[str, Any]:
        memory = self._memory()
        row = self._row(name)
        return {"entry": records.entry_json(row), "events": memory.events(row.id, most=100)}

    def _row(self, name: str) -> Any:
        found = (
            self._memory().entries(int(name))
            if name.isascii() and name.isdecimal() and len(name) < 19
            else []
        )
        if not found:
            raise Refused(404, "unknown", "There is no such entry.")
        return found[0]

    def _override(self, call: Call, names: list[str] | None, tombstone: bool) -> dict[str, Any]:
        memory, row = self._memory(), self._row(call.path["id"])
        known = [item.name for item in row.items.values()]
        wrong = [name for name in names or () if name not in known]
        if wrong:
            raise Refused(409, "no_check", "The entry holds no check of that name.")
        try:
            memory.override(
                row.id, known if names is None else names, by=call.bearer.name, tombstone=tombstone
            )
        except BadInput as error:
            raise Refused(409, "memory", error.what) from error
        return self._entry(call.path["id"])

    async def health(self, _: Call) -> dict[str, Any]:
        """The server answers."""
        return {"status": "ok"}

    async def ready(self, _: Call) -> Reply:
        """Whether calls can be judged."""
        since, parts = self._ready
        if time.monotonic() - since > READY_SECONDS or not parts:
            parts = await _thread(self._parts)
            if self.model is not None:
                parts["model"] = await records.reached(self.model)
            self._ready = (time.monotonic(), parts)
        ready = all(said in ("ok", "none") for said in parts.values())
        return Reply({"ready": ready, "parts": parts}, 200 if ready else 503)

    def _parts(self) -> dict[str, str]:
        parts = {"policy": "ok" if self.guard.policy.digest else "not loaded"}
        try:
            self.state.probe()
            parts["state"] = "ok"
        except sqlite3.Error as error:
            parts["state"] = f"not writable: {error}"
        for name, part in (("audit", self.guard.audit), ("memory", self.guard.memory)):
            parts[name] = "none" if part is None else _health(part)
        return parts

    async def metrics(self, tell: Callable[[], None]) -> Reply:
        """Counters of all workers."""

        def counted() -> str:
            tell()
            return written.text(*self.state.counted())

        return Reply(await _thread(counted), media="text/plain; version=0.0.4; charset=utf-8")

    def _audit(self) -> Any:
        if self.guard.audit is None:
            raise Refused(404, "no_audit", "This server keeps no audit log (--audit).")
        return self.guard.audit

    def _memory(self) -> Any:
        if self.guard.memory is None:
            raise Refused(404, "no_memory", "This server keeps no memory (--memory).")
        return self.guard.memory


def _health(part: Any) -> str:
    """What a part says of itself, where it does; nothing it says or raises is kept from the operator."""
    try:
        return str(part.health() if hasattr(part, "health") else "") or "ok"
    except (SafewrightError, OSError, sqlite3.Error) as error:
        return f"failed: {error}"


async def _thread(job: Callable[..., T], *arguments: Any) -> T:
    import anyio

    return await anyio.to_thread.run_sync(job, *arguments)
