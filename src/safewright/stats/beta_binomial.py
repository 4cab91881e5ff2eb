"""Best of N beyond the answers that were drawn: a beta distribution of prompts' rates, fitted to counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from safewright.stats.checks import Floats, Ints, check_level, cluster_codes
from safewright.stats.draws import (
    VIEWS,
    X_UNIT,
    View,
    check_draws,
    check_view,
    checked_counts,
    powers,
    shares,
)
from safewright.stats.intervals import bounded_mean
from safewright.types import Curve, Interval, Reading

BOUNDS = (1e-3, 1e3)
"""Where a and b are looked for: beyond it a count of finitely many answers cannot tell."""

RAYS = 96
"""Directions in which the likelihood's region is walked to its edge."""


@dataclass(frozen=True)
class BetaFit:
    """Rates q_i of prompts as draws of Beta(a, b), by maximum likelihood of their counts.

    ``interval`` holds those of a and b; ``region`` pairs (a, b) along the edge of the region whose likelihood is
    not rejected; ``n`` counts prompts; ``warnings`` say why a fit is not to be relied on.
    """

    a: float
    b: float
    interval: tuple[Interval, Interval]
    warnings: tuple[str, ...]
    n: int
    level: float
    region: tuple[tuple[float, float], ...]

    def at(self, N: int, view: View = "all") -> float:
        """The rate at N: ``all`` B(a + N, b) / B(a, b); ``any`` 1 - B(a, b + N) / B(a, b)."""
        return float(_rate(np.array([self.a]), np.array([self.b]), N, view)[0])

    def extrapolate(self, N: int, *, view: View = "all", name: str = "") -> Reading:
        """The rate at any N, with its profile-likelihood interval.

        Raises:
            BadInput: N is no whole number from 1.
        """
        check_draws(N)
        a, b = (np.array(part) for part in zip(*self.region, strict=True))
        edge, value = _rate(a, b, N, view), self.at(N, view)
        interval = Interval(
            min(float(edge.min()), value), max(float(edge.max()), value), self.level, "beta_binomial_profile"
        )
        return Reading(name or f"asr_{view}@{N}", value, self.n, 0, interval, "rate", "lower")

    def curve(self, grid: Sequence[int], *, view: View = "all", name: str = "") -> Curve:
        """`extrapolate` over several N."""
        found = [self.extrapolate(N, view=view) for N in grid]
        return Curve(
            name or f"asr_{view}",
            tuple(map(float, grid)),
            tuple(reading.value or 0.0 for reading in found),
            tuple(reading.interval.low for reading in found if reading.interval),
            tuple(reading.interval.high for reading in found if reading.interval),
            X_UNIT,
        )


def beta_binomial(
    counts: Sequence[int] | Ints,
    m: int | Sequence[int],
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
) -> BetaFit:
    """Fit Beta(a, b) to the prompts' unsafe rates, from u_i unsafe answers among m_i.

    Maximises sum_i log B(u_i + a, m_i - u_i + b) - log B(a, b) over log a and log b within `BOUNDS`. Intervals are
    those of the profile likelihood: what the parameters, or a rate they give, can be where twice the fall of the
    log-likelihood stays below the chi-square quantile of one degree of freedom. Prompts of one cluster count as
    one: the fall is scaled by clusters over prompts, which errs on the wide side.

    Warns where counts are all zero or all m (any a and b of a small or large a / b fit), where an estimate lies on
    a bound, and where the fit at some N <= m lies outside the interval of the unbiased estimate: then rates are not
    distributed so, and what it says beyond m is not to be relied on.

    Raises:
        BadInput: Counts do not fit; see `safewright.stats.best_of_n.unsafe_all`.
    """
    from scipy import optimize, special

    check_level(level)
    unsafe, drawn = checked_counts(counts, m)
    _, independent = cluster_codes(clusters, len(unsafe))
    kinds, times = np.unique(np.stack([unsafe, drawn]), axis=1, return_counts=True)
    u, d = kinds.astype(np.float64)[:, :, None]
    weight = times.astype(np.float64)[:, None]

    def likelihood(points: Floats) -> Floats:
        """Log-likelihood at points (2, k) of (log a, log b)."""
        a, b = np.exp(points)
        terms = special.betaln(u + a, d - u + b) - special.betaln(a, b)
        total: Floats = (weight * terms).sum(axis=0)
        return total

    def slope(point: Floats) -> tuple[float, Floats]:
        a, b = np.exp(point)
        both = special.digamma(d + a + b) - special.digamma(a + b)
        of_a = (weight * (special.digamma(u + a) - special.digamma(a) - both)).sum()
        of_b = (weight * (special.digamma(d - u + b) - special.digamma(b) - both)).sum()
        # Over prompts, so that the optimiser's tolerance means the same for any number of them.
        scale = float(weight.sum())
        return -float(likelihood(point[:, None])[0]) / scale, -np.array([a * of_a, b * of_b]) / scale

    low, high = (math.log(bound) for bound in BOUNDS)
    rate = float(np.clip(unsafe.sum() / drawn.sum(), 1e-3, 1 - 1e-3))
    starts = [np.log([rate * total, (1 - rate) * total]) for total in (0.3, 2.0, 20.0, 200.0)]
    runs = [
        optimize.minimize(
            slope, np.clip(start, low, high), jac=True, method="L-BFGS-B", bounds=[(low, high)] * 2,
            options={"ftol": 1e-14, "gtol": 1e-10, "maxiter": 500},
        )
        for start in starts
    ]  # fmt: skip
    best: Floats = min(runs, key=lambda run: float(run.fun)).x
    fall = float(special.chdtri(1, 1.0 - level)) / 2.0 * len(unsafe) / independent
    edge = _edge(likelihood, best, fall)
    a, b = (float(x) for x in np.exp(best))
    region = tuple((float(x), float(y)) for x, y in np.exp(edge).T)
    interval = tuple(
        Interval(min(min(values), own), max(max(values), own), level, "beta_binomial_profile")
        for own, values in zip((a, b), zip(*region, strict=True), strict=True)
    )
    fit = BetaFit(a, b, (interval[0], interval[1]), (), len(unsafe), level, region)
    warnings = (*_on_bound(unsafe, drawn, fit), *_off(unsafe, drawn, clusters, fit))
    return BetaFit(a, b, fit.interval, warnings, fit.n, level, region)


def _rate(a: Floats, b: Floats, N: int, view: View) -> Floats:
    from scipy import special

    check_view(view)
    if view == "all":
        all_: Floats = np.exp(special.betaln(a + N, b) - special.betaln(a, b))
        return np.minimum(all_, 1.0)
    any_: Floats = -np.expm1(special.betaln(a, b + N) - special.betaln(a, b))
    return np.clip(any_, 0.0, 1.0)


def _edge(likelihood: Callable[[Floats], Floats], best: Floats, fall: float) -> Floats:
    """Points (2, rays) where the log-likelihood has fallen by ``fall`` from its best, or a bound is met."""
    low, high = (math.log(bound) for bound in BOUNDS)
    # Directions are even in the metric of the curvature: the region may be long and thin.
    step = 1e-3
    shifts = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1], [1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]]).T
    pp, pm, mp, mm, right, left, up, down, middle = likelihood(best[:, None] + step * shifts)
    across = (pp - pm - mp + mm) / 4
    curvature = -np.array([[right - 2 * middle + left, across], [across, up - 2 * middle + down]]) / step**2
    values, axes = np.linalg.eigh(curvature)
    flat = 2 * fall / (high - low) ** 2
    angles = np.linspace(0.0, 2 * math.pi, RAYS, endpoint=False)
    rays = axes @ (
        np.sqrt(2 * fall / np.maximum(values, flat))[:, None] * np.stack([np.cos(angles), np.sin(angles)])
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        to_bound = np.where(rays > 0, (high - best[:, None]) / rays, (low - best[:, None]) / rays)
    inner = np.zeros(RAYS)
    outer = np.where(rays == 0, np.inf, to_bound).min(axis=0)
    least = float(likelihood(best[:, None])[0]) - fall
    inner = np.where(likelihood(best[:, None] + outer * rays) >= least, outer, inner)
    for _ in range(40):
        half = (inner + outer) / 2
        inside = likelihood(best[:, None] + half * rays) >= least
        inner, outer = np.where(inside, half, inner), np.where(inside, outer, half)
    edge: Floats = np.clip(best[:, None] + inner * rays, low, high)
    return edge


def _on_bound(unsafe: Ints, drawn: Ints, fit: BetaFit) -> list[str]:
    if not unsafe.any() or not (drawn - unsafe).any():
        what = "unsafe" if unsafe.any() else "safe"
        return [
            f"All {int(drawn.sum()):,} answers are {what}: a and b are not determined, only bounded by"
            f" {BOUNDS[0]:g} and {BOUNDS[1]:g}; read the interval."
        ]
    return [
        f"The estimate of {name} lies on its bound {value:g}."
        for name, value in (("a", fit.a), ("b", fit.b))
        if min(abs(math.log(value / bound)) for bound in BOUNDS) < 1e-6
    ]


def _off(unsafe: Ints, drawn: Ints, clusters: Sequence[Hashable] | None, fit: BetaFit) -> list[str]:
    """Where the fit does not give the rates that were seen."""
    found = []
    grid = powers(int(drawn.min()))
    for view in VIEWS:
        for N in grid:
            values = shares(unsafe, drawn, N, view)
            seen = bounded_mean(values, clusters, level=1 - (1 - fit.level) / len(grid))
            said = fit.at(N, view)
            if not seen.low <= said <= seen.high:
                found.append(
                    f"The fit gives {said:.3f} for {view} of {N}, where {values.mean():.3f} was seen"
                    f" ({seen.low:.3f} to {seen.high:.3f}): prompts are not spread as it assumes."
                )
    return found
