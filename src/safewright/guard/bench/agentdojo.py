"""The replay on AgentDojo: every attack against every arm, scored by the package's own functions."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, nearest
from safewright.guard.bench.arms import Arm, arms
from safewright.guard.bench.attacks import MARKERS, Attack, attacks
from safewright.guard.bench.replay import SUITES, VERSION, Outcome, goals_of, replays, tasks_of, unscripted_of
from safewright.runs import digest_file, digest_json, open_run, versions
from safewright.runs.progress import Progress, silent
from safewright.stats import cluster_bootstrap, wilson
from safewright.types import Interval

Rows = list[dict[str, Any]]
BENIGN = "benign"
"""The row without any attack."""


@dataclass(frozen=True)
class Rate:
    """A share with its count and 95 % interval: Wilson's, or a bootstrap over user tasks where pairs share them."""

    k: int
    n: int
    value: float | None
    low: float | None
    high: float | None


def bench(
    suites: Sequence[str] = SUITES,
    *,
    only_attacks: Sequence[str] = (),
    only_arms: Sequence[str] = (),
    limit: int | None = None,
    folder: Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    table: Sequence[Arm] | None = None,
) -> dict[str, Any]:
    """Replay and score. With a folder, what is finished stays finished, task by task.

    Args:
        suites: Of the package.
        only_attacks: Names of attacks; all where empty.
        only_arms: Names of arms; all where empty.
        limit: User tasks of each suite, at most.
        folder: Of the run.
        overwrite: Whether another run there is deleted.
        progress: Told after each user task.
        table: Arms to compare in place of ours.

    Raises:
        BadInput: A suite, attack or arm is unknown.
        Missing: The package is not installed.
    """
    chosen = _named(attacks(), only_attacks, "attack")
    guards = _named(table if table is not None else arms(), only_arms, "arm")
    for name in suites:
        if name not in SUITES:
            raise BadInput(f"There is no suite {name!r}.", fix=nearest(name, SUITES))
    work = [(name, task) for name in suites for task in tasks_of(name)[:limit]]
    rows: Rows = []
    if folder is None:
        for index, (_, task) in enumerate(work):
            rows += _rows(task, chosen, guards)
            progress("user tasks", index + 1, len(work))
    else:
        with open_run(folder, _plan(suites, chosen, guards, limit), overwrite=overwrite) as run:
            for index, (name, task) in enumerate(work):
                rows += run.step(
                    {"suite": name, "task": task.id}, functools.partial(_rows, task, chosen, guards)
                )
                progress("user tasks", index + 1, len(work))
            result = scored(rows, suites, chosen, guards)
            run.write("agentdojo.json", result)
            run.write("agentdojo.md", markdown(result))
            return result
    return scored(rows, suites, chosen, guards)


def name_of(
    suites: Sequence[str],
    only_attacks: Sequence[str],
    only_arms: Sequence[str],
    limit: int | None,
    table: Sequence[Arm],
) -> str:
    """A short digest of what a run is made of, for its folder's name."""
    chosen = _named(attacks(), only_attacks, "attack")
    return digest_json(_plan(suites, chosen, _named(table, only_arms, "arm"), limit))[7:19]


def _named(known: Iterable[Any], names: Sequence[str], what: str) -> list[Any]:
    found = {each.name: each for each in known}
    for name in names:
        if name not in found:
            raise BadInput(f"There is no {what} {name!r}.", fix=nearest(name, found))
    return [found[name] for name in names] if names else list(found.values())


def _plan(
    suites: Sequence[str], chosen: Sequence[Attack], guards: Sequence[Arm], limit: int | None
) -> dict[str, Any]:
    """What decides the results: code of the guard, arms, attacks, the package's version."""
    import safewright.guard

    home = Path(safewright.guard.__file__).parent
    code = {str(file.relative_to(home)): digest_file(file) for file in sorted(home.rglob("*.py"))}
    return {
        "verb": "guard bench agentdojo",
        "suites": list(suites),
        "version": VERSION,
        "attacks": [each.name for each in chosen],
        "arms": {each.name: each.digest for each in guards},
        "limit": limit,
        "code": digest_json(code),
        "versions": versions(["agentdojo"]),
    }


def _rows(task: Any, chosen: Sequence[Attack], guards: Sequence[Arm]) -> Rows:
    """Everything about one user task: without an attack, and under each, once per arm."""
    rows: Rows = []
    decides = [arm.decide for arm in guards]
    for arm, outcome in zip(guards, replays(task, None, decides), strict=True):
        rows.append(_row(task, "", BENIGN, arm, outcome))
    if not task.vectors:
        return rows
    for attack in chosen:
        for goal in attack.goals(task.suite) if attack.goals else goals_of(task.suite):
            staged = attack.stage(task, goal)
            if staged is None:
                rows.append({"suite": task.suite, "task": task.id, "goal": goal.id, "attack": attack.name,
                             "arm": "", "skipped": "cannot be staged"})  # fmt: skip
                continue
            for arm, outcome in zip(guards, replays(task, staged, decides), strict=True):
                rows.append(_row(task, goal.id, attack.name, arm, outcome))
    return rows


def _row(task: Any, goal: str, attack: str, arm: Arm, outcome: Outcome) -> dict[str, Any]:
    return {"suite": task.suite, "task": task.id, "goal": goal, "attack": attack, "arm": arm.name,
            **asdict(outcome)}  # fmt: skip


def scored(
    rows: Rows, suites: Sequence[str], chosen: Sequence[Attack], guards: Sequence[Arm]
) -> dict[str, Any]:
    """Rates for each group of suites, arm and attack, with what was left out."""
    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in suites}
    design = tuple(name for name in ("banking", "slack") if name in suites)
    held = tuple(name for name in ("workspace", "travel") if name in suites)
    for part in (design, held):
        if len(part) > 1:
            groups[" + ".join(part)] = part
    table = []
    for group, names in groups.items():
        for arm in guards:
            table.append(_line(group, arm, [row for row in rows if row["suite"] in names], chosen))
    return {
        "version": VERSION,
        "attacks": [{"name": each.name, "kind": each.kind, "about": each.about} for each in chosen],
        "arms": [{"name": each.name, "about": each.about} for each in guards],
        "left_out": _left_out(rows, suites),
        "table": table,
        "note": "A scripted agent that obeys everything; not comparable with published rates of language models.",
    }


def _left_out(rows: Rows, suites: Sequence[str]) -> dict[str, Any]:
    """What could not be replayed, by suite: tasks whose script reads no place an attacker may write to."""
    found: dict[str, Any] = {}
    for name in suites:
        own = [row for row in rows if row["suite"] == name]
        seen = {row["task"] for row in own}
        attacked = {row["task"] for row in own if row["attack"] != BENIGN}
        unstaged: dict[str, int] = {}
        for row in own:
            if row.get("skipped"):
                unstaged[row["attack"]] = unstaged.get(row["attack"], 0) + 1
        hidden = sum(not row["exposed"] and row["attack"] != BENIGN for row in own if "exposed" in row)
        found[name] = {
            "tasks": len(seen),
            "tasks_without_a_place": sorted(seen - attacked),
            "goals_without_calls": sorted(unscripted_of(name)),
            "unstaged": unstaged,
            "replays_that_never_read_the_attack": hidden,
        }
    return found


def _line(group: str, arm: Arm, rows: Rows, chosen: Sequence[Attack]) -> dict[str, Any]:
    own = [row for row in rows if row["arm"] == arm.name]
    benign = [row for row in own if row["attack"] == BENIGN]
    by_attack: dict[str, dict[str, Any]] = {}
    for attack in chosen:
        pairs = [row for row in own if row["attack"] == attack.name]
        if pairs:
            by_attack[attack.name] = {
                "kind": attack.kind,
                "asr": asdict(_rate([row["hijacked"] for row in pairs], _clusters(pairs))),
                "utility": asdict(_rate([row["useful"] for row in pairs], _clusters(pairs))),
            }
    worst: dict[str, str] = {}
    for kind in ("marker", "weak", "bare", "aware"):
        found = {
            name: each["asr"]["value"]
            for name, each in by_attack.items()
            if each["kind"] == kind and each["asr"]["value"] is not None
        }
        if found:
            worst[kind] = max(found, key=lambda name: found[name])
    return {
        "suites": group,
        "arm": arm.name,
        "benign": asdict(_rate([row["useful"] for row in benign])),
        "escalations_per_benign_task": sum(row["escalated"] for row in benign) / len(benign) if benign else None,
        "benign_tasks_with_escalation": asdict(_rate([row["escalated"] > 0 for row in benign])),
        "attacks": by_attack,
        "worst": worst,
    }  # fmt: skip


def _clusters(pairs: Rows) -> list[str]:
    return [f"{row['suite']}/{row['task']}" for row in pairs]


def _rate(values: Sequence[bool], clusters: Sequence[str] | None = None) -> Rate:
    n, k = len(values), sum(map(bool, values))
    if not n:
        return Rate(0, 0, None, None, None)
    interval = wilson(k, n)
    if clusters is not None and 0 < k < n:
        # Pairs of one task are alike: the interval that counts tasks is the honest one where it is wider.
        other = cluster_bootstrap([float(value) for value in values], clusters)
        interval = Interval(min(interval.low, other.low), max(interval.high, other.high))
    return Rate(k, n, k / n, float(interval.low), float(interval.high))


def shown(rate: dict[str, Any]) -> str:
    """A rate for humans: percent, interval, count."""
    if rate["value"] is None:
        return "–"
    return f"{100 * rate['value']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}] of {rate['n']}"


def markdown(result: dict[str, Any]) -> str:
    """The tables as Markdown: one overview per group of suites, then all attacks of the arms that guard."""
    lines: list[str] = []
    for group in dict.fromkeys(line["suites"] for line in result["table"]):
        own = [line for line in result["table"] if line["suites"] == group]
        lines += [f"### {group}", ""]
        lines += [
            "| Arm | Benign utility | Escalations per benign task | Worst marker ASR | Weak marker ASR | Bare ASR "
            "| Worst rule-aware ASR | Utility under marker / bare |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for line in own:
            lines.append(_overview(line))
        lines += ["", "ASR by attack, in percent:", ""]
        names = [each["name"] for each in result["attacks"]]
        lines += [
            "| Attack | n | " + " | ".join(line["arm"] for line in own) + " |",
            "|---|---|" + "---|" * len(own),
        ]
        for name in names:
            found = [line["attacks"].get(name) for line in own]
            n = next((each["asr"]["n"] for each in found if each), 0)
            if n:
                cells = ["–" if each is None else f"{100 * each['asr']['value']:.1f}" for each in found]
                lines.append(f"| {name} | {n} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["Left out:", ""]
    for suite, found in result["left_out"].items():
        without = ", ".join(found["tasks_without_a_place"]) or "none"
        unstaged = ", ".join(f"{name} {count}" for name, count in found["unstaged"].items()) or "none"
        lines.append(
            f"* {suite}: tasks without a place to write to: {without}; goals without calls: "
            f"{', '.join(found['goals_without_calls']) or 'none'}; pairs that a family cannot stage: {unstaged}; "
            f"replays that never read the attack: {found['replays_that_never_read_the_attack']}."
        )
    lines += ["", result["note"], ""]
    return "\n".join(lines)


def _overview(line: dict[str, Any]) -> str:
    def asr(kind: str, *, named: bool = False) -> str:
        name = line["worst"].get(kind)
        if name is None:
            return "–"
        return shown(line["attacks"][name]["asr"]) + (f" ({name})" if named else "")

    def utility(kind: str) -> str:
        names = MARKERS if kind == "marker" else ("bare",)
        found = [line["attacks"][name]["utility"]["value"] for name in names if name in line["attacks"]]
        return f"{100 * min(found):.1f}" if found else "–"

    cells = [
        line["arm"], shown(line["benign"]),
        "–" if line["escalations_per_benign_task"] is None else f"{line['escalations_per_benign_task']:.2f}",
        asr("marker", named=True), asr("weak"), asr("bare"), asr("aware", named=True),
        f"{utility('marker')} / {utility('bare')}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"
