"""``safewright data``: fetch a preset, check a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from safewright.cli import console
from safewright.cli.options import JsonOut

app = typer.Typer(help="Data sets: download presets, check files.", no_args_is_help=True)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A preset; safewright list names them.")], json: JsonOut = False
) -> None:
    """Download a preset into the hub's cache, and say which revision it is."""
    from safewright.data import fetch_preset

    found = fetch_preset(name)
    if json:
        console.result({"name": name, "rows": len(found.rows), **found.describe()})
    else:
        print(f"{name}: {len(found.rows)} rows of {found.source} at revision {found.revision}")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A JSONL or parquet file.")],
    reference: Annotated[bool, typer.Option("--reference", help="Require a reference in every row.")] = False,
    against: Annotated[
        list[Path], typer.Option("--against", help="Files that must not overlap with it.")
    ] = [],  # noqa: B006 - typer copies it
    json: JsonOut = False,
) -> None:
    """Read a file as every measure would: its rows, languages and overlaps."""
    from safewright.data import detect, load_rows, require_disjoint

    rows = load_rows(file, need_reference=reference)
    languages = Counter(row.lang or detect(row.prompt[-1]["content"]) for row in rows)
    facts = {
        "file": str(file),
        "rows": len(rows),
        "with reference": sum(row.reference is not None for row in rows),
        "languages": dict(languages.most_common()),
    }
    if against:
        require_disjoint({str(file): rows, **{f"--against {other}": load_rows(other) for other in against}})
        facts["disjoint from"] = [str(other) for other in against]
    if json:
        console.result(facts)
    else:
        for key, value in facts.items():
            print(f"{key}: {value}")
