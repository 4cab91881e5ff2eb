"""A client of the guard's HTTP address for whom everything but a clear permission is a denial."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from types import TracebackType
from typing import Any, get_args

from safewright.errors import BadInput, need_extra
from safewright.guard.nouns import (
    Action,
    Check,
    CheckStatus,
    Decision,
    Failure,
    Method,
    Origin,
    Usage,
    Verdict,
    action_json,
    validate,
)
from safewright.runs import Background

TIMEOUT = 10.0
"""Seconds for a whole decision: connection, question, and answer."""
MOST_BYTES = 4 * 2**20
"""Bytes of an answer."""
UNREACHED = "The safety check could not be reached or gave no valid answer, so the call was not made."
UNREADABLE = "The call could not be read. Send its arguments as plain JSON values of reasonable size."


class GuardClient:
    """Asks a guard that `safewright guard serve` runs. `check` and `acheck` never raise.

    Anything but status 200 with a well-formed verdict of `allow` or `modify` is a verdict that does not allow. Where
    the server gave no verdict (refused, hung, garbage, an error, another word), it is a denial with
    ``failure="upstream"``.

    Args:
        url: Of the server: ``http://127.0.0.1:8200``.
        token: A token of the scope check, where the server wants one.
        timeout: Seconds for a whole decision; above the guard's own deadline, or its verdicts come too late.

    Raises:
        BadInput: The address, the token or the time cannot be used.
        Missing: The extra `guard` is not installed.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = TIMEOUT) -> None:
        try:
            import httpx
        except ImportError as error:
            raise need_extra(error.name or "httpx", "guard") from error
        if not url.startswith(("http://", "https://")):
            raise BadInput(f"{url!r} is no address of a guard.", fix="For example: http://127.0.0.1:8200")
        if not timeout > 0:
            raise BadInput(f"timeout is {timeout!r}.", fix="A number of seconds above 0.")
        if token is not None and not (
            token.isascii() and token.isprintable() and token.strip() == token and token
        ):
            raise BadInput("The token of the guard is no printable ASCII text.")
        try:
            self._url = httpx.URL(url.rstrip("/") + "/v1/check")
        except httpx.InvalidURL as error:
            raise BadInput(f"{url!r} is no address of a guard: {error}.") from error
        self.timeout = timeout
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._lock = threading.Lock()
        self._background: Background | None = None
        self._clients: dict[Any, Any] = {}

    def check(self, action: Action) -> Verdict:
        """The guard's verdict on a call; a denial where there is none. Never raises."""
        try:
            future = self._loop().submit(self.acheck(action))
            return future.result(self.timeout + 5.0)
        except Exception as error:  # noqa: BLE001 - without an answer the call is not made
            return _denied(f"{type(error).__name__}: {error}")

    async def acheck(self, action: Action) -> Verdict:
        """The guard's verdict on a call, under asyncio; a denial where there is none. Never raises."""
        try:
            validate(action)
            asked = action_json(action)
            entries = getattr(action.environment, "entries", None)
            if isinstance(
                entries, Mapping
            ):  # a described one; what else there is, the server looks at itself
                asked["environment"] = {path: asdict(entry) for path, entry in entries.items()}
            body = json.dumps(asked, allow_nan=False).encode("ascii")
        except Exception as error:  # noqa: BLE001 - what cannot be sent cannot be judged
            return replace(
                _denied(f"{type(error).__name__}: {error}"), failure="invalid_action", reasons=(UNREADABLE,)
            )
        try:
            async with asyncio.timeout(self.timeout):
                return read_verdict(await self._asked(body))
        except Exception as error:  # noqa: BLE001 - without an answer the call is not made
            return _denied(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Close its connections and its thread. It opens new ones when it is used again."""
        with self._lock:
            background, self._background = self._background, None
        if background is not None:
            background.submit(self.aclose()).result(self.timeout)
            background.__exit__(None, None, None)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def __enter__(self) -> GuardClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> GuardClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _loop(self) -> Background:
        """The thread in which `check` waits: one deadline then bounds all of it, name look-up and slow bytes too."""
        with self._lock:
            if self._background is None:
                self._background = Background()
                self._background.__enter__()
            return self._background

    async def _asked(self, body: bytes) -> Any:
        """What the server answers, with status 200.

        Raises:
            ValueError: It is another status, too large, or no JSON.
            Exception: There is no answer.
        """
        async with self._client().stream("POST", self._url, content=body, headers=self._headers) as response:
            if response.status_code != 200:
                raise ValueError(f"HTTP {response.status_code}")
            if (
                response.headers.get("content-type", "").partition(";")[0].strip().lower()
                != "application/json"
            ):
                raise ValueError("the answer is not called JSON")
            answer = bytearray()
            async for piece in response.aiter_bytes():
                answer += piece
                if len(answer) > MOST_BYTES:
                    raise ValueError("the answer is too large")
        return json.loads(answer.decode("utf-8"), object_pairs_hook=_once)

    def _client(self) -> Any:
        """The connections of the running loop: they cannot be used in another."""
        import httpx

        loop = asyncio.get_running_loop()
        for other in [each for each in self._clients if each.is_closed()]:
            self._clients.pop(other, None)
        if loop not in self._clients:
            # Neither a proxy of the environment nor a redirect may stand in for the guard.
            self._clients[loop] = httpx.AsyncClient(
                timeout=self.timeout, trust_env=False, follow_redirects=False
            )
        return self._clients[loop]


def read_verdict(values: Any) -> Verdict:
    """The verdict in a server's JSON, read strictly; fields that are not a verdict's are passed over.

    Raises:
        ValueError: It is none, or contradicts itself.
    """
    if not isinstance(values, Mapping):
        raise ValueError("the answer is no object")
    given: dict[str, Any] = {}
    for each in fields(Verdict):
        if each.name not in values:
            raise ValueError(f"the verdict lacks {each.name}")
        given[each.name] = values[each.name]
    _word(given["decision"], Decision, "decision")
    _word(given["found"], Decision, "found")
    if given["failure"] is not None:
        _word(given["failure"], Failure, "failure")
    for name in ("key", "policy", "detail"):
        _is(given[name], str, name)
    if given["audit_id"] is not None:
        _is(given["audit_id"], str, "audit_id")
    if (given["decision"] == "modify") != isinstance(given["modified"], Mapping):
        raise ValueError("only modify, and always modify, brings other arguments")
    latency = given["latency_ms"]
    if isinstance(latency, bool) or not isinstance(latency, (int, float)):
        raise ValueError("latency_ms is no number")
    _is(given["reasons"], list, "reasons")
    for reason in given["reasons"]:
        _is(reason, str, "a reason")
    _is(given["checks"], list, "checks")
    given["checks"] = tuple(_check(each) for each in given["checks"])
    given["reasons"] = tuple(given["reasons"])
    given["usage"] = _usage(given["usage"])
    return Verdict(**given)


def _check(values: Any) -> Check:
    _is(values, Mapping, "a check")
    given = {each.name: values[each.name] for each in fields(Check) if each.name in values}
    for name in ("id", "category", "statement"):
        if name not in given:
            raise ValueError(f"a check lacks {name}")
    for name in ("id", "category", "statement", "evidence", "advice"):
        _is(given.get(name, ""), str, f"{name} of a check")
    _word(given.get("status"), CheckStatus, "status of a check")
    _word(given.get("method", "rule"), Method, "method of a check")
    _word(given.get("origin", "pinned"), Origin, "origin of a check")
    if given.get("narrowed") is not None:
        _is(given["narrowed"], Mapping, "narrowed")
    return Check(**given)


def _usage(values: Any) -> Usage:
    _is(values, Mapping, "usage")
    given = {each.name: values.get(each.name, 0) for each in fields(Usage)}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"usage.{name} is no whole number")
    return Usage(**given)


def _word(value: Any, words: Any, name: str) -> None:
    if not isinstance(value, str) or value not in get_args(words):
        raise ValueError(f"{name} is {str(value)[:40]!r}")


def _is(value: Any, kind: Any, name: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {type(value).__name__}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _denied(detail: str) -> Verdict:
    """What a call gets where the server gave no verdict; the detail is for the host, not for the agent."""
    check = Check(
        "guard.reached",
        "integrity",
        "The guard gave a verdict.",
        "unknown",
        evidence=detail[:500],
        advice=UNREACHED,
    )
    return Verdict("deny", "deny", (check,), (UNREACHED,), "upstream")
