"""Where harm lies among hidden states: the direction of mean differences, and how well a line tells groups apart.

Only inner products enter, so nothing changes when the space is shifted or rotated. States are (row, dimension).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from safewright.errors import BadInput, NumericalFailure
from safewright.stats.checks import Floats, Ints, cluster_codes
from safewright.stats.intervals import bounded_mean
from safewright.types import Better, Interval, Reading

FOLDS = 5
RIDGE = 1e-3
"""The classifier's ridge, as a share of the mean squared distance of states from their middle."""

SAME = 1e-6
"""Means closer than this share of the states' own spread are the same."""


class NoDirection(NumericalFailure):
    """The means of both groups are the same: nothing leads from one to the other."""


@dataclass(frozen=True)
class Direction:
    """The harm direction v = mean of harmful - mean of benign states, with the point in the middle of the means.

    Its sign is that of the labels: harmful is positive.
    """

    vector: Floats
    middle: Floats

    def project(self, states: Floats) -> Floats:
        """s(h) = 2 (h - middle) v / |v|^2, one per state: +1 on average over harmful, -1 over benign ones."""
        array = as_states(states, "states")
        if array.shape[1] != len(self.vector):
            raise BadInput(
                f"States of {array.shape[1]} dimensions were given to a direction of {len(self.vector)}.",
                fix="Give states of the same model and layer.",
            )
        found: Floats = 2.0 * (array - self.middle) @ self.vector / (self.vector @ self.vector)
        return found


def harm_direction(harmful: Floats, benign: Floats) -> Direction:
    """The direction of mean differences between harmful and benign states.

    Raises:
        BadInput: A group is empty, or they have other dimensions.
        NoDirection: The means are the same.
        NumericalFailure: A state is not finite.
    """
    bad, good = _pair(harmful, benign)
    high, low = bad.mean(axis=0), good.mean(axis=0)
    vector = high - low
    spread = float(np.sqrt(max(bad.var(axis=0).sum(), good.var(axis=0).sum())))
    size = max(spread, 1e-9 * float(np.linalg.norm(high)))
    if float(np.linalg.norm(vector)) <= SAME * size:
        raise NoDirection(
            "The mean states of harmful and benign rows are the same.",
            why="There is no direction from one to the other.",
            fix="Give other rows, or look at another layer or token.",
        )
    return Direction(vector, (high + low) / 2.0)


def held_out(
    low: Floats,
    high: Floats,
    clusters: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
    *,
    folds: int = FOLDS,
    ridge: float = RIDGE,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Scores of a linear classifier for each state, from those of the other folds; above 0 it says ``high``.

    Least squares on labels of -1 and 1 with a ridge (Fisher's discriminant), both groups with the same weight
    however many states they have. States of one cluster are in one fold.

    Args:
        low: States of the one group.
        high: States of the other.
        clusters: The cluster of each state of both groups; None: each its own.
        folds: Parts that are held out in turn; fewer where there are fewer clusters.
        ridge: See `RIDGE`.
        seed: Of the division into folds.

    Returns:
        Scores of ``low`` and of ``high``, in their order.

    Raises:
        BadInput: A group is empty or of other dimensions, or all its states are in one fold: nothing is left
            to learn from.
        NumericalFailure: A state is not finite.
    """
    first, second = _pair(low, high)
    states = np.concatenate([first, second])
    states = states - states.mean(axis=0)
    labels = np.repeat([-1.0, 1.0], [len(first), len(second)])
    given = None if clusters is None else [*clusters[0], *clusters[1]]
    fold = _folds(labels, given, folds, seed)
    kernel = states @ states.T
    scores = np.empty(len(states))
    for number in np.unique(fold):
        out = fold == number
        scores[out] = _fitted(kernel[np.ix_(~out, ~out)], labels[~out], kernel[np.ix_(out, ~out)], ridge)
    return scores[: len(first)], scores[len(first) :]


def proxy_a_distance(
    name: str,
    low: Floats,
    high: Floats,
    clusters: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
    unscored: int = 0,
    *,
    better: Better = "neither",
    seed: int = 0,
    draws: int = 1000,
) -> Reading:
    """How far apart two groups are for linear classifiers: 2 (1 - 2 err), err the held-out error of `held_out`.

    err is the mean of both groups' errors (a score of exactly 0 is half an error). 0 where they cannot be told
    apart (errors above one half count as one half), 2 where they always are. The interval is that of the errors,
    over clusters.

    Raises:
        BadInput: See `held_out`.
        NumericalFailure: See `held_out`.

    Source: Ben-David et al. (2010), Machine Learning 79:151-175; Glorot, Bordes and Bengio (2011), ICML.
    """
    first, second = held_out(low, high, clusters, seed=seed)
    errors = (first > 0) + 0.5 * (first == 0), (second < 0) + 0.5 * (second == 0)
    found = [
        bounded_mean(own, None if clusters is None else clusters[side], seed=seed, draws=draws)
        for side, own in enumerate(errors)
    ]
    value = _distance(float((errors[0].mean() + errors[1].mean()) / 2))
    # Means of ends: right for any dependence of the groups, whose rows may ask for the same.
    low_end = _distance(sum(one.high for one in found) / 2)
    high_end = _distance(sum(one.low for one in found) / 2)
    interval = Interval(min(low_end, value), max(high_end, value), found[0].level, found[0].method)
    n = len(first) + len(second)
    return Reading(name, value, n, unscored, interval, "distance", better)


def rest_axis(states: Floats, direction: Direction) -> Floats:
    """The first principal component of what the direction leaves of states, for a picture.

    In the unit of `Direction.project`: both axes of the picture have the same scale. The sign, which principal
    components do not have, is that of the longest arm.

    Raises:
        BadInput: See `Direction.project`.
    """
    array = as_states(states, "states")
    unit = direction.vector / np.linalg.norm(direction.vector)
    rest = array - array.mean(axis=0)
    rest = rest - np.outer(rest @ unit, unit)
    values, axes = np.linalg.eigh(rest @ rest.T)
    found: Floats = axes[:, -1] * np.sqrt(max(float(values[-1]), 0.0))
    if len(found) and found[np.argmax(np.abs(found))] < 0:
        found = -found
    return 2.0 * found / float(np.linalg.norm(direction.vector))


def as_states(states: Floats, what: str) -> Floats:
    """States as an array (row, dimension) of float64.

    Raises:
        BadInput: It has no rows, or other dimensions than two.
        NumericalFailure: A number is not finite.
    """
    array = np.asarray(states, dtype=np.float64)
    if array.ndim != 2 or not len(array):
        raise BadInput(f"The {what} have the shape {array.shape}.", fix="Give one row of numbers per state.")
    if not np.isfinite(array).all():
        raise NumericalFailure(f"The {what} are not all numbers (NaN or infinity).")
    return array


def _pair(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    first, second = as_states(low, "states of a group"), as_states(high, "states of a group")
    if first.shape[1] != second.shape[1]:
        raise BadInput(
            f"The groups have states of {first.shape[1]} and {second.shape[1]} dimensions.",
            fix="Give states of the same model and layer.",
        )
    return first, second


def _distance(error: float) -> float:
    return 2.0 * (1.0 - 2.0 * min(error, 0.5))


def _folds(labels: Floats, clusters: Sequence[Hashable] | None, folds: int, seed: int) -> Ints:
    """The fold of each state: whole clusters, in an order drawn by the seed, each to where both groups are fewest."""
    codes, size = cluster_codes(clusters, len(labels))
    if folds < 2:
        raise BadInput(f"{folds} folds leave nothing to learn from.", fix="Use at least 2.")
    sizes = np.stack([np.bincount(codes[labels == label], minlength=size) for label in (-1.0, 1.0)])
    order = np.random.default_rng(seed).permutation(size)
    # Large clusters first, so that small ones can even out what they leave.
    order = order[np.argsort(-sizes[:, order].sum(axis=0), kind="stable")]
    filled = np.zeros((2, min(folds, size)))
    share = sizes / np.maximum(sizes.sum(axis=1, keepdims=True), 1)
    home = np.empty(size, dtype=np.int64)
    for code in order:
        grown = filled + share[:, [code]]
        # The place whose larger share of the two stays smallest; of equals the one with less altogether.
        home[code] = np.lexsort((filled.sum(axis=0), np.where(share[:, [code]] > 0, grown, 0.0).max(axis=0)))[
            0
        ]
        filled[:, home[code]] += share[:, code]
    found: Ints = home[codes]
    for label in (-1.0, 1.0):
        if len(np.unique(found[labels == label])) < 2:
            raise BadInput(
                f"All {int((labels == label).sum())} states of a group are in one cluster.",
                why="Held out together, they leave nothing to learn from.",
                fix="Give rows of more than one request per group.",
            )
    return found


def _fitted(inner: Floats, labels: Floats, outer: Floats, ridge: float) -> Floats:
    """Scores at new points of the weighted ridge regression of labels, from inner products alone.

    Args:
        inner: Inner products among the points it learns from.
        labels: Theirs, -1 or 1.
        outer: Inner products of the new points (rows) with them.
        ridge: As a share of the mean squared distance from the middle.
    """
    weights = np.where(labels > 0, 0.5 / (labels > 0).sum(), 0.5 / (labels < 0).sum())
    # Distances from the weighted middle, where both groups pull alike.
    to_middle = inner @ weights
    centred = inner - to_middle[:, None] - to_middle[None, :] + weights @ to_middle
    spread = float(weights @ np.diag(centred))
    if spread <= 1e-12 * max(float(np.abs(np.diag(inner)).max()), 1e-300):
        return np.zeros(len(outer))  # all points are one: nothing is said
    # sum_i w_i (y_i - f_i)^2 + ridge spread |f|^2 in its dual form.
    dual = np.linalg.solve(centred + ridge * spread * np.diag(1.0 / weights), labels)
    new = outer - (outer @ weights)[:, None] - to_middle[None, :] + weights @ to_middle
    found: Floats = new @ dual
    return found
