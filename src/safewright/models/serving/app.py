"""The door: an OpenAI-compatible address over a `Source`, without the reasoning."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from safewright.errors import SafewrightError, need_extra
from safewright.models.chat import started
from safewright.models.serving.events import End, Event, Opening, Source
from safewright.models.serving.replies import Log, Telling, sse
from safewright.models.serving.requests import Asked, Refused, read_request
from safewright.models.streaming import may_begin

LARGEST_REQUEST = 8 * 2**20
"""Bytes of a request."""
SIGN_OF_LIFE = 10.0
"""Seconds without a word after which a stream sends a comment: reasoning is long, and proxies are impatient."""
LOOK_EVERY = 0.5
"""Seconds between two looks whether a client is still there."""


def build_app(
    source: Source, log: Log, *, most_tokens: int, openings: bool = False, key: str | None = None
) -> Any:
    """The FastAPI application; its end closes the source.

    Args:
        source: Where answers come from.
        log: Where the whole of them goes; no answer is given that could not be written there.
        most_tokens: The most tokens a request may ask for.
        openings: Whether clients may begin the model's turn.
        key: What clients have to bring as their bearer token; None: nothing.

    Raises:
        Missing: fastapi is not installed.
    """
    try:
        import fastapi
        from fastapi.responses import Response, StreamingResponse
        from starlette.background import BackgroundTask
        from starlette.exceptions import HTTPException
    except ImportError as error:
        raise need_extra(error.name or "fastapi", "serve") from error
    since = int(time.time())

    @asynccontextmanager
    async def life(_: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await source.aclose()

    app = fastapi.FastAPI(title="Safewright", lifespan=life, openapi_url=None)

    def told(payload: Any, status: int = 200) -> Any:
        # Escaped throughout: half of a surrogate pair, which a request or a server may bring, has no other form.
        return Response(json.dumps(payload), status, media_type="application/json")

    async def refused(_: Any, error: Any) -> Any:
        return told(error.plain(), error.status)

    async def unknown(request: Any, error: Any) -> Any:
        why = Refused(error.status_code, f"{error.detail}: {request.method} {request.url.path}.")
        return told(why.plain(), error.status_code)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, unknown)

    async def health(_: Any) -> Any:
        return told({"status": "ok"})

    async def models(request: Any) -> Any:
        _let_in(request, key)
        entry = {"id": source.name, "object": "model", "created": since, "owned_by": "safewright"}
        return told({"object": "list", "data": [entry | dict(source.facts)]})

    async def complete(request: Any) -> Any:
        _let_in(request, key)
        payload = await _body(request)
        asked = read_request(payload, [source.name], most_tokens=most_tokens, openings=openings)
        check_opening(asked, source.visible)
        telling = Telling(f"chatcmpl-{uuid.uuid4().hex}", asked, source.visible, source.model)
        events = _heard(source.events(asked), telling, log)
        try:
            await _next(events, request)  # the opening: from here on there is an answer
        except BaseException:
            await events.aclose()
            raise
        if not asked.stream:
            return told(await _whole(events, telling, request))
        lines = _lines(events, telling)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            lines, media_type="text/event-stream", headers=headers, background=BackgroundTask(lines.aclose)
        )

    app.add_route("/health", health, methods=["GET"])
    for prefix in ("/v1", ""):
        app.add_route(f"{prefix}/models", models, methods=["GET"])
        app.add_route(f"{prefix}/chat/completions", complete, methods=["POST"])
    return app


def _let_in(request: Any, key: str | None) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
        raise Refused(401, "The request carries no valid key.", code="invalid_api_key")


def check_opening(asked: Asked, visible: Mapping[str, str]) -> None:
    """Refuse a begun answer whose end the model could make an opening marker of: half a marker hides nothing."""
    words = (started(asked.chat) or "").rstrip()
    if may_begin(words, visible["open"]) < len(words):
        raise Refused(400, f"The begun answer ends inside the marker {visible['open']}.", param="messages")


async def _body(request: Any) -> Any:
    """The JSON of a request."""
    # A page in a browser may send other types here unasked; this one it has to ask for.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "The body must be of the content type application/json.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_REQUEST:
            raise Refused(413, f"The request has more than {LARGEST_REQUEST} bytes.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is not JSON: {error!s:.200}.") from error


async def _heard(events: AsyncGenerator[Event], telling: Telling, log: Log) -> AsyncGenerator[str]:
    """The visible text of an answer, as it comes; an empty one at its opening, and the rest at its end.

    However it ends, an answer that was begun stands in the log before its end is told.
    """
    begun = False
    try:
        async with aclosing(events):
            async for event in events:
                begun = True
                text = telling.take(event)
                if isinstance(event, End):
                    begun = False
                    log.write(telling.row())
                    if event.stop == "error":
                        raise Refused(502, f"The answer was broken off: {event.error}.")
                if text or isinstance(event, (Opening, End)):
                    yield text
    except SafewrightError as error:
        raise Refused(500, str(error)) from error
    except Refused as error:
        if begun:
            telling.take(End("error", error=error.message))
        raise
    except Exception as error:
        logging.getLogger("uvicorn.error").exception("an answer failed")
        telling.take(End("error", error=f"{type(error).__name__}: {error}"))
        raise Refused(500, "This is an error in Safewright itself; its log has the rest.") from error
    finally:
        if begun:
            log.write(telling.row())


async def _next(events: AsyncGenerator[str], request: Any) -> str | None:
    """The next text of an answer, None at its end.

    Raises:
        Refused: The client has gone meanwhile: nobody hears this.
    """
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while not (await asyncio.wait({coming}, timeout=LOOK_EVERY))[0]:
            if await request.is_disconnected():
                raise Refused(499, "The client went away.")
        return coming.result()
    finally:
        if not coming.done():
            coming.cancel()
            await asyncio.wait({coming})


async def _whole(events: AsyncGenerator[str], telling: Telling, request: Any) -> dict[str, Any]:
    async with aclosing(events):
        while await _next(events, request) is not None:
            pass
    return telling.whole()


async def _lines(events: AsyncGenerator[str], telling: Telling) -> AsyncGenerator[str]:
    """The server-sent events of an answer."""
    yield telling.chunk({"role": "assistant", "content": ""})
    coming: asyncio.Future[str | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            while not (await asyncio.wait({coming}, timeout=SIGN_OF_LIFE))[0]:
                yield ": the answer is being written\n\n"
            text = coming.result()
            if text is None:
                break
            if text:
                yield telling.chunk({"content": text})
        yield telling.last_chunks()
    except Refused as error:
        yield sse(error.plain())
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
            await asyncio.wait({coming})
        await events.aclose()
