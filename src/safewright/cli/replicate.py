"""``safewright replicate NAME``: a paper's claims on the lab; the exit code is the verdict."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.cli import console, options, running
from safewright.errors import BadInput, nearest
from safewright.runs import digest_bytes, to_json


def replicate(
    name: Annotated[str, typer.Argument(help="A system whose safewright show NAME names a replication.")],
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds 0 … N-1, for design.")] = 3,
    seed_list: Annotated[str | None, typer.Option("--seed-list", help="Seeds by name: 100,101,102.")] = None,
    widths: Annotated[
        str, typer.Option("--widths", help="Widths of the lab's models; claims are about the first.")
    ] = "128",
    set_: options.Set = [],  # noqa: B006
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of real data, where a replication reads some.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run.")] = None,
    overwrite: options.Overwrite = False,
    json: options.JsonOut = False,
) -> int:
    """Run a paper's claims in the lab: 0 they hold, 10 one is refuted, 6 the seeds are too few."""
    from safewright.replications import Study, find
    from safewright.runs import open_run, write_text

    chosen = options.seeds(seeds, seed_list)
    sizes = options.whole_numbers(widths, "--widths")
    if any(size < 32 or size % 32 for size in sizes):
        raise BadInput(f"--widths is {widths!r}.", fix="Give multiples of 32.")
    found = find(name)
    given = _options(found, set_)
    real = _data(found, data)
    folder = out or Path("runs") / f"replicate-{name}"
    plan: dict[str, Any] = {
        "replication": {"name": name, "version": found.version},
        "claims": found.claims,
        "seeds": chosen,
        "widths": sizes,
        "versions": running.versions(),
        "command": running.command_line(),
    }
    # Only where something is given: a folder of before goes on.
    if given:
        plan["options"] = given
    if real is not None:
        plan["data"] = {
            file.name: digest_bytes(file.read_bytes()) for file in sorted(real.iterdir()) if file.is_file()
        }
    with open_run(folder, plan, overwrite=overwrite) as run, console.progress() as progress:
        run.own("models")
        outcome = found.study(Study(run, folder, chosen, sizes, progress, given, real))
        run.write("results.json", outcome)
        run.own("results.md")
        write_text(folder / "results.md", as_markdown(found, outcome))
    if json:
        console.result({**to_json(outcome), "folder": str(folder)})
    else:
        console.show(_table(outcome))
        for slope in outcome.slopes:
            print(_slope_line(slope))
        for note in outcome.notes:
            print(f"note: {note}")
        for verdict in outcome.verdicts:
            print(running.verdict_line(verdict))
        print(f"results: {folder / 'results.md'}")
    return running.ruling(outcome.verdicts)


def _options(found: Any, sets: list[str]) -> dict[str, str]:
    """The replication's own options.

    Raises:
        BadInput: It has none of that name, or refuses a value.
    """
    given = options.pairs(sets, "--set")
    for name in given:
        if name not in found.options:
            known = list(found.options)
            raise BadInput(
                f"The replication of {found.name} has no option {name!r}.",
                fix=nearest(name, known) if known else "It has none: leave out --set.",
            )
    if found.check is not None:
        found.check(given)
    return given


def _data(found: Any, named: Path | None) -> Path | None:
    """The folder of real data: named, else by the environment; None where there is none.

    Raises:
        BadInput: The replication reads none, or there is no such folder.
    """
    if named is not None and found.data is None:
        raise BadInput(f"The replication of {found.name} reads no real data.", fix="Leave out --data.")
    by_environment = os.environ.get(found.data) if found.data else None
    place = named or (Path(by_environment).expanduser() if by_environment else None)
    if place is not None and not place.is_dir():
        source = "--data" if named else found.data
        raise BadInput(f"{source} names no folder: {place}.", fix="Give the folder that holds the files.")
    return place


def as_markdown(found: Any, outcome: Any) -> str:
    """The results as a page of Markdown."""
    lines = [f"# Replication of {found.name} ({found.paper})", "", found.summary, ""]
    lines += ["| " + " | ".join(outcome.columns) + " |", "|" + "---|" * len(outcome.columns)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in outcome.columns) + " |" for row in outcome.rows]
    lines += ["", *(f"* {_slope_line(slope)}" for slope in outcome.slopes)]
    lines += [*(f"* {note}" for note in outcome.notes), ""]
    lines += ["| claim | bound | mean | 95 % over seeds | verdict |", "|---|---|---|---|---|"]
    for v in outcome.verdicts:
        interval = "–" if v.low is None else f"{v.low:.3f} to {v.high:.3f}"
        lines.append(f"| {v.claim} | {v.sign} {v.bound:g} | {v.mean:.3f} | {interval} | {v.ruling} |")
    return "\n".join(lines) + "\n"


def _slope_line(slope: Any) -> str:
    kept = ", ".join(f"{share:.2f} at {width}" for width, share in slope["retention"].items())
    doubt = "" if slope["low"] is None else f" [{slope['low']:+.3f}, {slope['high']:+.3f}]"
    return (
        f"task kept on {slope['fine-tune']} by {slope['arm']}: {kept}; "
        f"{slope['slope per doubling']:+.3f}{doubt} per doubling of the width"
    )


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _table(outcome: Any) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, column in enumerate(outcome.columns):
        table.add_column(column, justify="left" if place < 3 else "right")
    for row in outcome.rows:
        table.add_row(*(_cell(row[name]) for name in outcome.columns))
    return table
