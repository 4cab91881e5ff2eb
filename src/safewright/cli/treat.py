"""``safewright treat NAME [STAGE]``: model in, better model out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.cli import ablating, console, launch, options, running
from safewright.measures import MAX_UNSCORED
from safewright.runs import to_json
from safewright.training.processes import is_main


def treat(
    name: Annotated[str, typer.Argument(help="A treatment; safewright list names them.")],
    stage: Annotated[
        str | None,
        typer.Argument(help="A part of it; see safewright show NAME. Default: the whole."),
    ] = None,
    model: Annotated[
        list[str],
        typer.Option("--model", metavar="ROLE=MODEL", help="A model folder, adapter or hub id in a role."),
    ] = [],  # noqa: B006 - typer copies it
    data: Annotated[
        list[str], typer.Option("--data", metavar="ROLE=FILE", help="Rows of a role, or a preset's name.")
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the new model, or that a stage reads.")
    ] = None,
    set_: options.Set = [],  # noqa: B006
    config: options.Config = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Compute threads of each process; part of the plan.")
    ] = 1,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that write matrices.")] = 1,
    launching: Annotated[
        str | None, typer.Option("--launch", metavar="|".join(launch.CHOICES), help=launch.HELP)
    ] = None,
    judge: Annotated[
        list[str],
        typer.Option(
            "--judge", metavar="[MEASURE=]JUDGE", help="Of a stage that measures (srg ablate): a judge."
        ),
    ] = [],  # noqa: B006
    model_role: Annotated[
        list[str],
        typer.Option(
            "--model-role",
            metavar="[MEASURE.]ROLE=MODEL",
            help="Of such a stage: a further model of a measure.",
        ),
    ] = [],  # noqa: B006
    batch_size: options.BatchSize = None,
    max_unscored: options.MaxUnscored = MAX_UNSCORED,
    overwrite: options.Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print disk, memory and time; change nothing.")
    ] = False,
    json: options.JsonOut = False,
) -> int | None:
    """Make a better model: a plain folder or adapter, with its provenance beside the weights."""
    from safewright import catalog
    from safewright.treatments import check_free, follow_treatment, plan_treatment, run_stage, run_treatment

    entry = catalog.find(name, "treatment")
    several, device = launch.choose(launching, entry, stage, device)
    if ablating.compares(entry, stage):
        ablating.compare(
            entry,
            stage or "",
            models=model,
            data=data,
            sets=set_,
            config=config,
            judges=judge,
            model_roles=model_role,
            out=out,
            limit=limit,
            seed=seed,
            device=device,
            batch_size=batch_size,
            threads=threads,
            workers=workers,
            overwrite=overwrite,
            max_unscored=max_unscored,
            dry_run=dry_run,
            json=json,
        )
        return None
    ablating.require_unused(entry, stage, judge=judge, model_role=model_role, batch_size=batch_size)
    plan = plan_treatment(
        name,
        options.by_role(model, "--model", entry.roles),
        options.by_role(data, "--data", (*entry.data, *entry.optional_data)),
        stage=stage,
        config=options.method_options(set_, config),
        out=out,
        seed=seed,
        limit=limit,
        device=device,
        threads=threads,
        processes=several.count if several else 1,
    )
    if several and launch.launched() and not is_main():
        follow_treatment(plan, workers=workers)
        return None
    estimate = plan.estimate(workers)
    if not launch.launched():
        _tell(estimate)
    if dry_run:
        if json:
            console.result(estimate)
        return None
    if several and not launch.launched():
        check_free(plan, overwrite=overwrite)
        return launch.relaunch(several)
    makes = stage is None or entry.stages[stage].makes
    given: Any = {"overwrite": overwrite, "workers": workers, "notes": {"estimate": estimate}}
    if not makes:
        found, _ = running.carry_out(run_stage, plan, **given)
        if json:
            console.result(found)
        else:
            _show(found)
        _require_passed(found.get("checks", ()))
        return None
    result, command = running.carry_out(run_treatment, plan, **given)
    page = _page(result, plan.run_folder, command)
    if json:
        console.result(result)
    else:
        for check in result.checks:
            print(f"{'ok' if check.passed else 'FAILED':<7}{check.name}: {check.detail}")
        for note in _notes(Path(result.history)):
            print(f"note: {note}")
        print(f"{result.kind}: {out}")
        print(f"page: {page}")
    _require_passed(to_json(result.checks))
    return None


def _page(result: Any, folder: Path, command: str) -> Path:
    from safewright.report import render_treatment
    from safewright.runs import write_text

    page = folder / "report.html"
    write_text(page, render_treatment(result, Path(result.history), command=command, run=folder))
    return page


def _notes(history: Path) -> list[str]:
    """What a treatment says must be known before its result is believed."""
    from json import loads

    return list(loads(history.read_text("utf-8")).get("report", {}).get("notes", []))


def _require_passed(checks: Sequence[Mapping[str, Any]]) -> None:
    from safewright.errors import GateFailed

    failed = [check for check in checks if not check["passed"]]
    if failed:
        raise GateFailed(
            f"{len(failed)} of {len(checks)} checks failed: {failed[0]['name']} ({failed[0]['detail']}).",
            why="The model is written, but it is not what was asked for.",
            fix="Read the page before using it; another budget may serve better.",
        )


def _tell(estimate: Mapping[str, Any]) -> None:
    """What a treatment will take, on stderr, before it starts."""
    if not estimate:
        return
    from safewright.report.text import duration, size

    parts = [
        f"{key.removesuffix('_bytes')} about {size(value)}"
        for key, value in estimate.items()
        if key.endswith("_bytes")
    ]
    if "seconds" in estimate:
        parts.append(f"time about {duration(estimate['seconds'])}")
    if "calls" in estimate:
        parts += _asked(estimate)
    console.say(", ".join(parts))


def _asked(estimate: Mapping[str, Any]) -> list[str]:
    """How often a model is asked, and what that costs where prices were given."""
    said = [
        f"{estimate['calls']:,.0f} calls (at most {estimate['calls_at_most']:,.0f})",
        f"about {estimate['prompt_tokens']:,.0f} tokens in and {estimate['new_tokens']:,.0f} out",
    ]
    if "cost" in estimate:
        said.append(
            f"cost about {estimate['cost']:,.2f} (at most about {estimate['cost_at_most']:,.2f}), in the unit of the "
            "prices given"
        )
    return said


def _show(found: Any, indent: str = "") -> None:
    """What a stage found, as lines and tables."""
    plain = to_json(found)
    for key, value in plain.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            console.show(_table(key, value))
        elif isinstance(value, dict):
            print(f"{indent}{key}:")
            _show(value, indent + "  ")
        else:
            print(f"{indent}{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _table(name: str, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title=name, box=None, header_style="bold", pad_edge=False, title_justify="left")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
