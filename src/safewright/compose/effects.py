"""What treatments do to every measure, beside and after one another: paired contrasts of arms, and what they say.

An arm is a model under some treatments in their order. Three contrasts are drawn: an arm against the untreated
model, an arm of several treatments against the same arm without its last one, and two arms that differ in
nothing but the order. Holm's adjustment runs over all differences of all contrasts together. Compared are rates,
and scores that have a better end (`is_compared`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from safewright.compose.compare import compare
from safewright.errors import BadInput
from safewright.stats import holm, minimum_detectable
from safewright.stats.paired import DRAWS
from safewright.types import Delta

Contrasted = Literal["untreated", "before", "order", "reference"]

ALPHA = 0.05
"""Family-wise error: an adjusted p below it is called a difference."""

NONE = "none"
"""The name of the arm without treatment."""

JOINED = "+"
"""Between the treatments of an arm's name."""


@dataclass(frozen=True)
class Arm:
    """A way to treat a model: the labels of treatments in the order they are applied."""

    steps: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called, and its folder."""
        return JOINED.join(self.steps) or NONE

    @property
    def before(self) -> Arm:
        """The arm without its last treatment."""
        return Arm(self.steps[:-1])


@dataclass(frozen=True)
class Contrast:
    """The paired differences ``b - a`` of two arms over all measures both have.

    ``kind`` says what is asked: ``untreated`` (a is the model as it was), ``before`` (a is b without its last
    treatment), ``order`` (the same treatments in another order), ``reference`` (a is what others are to be held
    against). ``units`` are those of ``measure/score``.
    """

    kind: Contrasted
    a: str
    b: str
    deltas: tuple[Delta, ...]
    units: Mapping[str, str]
    warnings: tuple[str, ...] = ()


Kind = Literal[
    "improves", "breaks", "changes", "comes back", "makes good", "holds", "open", "together", "order", "unseen"
]  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing the contrasts say about a score.

    ``improves``, ``breaks``, ``changes``: the last treatment of ``arm`` moved the score for the better, the
    worse, or where no direction is better. ``comes back``: it undid some or all of what a treatment before
    had gained; ``makes good``: it gained what one had broken, or a part of it; ``holds``: what one had gained
    is still there, and not half of it can be gone; ``open``: it may be, or not. ``together``: all treatments
    broke what no one of them is shown to. ``order``: the score ends elsewhere in the other order. ``unseen``:
    nothing was shown. ``values`` are those along the arms of ``path``; ``missed`` is the smallest change that
    would have been found, where nothing was.
    """

    kind: Kind
    arm: str
    measure: str
    score: str
    unit: str
    path: tuple[str, ...]
    values: tuple[float, ...]
    p_holm: float
    n: int
    missed: float | None = None


def pairs_of(arms: Sequence[Arm]) -> list[tuple[Contrasted, Arm, Arm]]:
    """The contrasts some arms allow, in the order they are shown."""
    there = set(arms)
    found: list[tuple[Contrasted, Arm, Arm]] = []
    for arm in arms:
        if arm.steps and Arm() in there:
            found.append(("untreated", Arm(), arm))
    for arm in arms:
        if len(arm.steps) > 1 and arm.before in there:
            found.append(("before", arm.before, arm))
    for a, b in itertools.combinations(arms, 2):
        if a.steps != b.steps and sorted(a.steps) == sorted(b.steps):
            found.append(("order", a, b))
    return found


def contrasts(
    arms: Sequence[Arm],
    folders: Mapping[tuple[str, str], Path],
    *,
    level: float = 0.95,
    seed: int = 0,
    pairs: Sequence[tuple[Contrasted, Arm, Arm]] | None = None,
) -> tuple[Contrast, ...]:
    """All contrasts of some arms, adjusted together.

    Args:
        arms: Which.
        folders: The run of every arm and measure that was finished.
        pairs: The contrasts that are drawn; those the arms allow where None.
        level: Coverage of the intervals.
        seed: For bootstraps and permutations.

    Raises:
        BadInput: A folder is not what it should be.
    """
    chosen = pairs_of(arms) if pairs is None else pairs
    drawn = [_contrast(kind, a, b, folders, level, seed) for kind, a, b in chosen]
    found = [contrast for contrast in drawn if contrast is not None]
    ps = [delta.p for contrast in found for delta in contrast.deltas]
    adjusted = iter(holm(ps))
    told = _too_many(len(ps))
    return tuple(
        replace(
            contrast,
            deltas=tuple(replace(d, p_holm=next(adjusted)) for d in contrast.deltas),
            warnings=(*contrast.warnings, *(told if any(map(_is_sampled, contrast.deltas)) else ())),
        )
        for contrast in found
    )


def _too_many(family: int) -> tuple[str, ...]:
    """What to know where so many differences are tested that sampled tests can show none."""
    if family / (DRAWS + 1) < ALPHA:
        return ()
    return (
        f"{family} differences are adjusted together, and a sampled test has no p below 1 in {DRAWS + 1:,}: "
        "no difference of a score that is not yes or no can be shown. Take fewer arms, measures or attacks.",
    )


def _is_sampled(delta: Delta) -> bool:
    return "monte_carlo" in delta.method


def _contrast(
    kind: Contrasted, a: Arm, b: Arm, folders: Mapping[tuple[str, str], Path], level: float, seed: int
) -> Contrast | None:
    deltas: list[Delta] = []
    units: dict[str, str] = {}
    warnings: list[str] = []
    shared = [measure for arm, measure in folders if arm == a.name and (b.name, measure) in folders]
    for measure in shared:
        try:
            found = compare(folders[a.name, measure], folders[b.name, measure], level=level, seed=seed)
        except BadInput as error:
            # Two arms whose records cannot be paired say nothing together; all others still do.
            warnings.append(f"{measure}: {error.what}")
            continue
        deltas += [
            d for d in found.deltas if is_compared(d, found.units.get(f"{measure}/{d.score}", "score"))
        ]
        units |= found.units
        warnings += [line for line in found.warnings if line not in warnings]
    return Contrast(kind, a.name, b.name, tuple(deltas), units, tuple(warnings)) if shared else None


def is_compared(delta: Delta, unit: str) -> bool:
    """Whether a score is one that arms are compared by: a rate, or a score or rating with a better end.

    Lengths, indexes of repetition and the like describe the answers; each test of them would weaken all others.
    """
    return unit == "rate" or (delta.better != "neither" and (unit == "score" or unit.startswith("rating")))


def significant(delta: Delta) -> bool:
    """Whether a difference is shown, after the adjustment."""
    return delta.p_holm < ALPHA


def direction(delta: Delta) -> int:
    """1 where the difference is for the better, -1 for the worse, 0 where neither is or none is shown."""
    if not significant(delta) or delta.better == "neither" or delta.difference == 0:
        return 0
    return 1 if (delta.difference > 0) == (delta.better == "higher") else -1


def findings(arms: Sequence[Arm], found: Sequence[Contrast]) -> tuple[Finding, ...]:
    """What breaks what, and what comes back."""
    by_pair = {(c.a, c.b): c for c in found}
    family = sum(len(contrast.deltas) for contrast in found)
    said: list[Finding] = []
    for arm in arms:
        contrast = by_pair.get((arm.before.name, arm.name)) if arm.steps else None
        for delta in contrast.deltas if contrast else ():
            assert contrast is not None
            earlier = _earlier(arm, delta, by_pair) if len(arm.steps) > 1 else []
            said.append(_said(arm, delta, contrast, earlier, family))
    for contrast in found:
        ends = (contrast.a, contrast.b)
        if contrast.kind == "order":
            said += [
                _finding("order", contrast.b, d, contrast, ends, (d.a, d.b))
                for d in contrast.deltas
                if significant(d)
            ]
        elif contrast.kind == "untreated" and contrast.b.count(JOINED):
            said += [
                _finding("together", contrast.b, d, contrast, ends, (d.a, d.b))
                for d in contrast.deltas
                if direction(d) < 0 and not _blamed(d, contrast.b, said)
            ]
    return tuple(said)


def _blamed(delta: Delta, arm: str, said: Sequence[Finding]) -> bool:
    """Whether some treatment on the way to an arm is already said to have broken a score."""
    steps = arm.split(JOINED)
    way = {JOINED.join(steps[: n + 1]) for n in range(len(steps))}
    return any(
        f.kind in ("breaks", "comes back")
        and f.arm in way
        and (f.measure, f.score) == (delta.measure, delta.score)
        for f in said
    )


def _earlier(arm: Arm, delta: Delta, by_pair: Mapping[tuple[str, str], Contrast]) -> list[Delta]:
    """The same score's difference between the untreated model and the arm before the last treatment."""
    contrast = by_pair.get((NONE, arm.before.name))
    return [d for d in contrast.deltas if _same(d, delta)] if contrast else []


def _same(a: Delta, b: Delta) -> bool:
    return (a.measure, a.score) == (b.measure, b.score)


def _said(arm: Arm, delta: Delta, contrast: Contrast, earlier: Sequence[Delta], family: int) -> Finding:
    path: tuple[str, ...] = (contrast.a, contrast.b)
    values: tuple[float, ...] = (delta.a, delta.b)
    was = direction(earlier[0]) if earlier else 0
    now = direction(delta)
    if was:
        path, values = (NONE, *path), (earlier[0].a, *values)
    kind: Kind
    if not significant(delta):
        kind = ("holds" if _still(delta, earlier[0]) else "open") if was > 0 else "unseen"
        if kind == "unseen":
            path, values = path[-2:], values[-2:]
    elif now == 0:
        kind = "changes"
    elif now < 0:
        kind = "comes back" if was > 0 else "breaks"
    else:
        kind = "makes good" if was < 0 else "improves"
    if kind in ("breaks", "improves", "changes"):
        path, values = path[-2:], values[-2:]
    missed = None
    if kind in ("holds", "open", "unseen") and "mcnemar" in delta.method:
        # What the smallest p of the family would have to be: the adjustment is never harsher than this.
        level = 1 - ALPHA / max(family, 1)
        missed = minimum_detectable(delta.n, (delta.gained + delta.lost) / delta.n, level=level)
    return _finding(kind, arm.name, delta, contrast, path, values, missed)


def _still(delta: Delta, gain: Delta) -> bool:
    """Whether more than half of a gain is still there at the worse end of the interval of what came after.

    A bootstrap of equal differences has no width, however few they are. There the share of pairs that may have
    lost the whole gain is bounded instead: of ``n`` pairs none did, so at most ``1 - (error/2)^(1/n)`` of them.
    """
    bounds = delta.interval
    if bounds.low == bounds.high and ((1 - bounds.level) / 2) ** (1 / delta.n) <= 0.5:
        return False
    worse = bounds.low if gain.difference > 0 else -bounds.high
    return abs(gain.difference) + worse > abs(gain.difference) / 2


def _finding(
    kind: Kind,
    arm: str,
    delta: Delta,
    contrast: Contrast,
    path: tuple[str, ...],
    values: tuple[float, ...],
    missed: float | None = None,
) -> Finding:
    unit = contrast.units.get(f"{delta.measure}/{delta.score}", "score")
    return Finding(kind, arm, delta.measure, delta.score, unit, path, values, delta.p_holm, delta.n, missed)


def marks(found: Sequence[Contrast]) -> Iterator[tuple[tuple[str, str, str], Delta]]:
    """By arm, measure and score: the difference from the untreated model."""
    for contrast in found:
        if contrast.kind == "untreated":
            for delta in contrast.deltas:
                yield (contrast.b, delta.measure, delta.score), delta
