"""From rates as a judge sees them to rates as they are, given how often the judge is right.

A judge of sensitivity a (unsafe answers it calls unsafe) and specificity b (safe answers it calls safe) sees an
unsafe rate of u a + (1 - u)(1 - b) where the true one is u. With a + b > 1 this can be solved for u. Two
verdicts on one instance are seen through the Kronecker square of the judge's 2 x 2 confusion, which supposes
that the judge's errors on the two answers are independent given the truth, and equally frequent in what is
measured and in what was labelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from safewright.errors import BadInput
from safewright.stats.agreement import Confusion
from safewright.stats.checks import Floats, Ints, check_counts, check_level, cluster_codes
from safewright.types import Better, Interval, Reading

METHOD = "judge_error_bootstrap"
_BLOCK = 2_000_000


@dataclass(frozen=True)
class JudgeQuality:
    """How often a judge is right, and on how many labelled answers that was found.

    Args:
        sensitivity: Share of unsafe answers it calls unsafe (a).
        specificity: Share of safe answers it calls safe (b).
        unsafe: Labelled unsafe answers behind ``sensitivity``; None where it is known exactly.
        safe: Labelled safe answers behind ``specificity``; None where it is known exactly.
    """

    sensitivity: float
    specificity: float
    unsafe: int | None = None
    safe: int | None = None

    def __post_init__(self) -> None:
        for name in ("sensitivity", "specificity"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0.0 <= value <= 1.0):
                raise BadInput(f"The judge's {name} is {value!r}.", fix="It must lie in [0, 1].")
        for name in ("unsafe", "safe"):
            if (count := getattr(self, name)) is not None:
                check_counts(**{name: count})
                if not count:
                    raise BadInput(
                        f"No {name} answer was labelled.",
                        why="How often the judge is right about them is unknown, so no rate can be corrected.",
                        fix=f"Label {name} answers as well.",
                    )
        if self.sensitivity + self.specificity <= 1.0:
            raise BadInput(
                f"The judge's sensitivity {self.sensitivity:.3f} and specificity {self.specificity:.3f} "
                "do not add up to more than 1.",
                why="It calls safe answers unsafe at least as often as unsafe ones: its verdicts say nothing, or "
                "the opposite, and no rate can be recovered from them.",
                fix="Use another judge, or check that 1 means unsafe in the labels.",
            )


def quality_of(found: Confusion) -> JudgeQuality:
    """The quality that a confusion on labelled answers shows.

    Raises:
        BadInput: A class was not labelled, or the judge is no better than chance.
    """
    unsafe, safe = found.caught + found.missed, found.cleared + found.accused
    return JudgeQuality(
        found.caught / unsafe if unsafe else 0.0, found.cleared / safe if safe else 0.0, unsafe, safe
    )


def rogan_gladen(observed: float, judge: JudgeQuality) -> float:
    """The true unsafe rate behind an observed one: (observed + b - 1) / (a + b - 1), kept in [0, 1].

    Raises:
        BadInput: The rate is outside [0, 1].

    Source: Rogan and Gladen (1978), Am. J. Epidemiol. 107:71-76.
    """
    if not 0.0 <= observed <= 1.0:
        raise BadInput(f"The observed rate is {observed!r}.", fix="It must lie in [0, 1].")
    a, b = judge.sensitivity, judge.specificity
    return min(1.0, max(0.0, (observed - (1.0 - b)) / (a - (1.0 - b))))


def correct_joint(observed: Sequence[float] | Floats, judge: JudgeQuality) -> Floats:
    """The true joint distribution of two verdicts behind an observed one.

    Solves with the inverse of the Kronecker square of the judge's confusion. Sampling noise can put the
    solution outside the distributions (a negative share); the nearest distribution, by Euclidean distance, is
    given then.

    Args:
        observed: Shares, or counts, of (safe, safe), (safe, unsafe), (unsafe, safe), (unsafe, unsafe); shape (4,).
        judge: Its quality.

    Returns:
        Shares in the same order, shape (4,), that add up to 1.

    Raises:
        BadInput: Not four shares, a negative one, or nothing at all.
    """
    shares = np.asarray(observed, dtype=np.float64)
    if shares.shape != (4,) or not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise BadInput(
            f"The joint distribution is {observed!r}.",
            fix="Give four shares or counts: (safe, safe), (safe, unsafe), (unsafe, safe), (unsafe, unsafe).",
        )
    ability = np.array([[judge.sensitivity, judge.specificity]])
    solved: Floats = _solved((shares / shares.sum())[None], ability[:, 0], ability[:, 1])[0]
    return solved


def corrected_rate(
    name: str,
    unsafe: Sequence[float | None],
    judge: JudgeQuality,
    clusters: Sequence[Hashable] | None = None,
    *,
    of_safe: bool = False,
    better: Better | None = None,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Reading:
    """The unsafe rate (or, with ``of_safe``, the safe rate) with the judge's errors taken out.

    The value is that of `rogan_gladen`. The interval carries the doubt of the rate and that of the judge: in
    every draw the rate comes from a Bayesian bootstrap over clusters (for one verdict per cluster the Jeffreys
    posterior, Beta(k + 1/2, n - k + 1/2)), sensitivity and specificity each from the Jeffreys posterior of
    their labelled counts, and the three go through the formula; its ends are quantiles over the draws. A draw
    of a judge no better than chance allows every rate. The interval always holds the value.

    Args:
        name: Of the reading.
        unsafe: The judge's verdicts, 1 unsafe, 0 safe, None unscored (left out, and counted).
        judge: Its quality on labelled answers.
        clusters: The cluster of each verdict; None: each its own.
        of_safe: Whether to give the safe rate in its place.
        better: Which way is better; by ``of_safe`` where None.
        level: Two-sided confidence.
        draws: Of the interval.
        seed: Of the draws.

    Raises:
        BadInput: A verdict is not 0, 1 or None, lengths differ, or level or draws are out of range.

    Source: for the propagation of both doubts, Lang and Reiczigel (2014), Prev. Vet. Med. 113:13-22, who solve
    the same problem with adjusted Wald limits; the draws here are Bayesian.
    """
    kept, groups = _scored([(verdict,) for verdict in unsafe], clusters)
    side: Better = better or ("higher" if of_safe else "lower")
    lost = len(unsafe) - len(kept)
    if not kept:
        return Reading(name, None, 0, lost, None, "rate", side)
    cells = np.array([int(verdict) for (verdict,) in kept])
    rate = rogan_gladen(float(cells.mean()), judge)

    def solve(shares: Floats, a: Floats, b: Floats) -> Floats:
        found: Floats = np.clip((shares[:, 1] - (1.0 - b)) / (a - (1.0 - b)), 0.0, 1.0)
        return 1.0 - found if of_safe else found

    value = 1.0 - rate if of_safe else rate
    interval = _interval(cells, 2, groups, judge, solve, value, level, draws, seed)
    return Reading(name, value, len(kept), lost, interval, "rate", side)


@dataclass(frozen=True)
class CorrectedPair:
    """The share of instances safe in both answers, and the joint distribution it was read from.

    ``joint`` holds shares of (safe, safe), (safe, unsafe), (unsafe, safe), (unsafe, unsafe); ``projected`` says
    whether the solution lay outside the distributions and the nearest one was taken.
    """

    both_safe: Reading
    joint: tuple[float, float, float, float] | None
    projected: bool


def corrected_pair(
    name: str,
    unsafe: Sequence[tuple[float | None, float | None]],
    judge: JudgeQuality,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> CorrectedPair:
    """The share of instances whose two answers are both safe, with the judge's errors taken out.

    The joint distribution is solved by `correct_joint`; the interval is made as in `corrected_rate`, with the
    four observed shares drawn together. An instance with an unscored verdict is left out, and counted, also
    where its other verdict already decides it: its place in the joint distribution is unknown.

    Args:
        name: Of the reading.
        unsafe: Two verdicts per instance (front, end): 1 unsafe, 0 safe, None unscored.
        judge: Its quality on labelled answers.
        clusters: The cluster of each instance; None: each its own.
        level: Two-sided confidence.
        draws: Of the interval.
        seed: Of the draws.

    Raises:
        BadInput: A verdict is not 0, 1 or None, lengths differ, or level or draws are out of range.
    """
    kept, groups = _scored(unsafe, clusters)
    lost = len(unsafe) - len(kept)
    if not kept:
        return CorrectedPair(Reading(name, None, 0, lost, None, "rate", "higher"), None, False)
    cells = np.array([2 * int(front) + int(end) for front, end in kept])
    counts = np.bincount(cells, minlength=4).astype(np.float64)
    joint = correct_joint(counts, judge)
    raw = _unprojected(
        (counts / counts.sum())[None], np.array([judge.sensitivity]), np.array([judge.specificity])
    )[0]

    def solve(shares: Floats, a: Floats, b: Floats) -> Floats:
        found: Floats = _solved(shares, a, b)[:, 0]
        return found

    value = float(joint[0])
    interval = _interval(cells, 4, groups, judge, solve, value, level, draws, seed)
    first, second, third, fourth = (float(share) for share in joint)
    reading = Reading(name, value, len(kept), lost, interval, "rate", "higher")
    return CorrectedPair(reading, (first, second, third, fourth), bool((raw < -1e-12).any()))


def noise_floor(judge: JudgeQuality) -> dict[str, float]:
    """What a model whose every answer is safe would be measured as by this judge, errors independent.

    One verdict gives b, two of two b^2; so the "drop" from one to two is b - b^2 without any real cause.
    Sensitivity has no part in it.
    """
    b = judge.specificity
    one = dict.fromkeys(("sr_front", "sr_end", "sr_short"), b)
    return {**one, "sr_long": b * b, "sr_short2": b * b, "drop": b - b * b}


def prediction_powered(
    name: str,
    verdicts: Sequence[float | None],
    labelled: Sequence[tuple[float | None, float]],
    *,
    better: Better = "neither",
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Reading:
    """The true rate over many judged items, of which people labelled some at random.

    theta = w mean(verdicts) + mean(truth - w verdict over the labelled), w chosen to make its variance
    small: whatever the judge's errors are, the labelled items show their mean. Unlike `corrected_rate` it
    does not suppose that errors are as frequent elsewhere or independent, and it works for any 0/1 quality (an
    instance safe in both answers, too); but the labelled items must be a random sample of what is measured.

    The interval is drawn: the labelled pairs from Dirichlet(counts + 1/2), the verdicts' rate from
    Beta(k + 1/2, n - k + 1/2); so it keeps its width where the judge made no error on the labelled items.

    Args:
        name: Of the reading.
        verdicts: The judge's verdicts on the items without a label; None where unscored.
        labelled: Verdict and truth of the items with one; those without a verdict are left out.
        better: Which way is better.
        level: Two-sided confidence.
        draws: Of the interval.
        seed: Of the draws.

    Raises:
        BadInput: A label is not 0 or 1, fewer than two labelled items have a verdict, or level or draws are
            out of range.

    Source: Angelopoulos, Duchi and Zrnic (2023), arXiv:2311.01453, for the estimate and the choice of w.
    Differs: the interval.
    """
    check_level(level)
    _check_draws(draws)
    kept, _ = _scored([(verdict,) for verdict in verdicts], None)
    pairs, _ = _scored([(said, truth) for said, truth in labelled], None)
    lost = len(verdicts) + len(labelled) - len(kept) - len(pairs)
    if len(pairs) < 2:
        raise BadInput(
            f"{len(pairs)} labelled items have a verdict.",
            why="The judge's mean error cannot be told from them.",
            fix="Label more of the measured items, drawn at random.",
        )
    counts = np.zeros((2, 2))
    for said, truth in pairs:
        counts[int(said), int(truth)] += 1
    many, k = len(kept), float(sum(verdict for (verdict,) in kept))
    weight = _power(counts, many)

    def solve(cells: Floats, rate: Floats) -> Floats:
        """Rates from labelled shares (draws, 4) and rates of verdicts (draws,)."""
        found: Floats = cells[:, 1] + cells[:, 3] + weight * (rate - cells[:, 2] - cells[:, 3])
        return np.clip(found, 0.0, 1.0)

    shares = (counts / counts.sum()).reshape(1, 4)
    value = float(solve(shares, np.array([k / many if many else 0.0]))[0])
    rng = np.random.default_rng(seed)
    cells = rng.dirichlet(counts.ravel() + 0.5, size=draws)
    drawn = solve(cells, rng.beta(k + 0.5, many - k + 0.5, size=draws))
    tail = (1.0 - level) / 2.0
    low, high = (float(end) for end in np.quantile(drawn, [tail, 1.0 - tail]))
    interval = Interval(min(low, value), max(high, value), level, "prediction_powered_bootstrap")
    return Reading(name, value, many + len(pairs), lost, interval, "rate", better)


def _power(counts: Floats, many: int) -> float:
    """How far verdicts are trusted: cov(truth, verdict) / ((1 + n / N) var(verdict)), within [0, 1]."""
    shares = counts / counts.sum()
    said, truth = shares[1].sum(), shares[:, 1].sum()
    spread = said * (1.0 - said)
    if not many or spread == 0:
        return 0.0
    return float(np.clip((shares[1, 1] - said * truth) / spread / (1.0 + counts.sum() / many), 0.0, 1.0))


def _scored(
    verdicts: Sequence[tuple[float | None, ...]], clusters: Sequence[Hashable] | None
) -> tuple[list[tuple[float, ...]], list[Hashable] | None]:
    """Rows whose every verdict is there, and their clusters."""
    if clusters is not None and len(clusters) != len(verdicts):
        raise BadInput(
            f"{len(verdicts)} values came with {len(clusters)} clusters.", fix="Give one cluster per value."
        )
    kept: list[tuple[float, ...]] = []
    groups: list[Hashable] = []
    for place, row in enumerate(verdicts):
        for verdict in row:
            if verdict is not None and verdict not in (0, 1):
                raise BadInput(
                    f"A verdict is {verdict!r}.", fix="Verdicts are 0 or 1, or None where unscored."
                )
        whole = tuple(verdict for verdict in row if verdict is not None)
        if len(whole) == len(row):
            kept.append(whole)
            groups.append(clusters[place] if clusters is not None else place)
    return kept, groups if clusters is not None else None


def _unprojected(shares: Floats, a: Floats, b: Floats) -> Floats:
    """Solutions for rows of observed shares (k, 4) under sensitivities and specificities (k,)."""
    scale = 1.0 / (a + b - 1.0)
    inverse = np.empty((len(a), 2, 2))
    # Columns of the confusion are the truth: P(seen safe | safe) = b, P(seen safe | unsafe) = 1 - a.
    inverse[:, 0, 0], inverse[:, 0, 1] = a * scale, -(1.0 - a) * scale
    inverse[:, 1, 0], inverse[:, 1, 1] = -(1.0 - b) * scale, b * scale
    # The inverse of the Kronecker square is the Kronecker square of the inverse.
    found: Floats = np.einsum("kij,kmn,kjn->kim", inverse, inverse, shares.reshape(-1, 2, 2)).reshape(-1, 4)
    return found


def _solved(shares: Floats, a: Floats, b: Floats) -> Floats:
    return _project(_unprojected(shares, a, b))


def _project(points: Floats) -> Floats:
    """The nearest distribution to each row; rows that are one stay as they are.

    Source: Duchi et al. (2008), ICML, figure 1.
    """
    ordered = -np.sort(-points, axis=1)
    excess = np.cumsum(ordered, axis=1) - 1.0
    ranks = np.arange(1, points.shape[1] + 1)
    last = ((ordered - excess / ranks) > 0).sum(axis=1)
    shift = excess[np.arange(len(points)), last - 1] / last
    moved = np.maximum(points - shift[:, None], 0.0)
    found: Floats = np.where(points.min(axis=1, keepdims=True) >= 0, points, moved)
    return found


def _interval(
    cells: Ints,
    kinds: int,
    clusters: Sequence[Hashable] | None,
    judge: JudgeQuality,
    solve: Callable[[Floats, Floats, Floats], Floats],
    value: float,
    level: float,
    draws: int,
    seed: int,
) -> Interval:
    """Quantiles of the solution over draws of the observed shares and of the judge."""
    check_level(level)
    _check_draws(draws)
    rng = np.random.default_rng(seed)
    codes, size = cluster_codes(clusters, len(cells))
    shares = _drawn_shares(rng, cells, kinds, codes, size, draws)
    a = _drawn_ability(rng, judge.sensitivity, judge.unsafe, draws)
    b = _drawn_ability(rng, judge.specificity, judge.safe, draws)
    telling = a + b > 1.0 + 1e-9
    low, high = np.zeros(draws), np.ones(draws)
    low[telling] = high[telling] = solve(shares[telling], a[telling], b[telling])
    tail = (1.0 - level) / 2.0
    ends = float(np.quantile(low, tail)), float(np.quantile(high, 1.0 - tail))
    return Interval(min(ends[0], value), max(ends[1], value), level, METHOD)


def _check_draws(draws: int) -> None:
    if draws < 100:
        raise BadInput(f"{draws} draws cannot hold a tail.", fix="Use at least 100, better 4000.")


def _drawn_shares(
    rng: np.random.Generator,
    cells: Ints,
    kinds: int,
    codes: Ints,
    size: int,
    draws: int,
) -> Floats:
    """Observed shares (draws, kinds): every cluster weighs a standard exponential, every kind Gamma(1/2) more.

    With one item per cluster these are draws of the Jeffreys posterior, Dirichlet(counts + 1/2).
    """
    held = np.zeros((size, kinds))
    np.add.at(held, (codes, cells), 1.0)
    prior = rng.standard_gamma(0.5, size=(draws, kinds)) * (len(cells) / size)
    if size == len(cells):
        weights = rng.standard_gamma(np.maximum(held.sum(axis=0), 1e-300), size=(draws, kinds)) + prior
    else:
        step = max(1, min(draws, _BLOCK // size))
        weights = prior + np.concatenate(
            [
                rng.standard_exponential(size=(min(step, draws - start), size)) @ held
                for start in range(0, draws, step)
            ]
        )
    found: Floats = weights / weights.sum(axis=1, keepdims=True)
    return found


def _drawn_ability(rng: np.random.Generator, rate: float, n: int | None, draws: int) -> Floats:
    if n is None:
        return np.full(draws, rate)
    right = math.floor(rate * n + 0.5)
    found: Floats = rng.beta(right + 0.5, n - right + 0.5, size=draws)
    return found
