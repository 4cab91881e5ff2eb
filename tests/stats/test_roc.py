"""The area under the ROC curve and its interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safewright.errors import BadInput
from safewright.stats import auc, auc_interval, auc_reading

SCORES = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.0]), min_size=1, max_size=12)


@settings(deadline=None)
@given(SCORES, SCORES)
def test_area_is_the_share_of_pairs_in_order_with_ties_as_half(low: list[float], high: list[float]) -> None:
    pairs = [1.0 if h > g else 0.5 if h == g else 0.0 for g in low for h in high]
    assert auc(low, high) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    reverse = auc(high, low)
    assert reverse is not None
    assert reverse == pytest.approx(1 - sum(pairs) / len(pairs), abs=1e-12)


@settings(deadline=None)
@given(SCORES, SCORES)
def test_the_interval_holds_the_area_and_never_lacks_width(low: list[float], high: list[float]) -> None:
    value, found = auc(low, high), auc_interval(low, high)
    assert value is not None
    assert found is not None
    assert 0 <= found.low <= value <= found.high <= 1
    assert found.high - found.low > 0.01


def test_nothing_to_compare_has_no_area() -> None:
    assert auc([], [1.0]) is None
    assert auc_interval([1.0], []) is None
    assert auc_reading("mia", [], [1.0]).value is None
    with pytest.raises(BadInput, match="level"):
        auc_interval([1.0], [2.0], level=1.0)


def test_variance_is_delongs() -> None:
    rng = np.random.default_rng(3)
    low, high = rng.normal(size=9), rng.normal(0.5, 1, size=7)
    value = auc(low, high)
    assert value is not None
    of_high = [np.mean([(h > g) for g in low]) for h in high]
    of_low = [np.mean([(h > g) for h in high]) for g in low]
    s10 = sum((v - value) ** 2 for v in of_high) / (len(high) - 1)
    s01 = sum((v - value) ** 2 for v in of_low) / (len(low) - 1)
    half = 1.959963984540054 * np.sqrt(s10 / len(high) + s01 / len(low)) / (value * (1 - value))
    middle = np.log(value / (1 - value))
    found = auc_interval(low, high)
    assert found is not None
    assert found.method == "delong"
    assert found.low == pytest.approx(1 / (1 + np.exp(half - middle)), abs=1e-9)
    assert found.high == pytest.approx(1 / (1 + np.exp(-half - middle)), abs=1e-9)


def test_perfect_order_solves_newcombes_equation() -> None:
    found = auc_interval(range(10), range(20, 30))
    assert found is not None
    assert (found.high, found.method) == (1.0, "newcombe_auc")
    t, extra = found.low, 9.0
    spread = t * (1 - t) * (1 + extra * (1 - t) / (2 - t) + extra * t / (1 + t)) / 100
    assert 1 - t == pytest.approx(1.959963984540054 * np.sqrt(spread), abs=1e-6)
    other = auc_interval(range(20, 30), range(10))
    assert other is not None
    assert (other.low, other.high) == pytest.approx((0.0, 1 - t), abs=1e-6)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    held = 0
    for _ in range(300):
        found = auc_interval(rng.normal(size=25), rng.normal(1, 1, size=25))
        assert found is not None
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 300 <= 0.99
