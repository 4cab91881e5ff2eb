"""Asking a person through the client: sealed tickets for newer clients, a form for older ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

TICKET_SECONDS = 300.0
MOST_SHOWN = 2000
QUESTION = "approve"
"""The key of our question in an `InputRequiredResult`, and the name of the field a person answers."""


class Tickets:
    """Tickets for calls that wait for a person: signed, for one exact call, for some minutes, good once.

    A ticket says nothing of the answer: it proves that the question belonged to this call.
    """

    def __init__(self, seconds: float = TICKET_SECONDS) -> None:
        self._key = os.urandom(32)
        self._seconds = seconds
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def issue(self, call: str) -> str:
        """A ticket for a call (`digest_of_call`)."""
        body = json.dumps(
            {"call": call, "until": time.time() + self._seconds, "nonce": os.urandom(12).hex()}
        ).encode()
        return f"{_text(body)}.{_text(self._sign(body))}"

    def redeem(self, ticket: str, call: str) -> bool:
        """Whether a ticket is ours, for this call, in time, and not used before; it is used now."""
        try:
            body, _, signature = ticket.partition(".")
            said, given = _bytes(body), _bytes(signature)
        except ValueError:
            return False
        if not hmac.compare_digest(given, self._sign(said)):
            return False
        values = json.loads(said)
        now = time.time()
        with self._lock:
            self._used = {nonce: until for nonce, until in self._used.items() if until > now}
            if values["call"] != call or not now < values["until"] or values["nonce"] in self._used:
                return False
            self._used[values["nonce"]] = values["until"]
        return True

    def _sign(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, hashlib.sha256).digest()


def digest_of_call(session: str, tool: str, arguments: Mapping[str, Any], principal: str, pin: str) -> str:
    """What a ticket is bound to: the session, the tool as it describes itself now, the arguments, and for whom."""
    said = json.dumps([session, tool, arguments, principal, pin], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(said.encode("ascii")).hexdigest()


def question(tool: str, arguments: Mapping[str, Any], reasons: Sequence[str]) -> str:
    """What a person is asked."""
    shown = json.dumps(dict(arguments), ensure_ascii=True)
    if len(shown) > MOST_SHOWN:
        shown = f"{shown[:MOST_SHOWN]}… ({len(shown):,} characters)"
    why = " ".join(reasons) or "It could not be decided whether this call is safe."
    return f"An agent wants to call {json.dumps(tool)} with {shown}. {why} May it?"


SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        QUESTION: {
            "type": "boolean",
            "title": "Make this call?",
            "description": "Only this one call is approved, with exactly these arguments.",
        }
    },
    "required": [QUESTION],
}


def approved(answer: Any) -> bool:
    """Whether an `ElicitResult` says yes: accepted, and the field ticked."""
    content = getattr(answer, "content", None)
    said_yes = isinstance(content, Mapping) and content.get(QUESTION) is True
    return getattr(answer, "action", None) == "accept" and said_yes


def can_ask(capabilities: Any) -> bool:
    """Whether a client can show a form. A capability that names no mode means a form."""
    elicitation = getattr(capabilities, "elicitation", None)
    if elicitation is None:
        return False
    return elicitation.form is not None or elicitation.url is None


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
