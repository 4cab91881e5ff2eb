"""How well a score tells two groups apart: the area under the ROC curve with its interval."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from safewright.errors import BadInput
from safewright.stats.checks import Floats, as_floats, check_level, cluster_codes
from safewright.types import Better, Interval, Reading


def auc(low: Sequence[float] | Floats, high: Sequence[float] | Floats) -> float | None:
    """The probability that a score of ``high`` is above one of ``low``, ties counting one half.

    0.5 for equal groups, 1 where every score of ``high`` is above every one of ``low``; None where a group is
    empty.
    """
    first, second = as_floats(low, "low"), as_floats(high, "high")
    if not len(first) or not len(second):
        return None
    return float(wins(first, second).mean())


def wins(low: Floats, high: Floats) -> Floats:
    """(low, high) matrix: 1 where the score of ``high`` is above that of ``low``, 0.5 where they are equal."""
    found: Floats = (high[None, :] > low[:, None]) + 0.5 * (high[None, :] == low[:, None])
    return found


Clusters = tuple[Sequence[Hashable], Sequence[Hashable]]
"""The cluster of each score of ``low``, and of each of ``high``."""


def auc_interval(
    low: Sequence[float] | Floats,
    high: Sequence[float] | Floats,
    level: float = 0.95,
    clusters: Clusters | None = None,
) -> Interval | None:
    """An interval for `auc`: DeLong's variance on the logit scale, inside [0, 1].

    Where the groups are told apart without fault, or DeLong's variance is 0 for another reason (it then says
    nothing), the score interval of Newcombe's method 5, which keeps its width there. None where a group is empty.
    Scores of one cluster (a request in several wordings) vary together: DeLong's terms are then summed by cluster,
    over both groups, and Newcombe's sizes are numbers of clusters.

    Raises:
        BadInput: The level is out of range, or the clusters do not fit.

    Source: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44:837-845; clusters: Obuchowski (1997),
    Biometrics 53:567-578; logit: Qin and Hotilovac (2008), Stat. Methods Med. Res. 17:207-221; Newcombe (2006),
    Stat. Med. 25:559-573, method 5.
    """
    check_level(level)
    from scipy import special

    first, second = as_floats(low, "low"), as_floats(high, "high")
    m, n = len(first), len(second)
    if not m or not n:
        return None
    matrix = wins(first, second)
    value = float(matrix.mean())
    z = float(special.ndtri(1.0 - (1.0 - level) / 2.0))
    variance = 0.0
    if clusters is not None:
        variance, m, n = _clustered(matrix, value, clusters)
    elif min(m, n) > 1:
        variance = float(matrix.mean(axis=1).var(ddof=1)) / m + float(matrix.mean(axis=0).var(ddof=1)) / n
    if variance <= 1e-15 or not 0.0 < value < 1.0:
        return _newcombe(value, m, n, z, level)
    middle = math.log(value / (1.0 - value))
    half = z * math.sqrt(variance) / (value * (1.0 - value))
    return Interval(float(special.expit(middle - half)), float(special.expit(middle + half)), level, "delong")


def _clustered(matrix: Floats, value: float, clusters: Clusters) -> tuple[float, int, int]:
    """Obuchowski's variance, and in how many clusters each group is."""
    m, n = matrix.shape
    if (len(clusters[0]), len(clusters[1])) != (m, n):
        raise BadInput(
            f"{m} and {n} scores came with {len(clusters[0])} and {len(clusters[1])} clusters.",
            fix="Give one cluster per score.",
        )
    codes, size = cluster_codes([*clusters[0], *clusters[1]], m + n)
    of_low = np.bincount(codes[:m], matrix.mean(axis=1) - value, size)
    of_high = np.bincount(codes[m:], matrix.mean(axis=0) - value, size)
    in_low, in_high = len(np.unique(codes[:m])), len(np.unique(codes[m:]))
    if min(in_low, in_high) < 2:
        return 0.0, in_low, in_high
    variance = in_low / (in_low - 1) * float((of_low**2).sum()) / m**2
    variance += in_high / (in_high - 1) * float((of_high**2).sum()) / n**2
    variance += 2 * size / (size - 1) * float((of_low * of_high).sum()) / (m * n)
    return max(variance, 0.0), in_low, in_high


def _newcombe(value: float, m: int, n: int, z: float, level: float) -> Interval:
    """All t with |value - t| <= z sqrt(V(t)), V(t) = t(1-t)(1 + N(1-t)/(2-t) + N t/(1+t)) / (m n)."""
    from scipy import optimize

    extra = (m + n) / 2.0 - 1.0

    def beyond(t: float) -> float:
        spread = t * (1 - t) * (1 + extra * (1 - t) / (2 - t) + extra * t / (1 + t)) / (m * n)
        return abs(value - t) - z * math.sqrt(max(spread, 0.0))

    ends = []
    for end in (0.0, 1.0):
        # Beside the value itself the difference is below what is allowed, at the ends above or equal.
        inner = value + (1e-9 if end > value else -1e-9)
        if abs(value - end) < 1e-9 or beyond(end) <= 0 or beyond(inner) >= 0:
            ends.append(end)
        else:
            ends.append(float(optimize.brentq(beyond, *sorted((inner, end)))))
    return Interval(min(ends), max(ends), level, "newcombe_auc")


def auc_reading(
    name: str,
    low: Sequence[float] | Floats,
    high: Sequence[float] | Floats,
    unscored: int = 0,
    *,
    better: Better = "neither",
    level: float = 0.95,
    clusters: Clusters | None = None,
) -> Reading:
    """`auc` as a line of a scorecard; n counts the scores of both groups."""
    value = auc(low, high)
    interval = auc_interval(low, high, level, clusters)
    return Reading(name, value, len(low) + len(high), unscored, interval, "score", better)
