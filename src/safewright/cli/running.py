"""What verbs that run measures share: telling the cost before, and the exit code after."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safewright.cli import console
from safewright.compose.folders import load_records
from safewright.errors import ExitCode, TooManyUnscored
from safewright.measures import beyond_bounds
from safewright.models.estimate import Estimate
from safewright.types import Scorecard

if TYPE_CHECKING:
    from safewright.stats import Verdict

Found = TypeVar("Found")


def command_line() -> str:
    """The command as it was given, for the run's plan and the page."""
    return shlex.join(["safewright", *sys.argv[1:]])


def carry_out(
    work: Callable[..., Found], plan: Any, *, notes: Mapping[str, Any] | None = None, **given: Any
) -> tuple[Found, str]:
    """Run a plan below a progress bar; what it found, and the command, which is noted in its folder."""
    command = command_line()
    with console.progress() as progress:
        found = work(plan, notes={"command": command, **(notes or {})}, progress=progress, **given)
    return found, command


def tell_estimates(estimates: Mapping[str, Estimate]) -> None:
    """Print, on stderr, what a run will take before it starts; nothing for a measure that cannot be estimated."""
    if not estimates:
        return
    from safewright.report.text import duration

    for name, cost in estimates.items():
        console.say(
            f"{name}: {cost.calls} calls, about {cost.prompt_tokens:,} prompt tokens, "
            f"at most {cost.new_tokens:,} new tokens"
        )
    memory = max((cost.memory_bytes for cost in estimates.values()), default=0)
    known = [cost.seconds for cost in estimates.values() if cost.seconds is not None]
    if memory:
        console.say(f"memory: about {memory / 2**30:.2f} GiB")
    basis = next(iter(estimates.values())).basis
    if known and len(known) == len(estimates):
        console.say(f"time: about {duration(sum(known))} at most ({basis})")
    else:
        console.say(f"time: unknown ({basis})")


def versions() -> dict[str, str]:
    """Versions of everything that decides a replication's numbers."""
    from safewright.runs import versions as of

    return of(("safewright", "torch", "transformers", "tokenizers", "peft", "trl"))


def verdict_line(verdict: Verdict) -> str:
    """A claim with its mean, interval over seeds and ruling, on one line."""
    interval = "" if verdict.low is None else f" [{verdict.low:.3f}, {verdict.high:.3f}]"
    needs = f" (needs {verdict.needs} seeds)" if verdict.needs else ""
    seeds = "1 seed" if len(verdict.values) == 1 else f"{len(verdict.values)} seeds"
    return f"{verdict.ruling:<10}{verdict.claim}: {verdict.mean:.3f}{interval} over {seeds}{needs}"


def ruling(verdicts: Sequence[Verdict]) -> ExitCode:
    """The exit code of some claims: any refuted is 10, else any undecided 6, else 0."""
    found = {verdict.ruling for verdict in verdicts}
    if "refuted" in found:
        return ExitCode.GATE
    return ExitCode.UNDECIDED if "undecided" in found else ExitCode.OK


def show_cards(cards: Sequence[Scorecard], labels: Sequence[str] | None = None) -> None:
    """Scorecards as a table on stdout, with what must be known before believing them."""
    from safewright.report import console_table, remarks

    console.show(console_table(cards, labels=labels))
    for remark in remarks(cards, labels=labels):
        print(f"note: {remark}")


def require_scored(cards: Mapping[str, tuple[Scorecard, Path]], bound: float) -> None:
    """Pass when each scorecard's unscored share is within ``bound``.

    Args:
        cards: Scorecards with their folders, by name.
        bound: The largest share allowed.

    Raises:
        TooManyUnscored: Naming every measure above the bound, with its counts.
    """
    above = []
    for name, (card, folder) in cards.items():
        total = len(load_records(folder))
        counts = ", ".join(f"{count} {status}" for status, count in card.unscored.items())
        above += [
            f"{name}: {lost} of {asked} records {what} ({counts}); the bound is {allowed:.0%}"
            for what, lost, asked, allowed in beyond_bounds(card, total, bound)
        ]
    if above:
        raise TooManyUnscored(
            "; ".join(above) + ".",
            why="A rate over the rest may be far from the truth. The results are written all the same.",
            fix=_remedy([card for card, _ in cards.values()]),
        )


def _writes(card: Scorecard) -> bool:
    """Whether a measure lets a model write, and says how much."""
    from safewright import catalog

    known = {entry.name: entry for entry in catalog.entries("measure")}
    return card.measure in known and "max_new_tokens" in known[card.measure].options()


def _remedy(cards: Sequence[Scorecard]) -> str:
    """What helps against unscored records: failed calls are asked again; the rest may need another judge, if any."""
    reasons = {reason for card in cards for reason, count in card.unscored.items() if count}
    if "error" in reasons:
        first = "Give the same command again to retry failed calls"
    elif reasons == {"no_answer"} and any(_writes(card) for card in cards):
        first = "Give answers more room (--set max_new_tokens=)"
    elif reasons == {"overlong"}:
        first = "Use a model with a longer context, or leave out long prompts"
    elif any(card.conventions.get("judge") for card in cards):
        first = "Try another judge (--judge)"
    else:
        return "Look at the page's examples and mend the rows, or raise --max-unscored knowingly."
    return f"{first}, look at the page's examples, or raise --max-unscored knowingly."
