"""Paired tests and multiplicity against statsmodels, enumeration and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from safewright.errors import BadInput
from safewright.stats import holm, mcnemar_exact, minimum_detectable, paired_permutation


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_statsmodels(b: int, c: int) -> None:
    got = mcnemar_exact(b, c)
    if b + c == 0:
        assert got.p == 1.0
        return
    expected = mcnemar([[0, b], [c, 0]], exact=True)
    assert got.p == pytest.approx(min(1.0, expected.pvalue), rel=1e-9)
    assert got.statistic == expected.statistic
    assert (got.n, got.method, got.minimum_detectable) == (b + c, "mcnemar_exact", None)


def test_mcnemar_says_what_it_could_have_seen() -> None:
    got = mcnemar_exact(3, 11, pairs=200)
    assert got.n == 200
    assert got.minimum_detectable == pytest.approx(minimum_detectable(200, 14 / 200))
    with pytest.raises(BadInput, match="14 records changed among 10"):
        mcnemar_exact(3, 11, pairs=10)
    with pytest.raises(BadInput):
        mcnemar_exact(-1, 0)


def test_minimum_detectable_has_its_power() -> None:
    n, psi = 400, 0.2
    d = minimum_detectable(n, psi)
    assert d is not None
    rng = np.random.default_rng(0)
    tables = rng.multinomial(n, [(psi + d) / 2, (psi - d) / 2, 1 - psi], size=2000)
    found = np.mean([mcnemar_exact(int(b), int(c)).p < 0.05 for b, c, _ in tables])
    # The exact test is a little conservative against the approximation.
    assert 0.72 < found < 0.84


def test_minimum_detectable_shrinks_with_n_and_grows_with_noise() -> None:
    values = [minimum_detectable(n, 0.3) for n in (20, 100, 1000)]
    assert values == sorted(values, reverse=True)
    assert minimum_detectable(200, 0.5) > minimum_detectable(200, 0.1)  # type: ignore[operator]
    # Few changes: one-way change of this size, so never below it.
    least = minimum_detectable(100, 0.0)
    assert least is not None
    assert (100 * least) ** 0.5 == pytest.approx(1.959964 + 0.841621 * (1 - least) ** 0.5, abs=1e-4)
    assert minimum_detectable(3, 0.1) is None
    for bad in ({"discordance": 1.5}, {"discordance": 0.1, "power": 1.0}):
        with pytest.raises(BadInput):
            minimum_detectable(10, **bad)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_permutation_is_the_enumeration(diffs: list[int]) -> None:
    scaled = [d / 4 for d in diffs]
    totals = [
        abs(sum(s * d for s, d in zip(signs, diffs, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(diffs))
    ]
    expected = np.mean([t >= abs(sum(diffs)) for t in totals])
    got = paired_permutation(scaled)
    assert got.p == pytest.approx(expected)
    assert got.statistic == pytest.approx(np.mean(scaled))
    assert (got.method, got.n) == ("sign_flip_exact", len(diffs))


@given(st.integers(0, 13), st.integers(0, 13))
@settings(deadline=None, max_examples=30)
def test_permutation_of_binary_changes_is_mcnemar(b: int, c: int) -> None:
    if b + c > 13:
        return
    got = paired_permutation([-1.0] * b + [1.0] * c + [0.0] * 50)
    assert got.p == pytest.approx(mcnemar_exact(b, c).p)


def test_permutation_flips_whole_clusters() -> None:
    diffs, clusters = [1.0] * 40, [i // 10 for i in range(40)]
    assert paired_permutation(diffs, clusters).p == pytest.approx(2 / 16)
    assert paired_permutation(diffs, clusters).n == 4
    assert paired_permutation(diffs).p < 1e-3


def test_permutation_by_sampling() -> None:
    rng = np.random.default_rng(1)
    diffs = rng.normal(0.1, 1.0, 60)
    got = paired_permutation(diffs, seed=2, draws=20_000)
    assert got.method == "sign_flip_monte_carlo"
    assert got.p == pytest.approx(stats.ttest_1samp(diffs, 0.0).pvalue, abs=0.02)
    assert got == paired_permutation(diffs, seed=2, draws=20_000)
    assert got.p != paired_permutation(diffs, seed=3, draws=20_000).p
    # Never zero: the observed pattern is one of those that could have been drawn.
    assert paired_permutation([1.0] * 40, draws=99).p == pytest.approx(1 / 100)


def test_permutation_without_change() -> None:
    assert paired_permutation([0.0] * 30).p == 1.0
    assert paired_permutation([0.1, 0.2, -0.3], ["a", "a", "a"]).p == 1.0
    for bad in (lambda: paired_permutation([]), lambda: paired_permutation([1.0], ["a", "b"])):
        with pytest.raises(BadInput):
            bad()


def test_permutation_keeps_its_level() -> None:
    rng = np.random.default_rng(5)
    hits = sum(paired_permutation(rng.normal(size=10)).p <= 0.05 for _ in range(400))
    assert hits / 400 < 0.08


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(ps: list[float]) -> None:
    assert holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]), abs=1e-12)


def test_holm_edges() -> None:
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    for bad in ([-0.1], [1.1], [float("nan")]):
        with pytest.raises(BadInput):
            holm(bad)
