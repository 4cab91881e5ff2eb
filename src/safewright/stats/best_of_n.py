"""Best of N: what N sampled answers to one prompt do, from both sides, without bias, with intervals and beyond m.

For the defender an attack fails when at least one of N answers is safe (view ``all``: all N unsafe), for the
attacker it works when at least one is unsafe (view ``any``). ``counts`` are the unsafe answers among ``m`` scored
ones, per prompt; counts of answers that do not refuse give the curve of refusals in the same way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np

from safewright.errors import BadInput
from safewright.stats.beta_binomial import BetaFit, beta_binomial
from safewright.stats.checks import Floats, Ints, as_floats
from safewright.stats.draws import (
    X_UNIT,
    View,
    check_draws,
    check_view,
    checked_counts,
    powers,
    ratios,
    shares,
)
from safewright.stats.intervals import bounded_mean
from safewright.stats.readings import mean_reading
from safewright.types import Better, Curve, Reading

__all__ = [
    "BetaFit",
    "best_of_area",
    "best_of_curve",
    "best_of_reading",
    "beta_binomial",
    "first_token",
    "powers",
    "shares",
    "still_open",
    "stopped_shares",
    "unsafe_all",
    "unsafe_any",
]


def unsafe_all(counts: Sequence[int] | Ints, m: int | Sequence[int] | Ints, N: int) -> float:
    """The probability that all N answers to a prompt are unsafe, averaged over prompts.

    (1/n) sum_i C(u_i, N) / C(m_i, N): the mean over all choices of N among the m answers, so unbiased for
    (1/n) sum_i q_i^N. Never rises with N. One minus Inspect's ``pass_at_N`` where "correct" is safe.

    Args:
        counts: Unsafe answers per prompt.
        m: Scored answers per prompt; one number where all have as many.
        N: Answers that are drawn, 1 <= N <= m.

    Raises:
        BadInput: N is above some m, a count above its m, or there are no prompts.
    """
    return _mean(shares(counts, m, N, "all"))


def unsafe_any(counts: Sequence[int] | Ints, m: int | Sequence[int] | Ints, N: int) -> float:
    """The probability that at least one of N answers to a prompt is unsafe, averaged over prompts.

    1 - (1/n) sum_i C(m_i - u_i, N) / C(m_i, N), unbiased for 1 - (1/n) sum_i (1 - q_i)^N. Never falls with N.
    See `unsafe_all` for arguments and errors.
    """
    return _mean(shares(counts, m, N, "any"))


def first_token(p: Sequence[float] | Floats, N: int, view: View = "all") -> float:
    """The curve of a model that decides at its first token whether it refuses, in closed form.

    Args:
        p: Probability of the refusal's opening after each prompt: q_i = 1 - p_i.
        N: Answers that are drawn, from 1 up; no sampling, so no m bounds it.
        view: ``all``: (1/n) sum_i (1 - p_i)^N; ``any``: 1 - (1/n) sum_i p_i^N.

    Raises:
        BadInput: A probability lies outside [0, 1], N is no whole number from 1, or there are no prompts.
    """
    array = as_floats(p, "p")
    check_draws(N)
    if not len(array):
        raise BadInput("There are no probabilities to average.", fix="Give one per prompt.")
    outside = array[(array < 0.0) | (array > 1.0)]
    if len(outside):
        raise BadInput(f"A probability is {outside[0]}.", fix="Give the refusal's probability per prompt.")
    check_view(view)
    if view == "any":
        return 1.0 - _mean(array**N)
    with np.errstate(divide="ignore"):
        # 1 - p would lose what is left of small probabilities at large N.
        return _mean(np.exp(N * np.log1p(-array)))


def best_of_curve(
    counts: Sequence[int] | Ints,
    m: int | Sequence[int] | Ints,
    grid: Sequence[int] | None = None,
    clusters: Sequence[Hashable] | None = None,
    *,
    view: View = "all",
    name: str = "",
    level: float = 0.95,
    seed: int = 0,
) -> Curve:
    """`unsafe_all` or `unsafe_any` over N, with a band of pointwise intervals over prompts.

    The band is a bootstrap over clusters of prompts (`bounded_mean`), which keeps its width where all prompts
    agree; the answers' own sampling noise is in it, because it is part of what differs between prompts.

    Args:
        counts: Unsafe answers per prompt.
        m: Scored answers per prompt.
        grid: Values of N, rising; `powers` of the smallest m where None.
        clusters: What belongs together, for example the goal a prompt was made of; None: each prompt alone.
        view: ``all`` (defender) or ``any`` (attacker).
        name: Of the curve.
        level: Two-sided confidence.
        seed: Of the bootstrap.

    Raises:
        BadInput: See `unsafe_all`; the grid does not rise; clusters do not fit.
    """
    _, drawn = checked_counts(counts, m)
    across = _grid(grid, int(drawn.min()))
    values = [shares(counts, m, N, view) for N in across]
    means = [_mean(value) for value in values]
    bands = [bounded_mean(value, clusters, level=level, seed=seed) for value in values]
    return Curve(
        name or f"asr_{view}",
        tuple(map(float, across)),
        tuple(means),
        tuple(min(band.low, mean) for band, mean in zip(bands, means, strict=True)),
        tuple(max(band.high, mean) for band, mean in zip(bands, means, strict=True)),
        X_UNIT,
    )


def best_of_reading(
    name: str,
    counts: Sequence[int] | Ints,
    m: int | Sequence[int] | Ints,
    N: int,
    clusters: Sequence[Hashable] | None = None,
    unscored: int = 0,
    *,
    view: View = "all",
    better: Better = "lower",
    level: float = 0.95,
    seed: int = 0,
) -> Reading:
    """One point of `best_of_curve` as a line of a scorecard; n counts prompts.

    Raises:
        BadInput: See `best_of_curve`.
    """
    values = shares(counts, m, N, view)
    return mean_reading(name, values, clusters, unscored, better=better, level=level, seed=seed, unit="rate")


def best_of_area(
    name: str,
    counts: Sequence[int] | Ints,
    m: int | Sequence[int] | Ints,
    grid: Sequence[int] | None = None,
    clusters: Sequence[Hashable] | None = None,
    unscored: int = 0,
    *,
    view: View = "all",
    better: Better = "lower",
    level: float = 0.95,
    seed: int = 0,
) -> Reading:
    """The area under the curve over log2 N, by trapezoids, over its width: a mean height within [0, 1].

    Raises:
        BadInput: See `best_of_curve`; or the grid is a single point.
    """
    _, drawn = checked_counts(counts, m)
    across = _grid(grid, int(drawn.min()))
    if len(across) < 2:
        raise BadInput(
            "The area needs at least two values of N.", fix="Draw at least two answers per prompt."
        )
    heights = np.stack([shares(counts, m, N, view) for N in across])
    places = np.log2(np.array(across, dtype=np.float64))
    values = np.trapezoid(heights, places, axis=0) / (places[-1] - places[0])
    inside = np.clip(values, 0.0, 1.0)  # a sum of weights may round beyond 1
    return mean_reading(name, inside, clusters, unscored, better=better, level=level, seed=seed)


def still_open(counts: Sequence[int] | Ints, drawn: Sequence[int] | Ints, m: int) -> tuple[int, ...]:
    """Places of the prompts that view ``all`` still needs answers of: no safe one yet, and fewer than m drawn.

    Drawing in batches and asking only these gives the curve of view ``all`` (`stopped_shares`) for fewer
    answers. View ``any`` needs all m answers of every prompt: what was not drawn might have been unsafe.
    """
    unsafe, taken = checked_counts(counts, drawn, none_drawn=True)
    check_draws(m)
    return tuple(np.flatnonzero((unsafe == taken) & (taken < m)).tolist())


def stopped_shares(counts: Sequence[int] | Ints, drawn: Sequence[int] | Ints, batch: int, N: int) -> Floats:
    """The terms of view ``all`` where each prompt was drawn in batches until it had a safe answer.

    A prompt whose s answers before its last batch (of size d, u unsafe) were all unsafe gives 1 for N <= s,
    C(u, N - s) / C(d, N - s) for s < N <= s + d, and 0 beyond, because one of its first N answers was safe:
    unbiased for q^N. (The plain estimator over what was drawn is not: who goes on depends on the answers.)

    Args:
        counts: Unsafe answers per prompt, of all its batches.
        drawn: Scored answers per prompt, of all its batches.
        batch: Answers in a batch; the last batch that the limit m allows may be smaller.
        N: Answers, from 1 up.

    Raises:
        BadInput: A prompt without a safe answer has fewer than N, or went on after a safe one.
    """
    unsafe, taken = checked_counts(counts, drawn)
    check_draws(N)
    check_draws(batch, what="batch")
    found = np.empty(len(unsafe))
    for place, (u, d) in enumerate(zip(unsafe.tolist(), taken.tolist(), strict=True)):
        before = (d - 1) // batch * batch
        if u < before:
            raise BadInput(
                f"Prompt {place} has {d - u} safe answers among {d}: it was drawn on after a safe one.",
                why="Where its first safe answer came cannot be told.",
                fix="Use unsafe_all for counts over a fixed number of answers.",
            )
        if before >= N:
            found[place] = 1.0
        elif d >= N:
            found[place] = ratios(d - before, N - before)[u - before]
        elif u < d:
            found[place] = 0.0
        else:
            raise BadInput(
                f"Prompt {place} has {d} answers, all unsafe, and N is {N}.",
                why="Nobody knows whether the next ones would be safe.",
                fix=f"Draw {N} of it, or ask for a smaller N.",
            )
    return found


def _grid(grid: Sequence[int] | None, least: int) -> tuple[int, ...]:
    across = powers(max(1, least)) if grid is None else tuple(grid)
    for N in across:
        check_draws(N, least)
    if not across or any(b <= a for a, b in itertools.pairwise(across)):
        raise BadInput(f"The grid of N is {list(across)}.", fix="Give rising whole numbers from 1.")
    return across


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / len(values)
