"""Who may ask what: bearer tokens and their scopes, from environment variables or a private file."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from safewright.errors import BadInput
from safewright.guard.doors.http.refusals import Refused
from safewright.guard.doors.private import read_private

Scope = Literal["check", "operator"]
"""`check` asks for verdicts; `operator`, besides, reads the audit log, edits memory and decides escalations."""
VARIABLES: Mapping[str, Scope] = {
    "SAFEWRIGHT_GUARD_CHECK_TOKEN": "check",
    "SAFEWRIGHT_GUARD_OPERATOR_TOKEN": "operator",
}
SHORTEST = 16
"""Characters of a token."""


@dataclass(frozen=True)
class Bearer:
    """Who asks: a name for the audit log, and what it may do."""

    name: str
    scope: Scope

    def may(self, scope: Scope) -> bool:
        """Whether a scope is covered: an operator may do all that others may."""
        return self.scope in ("operator", scope)


NOBODY = Bearer("local", "check")
"""Who asks a server that has no tokens."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that hold, by SHA-256: the tokens themselves are kept nowhere."""

    known: tuple[tuple[bytes, Bearer], ...] = ()

    def has(self, scope: Scope) -> bool:
        """Whether some token is of a scope itself."""
        return any(bearer.scope == scope for _, bearer in self.known)

    @property
    def open(self) -> bool:
        """Whether calls may be checked without a token: where none is for that."""
        return not self.has("check")

    def bearer(self, header: str | None, scope: Scope) -> Bearer:
        """Who asks, by the Authorization header.

        Raises:
            Refused: It brings no valid token (401), or one that does not cover this (403).
        """
        if header is None:
            if scope == "check" and self.open:
                return NOBODY
            if scope == "operator" and not self.has("operator"):
                raise Refused(
                    403, "no_operator", "This server has no operator: it was given no token for one."
                )
            raise _unknown("The request carries no bearer token.")
        kind, _, token = header.partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found: Bearer | None = None
        for digest, bearer in self.known:  # all of them, so that the time says nothing
            if hmac.compare_digest(digest, given):
                found = bearer
        if found is None or kind.lower() != "bearer":
            raise _unknown("The request's token is not known.")
        if not found.may(scope):
            raise Refused(403, "scope", f"This needs a token of the scope {scope}.")
        return found


def _unknown(message: str) -> Refused:
    return Refused(401, "token", message, {"WWW-Authenticate": 'Bearer realm="safewright guard"'})


def read_tokens(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Tokens:
    """The tokens in the environment, and in a file of lines ``SCOPE TOKEN [NAME]``.

    Raises:
        BadInput: The file cannot be read, or others can read it; a line is none; a token is short, or there twice.
    """
    values = os.environ if environment is None else environment
    found: dict[bytes, Bearer] = {}
    for variable, scope in VARIABLES.items():
        if values.get(variable, "").strip():
            _add(found, values[variable].strip(), Bearer(scope, scope), variable)
    for number, line in enumerate(read_private(file, "tokens").splitlines() if file else (), start=1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        where = f"{file}, line {number}"
        if len(parts) not in (2, 3) or parts[0] not in get_args(Scope):
            raise BadInput(
                f"{where}, is no token.", fix="Lines are: check TOKEN [NAME], operator TOKEN [NAME]"
            )
        scope = "operator" if parts[0] == "operator" else "check"
        _add(found, parts[1], Bearer(parts[2] if len(parts) == 3 else scope, scope), where)
    return Tokens(tuple(found.items()))


def _add(found: dict[bytes, Bearer], token: str, bearer: Bearer, where: str) -> None:
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise BadInput(
            f"The token of {where} cannot be used.",
            why=f"A token has {SHORTEST} printable ASCII characters or more.",
            fix="Make one with: openssl rand -hex 24",
        )
    digest = hashlib.sha256(token.encode("ascii")).digest()
    if digest in found:
        raise BadInput(f"The token of {where} is there twice.", fix="Give each scope a token of its own.")
    found[digest] = bearer
