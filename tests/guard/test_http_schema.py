"""The description of the address in OpenAPI, and thousands of requests made from it and against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from safewright.guard.doors.http.app import build_app
from safewright.guard.doors.http.state import State
from safewright.guard.nouns import read_action
from tests.guard.http_door import ALLOWED, DENIED, ESCALATED, OPERATOR, as_who, guard_of, known

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = {"positive": 20, "negative": 8}
"""Requests per operation; wrong ones take long to make."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("http")
    guard, state = guard_of(home, memory=True), State(home / "state.db")
    for call in (ALLOWED, DENIED, ESCALATED):
        guard.check(read_action(call))
    yield build_app(guard, state, known())
    state.close()
    guard.close()


def without_end(app: Any) -> Any:
    """The app for a client that begins and ends it around every request; its end closes the guard."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return serve


def operations(app: Any) -> list[Any]:
    schema = schemathesis.openapi.from_asgi("/openapi.json", without_end(app))
    return [found.ok() for found in schema.get_all_operations()]


def test_every_route_is_described(app: Any) -> None:
    described = {operation.label for operation in operations(app)}
    assert described == {
        f"{method} {route.path}"
        for route in app.routes
        for method in route.methods - {"HEAD"}
        if route.path != "/openapi.json"
    }


def _wrong_body(case: Any) -> bool:
    """Whether it is the body that was made wrong."""
    from schemathesis import GenerationMode
    from schemathesis.core.parameters import ParameterLocation

    found = case.meta.components.get(ParameterLocation.BODY)
    return found is not None and found.mode == GenerationMode.NEGATIVE


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_fuzzed_requests_get_what_is_described(app: Any, kind: str) -> None:
    """Positive requests fit their schemas and must be answered as described; negative ones must be refused."""
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import negative_data_rejection

    mode = GenerationMode.POSITIVE if kind == "positive" else GenerationMode.NEGATIVE
    asked = bodies = 0
    for operation in operations(app):
        if kind == "negative" and operation.label in (
            "GET /healthz",
            "GET /readyz",
            "GET /metrics",
            "GET /console",
        ):
            continue  # nothing is asked there, so nothing can be wrong with it

        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=EXAMPLES[kind],
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def one(case: Any) -> None:
            nonlocal asked, bodies
            if kind == "positive" and "Idempotency-Key" in (case.headers or {}):
                case.headers["Idempotency-Key"] = (
                    f"k{asked}"  # one that comes again with another body is refused
                )
            reply = case.call(headers=as_who(OPERATOR))
            # The token is always sent, and a query may lose what made it wrong on its way into an address: whether
            # something wrong was let in can be told of bodies alone (queries: test_http.py).
            told = kind == "positive" or _wrong_body(case)
            bodies += told
            case.validate_response(
                reply, headers=as_who(OPERATOR), excluded_checks=[] if told else [negative_data_rejection]
            )
            asked += 1
            assert reply.status_code not in (500, 503), reply.content
            if reply.status_code != 200:
                assert reply.json()["decision"] == "deny"

        try:
            one()
        except hypothesis.errors.Unsatisfiable:
            continue
    assert asked > 60
    assert bodies > 15
