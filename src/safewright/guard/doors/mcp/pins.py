"""What a server said of its tools when they were first seen. A tool that says something else later has changed."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safewright.errors import BadInput
from safewright.runs import digest_json, write_text

Pinned = Literal["new", "same", "changed"]


def digest_of(tool: Mapping[str, Any]) -> str:
    """The digest of what a model is told of a tool, and of what it says of itself: everything but its icons."""
    said = {name: value for name, value in tool.items() if name not in ("icons", "_meta")}
    return digest_json(said)


class Pins:
    """The digests of a server's tools, in a file or in memory.

    Args:
        file: Where they are kept, for all servers; None: only while this process lives.
        server: Which server it is: its command line or URL.

    Raises:
        BadInput: The file cannot be read.
    """

    def __init__(self, file: Path | None, server: str) -> None:
        self._file, self._server = file, server
        self._lock = threading.Lock()
        self._pins: dict[str, str] = self._all().get(server, {})

    def see(self, tool: Mapping[str, Any]) -> Pinned:
        """Compare a tool with its pin; one that is new is pinned.

        Raises:
            BadInput, OSError: The file cannot be read or written.
        """
        name, digest = str(tool["name"]), digest_of(tool)
        with self._lock:
            known = self._pins.get(name)
            if known is not None:
                return "same" if known == digest else "changed"
            self._pins[name] = digest
            self._write()
        return "new"

    def accept(self, tool: Mapping[str, Any]) -> None:
        """Pin a tool as it is now."""
        with self._lock:
            self._pins[str(tool["name"])] = digest_of(tool)
            self._write()

    def _write(self) -> None:
        if self._file is not None:
            everything = {**self._all(), self._server: self._pins}
            write_text(self._file, json.dumps(everything, indent=2, sort_keys=True) + "\n")

    def _all(self) -> dict[str, dict[str, str]]:
        if self._file is None:
            return {}
        try:
            values = json.loads(self._file.read_text("utf-8"))
            return {str(server): {str(n): str(d) for n, d in pins.items()} for server, pins in values.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            raise BadInput(
                f"The pins {self._file} cannot be read: {error}.",
                why="Without them a changed tool would look like a new one.",
                fix="Repair the file, or give another with --pins.",
            ) from error
