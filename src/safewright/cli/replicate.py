"""``safewright replicate NAME``: a paper's claims on the lab; the exit code is the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.cli import console, options, running
from safewright.errors import BadInput
from safewright.runs import to_json


def replicate(
    name: Annotated[str, typer.Argument(help="A system whose safewright show NAME names a replication.")],
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds 0 … N-1, for design.")] = 3,
    seed_list: Annotated[str | None, typer.Option("--seed-list", help="Seeds by name: 100,101,102.")] = None,
    widths: Annotated[
        str, typer.Option("--widths", help="Widths of the lab's models; claims are about the first.")
    ] = "128",
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
    folder = out or Path("runs") / f"replicate-{name}"
    plan = {
        "replication": {"name": name, "version": found.version},
        "claims": found.claims,
        "seeds": chosen,
        "widths": sizes,
        "versions": running.versions(),
        "command": running.command_line(),
    }
    with open_run(folder, plan, overwrite=overwrite) as run, console.progress() as progress:
        run.own("models")
        outcome = found.study(Study(run, folder, chosen, sizes, progress))
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
