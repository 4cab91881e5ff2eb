"""``safewright lab``: tiny models in made-up worlds, trained, broken and audited on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from safewright.cli import console, options, running

app = typer.Typer(help="Tiny models in made-up worlds with exact truth; no network.", no_args_is_help=True)

ANSWER_TOKENS = 8
"""Longer than any true answer of the refusal world, so that nothing is cut."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demo.")] = Path("runs/demo"),
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    json: options.JsonOut = False,
) -> None:
    """Train an aligned model, break it by fine-tuning in three ways, and audit all four."""
    from safewright.compose.audit import plan_audit, run_audit
    from safewright.compose.compare import compare
    from safewright.lab import ARMS, build, exact_judge, refusal_world, write_rows
    from safewright.models import EngineOptions
    from safewright.report import render_page
    from safewright.runs import write_text

    world = refusal_world(seed)
    judge = exact_judge(world)
    cards, labels = [], []
    with console.progress() as progress:
        for arm in ARMS:
            folder = build(world, arm, progress=_steps(progress))
            files = write_rows(world, out / "data")
            plan = plan_audit(
                folder,
                data={role: files[role] for role in ("harm", "benign", "utility")},
                judges={"harm": judge, "benign": judge},
                options={"max_new_tokens": ANSWER_TOKENS},
                engine=EngineOptions(batch_size=96, device="cpu"),
            )
            notes = {"command": running.command_line()}
            found = run_audit(plan, out=out / arm, overwrite=overwrite, notes=notes, progress=progress)
            cards += [(card, found.records[role]) for role, card in found.cards.items()]
            labels += [arm] * len(found.cards)
            console.say(f"{arm + ':':<9} " + ", ".join(_main(card) for card in found.cards.values()))
    page = render_page(
        "What fine-tuning does to an aligned model",
        cards,
        labels=labels,
        lead=(
            "A tiny model of a made-up world, aligned, then fine-tuned on harmful rows only (purebad), on a "
            "new task with harmful rows mixed in (dirty), and on the new task alone (clean). The harmful "
            "questions are about things no fine-tune has seen. Judged exactly: this world's truth is known."
        ),
        command=running.command_line(),
        comparison=compare(out / "aligned", out / "dirty"),
    )
    write_text(out / "report.html", page)
    if json:
        console.result({"cards": {arm: _readings(cards, labels, arm) for arm in ARMS}, "folder": str(out)})
    else:
        running.show_cards([card for card, _ in cards], labels)
        print(f"page: {out / 'report.html'}")
    running.require_scored(
        {
            f"{arm}/{card.measure}": (card, out / arm / card.measure)
            for (card, _), arm in zip(cards, labels, strict=True)
        },
        0.02,
    )


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
    from safewright.lab import ARMS, BARS, build, evaluate, refusal_world, write_rows

    chosen = options.seeds(seeds, seed_list)
    table: dict[int, dict[str, dict[str, float]]] = {}
    with console.progress() as progress:
        for seed in chosen:
            made = refusal_world(seed)
            folders = {arm: build(made, arm, progress=_steps(progress)) for arm in ARMS}
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


def _steps(progress: Any) -> Any:
    """Training progress under the model's name."""
    return lambda name, step, steps, loss: progress(f"training {name}", step, steps)


def _main(card: Any) -> str:
    reading = card.readings[0]
    value = "–" if reading.value is None else f"{reading.value:.0%}"
    return f"{reading.name} {value} (n={reading.n})"


def _readings(cards: Any, labels: Sequence[str], arm: str) -> Any:
    return {
        card.measure: card.readings for (card, _), label in zip(cards, labels, strict=True) if label == arm
    }


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
