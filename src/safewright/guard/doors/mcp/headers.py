"""Headers for a server of tools that asks who calls: from the environment or a private file, never in a message."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from safewright.errors import BadInput
from safewright.guard.doors.private import read_private

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
REFUSED = (401, 403)
"""Statuses that say: not you, or not with this token."""


def read_headers(
    lines: Sequence[str] = (),
    *,
    token_env: str | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Headers from ``NAME: VALUE`` lines, a bearer token in an environment variable, and a private file of such lines.

    Raises:
        BadInput: A line is none, a name comes twice, the variable is empty, the file cannot be read or others can read
            it. No value is repeated in what it says.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        _add(found, line, f"--header, number {number},")
    if file is not None:
        for number, line in enumerate(read_private(file, "headers").splitlines(), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                _add(found, line, f"{file}, line {number},")
    if token_env is not None:
        token = (os.environ if environment is None else environment).get(token_env, "").strip()
        if not token:
            raise BadInput(
                f"The environment variable {token_env} holds no token.",
                fix=f"export {token_env}=… before the command, or give another name with --token-env.",
            )
        _add(found, f"Authorization: Bearer {token}", f"{token_env}")
    return found


def _add(found: dict[str, str], line: str, where: str) -> None:
    name, colon, value = line.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _NAME.fullmatch(name):
        raise BadInput(f"{where} is no header.", fix="NAME: VALUE, for example Authorization: Bearer …")
    # A library's message about such a value would show it.
    if not value or not value.isascii() or not value.isprintable():
        raise BadInput(f"{where} has a value that cannot be sent.", fix="Printable ASCII, in one line.")
    if name.lower() in (each.lower() for each in found):
        raise BadInput(f"{where} gives the header {name} a second time.", fix="Give it once.")
    found[name] = value


def exposed(url: str, headers: Mapping[str, str]) -> bool:
    """Whether headers would cross a network in the clear."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"  # 127.example.org is somebody's name
    return bool(headers) and parts.scheme == "http" and not local
