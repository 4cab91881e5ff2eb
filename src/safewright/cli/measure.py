"""``safewright measure NAME MODEL``: one measure, one scorecard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.cli import console, options, running
from safewright.errors import BadInput
from safewright.measures import MAX_UNSCORED
from safewright.runs import to_json
from safewright.types import Scorecard


def measure(
    name: Annotated[str, typer.Argument(help="A measure; safewright list names them.")],
    model: Annotated[
        str | None, typer.Argument(help="A model folder, adapter, hub id or http://host:port/v1#NAME.")
    ] = None,
    data: Annotated[
        list[str], typer.Option("--data", metavar="[ROLE=]FILE", help="Rows, or a preset's name.")
    ] = [],  # noqa: B006 - typer copies it
    judge: Annotated[str | None, typer.Option("--judge", help="A judge; safewright list names them.")] = None,
    model_role: Annotated[
        list[str],
        typer.Option("--model-role", metavar="ROLE=MODEL", help="A further model; judge=MODEL judges."),
    ] = [],  # noqa: B006
    set_: options.Set = [],  # noqa: B006
    config: options.Config = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    max_unscored: options.MaxUnscored = MAX_UNSCORED,
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: options.BatchSize = None,
    timeout: options.Timeout = None,
    rescore: Annotated[
        Path | None,
        typer.Option("--rescore", help="Score another program's stored records in the place of a model."),
    ] = None,
    dry_run: options.DryRun = False,
    json: options.JsonOut = False,
) -> None:
    """Run one measure on a model and print its scorecard."""
    from safewright import catalog
    from safewright.compose.folders import load_records
    from safewright.judges import JUDGE_ROLES
    from safewright.measures import plan_measure, run_measure
    from safewright.models import EngineOptions
    from safewright.report import render_page
    from safewright.runs import write_text

    entry = catalog.find(name, "measure")
    options.share(max_unscored, "--max-unscored")
    if rescore is not None:
        if model is not None or data or judge or model_role or limit is not None or dry_run:
            raise BadInput(
                "--rescore reads stored records, and asks no model.",
                fix="Leave out the model, --data, --judge, --model-role, --limit and --dry-run.",
            )
        return _rescored(
            name, rescore, options.method_options(set_, config), out, overwrite, max_unscored, json
        )
    if model is None:
        raise BadInput(f"{name} was given no model.", fix=f"safewright measure {name} MODEL")
    further = (*entry.roles[1:], *(JUDGE_ROLES if entry.judges else ()))
    plan = plan_measure(
        name,
        {entry.roles[0]: model, **options.by_role(model_role, "--model-role", further)},
        data=options.by_role(data, "--data", entry.data_roles) or None,
        judge=judge,
        config=options.method_options(set_, config),
        limit=limit,
        seed=seed,
        engine=EngineOptions(engine, device, dtype, batch_size, timeout),
    )
    estimates = plan.estimates()
    running.tell_estimates(estimates)
    for role, work in plan.besides().items():
        console.say(f"{role}: {work}, which the time leaves out")
    judge_calls = plan.judge_calls()
    if judge_calls is not None and plan.judge is not None:
        console.say(f"judge {plan.judge.name}: at least {judge_calls} calls")
    readings = plan.reading_calls()
    for role, count in readings.items():
        console.say(f"{role}: reads {count} answers")
    if dry_run:
        if json:
            more = {role: {"answers": count} for role, count in readings.items()}
            console.result({**to_json(estimates), "judge": {"calls": judge_calls}, **more})
        return
    folder = out or plan.folder
    card, command = running.carry_out(
        run_measure, plan, run=folder, overwrite=overwrite, max_unscored=max_unscored
    )
    cards = [(card, load_records(folder))]
    write_text(folder / "report.html", render_page(f"{name}: {model}", cards, command=command))
    _show(name, card, folder, max_unscored, json)


def _rescored(
    name: str, file: Path, given: dict[str, Any], out: Path | None, overwrite: bool, bound: float, json: bool
) -> None:
    from safewright.compose.folders import load_records
    from safewright.measures.rescoring import rescore
    from safewright.report import render_page
    from safewright.runs import write_text

    command = running.command_line()
    card, folder = rescore(name, file, config=given, run=out, overwrite=overwrite, notes={"command": command})
    cards = [(card, load_records(folder))]
    write_text(folder / "report.html", render_page(f"{name}: {file}", cards, command=command))
    _show(name, card, folder, bound, json)


def _show(name: str, card: Scorecard, folder: Path, bound: float, json: bool) -> None:
    """Print a scorecard, and end with the exit code of its unscored share."""
    if json:
        console.result({**to_json(card), "folder": str(folder)})
    else:
        running.show_cards([card])
        print(f"page: {folder / 'report.html'}")
    running.require_scored({name: (card, folder)}, bound)
