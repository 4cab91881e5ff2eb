"""Tests for before and after on the same records, what they could have seen, and multiplicity."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np

from safewright.errors import BadInput
from safewright.stats.checks import Floats, as_floats, check_counts, check_level, cluster_codes
from safewright.types import Test

EXACT_PATTERNS = 2**14
"""Up to this many sign patterns a permutation test is enumerated, above it sampled."""

DRAWS = 10_000
"""Sampled patterns; no p is below ``1 / (1 + DRAWS)`` then."""


def mcnemar_exact(b: int, c: int, *, pairs: int | None = None, name: str = "mcnemar") -> Test:
    """The exact two-sided test that as many records changed one way as the other.

    p = min(1, 2 P[X <= min(b, c)]) with X ~ Binomial(b + c, 1/2); 1 when nothing changed. The statistic
    is min(b, c).

    Args:
        b: Records that lost the quality.
        c: Records that gained it.
        pairs: All paired records, changed or not: becomes ``n`` and gives the minimum detectable
            difference; without it n = b + c.
        name: Of the test.

    Raises:
        BadInput: A count is negative, or ``pairs`` is smaller than b + c.

    Source: McNemar (1947), Psychometrika 12:153-157; exact form in Agresti, Categorical Data Analysis,
    section 11.1.
    """
    from scipy import special

    check_counts(b=b, c=c)
    changed = b + c
    if pairs is not None:
        check_counts(pairs=pairs)
        if pairs < changed:
            raise BadInput(f"{changed} records changed among {pairs} pairs.", fix="Count all paired records.")
    p = min(1.0, 2.0 * float(special.bdtr(min(b, c), changed, 0.5))) if changed else 1.0
    detectable = minimum_detectable(pairs, changed / pairs) if pairs else None
    return Test(name, float(min(b, c)), p, "mcnemar_exact", changed if pairs is None else pairs, detectable)


def minimum_detectable(
    n: int, discordance: float, *, level: float = 0.95, power: float = 0.8
) -> float | None:
    """The smallest difference of rates that McNemar's test on ``n`` pairs finds with this power.

    Solves n d^2 = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 for d, where psi is the share of pairs that
    change; psi is at least d, so that with few changes the answer is that of one-way change. A normal
    approximation to the test without continuity correction: the exact test needs slightly more. None
    when not even a change of every pair would be found.

    Args:
        n: Pairs.
        discordance: Share of pairs that differ, in [0, 1], as seen or as expected.
        level: Confidence of the two-sided test (significance is 1 - level).
        power: Chance to find the difference.

    Raises:
        BadInput: An argument is out of range.

    Source: Connor (1987), Biometrics 43:207-211, equation for the unconditional sample size.
    """
    from scipy import optimize, special

    check_counts(n=n)
    check_level(level)
    if not 0.0 < power < 1.0:
        raise BadInput(f"The power is {power!r}.", fix="Give one between 0 and 1, for example 0.8.")
    if not 0.0 <= discordance <= 1.0:
        raise BadInput(f"The share of changed pairs is {discordance!r}.", fix="It lies between 0 and 1.")
    z_a = float(special.ndtri(1.0 - (1.0 - level) / 2.0))
    z_b = float(special.ndtri(power))

    def excess(d: float) -> float:
        psi = max(discordance, d)
        return d * math.sqrt(n) - z_a * math.sqrt(psi) - z_b * math.sqrt(max(psi - d * d, 0.0))

    if excess(1.0) < 0.0:
        return None
    return float(optimize.brentq(excess, 1e-12, 1.0, xtol=1e-10))


def paired_permutation(
    diffs: Sequence[float] | Floats,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    *,
    draws: int = DRAWS,
    name: str = "sign_flip",
) -> Test:
    """The two-sided test that differences are symmetric about zero, flipping signs of whole clusters.

    Up to 2^14 sign patterns are enumerated (p exact); above that p = (1 + extreme draws) / (1 + draws).
    Clusters whose differences sum to zero do not change the statistic and are not counted as patterns.
    The statistic is the mean difference, ``n`` the number of clusters.

    Args:
        diffs: One difference per record.
        clusters: The cluster of each record; None: each its own.
        seed: Of the sampling.
        draws: Sampled patterns, where they are too many to enumerate.
        name: Of the test.

    Raises:
        BadInput: No differences, unequal lengths, or fewer than one draw.
        NumericalFailure: A difference is not finite.

    Source: Fisher (1935), The Design of Experiments, section 21; the +1 is from Phipson and Smyth (2010),
    Stat. Appl. Genet. Mol. Biol. 9:39, equation 2.
    """
    array = as_floats(diffs, "diffs")
    if not len(array):
        raise BadInput("There are no differences to test.", fix="Pair the records of both runs first.")
    if draws < 1:
        raise BadInput(f"{draws} draws were asked for.", fix="Ask for at least one, better 10000.")
    codes, size = cluster_codes(clusters, len(array))
    sums = np.bincount(codes, weights=array, minlength=size).astype(np.float64)
    scale = float(np.abs(sums).sum())
    # Rounding in the sums must not turn ties into non-ties.
    slack = 1e-12 * max(scale, 1e-300) * math.sqrt(len(array))
    moving = sums[np.abs(sums) > slack]
    observed = abs(float(moving.sum()))
    if 2 ** min(len(moving), 60) <= EXACT_PATTERNS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(moving))))
        extreme = np.abs(signs @ moving) >= observed - slack
        p, method = float(extreme.mean()), "sign_flip_exact"
    else:
        p, method = _sampled(moving, observed - slack, draws, seed), "sign_flip_monte_carlo"
    return Test(name, float(array.mean()), p, method, size)


def _sampled(sums: Floats, threshold: float, draws: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    step, hits = max(1, min(draws, 2_000_000 // len(sums))), 0
    for start in range(0, draws, step):
        flips = rng.integers(0, 2, size=(min(step, draws - start), len(sums)), dtype=np.int8)
        totals = sums.sum() - 2.0 * (flips @ sums)
        hits += int(np.count_nonzero(np.abs(totals) >= threshold))
    return (1 + hits) / (1 + draws)


def holm(ps: Sequence[float]) -> list[float]:
    """P-values adjusted so that a family of tests errs at most at its level, in the order given.

    The i-th smallest (from 0) becomes the largest of (m - j) p_j over j <= i, at most 1.

    Raises:
        BadInput: A p-value does not lie in [0, 1].

    Source: Holm (1979), Scand. J. Stat. 6:65-70.
    """
    for p in ps:
        if not 0.0 <= p <= 1.0:
            raise BadInput(f"A p-value is {p!r}.", fix="P-values lie between 0 and 1.")
    adjusted, running = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        running = max(running, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = float(running)
    return adjusted
