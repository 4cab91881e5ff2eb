"""``safewright guard memory``: what the guard remembers, carried, pruned and examined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safewright.cli import console, options
from safewright.cli.guard import opening

if TYPE_CHECKING:
    from safewright.guard.memory import SqliteMemory
    from safewright.guard.memory.rows import Row

app = typer.Typer(help="Memory: list, show, export, import, prune, verify, snapshot.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The memory (SQLite).")]
Embedding = Annotated[
    str | None, typer.Option("--embedding", help="hashed, st:MODEL or http://host:port/v1#MODEL.")
]
By = Annotated[str, typer.Option("--by", help="Who decided; written into the memory's events.")]


@app.callback()
def memory() -> None:
    """What the guard remembers of kinds of calls: checks, and how well each has stood."""


@app.command("ls")
def list_entries(
    file: File,
    namespace: opening.Namespace = "default",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many entries.")] = 100,
    embedding: Embedding = None,
    json: options.JsonOut = False,
) -> None:
    """List the kinds of calls that are remembered."""
    with opened(file, namespace, embedding, freeze=True) as memory:
        rows = memory.entries(most=limit)
    if json:
        console.result([described(row) for row in rows])
        return
    for row in rows:
        print(one_line(row))
    if not rows:
        console.say(f"nothing is remembered in the namespace {namespace!r}")


@app.command()
def show(
    file: File,
    entry: Annotated[str, typer.Argument(help="An entry's number, or the text of its key.")],
    namespace: opening.Namespace = "default",
    embedding: Embedding = None,
    json: options.JsonOut = False,
) -> None:
    """Show an entry: its checks, their evidence, and what changed."""
    from safewright.errors import BadInput

    with opened(file, namespace, embedding, freeze=True) as memory:
        rows = memory.entries(int(entry) if entry.isdigit() else entry)
        events = {row.id: memory.events(row.id) for row in rows}
    if not rows:
        raise BadInput(f"{file} remembers no entry {entry!r}.", fix=f"safewright guard memory ls {file}")
    if json:
        console.result([{**described(row), "events": events[row.id]} for row in rows])
        return
    for row in rows:
        print(one_line(row))
        print(f"  {row.key.natural}")
        for check in described(row)["checks"]:
            counts = f"+{check['pos']} -{check['neg']}, quantile {check['lower']:.3f}"
            held = ", held back" if check["origin"] == "tainted" else ""
            print(f"  {check['state']:12}{check['category']}/{check['name']} ({counts}{held})")
            print(f"              {check['statement']}")
        for event in events[row.id]:
            print(f"  {event['time']}  {event['kind']} {event['detail']} {event['who']}".rstrip())


@app.command()
def export(
    file: File,
    target: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    everything: Annotated[bool, typer.Option("--all", help="Checks that are not settled yet, too.")] = False,
    namespace: opening.Namespace = "default",
    embedding: Embedding = None,
) -> None:
    """Write the settled checks to a file, signed with the memory's key."""
    from safewright.guard.memory.exchange import export

    with opened(file, namespace, embedding, freeze=True) as memory:
        count = export(memory, target, everything=everything)
    print(f"{count} entries: {target}")


@app.command("import")
def import_(
    file: File,
    source: Annotated[Path, typer.Argument(help="An export of another memory.")],
    by: By,
    key: Annotated[Path | None, typer.Option("--key", help="Key of the memory it came from.")] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Take it without a valid signature; evidence begins at none.")
    ] = False,
    namespace: opening.Namespace = "default",
    embedding: Embedding = None,
) -> None:
    """Add the checks of an export. Nothing that is remembered already is changed or dropped."""
    from safewright.guard.memory.exchange import import_

    with opened(file, namespace, embedding, must_exist=False) as memory:
        entries, checks = import_(memory, source, key=key, unsigned=unsigned, by=by)
    print(f"{entries} entries, {checks} checks added")


@app.command()
def prune(
    file: File,
    by: By,
    entry: Annotated[list[int], typer.Option("--entry", help="An entry's number. May be repeated.")] = [],  # noqa: B006 - typer copies it
    days: Annotated[float | None, typer.Option("--days", min=0, help="Not seen for so many days.")] = None,
    hits: Annotated[int | None, typer.Option("--hits", min=0, help="Seen fewer times than this.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which.")] = False,
    namespace: opening.Namespace = "default",
    embedding: Embedding = None,
) -> None:
    """Forget entries. Their checks are then asked for anew when such a call comes again."""
    from safewright.guard.memory.exchange import prune

    with opened(file, namespace, embedding) as memory:
        gone = prune(memory, entries=tuple(entry), days=days, hits=hits, by=by, dry=dry_run)
    for row in gone:
        print(one_line(row))
    console.say(f"{len(gone)} entries {'would be forgotten' if dry_run else 'forgotten'}")


@app.command()
def verify(file: File, embedding: Embedding = None, json: options.JsonOut = False) -> None:
    """Examine the file, and the seal of every row in it. Exit code 10 where something is not as it was written."""
    from safewright.errors import GateFailed
    from safewright.guard.memory.exchange import verify

    with opened(file, "default", embedding, freeze=True) as memory:
        problems = verify(memory)
    if json:
        console.result({"problems": problems})
    else:
        for problem in problems:
            print(problem)
    if problems:
        raise GateFailed(
            f"{file} is not as the guard wrote it ({len(problems)} findings).",
            fix="Put a snapshot back in its place, or forget single entries: safewright guard memory prune --entry N",
        )
    if not json:
        print(f"{file}: as it was written")


@app.command()
def snapshot(
    file: File,
    target: Annotated[Path, typer.Argument(help="Where to; its key is written beside it.")],
    embedding: Embedding = None,
) -> None:
    """Copy the memory and its key as they are now, while others write."""
    from safewright.guard.memory.exchange import snapshot

    with opened(file, "default", embedding) as memory:
        snapshot(memory, target)
    print(target)


@app.command()
def override(
    file: File,
    entry: Annotated[str, typer.Argument(help="An entry's number, or the text of its key.")],
    check: Annotated[list[str], typer.Argument(help="The checks that were wrong to block.")],
    by: By,
    drop: Annotated[bool, typer.Option("--drop", help="Drop them for good.")] = False,
    namespace: opening.Namespace = "default",
    embedding: Embedding = None,
) -> None:
    """Say that checks blocked a call they should not have: it counts against them."""
    from safewright.errors import BadInput

    with opened(file, namespace, embedding) as memory:
        done = memory.override(int(entry) if entry.isdigit() else entry, check, by=by, tombstone=drop)
    if not done:
        raise BadInput(
            f"{file} remembers none of these checks for {entry!r}.",
            fix=f"safewright guard memory show {file} {entry!r}",
        )
    print(f"{'dropped' if drop else 'counted against'}: {', '.join(done)}")


@contextmanager
def opened(
    file: Path, namespace: str, embedding: str | None, *, freeze: bool = False, must_exist: bool = True
) -> Iterator[SqliteMemory]:
    """A memory for a verb; its errors are named.

    Raises:
        BadInput: It is none, cannot be read, or is damaged.
    """
    from safewright.errors import BadInput
    from safewright.guard.memory import open_memory
    from safewright.guard.sqlite import Unavailable

    try:
        memory = open_memory(
            file, namespace=namespace, embedding=embedding, freeze=freeze, must_exist=must_exist, sound=True
        )
        try:
            yield memory
        finally:
            memory.close()
    except Unavailable as error:
        raise BadInput(
            f"{file} cannot be used: {error}.",
            fix="safewright guard memory verify says what is damaged; a snapshot can be put back in its place.",
        ) from error


def described(row: Row) -> dict[str, Any]:
    """An entry as JSON values."""
    from safewright.guard.memory.evidence import lower

    return {
        "entry": row.id,
        "key": row.key.text,
        "natural": row.key.natural,
        "effect": row.key.effect,
        "privilege": row.key.privilege,
        "hits": row.hits,
        "stable": row.stable,
        "version": row.version,
        "created": row.created,
        "updated": row.updated,
        "checks": [
            {
                "category": item.category,
                "name": item.name,
                "statement": item.statement,
                "state": item.state,
                "pos": item.pos,
                "neg": item.neg,
                "lower": lower(item.pos, item.neg),
                "origin": item.origin,
            }
            for _, item in sorted(row.items.items())
        ],
    }


def one_line(row: Row) -> str:
    """An entry in one line."""
    states = [item.state for item in row.items.values()]
    counts = ", ".join(
        f"{states.count(state)} {state}"
        for state in ("active", "quarantined", "tombstoned")
        if state in states
    )
    stable = ", stable" if row.stable else ""
    return f"{row.id:5}  {row.key.text}  ({row.hits} hits, {counts or 'no checks'}{stable})"
