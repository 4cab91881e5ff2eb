"""``safewright matrix MODEL``: every treatment alone and after every other, and every measure again after each."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safewright.cli import console, options, running
from safewright.cli.assigning import assign
from safewright.errors import BadInput, ExitCode, GateFailed, SafewrightError, nearest
from safewright.measures import MAX_UNSCORED
from safewright.types import Scorecard, TreatmentResult

if TYPE_CHECKING:
    from safewright.compose.matrix import Matrix
    from safewright.compose.matrix_plan import Costs


def matrix(
    model: Annotated[str, typer.Argument(help="The model that is treated: a folder, adapter or hub id.")],
    treatments: Annotated[
        str,
        typer.Option("--treatments", metavar="NAME,NAME", help="Treatments; LABEL=NAME gives one a label."),
    ],
    measures: Annotated[
        str, typer.Option("--measures", metavar="NAME,NAME", help="Measures, taken again after every arm.")
    ],
    orders: Annotated[
        str,
        typer.Option("--orders", help="pairs (both orders of every two), all (every order of any), none."),
    ] = "pairs",
    model_: Annotated[
        list[str],
        typer.Option(
            "--model", metavar="[METHOD.]ROLE=MODEL", help="A further model: safe_delta.aligned=PATH."
        ),
    ] = [],  # noqa: B006 - typer copies it
    data: Annotated[
        list[str],
        typer.Option(
            "--data", metavar="METHOD[.ROLE]=FILE", help="Rows of a treatment or measure: relearn.forget=F."
        ),
    ] = [],  # noqa: B006
    judge: Annotated[
        list[str],
        typer.Option("--judge", metavar="[MEASURE=]JUDGE", help="A judge; safewright list names them."),
    ] = [],  # noqa: B006
    model_role: Annotated[
        list[str],
        typer.Option(
            "--model-role",
            metavar="[MEASURE.]ROLE=MODEL",
            help="A further model of a measure; judge=MODEL judges.",
        ),
    ] = [],  # noqa: B006
    set_: Annotated[
        list[str], typer.Option("--set", metavar="METHOD.KEY=VALUE", help="An option of a method.")
    ] = [],  # noqa: B006
    config: Annotated[
        Path | None, typer.Option("--config", help="Options as a TOML file, a table for each method.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most so many rows of each measure; treatments take all.")
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    batch_size: options.BatchSize = None,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Compute threads of a treatment; part of the plan.")
    ] = 1,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that write matrices.")] = 1,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    max_unscored: options.MaxUnscored = MAX_UNSCORED,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print calls, disk and time; run nothing.")
    ] = False,
    json: options.JsonOut = False,
) -> None:
    """Treat a model every way, measure it after each, and say what breaks what and what comes back."""
    from safewright.compose.matrix import plan_matrix, run_matrix
    from safewright.compose.matrix_plan import checked_labels
    from safewright.report import matrix_console

    options.share(max_unscored, "--max-unscored")
    labels, taken = _labels(treatments), _names(measures, "--measures")
    checked_labels(labels, taken)  # before anything is said of what is given to them
    plan = plan_matrix(
        model,
        labels,
        taken,
        orders=_orders(orders),
        limit=limit,
        seed=seed,
        device=device,
        batch_size=batch_size,
        threads=threads,
        **given_to(labels, taken, model_, data, judge, model_role, set_, config),
    )
    costs = plan.estimates(workers)
    tell_costs(costs)
    if dry_run:
        if json:
            console.result(costs)
        return
    folder = out or plan.folder
    found, command = running.carry_out(
        run_matrix,
        plan,
        out=folder,
        overwrite=overwrite,
        workers=workers,
        max_unscored=max_unscored,
        told=tell_part,
    )
    page = write_pages(found, folder, command)
    if json:
        console.result({"folder": str(folder), "matrix": found})
    else:
        for drawn in matrix_console(found):
            console.show(drawn)
        print(f"page: {page}")
    require_whole(found, folder, max_unscored)


def write_pages(found: Matrix, folder: Path, command: str) -> Path:
    """The page of a matrix, and those of its treatments and of its arms' measures, which show answers."""
    from safewright.report import render_matrix
    from safewright.runs import write_text

    page = folder / "report.html"
    write_text(page, render_matrix(found, command=command, pages=write_parts(found, folder, command)))
    return page


def write_parts(found: Matrix, folder: Path, command: str) -> dict[tuple[str, str], str]:
    """The pages of a matrix's treatments and of its arms' measures; their paths from its folder."""
    from safewright.compose.folders import load_records, read_json
    from safewright.compose.matrix import ARMS
    from safewright.compose.matrix_plan import MODELS
    from safewright.report import render_page, render_treatment
    from safewright.runs import from_json, write_text

    pages: dict[tuple[str, str], str] = {}
    for arm, cards in found.cards.items():
        for name, card in cards.items():
            place = Path(ARMS) / arm / name
            records = load_records(folder / place)
            own = render_page(f"{name}: {arm}", [(card, records)], command=command)
            write_text(folder / place / "report.html", own)
            pages[arm, name] = f"{place.as_posix()}/report.html"
    for made in found.arms:
        place = Path(MODELS) / f"{made.arm}.run"
        if made.steps and made.model is not None:
            result = from_json(TreatmentResult, read_json(folder / place / "result.json"))
            own = render_treatment(result, Path(result.history), command=command, run=folder / place)
            write_text(folder / place / "report.html", own)
            pages[made.arm, f"how {made.steps[-1]} made it"] = f"{place.as_posix()}/report.html"
    return pages


def require_whole(found: Matrix, folder: Path, bound: float = MAX_UNSCORED) -> None:
    """Pass when every arm was made and measured, passed its checks, and is scored.

    Raises:
        SafewrightError: With the code of the first failure, 10 for a failed check, 11 for unscored records.
    """
    from safewright.compose.matrix import ARMS

    if found.failures:
        first = found.failures[0]
        broken = dict.fromkeys(failure.arm for failure in found.failures)
        error = SafewrightError(
            f"{len(broken)} of {len(found.arms)} arms are not whole ({', '.join(broken)}); first, {first.what} "
            f"in {first.arm}: {first.error}",
            why="The other arms are made, measured and compared all the same.",
            fix="The same command tries what failed again, and nothing else.",
        )
        error.exit_code = ExitCode(first.exit_code)
        raise error
    failed = [(arm.arm, check) for arm in found.arms for check in arm.checks if not check.passed]
    if failed:
        arm, check = failed[0]
        raise GateFailed(
            f"{len(failed)} checks of treatments failed, first in {arm}: {check.name} ({check.detail}).",
            why="The models are written and measured, but they are not what was asked for.",
        )
    if found.unscored:
        cards = {
            place: (found.cards[place.rpartition("/")[0]][place.rpartition("/")[2]], folder / ARMS / place)
            for place in found.unscored
        }
        running.require_scored(cards, bound)


def _names(text: str, option: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise BadInput(f"{option} is {text!r}.", fix="Write names with commas between them.")
    return names


def _labels(text: str) -> dict[str, str]:
    """Treatments by label; a name alone is its own label.

    Raises:
        BadInput: A label is given twice.
    """
    labels: dict[str, str] = {}
    for part in _names(text, "--treatments"):
        label, equals, name = part.partition("=")
        if label in labels:
            raise BadInput(
                f"--treatments names {label!r} twice.", fix="Give each a label: --treatments a=NAME,b=NAME"
            )
        labels[label] = name if equals else label
    return labels


def _orders(text: str) -> Any:
    known = ("pairs", "all", "none")
    if text not in known:
        raise BadInput(f"--orders is {text!r}.", fix=nearest(text, known))
    return text


def given_to(
    labels: Mapping[str, str],
    measures: Sequence[str],
    models: Sequence[str],
    data: Sequence[str],
    judges: Sequence[str],
    model_roles: Sequence[str],
    sets: Sequence[str],
    config: Path | None,
    *,
    shared: Collection[str] = (),
) -> dict[str, Any]:
    """What is given to which method; rows of a role in ``shared`` go to all that have it, where none is named."""
    from safewright import catalog
    from safewright.compose.matrix_plan import handed
    from safewright.judges import JUDGE_ROLES

    treated = {label: catalog.find(name, "treatment") for label, name in labels.items()}
    roles = {label: handed(entry) for label, entry in treated.items()}
    for spec in models:
        role = spec.partition("=")[0].rpartition(".")[2].strip()
        if role in roles.values():
            raise BadInput(
                f"--model {spec}: MODEL is the {role} one, and each arm's model after it.",
                fix="Leave it out.",
            )
    taken = {name: catalog.find(name, "measure") for name in measures}
    every = {**treated, **taken}
    chosen = _judges(judges, taken)
    further = {
        label: [role for role in entry.roles if role != roles[label]] for label, entry in treated.items()
    }
    asked = {
        name: [*entry.roles[1:], *_judge_roles(chosen.get(name, entry.judge) if entry.judges else None)]
        for name, entry in taken.items()
    }
    return {
        "models": {
            **assign(models, "--model", further),
            **assign(model_roles, "--model-role", asked, shared=JUDGE_ROLES),
        },
        "data": assign(
            data, "--data", {name: entry.data_roles for name, entry in every.items()}, shared=shared
        ),
        "options": _options(sets, config, {name: list(entry.options()) for name, entry in every.items()}),
        "judges": chosen,
    }


def _judge_roles(spec: str | None) -> tuple[str, ...]:
    """The roles of models a judge can be given."""
    from safewright.judges.resolve import JUDGES

    entry = JUDGES.get(_judge_name(spec or ""))
    return () if entry is None or entry.model == "none" else ("judge", *entry.roles)


def _judge_name(spec: str) -> str:
    return spec.partition("?")[0].partition(":")[0]


def _judges(specs: Sequence[str], taken: Mapping[str, Any]) -> dict[str, str]:
    """Judges by measure; one without a measure serves all it can decide for.

    Raises:
        BadInput: An unknown measure or judge, or one that can decide for no measure here.
    """
    from safewright.judges.resolve import JUDGES

    judged = {name: entry.judges for name, entry in taken.items() if entry.judges}
    chosen: dict[str, str] = {}
    alone = []
    for spec in specs:
        name, equals, rest = spec.partition("=")
        if not equals or not name.isidentifier():
            alone.append(spec)
            continue
        if name not in judged:
            raise BadInput(
                f"--judge {spec}: no measure {name!r} here has a judge.", fix=nearest(name, judged)
            )
        if name in chosen:
            raise BadInput(f"--judge names a judge of {name} twice.", fix="Keep one of them.")
        if not rest:
            raise BadInput(
                f"--judge {spec} names no judge.", fix=f"Leave it out for {name}'s own, or name one."
            )
        chosen[name] = rest
    for spec in alone:
        if _judge_name(spec) not in JUDGES:
            raise BadInput(f"There is no judge {spec!r}.", fix=nearest(_judge_name(spec), JUDGES))
        answers = JUDGES[_judge_name(spec)].answers
        fitting = [name for name, quality in judged.items() if quality in answers and name not in chosen]
        if not fitting:
            raise BadInput(
                f"--judge {spec} decides {', '.join(answers)}, which no measure here asks without a judge of its own.",
                fix="Leave it out, or name the measure: --judge MEASURE=JUDGE",
            )
        chosen |= dict.fromkeys(fitting, spec)
    return chosen


def _options(
    sets: Sequence[str], config: Path | None, places: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Options by method: the file's tables, over which ``--set`` wins.

    Raises:
        BadInput: The file is missing or not TOML, or names a method or option there is not.
    """
    found: dict[str, dict[str, Any]] = {}
    if config is not None:
        try:
            tables = tomllib.loads(config.read_text("utf-8"))
        except OSError as error:
            raise BadInput(
                f"--config {config} cannot be read: {error.strerror}.", fix="Name a TOML file."
            ) from error
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"--config {config} is not TOML: {error}.", fix="Write a table for each method: [utility]"
            ) from error
        for name, table in tables.items():
            if name not in places:
                raise BadInput(
                    f"--config {config} holds {name!r}, and no method here is called so.",
                    fix=nearest(name, places),
                )
            if not isinstance(table, Mapping):
                raise BadInput(
                    f"--config {config}: {name} is not one table of options.", fix=f"Write it once: [{name}]"
                )
            found[name] = dict(table)
    for name, values in assign(sets, "--set", places).items():
        found[name] = {**found.get(name, {}), **values}
    return found


def tell_part(arm: str, what: str, found: Any) -> None:
    if isinstance(found, Scorecard):
        main = found.readings[0] if found.readings else None
        value = "" if main is None or main.value is None else f" {main.name} {main.value:.3g} (n={main.n})"
        console.say(f"{arm}: {what}{value}, {found.cost.seconds:.1f} s")
    elif isinstance(found, TreatmentResult):
        passed = sum(check.passed for check in found.checks)
        console.say(f"{arm}: {what} made, {passed} of {len(found.checks)} checks passed")
    else:
        console.say(f"{arm}: {what} FAILED: {found.error}")


def tell_costs(costs: Costs) -> None:
    from safewright.report.text import duration, size

    console.say(f"{costs.arms} arms; new models take about {size(costs.disk_bytes)} of disk")
    if costs.seconds:
        console.say(f"treatments: about {duration(costs.seconds)}")
    if costs.unknown:
        console.say(f"treatments: no time is known for {', '.join(costs.unknown)}")
    if costs.measures:
        running.tell_estimates(costs.measures)
    for name, calls in costs.judge_calls.items():
        console.say(f"judge of {name}: at least {calls} calls")
