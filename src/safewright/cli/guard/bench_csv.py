"""``safewright guard bench csv``: how well a guard decides on labelled calls of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safewright.cli import console, options
from safewright.cli.guard import opening

if TYPE_CHECKING:
    from safewright.guard.bench.metrics import Confusion, Outcome, Summary

MAX_FAILED = 0.02
MOST_GROUPS = 24


def bench_csv(
    file: Annotated[
        Path,
        typer.Argument(
            help="Labelled calls, CSV or JSONL: id, label (1 unsafe, 0 safe), tool, arguments, and group, kind, "
            "request, principal, history, environment, rules."
        ),
    ],
    policy: opening.PolicyFile = None,
    memory: opening.MemoryFile = None,
    backend: opening.Backend = "rules",
    model: opening.Model = None,
    preset: opening.Preset = "hardened",
    deadline: opening.Deadline = 8.0,
    on_unknown: opening.OnUnknown = None,
    freeze: opening.Freeze = False,
    namespace: opening.Namespace = "default",
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    max_failed: Annotated[
        float,
        typer.Option("--max-failed", help="Share of decisions that failed above which the exit code is 11."),
    ] = MAX_FAILED,
    json: options.JsonOut = False,
) -> None:
    """Put labelled calls before a guard, and count: accuracy, attacks let through, harmless calls stopped.

    A call that is escalated counts as stopped. The figures stand beside what no model at all would score.
    """
    from safewright.cli import running
    from safewright.errors import TooManyUnscored
    from safewright.guard.bench.metrics import floors, summary
    from safewright.guard.bench.rows import judge_rows, read_rows
    from safewright.runs import digest_file, open_run, to_json, versions
    from safewright.runs.run import plan_digest

    options.share(max_failed, "--max-failed")
    rows = read_rows(file)
    with opening.opened(
        policy,
        memory,
        None,
        backend=backend,
        model=model,
        preset=preset,
        deadline=deadline,
        on_unknown=on_unknown,
        freeze=freeze,
        namespace=namespace,
    ) as guard:
        plan: dict[str, Any] = {
            "guard_bench_csv": 1,
            "rows": {"digest": rows.digest, "n": len(rows.rows)},
            "policy": guard.policy.digest,
            "guard": to_json(
                {
                    "backend": backend,
                    "model": model,
                    "preset": preset,
                    "deadline": deadline,
                    "on_unknown": guard.on_unknown,
                    "memory": None if memory is None else str(memory),
                    "freeze": freeze,
                    "namespace": namespace,
                }
            ),
            "versions": versions(["safewright"]),
        }
        folder = out or Path("runs") / f"guard-bench-csv-{plan_digest(plan)[7:19]}"
        with open_run(folder, {**plan, "command": running.command_line()}, overwrite=overwrite) as run:
            with console.progress() as progress:
                outcomes = judge_rows(guard, rows, run, progress)
            found = {
                "file": str(file),
                "digest": digest_file(file),
                "all": summary(outcomes).as_json(),
                "floors": {name: _floor_json(table) for name, table in floors(outcomes).items()},
                "kinds": _parts(outcomes, "kind"),
                "groups": _parts(outcomes, "group"),
            }
            run.write("figures.json", found)
            run.event("finished")
    if json:
        console.result({**found, "folder": str(folder)})
    else:
        _show(outcomes)
        print(f"figures: {folder / 'figures.json'}")
    failed = sum(each.failure is not None for each in outcomes)
    if failed > max_failed * len(outcomes):
        kinds = sorted({each.failure for each in outcomes if each.failure})
        raise TooManyUnscored(
            f"{failed} of {len(outcomes)} decisions failed ({', '.join(kinds)}); the bound is {max_failed:.0%}.",
            why="They count as stopped, which flatters the guard on attacks.",
            fix="Give the same command again: what failed for want of a model or of time is asked again.",
        )


def _parts(outcomes: Sequence[Outcome], name: str) -> dict[str, Any]:
    return {
        part: summary_json
        for part, chosen in _split(outcomes, name).items()
        for summary_json in (_summary(chosen).as_json(),)
    }


def _split(outcomes: Sequence[Outcome], name: str) -> Mapping[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for each in outcomes:
        found.setdefault(getattr(each, name), []).append(each)
    # One part says what the whole says; very many are tasks, not groups to compare.
    return dict(sorted(found.items())) if 1 < len(found) <= MOST_GROUPS else {}


def _summary(outcomes: Sequence[Outcome]) -> Summary:
    from safewright.guard.bench.metrics import summary

    return summary(outcomes)


def _floor_json(table: Confusion) -> dict[str, Any]:
    return {"lpa": table.lpa, "lpp": table.lpp, "lpr": table.lpr, "f1": table.f1}


def _show(outcomes: Sequence[Outcome]) -> None:
    """The figures as tables."""
    from rich.table import Table

    from safewright.guard.bench.metrics import floors, summary

    table = Table(title="Labelled calls, %, with 95 % intervals (unsafe is positive)")
    for name in ("", "n", "LPA", "LPP", "LPR", "F1", "stopped though safe", "escalated"):
        table.add_column(name, justify="right" if name else "left", no_wrap=not name)
    parts = {"guard": list(outcomes)}
    parts.update({f"  {name}": each for name, each in _split(outcomes, "kind").items()})
    parts.update({f"  {name}": each for name, each in _split(outcomes, "group").items()})
    for name, chosen in parts.items():
        found = summary(chosen)
        table.add_row(
            name,
            str(found.n),
            str(found.lpa),
            str(found.lpp),
            str(found.lpr),
            _f1(found),
            str(found.false_positives),
            str(found.escalated),
        )
    for name, floor in floors(outcomes).items():
        row = [_percent(value) for value in (floor.lpa, floor.lpp, floor.lpr, floor.f1)]
        stopped = floor.fp / (floor.fp + floor.tn) if floor.fp + floor.tn else None
        table.add_row(name, str(floor.n), *row, _percent(stopped), "–")
    console.show(table)
    whole = summary(outcomes)
    for kind, rate in whole.asr.items():
        print(f"attacks let run, {kind}: {rate} ({rate.k} of {rate.n})")
    print(f"tasks with a harmless call stopped: {whole.false_positives_by_task}")
    if whole.explained.n:
        print(
            f"right with exactly the violated rules named: {whole.explained}; of those caught: {whole.agreement}"
        )
    print(f"failed: {whole.failed}; unparseable {whole.unparsed}; out of time {whole.timed_out}")
    cost = f"model calls {whole.calls}, tokens {whole.tokens_in:,} in and {whole.tokens_out:,} out"
    print(f"{cost}; latency p50 {whole.p50_ms:.1f} ms, p95 {whole.p95_ms:.1f} ms")


def _f1(found: Summary) -> str:
    said = _percent(found.f1)
    between = found.f1_interval
    return said if between is None else f"{said} [{100 * between.low:.1f}, {100 * between.high:.1f}]"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
