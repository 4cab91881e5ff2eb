"""Confidence intervals for rates, means and paired differences.

Every function gives an `Interval` that names its method. All resampling is seeded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from safewright.errors import BadInput
from safewright.stats.checks import Floats, as_floats, check_counts, check_level, cluster_codes
from safewright.types import Interval

_BLOCK = 2_000_000
"""Random numbers held at once: resampling 100,000 clusters must not need gigabytes."""


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """The score interval for a rate of ``k`` among ``n``: all p with |k/n - p| <= z sqrt(p (1 - p) / n).

    Never empty at 0 or n successes, and inside [0, 1]. With n = 0 it is [0, 1].

    Args:
        k: Successes, 0 <= k <= n.
        n: Trials.
        level: Two-sided confidence.

    Raises:
        BadInput: Counts or level out of range.

    Source: Wilson (1927), J. Am. Stat. Assoc. 22:209-212; Newcombe (1998), Stat. Med. 17:857-872, method 3.
    """
    _check_rate(k, n, level)
    if n == 0:
        return Interval(0.0, 1.0, level, "wilson")
    low, high = _score(k / n, n, level)
    # At the ends the bound is exact; the formula leaves rounding there.
    return Interval(0.0 if k == 0 else low, 1.0 if k == n else high, level, "wilson")


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval for a rate: covers at least ``level`` at every n, so wider than `wilson`.

    Raises:
        BadInput: Counts or level out of range.

    Source: Clopper and Pearson (1934), Biometrika 26:404-413, as quantiles of the beta distribution.
    """
    _check_rate(k, n, level)
    from scipy import special

    tail = (1.0 - level) / 2.0
    low = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1.0 - tail))
    return Interval(low, high, level, "clopper_pearson")


def newcombe_paired(both: int, only_a: int, only_b: int, neither: int, level: float = 0.95) -> Interval:
    """An interval for the difference of two rates over the same records: rate of b minus rate of a.

    Squares and adds the distances of the two Wilson intervals, less their correlation phi (with its
    continuity correction). With no pairs it is [-1, 1].

    Args:
        both: Records with the quality under a and under b.
        only_a: Records that have it under a alone.
        only_b: Records that have it under b alone.
        neither: Records that have it under neither.
        level: Two-sided confidence.

    Raises:
        BadInput: Counts or level out of range.

    Source: Newcombe (1998), Stat. Med. 17:2635-2650, method 10.
    """
    check_counts(both=both, only_a=only_a, only_b=only_b, neither=neither)
    check_level(level)
    n = both + only_a + only_b + neither
    if n == 0:
        return Interval(-1.0, 1.0, level, "newcombe_paired")
    k_a, k_b = both + only_a, both + only_b
    a, b = wilson(k_a, n, level), wilson(k_b, n, level)
    p_a, p_b = k_a / n, k_b / n
    product = k_a * (n - k_a) * k_b * (n - k_b)
    cross = float(both * neither - only_a * only_b)
    if cross > 0:
        cross = max(cross - n / 2.0, 0.0)
    phi = cross / math.sqrt(product) if product else 0.0

    def distance(of_b: float, of_a: float) -> float:
        return math.sqrt(max(of_b**2 - 2.0 * phi * of_b * of_a + of_a**2, 0.0))

    difference = (only_b - only_a) / n
    low = difference - distance(p_b - b.low, a.high - p_a)
    high = difference + distance(b.high - p_b, p_a - a.low)
    return Interval(max(low, -1.0), min(high, 1.0), level, "newcombe_paired")


def cluster_bootstrap(
    values: Sequence[float] | Floats,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """The percentile interval for the mean of ``values``, drawing whole clusters with replacement.

    It has no width where all clusters agree: for values within known bounds use `bounded_mean`.

    Args:
        values: One number per record.
        clusters: The cluster of each record, for example its prompt; None: each its own.
        level: Two-sided confidence.
        draws: Resamples.
        seed: Of the resampling.

    Raises:
        BadInput: No values, unequal lengths, or level or draws out of range.
        NumericalFailure: A value is not finite.

    Source: Davison and Hinkley (1997), Bootstrap Methods, sections 3.8 and 5.3.1; the mean of a resample
    is its sum over its size.
    """
    sums, counts = _by_cluster(values, clusters, level, draws)
    size = len(sums)

    def draw(rng: np.random.Generator, rows: int) -> Floats:
        picks = rng.integers(0, size, size=(rows, size))
        resampled: Floats = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
        return resampled

    means = _resample(draw, draws, size, seed)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(low), float(high), level, "cluster_bootstrap")


def bounded_mean(
    values: Sequence[float] | Floats,
    clusters: Sequence[Hashable] | None = None,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Interval:
    """An interval for the mean of bounded values that keeps its width when all values agree.

    A Bayesian bootstrap over clusters with one imagined cluster added: at the lower bound of the range
    for the lower limit, at the upper bound for the upper limit. For one 0/1 value per cluster it *is* the
    Clopper-Pearson interval; when every value is v in [0, 1] it is [v q, 1 - (1 - v) q] with
    q = ((1 - level)/2)^(1/clusters), which Markov's inequality shows to be exact; otherwise it is slightly
    wider than the plain bootstrap.

    Args:
        values: One number per record, within ``bounds``.
        clusters: The cluster of each record; None: each its own.
        bounds: The range that values can take, (0, 1) for scores, (-1, 1) for their differences.
        level: Two-sided confidence.
        draws: Resamples.
        seed: Of the resampling.

    Raises:
        BadInput: No values, a value outside the bounds, unequal lengths, level or draws out of range.
        NumericalFailure: A value is not finite.

    Source: Learned-Miller and Thomas (2019), arXiv:1905.06208, algorithm 1, on both sides. Differs: over
    clusters; an unequal cluster weighs by its size, the imagined one by their average.
    """
    bottom, top = bounds
    array = as_floats(values, "values")
    outside = array[(array < bottom) | (array > top)]
    if len(outside):
        raise BadInput(
            f"A value is {outside[0]}, outside [{bottom:g}, {top:g}].",
            why="The interval holds for values within those bounds only.",
            fix="Use cluster_bootstrap for a quantity without bounds.",
        )
    sums, counts = _by_cluster(array, clusters, level, draws)
    size, tail = len(sums), (1.0 - level) / 2.0
    if np.all(array == array[0]):
        shrink = tail ** (1.0 / size)
        value = float(array[0])
        low, high = bottom + (value - bottom) * shrink, top - (top - value) * shrink
        return Interval(low, high, level, "bounded_bootstrap")
    imagined = float(counts.mean())

    def draw(rng: np.random.Generator, rows: int) -> Floats:
        weights = rng.standard_exponential(size=(rows, size + 1))
        extra = weights[:, size] * imagined
        total = weights[:, :size] @ counts + extra
        inner = weights[:, :size] @ sums
        return np.stack([(inner + extra * bottom) / total, (inner + extra * top) / total], axis=1)

    pairs = _resample(draw, draws, size, seed)
    low = float(np.quantile(pairs[:, 0], tail))
    high = float(np.quantile(pairs[:, 1], 1.0 - tail))
    return Interval(max(low, bottom), min(high, top), level, "bounded_bootstrap")


def paired_cluster_bootstrap(
    a: Sequence[float] | Floats,
    b: Sequence[float] | Floats,
    clusters: Sequence[Hashable] | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """An interval for the mean of ``b - a`` over the same records, drawing whole clusters.

    Args:
        a: One number per record.
        b: The same records' other number.
        clusters: The cluster of each record; None: each its own.
        bounds: The range of a single score where it has one, (0, 1) for rates: then the interval keeps
            its width when nothing changed (`bounded_mean` over the differences).
        level: Two-sided confidence.
        draws: Resamples.
        seed: Of the resampling.

    Raises:
        BadInput: No values, unequal lengths, a value outside the bounds, level or draws out of range.
        NumericalFailure: A value is not finite.
    """
    first, second = as_floats(a, "a"), as_floats(b, "b")
    if len(first) != len(second):
        raise BadInput(
            f"{len(first)} values were paired with {len(second)}.", fix="Pair them record by record first."
        )
    if bounds is None:
        return cluster_bootstrap(second - first, clusters, level=level, draws=draws, seed=seed)
    width = bounds[1] - bounds[0]
    for name, values in (("a", first), ("b", second)):
        if np.any((values < bounds[0]) | (values > bounds[1])):
            raise BadInput(f"A value of {name} lies outside [{bounds[0]:g}, {bounds[1]:g}].")
    return bounded_mean(second - first, clusters, bounds=(-width, width), level=level, draws=draws, seed=seed)


def _check_rate(k: int, n: int, level: float) -> None:
    check_counts(k=k, n=n)
    check_level(level)
    if k > n:
        raise BadInput(f"{k} successes among {n} trials.", fix="There cannot be more successes than trials.")


def _score(p: float, n: int, level: float) -> tuple[float, float]:
    from scipy import special

    z = float(special.ndtri(1.0 - (1.0 - level) / 2.0))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _by_cluster(
    values: Sequence[float] | Floats, clusters: Sequence[Hashable] | None, level: float, draws: int
) -> tuple[Floats, Floats]:
    """Sum and count of each cluster, after the checks that all resampling needs."""
    check_level(level)
    array = as_floats(values, "values")
    if not len(array):
        raise BadInput("There are no values to average.", fix="A reading without records has no interval.")
    if draws < 100:
        raise BadInput(f"{draws} resamples cannot hold a tail.", fix="Use at least 100, better 2000.")
    codes, size = cluster_codes(clusters, len(array))
    sums = np.bincount(codes, weights=array, minlength=size).astype(np.float64)
    counts = np.bincount(codes, minlength=size).astype(np.float64)
    return sums, counts


def _resample(draw: Callable[[np.random.Generator, int], Floats], draws: int, size: int, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    step = max(1, min(draws, _BLOCK // (size + 1)))
    return np.concatenate([draw(rng, min(step, draws - start)) for start in range(0, draws, step)])
