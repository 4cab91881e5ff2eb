"""What is answered where no decision can be: an error that says "deny", whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """A request that gets no verdict.

    Args:
        status: The HTTP status.
        code: Why, for machines.
        message: Why, for people; never what the guard found.
        headers: Of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The answer's JSON: no error of any kind is a permission."""
        return {"decision": "deny", "code": self.code, "message": self.message}
