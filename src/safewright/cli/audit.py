"""``safewright audit MODEL``: what a newcomer runs first on a model of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from safewright.cli import console, options, running
from safewright.measures import MAX_UNSCORED
from safewright.runs import to_json
from safewright.types import Scorecard


def audit(
    model: Annotated[
        str, typer.Argument(help="A model folder, adapter, hub id or http://host:port/v1#NAME.")
    ],
    quick: Annotated[bool, typer.Option("--quick", help="100 rows of each data set.")] = False,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="ROLE=FILE",
            help="Rows of a role (harm, benign, utility), or a preset's name; a missing role takes its preset.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    judge: Annotated[
        list[str],
        typer.Option("--judge", metavar="[ROLE=]NAME", help="A judge; safewright list names them."),
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
    dry_run: options.DryRun = False,
    json: options.JsonOut = False,
) -> None:
    """Measure harmful answers, over-refusal and utility of a model, and write one page about it."""
    from safewright.compose.audit import AUDIT, parse_judges, plan_audit, run_audit
    from safewright.models import EngineOptions
    from safewright.report import render_page
    from safewright.runs import write_text

    options.share(max_unscored, "--max-unscored")
    plan = plan_audit(
        model,
        data=options.by_role(data, "--data", AUDIT),
        judges=parse_judges(judge),
        options=options.method_options(set_, config),
        limit=limit,
        quick=quick,
        seed=seed,
        engine=EngineOptions(engine, device, dtype, batch_size, timeout),
    )
    estimates = plan.estimates()
    running.tell_estimates(estimates)
    if dry_run:
        if json:
            console.result(estimates)
        return
    found, command = running.carry_out(
        run_audit,
        plan,
        out=out,
        overwrite=overwrite,
        notes={"estimate": estimates},
        max_unscored=max_unscored,
        told=_tell,
    )
    cards = [(card, found.records[role]) for role, card in found.cards.items()]
    page = render_page(f"Audit of {model}", cards, command=command)
    write_text(found.folder / "report.html", page)
    if json:
        console.result({**to_json(found.cards), "folder": str(found.folder)})
    else:
        running.show_cards([card for card, _ in cards])
        print(f"page: {found.folder / 'report.html'}")
    running.require_scored(
        {card.measure: (card, found.folder / card.measure) for card in found.cards.values()}, max_unscored
    )


def _tell(role: str, card: Scorecard) -> None:
    main = card.readings[0]
    value = "nothing scored" if main.value is None else f"{main.value:.1%}"
    console.say(f"{card.measure}: {main.name} {value} (n={main.n}, {card.cost.seconds:.1f} s)")
