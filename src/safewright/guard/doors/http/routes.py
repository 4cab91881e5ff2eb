"""What there is at the address, and its description in OpenAPI: one table for both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safewright.guard.doors.http.tokens import Bearer, Scope

EVER: Mapping[int, str] = {
    421: "The Host header names another machine.",
    503: "The server failed. Not a permission.",
}
WHY: Mapping[int, str] = {
    401: "No valid token.",
    403: "The token does not cover this, or there is no operator.",
    404: "There is no such thing, or the server does not keep it.",
    408: "The body did not arrive in time.",
    409: "It cannot be done now, or is being done.",
    413: "The body is too large.",
    415: "The body is not called JSON.",
    422: "The request does not fit its schema, or its Idempotency-Key came with another body.",
    429: "Too many calls at once.",
    **EVER,
}


@dataclass(frozen=True)
class Call:
    """A request, read."""

    bearer: Bearer
    body: Any
    path: Mapping[str, str]
    query: Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """An answer that is not JSON with status 200."""

    content: Any
    status: int = 200
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True)
class Route:
    """One thing that can be asked.

    Args:
        scope: What a token must cover; None: none is needed.
        asks: The model of the body; None: there is none.
        tells: The model of an answer with status 200, or its media type.
        weight: How many of the places for calls a body takes; None: it is no call.
        errors: Statuses besides those that follow from the rest.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    scope: Scope | None
    tells: Any
    asks: Any = None
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weight: Callable[[Any], int] | None = None
    replayed: bool = False
    errors: tuple[int, ...] = ()

    @property
    def statuses(self) -> list[int]:
        """The statuses of its errors."""
        found = {*EVER, *self.errors}
        if self.scope is not None:
            found |= {401, 403}
        if self.asks is not None:
            found |= {408, 413, 415, 422}
        if self.query:
            found |= {422}
        if self.weight is not None:
            found |= {429}
        if self.replayed:
            found |= {409}
        return sorted(found)


def described(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The OpenAPI document of some routes."""
    from pydantic.json_schema import models_json_schema

    from safewright.guard.doors.http.bodies import ProblemTold

    asked = [route.asks for route in routes if route.asks is not None]
    told = [route.tells for route in routes if not isinstance(route.tells, str)]
    _, found = models_json_schema(
        [
            *((model, "validation") for model in dict.fromkeys(asked)),
            *((model, "serialization") for model in dict.fromkeys([*told, ProblemTold])),
        ],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Safewright guard",
            "version": version,
            "description": "Says of an agent's call, before it is made, whether it may be made. Anything but status "
            "200 with the decision allow or modify is a denial.",
        },
        "paths": paths,
        "components": {
            "schemas": found["$defs"],
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    problem = {"application/json": {"schema": _ref("ProblemTold")}}
    if isinstance(route.tells, str):
        answer: dict[str, Any] = {route.tells: {"schema": {"type": "string"}}}
    else:
        answer = {"application/json": {"schema": _ref(route.tells.__name__)}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": answer}}
    for status in route.statuses:
        said = {"description": WHY[status], "content": problem}
        if status == 429:
            said["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
        responses[str(status)] = said
    for status, model in ((503, route.tells),) if route.path == "/readyz" else ():
        responses[str(status)]["content"] = {
            "application/json": {"schema": {"anyOf": [_ref(model.__name__), _ref("ProblemTold")]}}
        }
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_').replace('{', '').replace('}', '')}",
        "responses": responses,
    }
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": dict(schema)}
        for name, schema in route.query.items()
    ]
    for part in route.path.split("/"):
        if part.startswith("{"):
            schema = {"type": "string", "minLength": 1, "maxLength": 80}
            parameters.append({"name": part.strip("{}"), "in": "path", "required": True, "schema": schema})
    if route.replayed:
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": KEY})
    if parameters:
        operation["parameters"] = parameters
    if route.asks is not None:
        content = {"application/json": {"schema": _ref(route.asks.__name__)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.scope is not None:
        operation["security"] = [{"bearer": []}]
    return operation


KEY: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"}
"""What an Idempotency-Key may be."""


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
