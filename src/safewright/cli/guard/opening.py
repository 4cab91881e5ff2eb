"""Options that say which guard a verb opens, and the guard they mean."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safewright.errors import BadInput, ExitCode

if TYPE_CHECKING:
    from safewright.guard import Guard

PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="A policy in TOML, or coding; without it the default one."),
]
MemoryFile = Annotated[
    Path | None, typer.Option("--memory", metavar="FILE", help="Where checks are remembered (SQLite).")
]
AuditFile = Annotated[
    Path | None, typer.Option("--audit", metavar="FILE", help="Where decisions are written down (SQLite).")
]
Backend = Annotated[str, typer.Option("--backend", help="rules, llm, or hybrid (rules first).")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="REF", help="For llm and hybrid: http://host:port/v1#NAME or inspect:NAME."
    ),
]
Preset = Annotated[str, typer.Option("--preset", help="hardened, or faithful to the paper.")]
Deadline = Annotated[float, typer.Option("--deadline", help="Seconds for one decision.")]
Mode = Annotated[str, typer.Option("--mode", help="enforce, or observe: record, and let everything through.")]
OnUnknown = Annotated[
    str | None, typer.Option("--on-unknown", help="escalate or deny, instead of what the policy says.")
]
Freeze = Annotated[bool, typer.Option("--freeze", help="Leave memory as it is.")]
Namespace = Annotated[str, typer.Option("--namespace", help="Whose memory it is: a tenant, an agent.")]


def opened(
    policy: Path | None = None,
    memory: Path | None = None,
    audit: Path | None = None,
    *,
    backend: str = "rules",
    model: str | None = None,
    preset: str = "hardened",
    deadline: float = 8.0,
    mode: str = "enforce",
    on_unknown: str | None = None,
    freeze: bool = False,
    namespace: str = "default",
    **others: Any,
) -> Guard:
    """The guard that a verb's options mean.

    Raises:
        BadInput: An option, or the policy, cannot be used.
        Missing: The extra `guard` is not installed.
    """
    from safewright.guard import Guard

    options: dict[str, Any] = {"backend": backend, "model": model, "preset": preset, "mode": mode}
    return Guard(
        policy,
        memory=memory,
        audit=audit,
        deadline_s=deadline,
        on_unknown=on_unknown,  # type: ignore[arg-type]
        freeze=freeze,
        namespace=namespace,
        **options,
        **others,
    )


def rows(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered JSON objects of a file, one a line; ``-`` is standard input. A file of one object may span lines.

    Raises:
        BadInput: The file cannot be read, or a line is no JSON object.
    """
    if file == "-" and sys.stdin is None:
        raise BadInput("Standard input is closed.", fix="Give the calls by a pipe, or name a file.")
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except OSError as error:
        raise BadInput(f"{file} cannot be read ({error.strerror}).", fix="Check the path.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is no text in UTF-8.", fix="One call as JSON a line.") from error
    try:
        whole = json.loads(text)
        found = [whole] if isinstance(whole, dict) else None
    except json.JSONDecodeError:
        found = None
    lines = [text] if found else text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{file}, line {number}, is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise BadInput(f"{file}, line {number}, is no JSON object.", fix="One action a line.")
        yield number, row


NOT_ALLOWED = ExitCode.GATE
"""The exit code of `guard check` where a call is denied or escalated."""
