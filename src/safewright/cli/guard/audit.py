"""``safewright guard audit``: what the guard decided, and whether the record is whole."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safewright.cli import console, options
from safewright.cli.guard import opening

if TYPE_CHECKING:
    from safewright.guard.audit import SqliteAudit

app = typer.Typer(help="The audit log: tail, explain, verify, export, replay, resolve.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The audit log (SQLite).")]
Decision = Annotated[
    str | None, typer.Option("--decision", help="Only these: allow, modify, escalate, deny, approve.")
]
Tool = Annotated[str | None, typer.Option("--tool", help="Only calls of this tool.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="From this time (ISO, UTC) on.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many records.")]
FOLLOW_SECONDS = 0.5
DECISIONS = ("allow", "modify", "escalate", "deny", "approve")


@app.callback()
def audit() -> None:
    """What the guard decided: every record is chained to the one before."""


@app.command()
def init(
    file: File,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Keep what calls say (arguments, request, history, a model's answers): a replay needs it.",
        ),
    ] = False,
) -> None:
    """Begin a log, and settle whether it keeps what calls say. Without this, a guard begins a redacted one."""
    from safewright.errors import BadInput

    if file.exists() and file.stat().st_size:
        raise BadInput(f"{file} exists already.", fix="Choose another name.")
    with opened(file, must_exist=False, raw=raw, read_only=False):
        print(f"{file}: {'keeps what calls say' if raw else 'redacted'}")


@app.command()
def tail(
    file: File,
    decision: Decision = None,
    tool: Tool = None,
    since: Since = None,
    limit: Limit = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records come.")] = False,
    json: options.JsonOut = False,
) -> None:
    """The latest decisions, one a line."""
    from safewright.guard.audit.explain import line

    since = _asked(decision, since)
    with opened(file) as log:
        found = log.search(decision=decision, tool=tool, since=since, most=limit)[::-1]
        newest = log.search(most=1)
        seen = int(newest[0]["seq"]) if newest else 0
        while True:
            for record in found:
                seen = max(seen, int(record["seq"]))
                print(_json(record) if json else line(record), flush=True)
            if not follow:
                return
            time.sleep(FOLLOW_SECONDS)
            found = log.search(decision=decision, tool=tool, after=seen, most=1_000, oldest_first=True)


@app.command()
def explain(
    file: File,
    record: Annotated[str, typer.Argument(help="A record's id (a verdict's audit_id).")],
    json: options.JsonOut = False,
) -> None:
    """Say what was asked, what was found, and why it came to that."""
    from safewright.errors import BadInput
    from safewright.guard.audit.explain import explain

    with opened(file) as log:
        found, resolution = log.get(record), log.resolution(record)
    if found is None:
        raise BadInput(f"{file} holds no record {record!r}.", fix=f"safewright guard audit tail {file}")
    if json:
        console.result({"record": found, "resolution": resolution})
    else:
        print(explain(found, resolution))


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The audit log, or an export of one (JSONL).")],
    head: Annotated[
        str | None,
        typer.Option(
            "--head", help="A head noted earlier: it must still be in the log, so nothing was cut off."
        ),
    ] = None,
    json: options.JsonOut = False,
) -> None:
    """Recompute the chain. Exit code 10 where a record is not as it was written; it is named."""
    from safewright.errors import GateFailed
    from safewright.guard.audit.chain import verify

    found = verify(file, head=head)
    if json:
        console.result(found)
    else:
        for problem in found.problems:
            print(problem)
        if found.torn:
            print(f"torn: {found.torn}; the {found.records} records before it are whole")
    if not found.sound:
        raise GateFailed(
            f"{file} is not as the guard wrote it ({len(found.problems)} findings).",
            why="Decisions in it, or after the first finding, may have been changed.",
            fix="Compare with an export or a copy that was taken before.",
        )
    if not json:
        print(f"{file}: {found.records} records, whole; head {found.head}")


@app.command()
def export(
    file: File,
    target: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    decision: Decision = None,
    tool: Tool = None,
    since: Since = None,
) -> None:
    """Write records to a JSONL file, one a line. A whole export can be verified; a selection has gaps."""
    from safewright.guard.audit.log import export

    since = _asked(decision, since)
    with opened(file) as log:
        chosen = None
        if decision or tool or since:
            chosen = log.search(decision=decision, tool=tool, since=since, most=2**31, oldest_first=True)
        count = export(log, target, chosen)
    print(f"{count} records: {target}")


@app.command()
def replay(
    file: File,
    policy: opening.PolicyFile = None,
    preset: opening.Preset = "hardened",
    since: Since = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The latest so many records.")] = None,
    json: options.JsonOut = False,
) -> None:
    """Judge recorded calls again, under another policy; a model's recorded answers stand for the model."""
    from safewright.guard import Policy
    from safewright.guard.audit.replay import replay

    since = _asked(None, since)
    chosen = Policy.load(policy) if policy is not None else Policy.default()
    with opened(file) as log:
        records: Any = log.records()
        if since is not None or limit is not None:
            records = log.search(since=since, most=limit or 2**31)[::-1]
        found = replay(records, chosen, preset=preset)
    if json:
        console.result(found)
        return
    for change in found.changes:
        print(f"{change.id}  {change.before} → {change.after}  {change.tool}  {', '.join(change.because)}")
    moves = ", ".join(f"{count} {move}" for move, count in sorted(found.moves.items()))
    print(f"{found.judged} judged again ({moves})" if found.judged else "none judged again")
    for count, said in (
        (found.redacted, "redacted: cannot be judged again"),
        (found.unreadable, "no valid calls, then as now"),
        (found.environments, "judged without the environment they were made in"),
    ):
        if count:
            print(f"{count} {said}")


@app.command()
def resolve(
    file: File,
    record: Annotated[str, typer.Argument(help="The id of an escalated or denied decision.")],
    outcome: Annotated[str, typer.Argument(help="approve or deny.")],
    by: Annotated[str, typer.Option("--by", help="Who decided.")],
    note: Annotated[str, typer.Option("--note", help="Why.")] = "",
    memory: opening.MemoryFile = None,
    namespace: opening.Namespace = "default",
) -> None:
    """Write down what a person decided about a stopped call. With --memory, an approval counts against the checks
    that had stopped it."""
    from safewright.cli.guard import memory as memories

    with opened(file, read_only=False) as log:
        print(log.resolve(record, outcome, by=by, note=note))
        resolution = log.resolution(record) or {}
    if outcome == "approve" and memory is not None and resolution.get("checks"):
        with memories.opened(memory, namespace, None) as remembered:
            done = remembered.override(str(resolution["key"]), list(resolution["checks"]), by=by)
        console.say(f"counted against: {', '.join(done) or 'nothing that memory holds'}")


def _asked(decision: str | None, since: str | None) -> str | None:
    """The time to begin from, as records have it.

    Raises:
        BadInput: It is no time, or the decision is none.
    """
    import datetime

    from safewright.errors import BadInput, nearest

    if decision is not None and decision not in DECISIONS:
        raise BadInput(f"--decision is {decision!r}.", fix=nearest(decision, DECISIONS))
    if since is None:
        return None
    try:
        found = datetime.datetime.fromisoformat(since)
    except ValueError as error:
        raise BadInput(f"--since {since!r} is no time.", fix="For example: 2026-01-31T08:00") from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return found.astimezone(datetime.UTC).isoformat(timespec="microseconds")


@contextmanager
def opened(
    file: Path, *, must_exist: bool = True, raw: bool | None = None, read_only: bool = True
) -> Iterator[SqliteAudit]:
    """An audit log for a verb; its errors are named.

    Raises:
        BadInput: It is none, cannot be read, or is damaged.
    """
    from safewright.errors import BadInput
    from safewright.guard.audit import open_audit
    from safewright.guard.sqlite import Unavailable

    try:
        log = open_audit(file, raw=raw, read_only=read_only, must_exist=must_exist, sound=True)
        try:
            yield log
        finally:
            log.close()
    except Unavailable as error:
        raise BadInput(
            f"{file} cannot be used: {error}.", fix="safewright guard audit verify says what is damaged."
        ) from error


def _json(record: Any) -> str:
    return jsonlib.dumps(record, ensure_ascii=False)
