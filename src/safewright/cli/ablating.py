"""``safewright treat NAME STAGE`` for stages that compare: every arm trained, measured, and put into one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright import catalog
from safewright.cli import console, options, running
from safewright.cli.assigning import assign
from safewright.cli.matrix import given_to, require_whole, tell_costs, tell_part, write_parts
from safewright.errors import BadInput, nearest

if TYPE_CHECKING:
    from safewright.compose.ablation import Ablation, AblationCosts


def compares(entry: catalog.Entry, stage: str | None) -> bool:
    """Whether a stage of a treatment compares variants of it."""
    return stage is not None and stage in entry.stages and bool(entry.stages[stage].measures)


def require_unused(entry: catalog.Entry, stage: str | None, **given: Any) -> None:
    """Pass where no option of measures was given.

    Raises:
        BadInput: One was, and nothing is measured here.
    """
    for name, value in given.items():
        if value:
            what = entry.name if stage is None else f"{entry.name} {stage}"
            raise BadInput(
                f"--{name.replace('_', '-')} has no use here: {what} measures nothing.",
                fix="Leave it out; safewright measure takes it.",
            )


def compare(
    entry: catalog.Entry,
    stage: str,
    *,
    models: Sequence[str],
    data: Sequence[str],
    sets: Sequence[str],
    config: Path | None,
    judges: Sequence[str],
    model_roles: Sequence[str],
    out: Path | None,
    limit: int | None,
    seed: int,
    device: str,
    batch_size: int | None,
    threads: int,
    workers: int,
    overwrite: bool,
    max_unscored: float,
    dry_run: bool,
    json: bool,
) -> None:
    """Plan, tell what it costs, run, and show the table."""
    from safewright.compose.ablation import COMPARED, MARKDOWN, TABLE, plan_ablation, run_ablation
    from safewright.report import ablation_console

    if out is None:
        raise BadInput(f"{entry.name} {stage} needs a folder to write.", fix="Name one: --out DIR")
    options.share(max_unscored, "--max-unscored")
    own, method, measures, rest = split_options(entry, stage, sets, config)
    mine, others = split_data(entry, data)
    plan = plan_ablation(
        entry.name,
        stage,
        options.by_role(models, "--model", entry.roles),
        mine,
        out=out,
        own=own,
        options=method,
        measures=measures or None,
        measured=measured_of(entry, stage, measures, others, judges, model_roles, rest),
        limit=limit,
        seed=seed,
        device=device,
        batch_size=batch_size,
        threads=threads,
    )
    costs = plan.estimates(workers)
    _tell(costs)
    if dry_run:
        if json:
            console.result(costs)
        return
    found, command = running.carry_out(
        run_ablation,
        plan,
        overwrite=overwrite,
        workers=workers,
        max_unscored=max_unscored,
        told=tell_part,
        making=lambda name: console.say(f"records {name}: made now"),
    )
    page = write_tables(found, out, command)
    if json:
        console.result({"folder": str(out), "ablation": found})
    else:
        for drawn in ablation_console(found):
            console.show(drawn)
        print(f"table: {out / MARKDOWN}, {out / TABLE}")
        print(f"page: {page}")
    require_whole(found.matrix, out / COMPARED, max_unscored)


def split_options(
    entry: catalog.Entry, stage: str, sets: Sequence[str], config: Path | None
) -> tuple[dict[str, Any], dict[str, Any], list[str], dict[str, dict[str, Any]]]:
    """Options of the stage, of the treatment, the measures that are named, and options by measure.

    ``--set KEY=VALUE`` is the stage's or the treatment's, ``--set MEASURE.KEY=VALUE`` a measure's; in a file, tables
    are the measures'.

    Raises:
        BadInput: An option that none of them has.
    """
    known = entry.stages[stage].options()
    own: dict[str, Any] = {}
    method: dict[str, Any] = {}
    by_measure: dict[str, dict[str, Any]] = {}
    for key, value in options.method_options([], config).items():
        if isinstance(value, Mapping):
            by_measure[key] = dict(value)
        else:
            (own if key in known else method)[key] = value
    dotted = [text for text in sets if "." in text.partition("=")[0]]
    for key, value in options.pairs([text for text in sets if text not in dotted], "--set").items():
        (own if key in known else method)[key] = value
    measures = [part.strip() for part in str(own.get("measures", "")).split(",") if part.strip()]
    names = measures or list(entry.stages[stage].measures)
    places = {name: list(catalog.find(name, "measure").options()) for name in names}
    for name in by_measure:
        if name not in places:
            raise BadInput(
                f"The file of options has a table {name!r}, and no such measure is taken.",
                fix=nearest(name, places),
            )
    for name, values in assign(dotted, "--set", places).items():
        by_measure[name] = {**by_measure.get(name, {}), **values}
    for key in method:
        if key not in entry.options():
            every = [*known, *entry.options(), *(f"{m}.{o}" for m, own_ in places.items() for o in own_)]
            raise BadInput(f"{entry.name} {stage} has no option {key!r}.", fix=nearest(key, every))
    return own, method, measures, by_measure


def split_data(entry: catalog.Entry, data: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Rows of the treatment by role, and what is given to measures."""
    mine = [text for text in data if text.partition("=")[0].strip() in entry.data_roles]
    return options.pairs(mine, "--data"), [text for text in data if text not in mine]


def measured_of(
    entry: catalog.Entry,
    stage: str,
    measures: Sequence[str],
    data: Sequence[str],
    judges: Sequence[str],
    model_roles: Sequence[str],
    by_measure: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What every measure is given; rows without a measure's name go to all that have such a role."""
    names = list(measures) or list(entry.stages[stage].measures)
    roles = {role for name in names for role in catalog.find(name, "measure").data_roles}
    found = given_to({}, names, [], data, judges, model_roles, [], None, shared=roles)
    return {**found, "options": dict(by_measure)}


def write_tables(found: Ablation, folder: Path, command: str) -> Path:
    """The page of a comparison, its table as Markdown and JSON, and the pages of its arms; the page's path."""
    from safewright.compose.ablation import COMPARED, MARKDOWN, TABLE
    from safewright.report import ablation_markdown, render_ablation, table_of
    from safewright.runs import write_json, write_text

    pages = {
        key: f"{COMPARED}/{place}"
        for key, place in write_parts(found.matrix, folder / COMPARED, command).items()
    }
    write_json(folder / TABLE, table_of(found))
    write_text(folder / MARKDOWN, ablation_markdown(found))
    page = folder / "report.html"
    write_text(page, render_ablation(found, command=command, pages=pages))
    return page


def _tell(costs: AblationCosts) -> None:
    """What the whole will take, on stderr, before it starts."""
    for name, cost in costs.records.items():
        calls = (
            f"{cost['calls']:,.0f} calls (at most {cost['calls_at_most']:,.0f})" if "calls" in cost else ""
        )
        price = f", cost about {cost['cost']:,.2f}" if "cost" in cost else ""
        console.say(f"records {name}: {calls or 'made now'}{price}")
    tell_costs(costs.arms)
