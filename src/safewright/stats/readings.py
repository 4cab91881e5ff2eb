"""Scored records in, one line of a scorecard out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from safewright.errors import BadInput
from safewright.stats.checks import Floats, as_floats, check_counts, cluster_codes
from safewright.stats.intervals import bounded_mean, cluster_bootstrap, wilson
from safewright.types import Better, Interval, Reading


def rate_reading(
    name: str,
    values: Sequence[float] | Floats,
    clusters: Sequence[Hashable] | None = None,
    unscored: int = 0,
    *,
    better: Better = "neither",
    level: float = 0.95,
    seed: int = 0,
    unit: str = "rate",
) -> Reading:
    """A rate of zeros and ones with its interval.

    Wilson where every record is its own cluster. Where answers share a prompt, the bootstrap over
    clusters of `bounded_mean`, which keeps its width when all answers agree. Without records the value
    and the interval are None: nothing scored is not a rate of zero.

    Args:
        name: Of the reading.
        values: 0 or 1 per scored record.
        clusters: The cluster of each scored record; None: each its own.
        unscored: Records that are left out because they have no score.
        better: Which way is better.
        level: Two-sided confidence.
        seed: Of the bootstrap.
        unit: Of the value.

    Raises:
        BadInput: A value is neither 0 nor 1, or the lengths differ.
    """
    array = as_floats(values, name)
    odd = array[(array != 0.0) & (array != 1.0)]
    if len(odd):
        raise BadInput(
            f"The rate {name!r} holds the value {odd[0]}.",
            why="A rate counts records that have a quality or have it not.",
            fix="Use mean_reading for scores in between.",
        )
    interval: Interval | None = None
    if len(array):
        _, size = cluster_codes(clusters, len(array))
        if size == len(array):
            interval = wilson(int(array.sum()), len(array), level)
        else:
            interval = bounded_mean(array, clusters, level=level, seed=seed)
    return _reading(name, array, unscored, interval, unit, better)


def mean_reading(
    name: str,
    values: Sequence[float] | Floats,
    clusters: Sequence[Hashable] | None = None,
    unscored: int = 0,
    *,
    better: Better = "neither",
    level: float = 0.95,
    seed: int = 0,
    unit: str = "score",
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Reading:
    """The mean of scores with its interval.

    For bounded scores the interval is that of `bounded_mean`: it does not shrink to a point when all
    scores are the same. ``bounds=None`` is for scores without bounds: the percentile bootstrap over
    clusters, and no interval where the clusters are fewer than two or do not vary, because the data then
    say nothing about the spread.

    Args:
        name: Of the reading.
        values: One score per scored record.
        clusters: The cluster of each scored record; None: each its own.
        unscored: Records that are left out because they have no score.
        better: Which way is better.
        level: Two-sided confidence.
        seed: Of the bootstrap.
        unit: Of the value.
        bounds: The range that a score can take.

    Raises:
        BadInput: A value lies outside the bounds, or the lengths differ.
        NumericalFailure: A value is not finite.
    """
    array = as_floats(values, name)
    interval: Interval | None = None
    if len(array):
        if bounds is not None:
            interval = bounded_mean(array, clusters, bounds=bounds, level=level, seed=seed)
        else:
            plain = cluster_bootstrap(array, clusters, level=level, seed=seed)
            interval = plain if plain.high > plain.low else None
    return _reading(name, array, unscored, interval, unit, better)


def _reading(
    name: str, array: Floats, unscored: int, interval: Interval | None, unit: str, better: Better
) -> Reading:
    check_counts(unscored=unscored)
    value = float(np.mean(array)) if len(array) else None
    return Reading(name, value, len(array), int(unscored), interval, unit, better)
