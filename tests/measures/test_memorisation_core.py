"""The formulas of `memorisation`, each against its definition written out, and acceptance check 11."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safewright.measures.memorisation import core
from safewright.measures.memorisation.analysis import findings
from safewright.measures.memorisation.config import named
from safewright.stats import auc
from safewright.types import Reading, Record

LOGS = st.lists(st.floats(-20, -1e-6), min_size=1, max_size=12)
HITS = st.lists(st.booleans(), min_size=1, max_size=12)
LOSSES = st.lists(st.floats(0, 15), min_size=1, max_size=5)


def test_11_all_correct_gives_one_and_none_correct_gives_zero_for_both() -> None:
    assert core.exact_memorisation([True] * 6) == core.extraction_strength([True] * 6) == 1.0
    assert core.exact_memorisation([False] * 6) == core.extraction_strength([False] * 6) == 0.0


def test_11_the_last_three_of_seven_correct_extract_three_sevenths() -> None:
    assert core.extraction_strength([False, True, False, False, True, True, True]) == pytest.approx(3 / 7)
    assert core.exact_memorisation([False, True, False, False, True, True, True]) == pytest.approx(4 / 7)


@given(LOGS)
def test_11_min_k_over_all_tokens_is_the_mean_loss(logs: list[float]) -> None:
    assert core.min_k(logs, 1.0) == pytest.approx(core.loss_of(logs), abs=1e-12)
    assert core.loss_of(logs) == pytest.approx(-sum(logs) / len(logs), abs=1e-12)


def test_11_min_k_plus_of_a_uniform_distribution_is_finite() -> None:
    logs = [-math.log(50)] * 4
    found = core.min_k_plus(logs, logs, [0.0] * 4, 0.5)
    assert found == 0.0
    off = core.min_k_plus([-5.0, -4.0], [-4.0, -4.0], [0.0, 1e-9], 1.0)
    assert off == pytest.approx(0.5 / math.sqrt(1e-6))


def test_11_equal_score_sets_have_area_one_half_and_no_leak() -> None:
    scores = [0.3, 0.1, 2.0, 0.1]
    assert auc(scores, scores) == 0.5
    assert core.priv_leak(0.7, 0.7) == 0.0


def test_11_priv_leak_of_a_telling_model_is_minus_98() -> None:
    assert core.priv_leak(0.99, 0.5) == pytest.approx(-98.0)
    assert core.priv_leak(0.2, 1.0) is None
    assert core.priv_leak(0.0, 0.5) == pytest.approx(100.0)


def test_11_equal_truth_ratios_cannot_be_told_apart() -> None:
    from scipy import stats

    ratios = [0.2, 0.5, 0.9, 1.4]
    records = [
        Record(
            id=f"r{i}",
            input=(),
            output=None,
            meta={
                "set": "forget",
                "tokens": 3,
                "cut": 0,
                "truth_ratio": ratio,
                "retrained": {"truth_ratio": ratio},
            },
        )
        for i, ratio in enumerate(ratios)
    ]
    (test,) = findings(records, {}).tests
    assert (test.name, test.statistic, test.p, test.n) == ("forget_quality", 0.0, 1.0, 8)
    assert stats.ks_2samp(ratios, ratios).pvalue == 1.0


def leaking(target: Sequence[float], retrained: Sequence[float]) -> Reading:
    """PrivLeak of Min-K scores: the first half of forget rows, the second of holdout rows."""
    half = len(target) // 2
    records = [
        Record(
            id=f"r{i}",
            input=(),
            output=None,
            scores={named("min_k", "forget" if i < half else "holdout"): score},
            status={named("min_k", "forget" if i < half else "holdout"): "ok"},
            meta={
                "set": "forget" if i < half else "holdout",
                "tokens": 3,
                "cut": 0,
                "retrained": {"min_k": other},
            },
        )
        for i, (score, other) in enumerate(zip(target, retrained, strict=True))
    ]
    return {reading.name: reading for reading in findings(records, {}).readings}["priv_leak"]


def test_priv_leak_has_no_interval_where_rows_say_nothing_of_its_spread() -> None:
    leak = leaking([1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 1.0, 2.0])
    assert (leak.value, leak.interval) == (-100.0, None)
    leak = leaking([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert (leak.value, leak.interval, leak.n) == (None, None, 4)
    leak = leaking([1.0, 3.0, 2.0, 4.0] * 5, [1.0, 3.0, 4.0, 2.0] * 5)
    assert leak.interval is not None
    assert leak.value is not None
    assert leak.interval.low < leak.value < leak.interval.high


@given(HITS)
def test_extraction_is_the_definition_with_k_from_zero(hits: list[bool]) -> None:
    n = len(hits)
    starts = [k for k in range(n) if all(hits[k:])]
    expected = 1 - min(starts) / n if starts else 0.0
    assert core.extraction_strength(hits) == pytest.approx(expected, abs=1e-12)
    assert core.extraction_strength(hits) <= core.exact_memorisation(hits) + 1e-12


@given(st.floats(0, 15), LOSSES)
def test_truth_ratio_and_its_aggregators(loss: float, wrong: list[float]) -> None:
    wrongs = float(np.exp(-np.mean(wrong)))
    ratio = wrongs / (math.exp(-loss) + 1e-10)
    assert core.truth_ratio(loss, wrong) == pytest.approx(ratio, rel=1e-12)
    assert core.closeness(ratio) == pytest.approx(min(ratio, 1 / ratio), rel=1e-12)
    assert core.truth(ratio) == max(0.0, 1 - ratio)
    assert core.truth_share(loss, wrong) == pytest.approx(math.exp(-loss) / (math.exp(-loss) + wrongs))
    total = math.exp(-loss) + sum(math.exp(-w) for w in wrong) + 1e-10
    assert core.normalised(loss, wrong) == pytest.approx(math.exp(-loss) / total, rel=1e-12)
    assert core.closeness(0.0) == 0.0


@given(LOGS, st.integers(1, 100))
def test_min_k_is_the_mean_of_the_lowest(logs: list[float], percent: int) -> None:
    count, share = max(1, percent * len(logs) // 100), percent / 100
    assert core.min_k(logs, share) == pytest.approx(-np.mean(sorted(logs)[:count]), abs=1e-9)
    means, variances = [-1.0] * len(logs), [4.0] * len(logs)
    z = sorted((v + 1) / 2 for v in logs)[:count]
    assert core.min_k_plus(logs, means, variances, share) == pytest.approx(-np.mean(z), abs=1e-9)


def test_a_share_just_below_a_whole_number_of_tokens_counts_them_all() -> None:
    assert core.lowest([float(-i) for i in range(100)], 0.29) == pytest.approx(np.mean(range(71, 100)))


def test_zlib_and_harmonic_mean() -> None:
    text = "the same the same the same"
    assert core.zlib_score(2.0, text) == 2.0 / len(zlib.compress(text.encode()))
    assert core.harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert core.harmonic_mean([0.5, 0.0]) == 0.0
