"""How a request is read: bounded, in time, and as exactly one thing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from safewright.guard.doors.http.refusals import Refused

MOST_BYTES = 256 * 1024
"""Bytes of a request's body."""
BODY_SECONDS = 10.0
"""What a body may take to arrive."""


async def read_body(request: Any, most: int = MOST_BYTES, seconds: float = BODY_SECONDS) -> bytes:
    """The bytes of a request, however they come.

    Raises:
        Refused: They are too many (413), too slow (408), or not called JSON (415).
    """
    # A page in a browser may send other types here unasked; this one it has to ask for.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "content_type", "The body must be of the content type application/json.")
    large = Refused(413, "too_large", f"The body has more than {most} bytes.", {"Connection": "close"})
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise large
    except TimeoutError as error:
        raise Refused(408, "slow", "The body did not arrive in time.", {"Connection": "close"}) from error
    return bytes(body)


def read_json(body: bytes) -> Any:
    """The JSON value in some bytes. A name that stands twice in one object is an error: readers differ on it.

    Raises:
        Refused: It is none (422).
    """
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(422, "no_json", f"The body is no JSON: {str(error)[:200]}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def fitted(model: Any, values: Any) -> Any:
    """A request's body as its pydantic model.

    Raises:
        Refused: It does not fit (422). What was sent is not repeated.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        said = [
            f"{'.'.join(str(part) for part in each['loc']) or 'body'}: {each['msg']}" for each in found[:5]
        ]
        raise Refused(422, "schema", "; ".join(said)[:1000]) from error


def read_query(request: Any, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The query of a request, by the JSON schemas of its parameters: numbers with bounds, words of a list, texts.

    Raises:
        Refused: A parameter is unknown, there twice, or does not fit (422).
    """
    found: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        schema = known.get(name)
        if schema is None or name in found:
            raise Refused(
                422, "query", f"The query has {'no' if schema is None else 'twice the'} {name[:40]!r}."
            )
        found[name] = _parameter(name, text, schema)
    return {name: found.get(name, schema.get("default")) for name, schema in known.items()}


def _parameter(name: str, text: str, schema: Mapping[str, Any]) -> Any:
    if schema["type"] == "integer":
        low, high = schema["minimum"], schema["maximum"]
        if not (text.isascii() and text.isdecimal() and len(text) <= 19 and low <= int(text) <= high):
            raise Refused(422, "query", f"{name} is a whole number in [{low}, {high}].")
        return int(text)
    if "enum" in schema and text not in schema["enum"]:
        raise Refused(422, "query", f"{name} is one of: {', '.join(schema['enum'])}.")
    if len(text) > schema.get("maxLength", 200):
        raise Refused(422, "query", f"{name} is too long.")
    return text
