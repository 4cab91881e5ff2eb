"""Names for content: ``sha256:`` and 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safewright.runs.atomic import dump_json


def digest_bytes(data: bytes) -> str:
    """The digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_json(obj: Any) -> str:
    """The digest of an object's canonical JSON (sorted keys, no spaces, dataclasses as objects)."""
    return digest_bytes(dump_json(obj, canonical=True).encode())


def digest_file(path: Path | str) -> str:
    """The digest of a file's bytes, read in pieces.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb") as handle:
        return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
