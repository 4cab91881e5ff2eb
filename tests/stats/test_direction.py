"""The harm direction, the distance between groups of states, and areas over clusters."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from safewright.errors import BadInput, NumericalFailure
from safewright.stats import auc, auc_interval
from safewright.stats.direction import harm_direction, held_out, proxy_a_distance, rest_axis

Floats = NDArray[np.float64]
D = 12


def group(n: int, centre: float, seed: int, d: int = D) -> Floats:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, d)) * np.geomspace(5, 0.1, d)
    states[:, 3] += centre
    return states


def rotated(states: Floats, seed: int = 9) -> Floats:
    """The same states in a turned and shifted space."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(states.shape[1], states.shape[1])))
    return states @ turn + 100.0 * rng.normal(size=states.shape[1])


BAD, GOOD = group(40, 6.0, 1), group(25, -2.0, 2)
WRAPPED, OTHER = group(30, 1.0, 3), group(20, -1.5, 4)


def test_06_harm_direction_puts_the_means_at_plus_and_minus_one() -> None:
    found = harm_direction(BAD, GOOD)
    assert found.project(BAD).mean() == pytest.approx(1.0, abs=1e-9)
    assert found.project(GOOD).mean() == pytest.approx(-1.0, abs=1e-9)
    # Labels the other way round turn the sign, and nothing else.
    assert harm_direction(GOOD, BAD).project(WRAPPED) == pytest.approx(-found.project(WRAPPED), abs=1e-12)


def test_06_projections_and_distances_do_not_change_with_shift_and_rotation() -> None:
    here = harm_direction(BAD, GOOD)
    there = harm_direction(rotated(BAD), rotated(GOOD))
    assert there.project(rotated(WRAPPED)) == pytest.approx(here.project(WRAPPED), abs=1e-9)
    assert rest_axis(rotated(WRAPPED), there) == pytest.approx(rest_axis(WRAPPED, here), abs=1e-9)
    for one, other in zip(held_out(GOOD, BAD), held_out(rotated(GOOD), rotated(BAD)), strict=True):
        assert other == pytest.approx(one, abs=1e-6)
    near, far = (proxy_a_distance("d", a, b) for a, b in ((BAD, WRAPPED), (rotated(BAD), rotated(WRAPPED))))
    assert near == far


def test_06_area_counts_ties_as_one_half() -> None:
    """What scikit-learn's roc_auc_score gives: the area under the steps of the ROC curve, ties as a slope."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        low, high = rng.integers(0, 4, size=15).astype(float), rng.integers(1, 6, size=11).astype(float)
        points = [(1.0, 1.0)]
        for threshold in np.unique([*low, *high]):
            points.append((float((low > threshold).mean()), float((high > threshold).mean())))
        false, true = zip(*points[::-1], strict=True)
        assert auc(low, high) == pytest.approx(np.trapezoid(true, false), abs=1e-12)


def test_a_direction_between_equal_means_is_an_error_and_never_nan() -> None:
    with pytest.raises(NumericalFailure, match="are the same"):
        harm_direction(BAD, BAD[::-1])
    with pytest.raises(NumericalFailure, match="not all numbers"):
        harm_direction(np.where(BAD > 8, np.nan, BAD), GOOD)
    with pytest.raises(BadInput, match="shape"):
        harm_direction(BAD[:0], GOOD)
    with pytest.raises(BadInput, match="12 and 5 dimensions"):
        harm_direction(BAD, GOOD[:, :5])
    with pytest.raises(BadInput, match="5 dimensions"):
        harm_direction(BAD, GOOD).project(GOOD[:, :5])


def test_the_classifier_never_saw_what_it_scores() -> None:
    # Noise of more dimensions than rows: a classifier that had seen a row would tell its group.
    noise = np.random.default_rng(7).normal(size=(120, 300))
    low, high = held_out(noise[:60], noise[60:])
    value = auc(low, high)
    assert value is not None
    assert 0.3 < value < 0.7
    assert auc(*held_out(group(60, -3, 1), group(60, 3, 2))) > 0.95  # type: ignore[operator]
    # A request in two wordings, each in one group: only its cluster keeps one out while the other is scored.
    pairs = np.concatenate([noise[:60] + 0.01 * noise[60:], noise[:60] - 0.01 * noise[60:]])
    names = [*range(60), *range(60)]
    leaked = auc(*held_out(pairs[:60], pairs[60:]))
    clean = auc(*held_out(pairs[:60], pairs[60:], (names[:60], names[60:])))
    assert leaked is not None
    assert clean is not None
    assert leaked < 0.2  # the twin in the other group pulls each row to the wrong side
    assert 0.3 < clean < 0.7


def test_weights_make_up_for_groups_of_other_sizes() -> None:
    low, high = held_out(group(300, -4, 1), group(12, 4, 2))
    assert (high > 0).mean() > 0.7
    assert (low < 0).mean() > 0.7


def test_the_distance_is_two_where_groups_lie_apart_and_zero_where_they_are_one() -> None:
    apart = proxy_a_distance("d", group(40, -9, 1), group(20, 9, 2))
    assert (apart.value, apart.n, apart.unit) == (2.0, 60, "distance")
    assert apart.interval is not None
    assert 1 < apart.interval.low < apart.interval.high == 2.0
    same = proxy_a_distance("d", np.ones((8, 3)), np.ones((8, 3)))
    assert same.value == 0.0  # every score is 0: half an error each
    mixed = proxy_a_distance("d", group(200, 0, 1), group(200, 0, 2))
    assert mixed.value is not None
    assert mixed.value < 0.4
    assert mixed.interval is not None
    assert 0 <= mixed.interval.low <= mixed.value <= mixed.interval.high <= 2
    with pytest.raises(BadInput, match="in one cluster"):
        proxy_a_distance("d", BAD, GOOD, (["a"] * 40, list(range(25))))


def test_areas_over_clusters() -> None:
    rng = np.random.default_rng(1)
    low, high = rng.normal(0, 1, 30), rng.normal(1, 1, 20)
    alone = auc_interval(low, high)
    each = auc_interval(low, high, clusters=(range(30), range(100, 120)))
    assert alone is not None
    assert each is not None
    assert (each.low, each.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    # Every score six times says no more than once.
    six = auc_interval(
        np.repeat(low, 6), np.repeat(high, 6), clusters=(np.repeat(range(30), 6), np.repeat(range(30, 50), 6))
    )
    assert six is not None
    assert (six.low, six.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    perfect = auc_interval(
        [0.0] * 60, [1.0] * 60, clusters=([i // 6 for i in range(60)], [i // 6 for i in range(60)])
    )
    small = auc_interval([0.0] * 10, [1.0] * 10)
    assert perfect == small
    with pytest.raises(BadInput, match="one cluster per score"):
        auc_interval(low, high, clusters=([1], [2]))


def test_intervals_over_clusters_cover() -> None:
    """Requests of shared difficulty, in both groups: about 95 of 100 intervals hold the truth."""
    from scipy.stats import norm

    truth, hits, naive = float(norm.cdf(0.5)), 0, 0
    rng = np.random.default_rng(0)
    for _ in range(150):
        of_low, of_high = rng.normal(0, 1, 25), rng.normal(1, 1, 25)
        names = np.repeat(range(25), 4)
        low = np.repeat(of_low, 4) + rng.normal(0, 1, 100)
        high = np.repeat(of_high, 4) + rng.normal(0, 1, 100)
        for clusters in ((names, names + 100), None):
            found = auc_interval(low, high, clusters=clusters)
            assert found is not None
            if clusters is None:
                naive += found.low <= truth <= found.high
            else:
                hits += found.low <= truth <= found.high
    assert hits >= 136
    assert naive < 130
