"""``safewright guard bench agentdojo``: hijacked replays, scored by the benchmark's own functions."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from safewright.cli import options


def bench_agentdojo(
    suite: Annotated[
        list[str],
        typer.Option("--suite", help="banking, slack, workspace or travel; may be repeated; default all."),
    ] = [],  # noqa: B006 - typer copies it
    attack: Annotated[
        list[str], typer.Option("--attack", help="An attack by name; may be repeated; default all.")
    ] = [],  # noqa: B006 - typer copies it
    arm: Annotated[
        list[str], typer.Option("--arm", help="A guard by name; may be repeated; default all.")
    ] = [],  # noqa: B006 - typer copies it
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="User tasks of each suite, at most.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="FILE", help="A policy for the package's tools, in place of ours."),
    ] = None,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    json: options.JsonOut = False,
) -> int:
    """Replay AgentDojo (suite v1) with an agent that obeys every attack it reads: no model, minutes on one core.

    Denied and escalated calls are skipped. Needs the extra `bench`. Stopped, it goes on where it was.
    For example: safewright guard bench agentdojo --suite banking --suite slack
    """
    from safewright.cli import console
    from safewright.guard.bench import agentdojo
    from safewright.guard.bench.arms import arms
    from safewright.guard.bench.replay import SUITES
    from safewright.guard.policy import Policy

    suites = tuple(dict.fromkeys(suite)) or SUITES
    table = arms(Policy.load(policy)) if policy is not None else arms()
    folder = (
        out or Path("runs") / f"guard-bench-agentdojo-{agentdojo.name_of(suites, attack, arm, limit, table)}"
    )
    with console.progress() as progress:
        result = agentdojo.bench(
            suites,
            only_attacks=attack,
            only_arms=arm,
            limit=limit,
            folder=folder,
            overwrite=overwrite,
            progress=progress,
            table=table,
        )
    if json:
        print(jsonlib.dumps(result, ensure_ascii=False))
    else:
        print(agentdojo.markdown(result))
        print(f"results: {folder / 'agentdojo.md'}")
    return 0
