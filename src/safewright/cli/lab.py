"""``safewright lab``: tiny models in made-up worlds, trained, broken and audited on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.cli import console, options, running
from safewright.errors import need_extra

app = typer.Typer(help="Tiny models in made-up worlds with exact truth; no network.", no_args_is_help=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demo.")] = Path("runs/demo"),
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    json: options.JsonOut = False,
) -> int:
    """A hijacked call, denied; tiny aligned models broken and repaired; others in long prompts; a guard that learns."""
    from safewright.cli.demonstrating import Demo, LongDemo, decided
    from safewright.cli.demonstrating_guard import GuardDemo, told
    from safewright.lab import ARMS, FINE_TUNES, SAFE_ARMS

    for package in ("torch", "transformers", "tree_sitter_bash"):  # before a minute is spent
        if find_spec(package) is None:
            raise need_extra(package.replace("_", "-"), "models,guard")
    with console.progress() as progress:
        guarded = GuardDemo(out / "guard", seed, overwrite, progress)
        for line in told(*guarded.scene):
            console.say(line)
        guarded.page(running.command_line())
        show = Demo(out, seed, overwrite, progress)
        for arm in ARMS:
            show.audit(arm, show.model(arm))
        for arm in FINE_TUNES:
            show.audit(f"{arm} repaired", show.repaired(arm))
        pages = [show.page(running.command_line())]
        long = LongDemo(out / "long", seed, overwrite, progress)
        for safe in SAFE_ARMS:
            long.ask(safe)
        pages.append(long.page(running.command_line()))
        guarded.replicate()
        for line in guarded.lines():
            console.say(line)
        pages.append(guarded.page(running.command_line()))
        verdicts = [*show.verdicts(), *long.verdicts(), *guarded.verdicts()]
    if json:
        found = {arm: show.readings(arm) for arm in dict.fromkeys(show.labels)}
        console.result(
            {
                "guard": guarded.as_json(),
                "cards": found,
                "long": long.found,
                "claims": verdicts,
                "folder": str(out),
            }
        )
    else:
        running.show_cards(show.cards, show.labels)
        for verdict in verdicts:
            print(running.verdict_line(verdict))
        for page in pages:
            print(f"page: {page}")
    running.require_scored({**show.folders, **long.folders}, 0.02)
    return running.ruling(decided(verdicts))


@app.command()
def world(
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds 0 … N-1.")] = 3,
    seed_list: Annotated[str | None, typer.Option("--seed-list", help="Seeds by name: 100,101,102.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write rows and links to the models here.")
    ] = None,
    json: options.JsonOut = False,
) -> int:
    """Train the refusal world's models on several seeds and check the table they must reproduce."""
    from safewright.cli import demonstrating
    from safewright.lab import ARMS, BARS, build, evaluate, refusal_world, write_rows

    chosen = options.seeds(seeds, seed_list)
    table: dict[int, dict[str, dict[str, float]]] = {}
    with console.progress() as progress:
        for seed in chosen:
            made = refusal_world(seed)
            folders = {arm: build(made, arm, progress=demonstrating.steps(progress)) for arm in ARMS}
            table[seed] = {arm: evaluate(folder, made) for arm, folder in folders.items()}
            if out is not None:
                write_rows(made, out / f"seed-{seed}" / "data")
                for arm, folder in folders.items():
                    link = out / f"seed-{seed}" / arm
                    if not link.exists():
                        link.symlink_to(folder.resolve(), target_is_directory=True)
    means = {
        arm: {key: sum(table[s][arm][key] for s in chosen) / len(chosen) for key in table[chosen[0]][arm]}
        for arm in ARMS
    }
    verdicts = []
    for bar in BARS:
        made_by, _, reading = bar.quantity.partition(".")
        verdicts.append(bar.judge([table[seed][made_by][reading] for seed in chosen]))
    if json:
        console.result({"seeds": chosen, "table": table, "means": means, "claims": verdicts})
    else:
        _print_table(table, means)
        for claim in verdicts:
            print(running.verdict_line(claim))
    return running.ruling(verdicts)


@app.command()
def town(
    out: Annotated[Path, typer.Option("--out", help="Folder for the rows, and links to the models.")],
    seed: options.Seed = 0,
    json: options.JsonOut = False,
) -> None:
    """Train the town: a model that refuses and knows private facts, its broken fine-tune, and rows for a matrix."""
    from safewright.cli import demonstrating
    from safewright.lab.town import TOWN_ARMS, build_town, matrix_command, write_town
    from safewright.lab.town import town as town_of

    made = town_of(seed)
    files = write_town(made, out / "data")
    places: dict[str, Path] = {}
    with console.progress() as progress:
        for arm in TOWN_ARMS:
            folder = build_town(made, arm, progress=demonstrating.steps(progress))
            places[arm] = out / arm
            if not places[arm].exists():
                places[arm].symlink_to(folder.resolve(), target_is_directory=True)
    command = matrix_command(out)
    if json:
        console.result({"models": places, "data": files, "command": command})
    else:
        for name, place in {**places, "data": out / "data"}.items():
            print(f"{name}: {place}")
        print(f"next: {command}")


@app.command()
def reasoning(
    out: Annotated[Path, typer.Option("--out", help="Folder for the rows, and a link to the model.")],
    seed: options.Seed = 0,
    json: options.JsonOut = False,
) -> None:
    """Train a model that helps with everything, and write rows that teach it to reason about safety."""
    from safewright.cli import demonstrating
    from safewright.lab import build_reasoning, reasoning_world, skills, write_reasoning

    made = reasoning_world(seed)
    files = write_reasoning(made, out)
    with console.progress() as progress:
        folder = build_reasoning(made, progress=demonstrating.steps(progress))
    link = out / "base"
    if not link.exists():
        link.symlink_to(folder.resolve(), target_is_directory=True)
    found = skills(folder, made)
    command = (
        f"safewright treat srg --model student={link} --data reasoned={out / 'reasoned.jsonl'} "
        f"--data general={out / 'general.jsonl'} --set lora_rank=0 --set lr=5e-4 --set steps=200 --out {out / 'srg'}"
    )
    if json:
        console.result({"model": link, "data": files, "skills": found, "command": command})
    else:
        print(f"model: {link}")
        print(f"data: {out}")
        print(f"skills: {min(v for k, v in found.items() if k != 'refusal'):.2f} at least")
        print(f"next: {command}")


def _print_table(
    table: Mapping[int, Mapping[Any, dict[str, float]]], means: Mapping[Any, dict[str, float]]
) -> None:
    from rich.table import Table

    names = list(next(iter(means.values())))
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("seed", "model", *names):
        drawn.add_column(column, justify="left" if column in ("seed", "model") else "right")
    for seed, arms in [*((str(seed), arms) for seed, arms in table.items()), ("mean", means)]:
        for arm, values in arms.items():
            drawn.add_row(seed, arm, *(f"{values[name]:.3f}" for name in names))
    console.show(drawn)
