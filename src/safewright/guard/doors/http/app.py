"""The door: requests are let in, read, judged and answered."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from safewright.errors import need_extra
from safewright.guard.doors.http.metrics import Counts
from safewright.guard.doors.http.reading import MOST_BYTES, fitted, read_body, read_json, read_query
from safewright.guard.doors.http.refusals import Refused
from safewright.guard.doors.http.routes import KEY, Call, Reply, Route, described
from safewright.guard.doors.http.state import Another, Busy, State
from safewright.guard.doors.http.tokens import NOBODY, Bearer, Tokens
from safewright.guard.engine import Guard
from safewright.guard.nouns import Environment
from safewright.runs import versions

AT_ONCE = 32
"""Calls judged at the same time by one worker."""
SPARE_SECONDS = 5.0
"""What an answer may take beyond the guard's own deadline."""
TELL_EVERY = 1.0
"""Seconds between two times that a worker tells the others what it has counted."""
SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Places:
    """The calls that are being judged, at most so many."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    @asynccontextmanager
    async def place(self, weight: int) -> AsyncIterator[None]:
        """Room for a body of calls, while it is judged.

        Raises:
            Refused: There is none (429).
        """
        weight = min(weight, max(1, self.most // 2))  # a batch need not wait until nothing else goes on
        if self.taken + weight > self.most:
            raise Refused(429, "busy", "Too many calls are being judged.", {"Retry-After": "1"})
        self.taken += weight
        try:
            yield
        finally:
            self.taken -= weight


def build_app(
    guard: Guard,
    state: State,
    tokens: Tokens,
    *,
    at_once: int = AT_ONCE,
    most_bytes: int = MOST_BYTES,
    hosts: Sequence[str] | None = None,
    environment: Environment | None = None,
    approval_seconds: float | None = None,
    model: str | None = None,
) -> Any:
    """The FastAPI application over a guard; its end closes guard and state.

    Args:
        guard: It decides.
        state: What this worker shares with others.
        tokens: Who may ask what.
        at_once: Calls judged at the same time; further ones are answered with 429.
        most_bytes: Of a body.
        hosts: What requests may call this machine (their Host header, without port); None: anything.
        environment: Where calls would run that do not say it themselves.
        approval_seconds: How long an escalated call waits for an operator, and how long a decision holds.
        model: The reference of the guard's model; `/readyz` asks whether its server is there.

    Raises:
        Missing: The extra `guard` is not installed.
    """
    try:
        import fastapi
        from fastapi.responses import Response
        from starlette.exceptions import HTTPException
    except ImportError as error:
        raise need_extra(error.name or "fastapi", "guard") from error
    from safewright.guard.doors.http.checking import APPROVAL_SECONDS, Checking
    from safewright.guard.doors.http.operating import Operating
    from safewright.guard.doors.http.table import routes_of

    counts, places = Counts(), Places(at_once)
    operated = tokens.has("operator") and guard.audit is not None
    checking = Checking(
        guard,
        state,
        counts,
        operated=operated,
        environment=environment,
        approval_seconds=approval_seconds or APPROVAL_SECONDS,
    )
    operating = Operating(guard, state, checking, model)

    def tell() -> None:
        counts.set("in_flight", places.taken)
        counts.set("unlearned", guard.unlearned)
        state.count(counts.taken())

    async def telling() -> None:
        import anyio

        while True:
            try:
                await anyio.to_thread.run_sync(tell)
            except Exception as error:  # noqa: BLE001 - counters are no reason to stop judging
                _say(f"counters were not written: {error}")
            await asyncio.sleep(TELL_EVERY)

    @asynccontextmanager
    async def life(_: Any) -> AsyncIterator[None]:
        import anyio

        # A call must not wait for a thread while its deadline runs; a batch counts for half of its calls at least.
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = max(limiter.total_tokens, 2 * at_once + 16)
        task = asyncio.create_task(telling())
        try:
            yield
        finally:
            task.cancel()
            for last in (tell, state.leave, guard.close, state.close):
                try:
                    last()
                except Exception as error:  # noqa: BLE001 - the rest is closed all the same
                    _say(f"while ending: {error}")

    app = fastapi.FastAPI(title="Safewright guard", lifespan=life, openapi_url=None)
    routes = routes_of(checking, operating, tell)
    document = json.dumps(described(routes, versions(["safewright"])["safewright"]))

    def told(reply: Any) -> Any:
        if not isinstance(reply, Reply):
            reply = Reply(reply)
        # Escaped throughout: half of a surrogate pair, which an argument may hold, has no other form.
        content = reply.content
        if reply.media == "application/json":
            content = json.dumps(content, allow_nan=False)
        return Response(content, reply.status, {**SAFE, **reply.headers}, media_type=reply.media)

    async def answered(route: Route, request: Any) -> Any:
        if hosts is not None and _host(request.headers.get("host", "")) not in hosts:
            raise Refused(421, "host", "This server is not called that.")
        header = request.headers.get("authorization")
        bearer = NOBODY if route.scope is None else tokens.bearer(header, route.scope)
        query = read_query(request, route.query)
        if route.asks is None:
            call = Call(bearer, None, request.path_params, query)
            return told(await route.handler(call))
        raw = await read_body(request, most_bytes)
        call = Call(bearer, fitted(route.asks, read_json(raw)), request.path_params, query)
        if route.weight is None:
            return told(await route.handler(call))
        key = _key(request) if route.replayed else None
        async with places.place(route.weight(call.body)):
            if key is None:
                return told(await judged(route, call))
            return await replayed(route, call, bearer, key, hashlib.sha256(raw).hexdigest())

    async def judged(route: Route, call: Call) -> Any:
        async with asyncio.timeout(guard.deadline_s + SPARE_SECONDS):
            return await route.handler(call)

    async def replayed(route: Route, call: Call, bearer: Bearer, key: str, body: str) -> Any:
        """The answer to a call with an Idempotency-Key: the one that was given before, where there is one."""
        import anyio

        owner, seconds = f"{bearer.name} {route.path}", guard.deadline_s + 2 * SPARE_SECONDS
        until = time.monotonic() + guard.deadline_s
        while True:
            try:
                before = await anyio.to_thread.run_sync(state.claim, owner, key, body, seconds)
                break
            except Another as error:
                raise Refused(422, "key", "This Idempotency-Key came with another body before.") from error
            except Busy as error:
                if time.monotonic() >= until:
                    raise Refused(
                        409, "key_busy", "The call with this key is being judged.", {"Retry-After": "1"}
                    ) from error
                await asyncio.sleep(0.02)
        if before is not None:
            return Response(
                before, 200, {**SAFE, "Idempotent-Replayed": "true"}, media_type="application/json"
            )
        kept = None
        try:
            reply = await judged(route, call)
            text = json.dumps(reply, allow_nan=False)
            await anyio.to_thread.run_sync(state.answer, owner, key, text)
            kept = text
        finally:
            if kept is None:  # the next one with this key may try
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(state.answer, owner, key, None)
        return Response(kept, 200, SAFE, media_type="application/json")

    def door(route: Route) -> Any:
        async def serve(request: Any) -> Any:
            began = time.perf_counter()
            try:
                response = await answered(route, request)
            except Refused as error:
                response = told(Reply(error.body(), error.status, headers=error.headers))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no permission
                _say(f"{route.method} {route.path}: {type(error).__name__}: {error}")
                response = told(Reply(FAILED.body(), FAILED.status))
            counts.request(route.path, response.status_code, time.perf_counter() - began)
            return response

        return serve

    async def unknown(request: Any, error: Any) -> Any:
        why = Refused(error.status_code, "unknown", str(error.detail))
        return told(Reply(why.body(), error.status_code, headers=error.headers or {}))

    async def schema(_: Call) -> Reply:
        return Reply(document, media="application/json; charset=utf-8")

    app.add_exception_handler(HTTPException, unknown)
    for route in routes:
        app.add_route(route.path, door(route), methods=[route.method])
    app.add_route("/openapi.json", door(Route("GET", "/openapi.json", schema, "", None, "")), methods=["GET"])
    return app


FAILED = Refused(503, "internal", "The server failed. The call may not be made.")


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header.partition("]")[0][1:].lower()
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()


def _key(request: Any) -> str | None:
    """The Idempotency-Key of a request.

    Raises:
        Refused: It is none (422).
    """
    found = request.headers.getlist("idempotency-key")
    if not found:
        return None
    key = str(found[0])
    if len(found) > 1 or not 1 <= len(key) <= KEY["maxLength"] or not all("!" <= each <= "~" for each in key):
        raise Refused(422, "key", "An Idempotency-Key has 1 to 200 visible ASCII characters.")
    return key


def _say(text: str) -> None:
    print(f"safewright guard: {text}", file=sys.stderr, flush=True)
