"""Intervals against statsmodels, against their definitions, and against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from safewright.errors import BadInput, NumericalFailure
from safewright.stats import (
    bounded_mean,
    clopper_pearson,
    cluster_bootstrap,
    newcombe_paired,
    paired_cluster_bootstrap,
    wilson,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
tables = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda t: sum(t) > 0)


@given(counts, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_is_statsmodels(kn: tuple[int, int], level: float) -> None:
    k, n = kn
    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    got = wilson(k, n, level)
    assert got.low == pytest.approx(low, abs=1e-12)
    assert got.high == pytest.approx(high, abs=1e-12)
    assert (got.level, got.method) == (level, "wilson")


@given(counts, st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_clopper_pearson_is_statsmodels(kn: tuple[int, int], level: float) -> None:
    k, n = kn
    low, high = proportion_confint(k, n, alpha=1 - level, method="beta")
    got = clopper_pearson(k, n, level)
    assert got.low == pytest.approx(0.0 if k == 0 else low, abs=1e-10)
    assert got.high == pytest.approx(1.0 if k == n else high, abs=1e-10)


@given(counts)
def test_rate_intervals_hold_their_rate_and_mirror(kn: tuple[int, int]) -> None:
    k, n = kn
    for method in (wilson, clopper_pearson):
        here, there = method(k, n), method(n - k, n)
        assert 0.0 <= here.low <= k / n <= here.high <= 1.0
        assert here.high > here.low
        assert here.low == pytest.approx(1 - there.high, abs=1e-9)


def test_rate_intervals_at_the_ends() -> None:
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0
    assert wilson(0, 0).low == 0.0
    assert wilson(0, 0).high == 1.0
    assert clopper_pearson(0, 0).high == 1.0
    # The rule of three, roughly: none of 100 leaves up to 3.7 %.
    assert wilson(0, 100).high == pytest.approx(0.0370, abs=5e-4)


@pytest.mark.parametrize(
    ("k", "n", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0), (True, 2, 0.95)]
)
def test_rate_intervals_refuse_nonsense(k: int, n: int, level: float) -> None:
    for method in (wilson, clopper_pearson):
        with pytest.raises(BadInput) as error:
            method(k, n, level)
        assert error.value.exit_code == 2


def test_newcombe_is_the_unpaired_interval_when_uncorrelated() -> None:
    # 4 * 24 = 8 * 12: phi is 0, and method 10 is the hybrid score interval of independent samples.
    n, k_a, k_b = 48, 4 + 8, 4 + 12
    low, high = confint_proportions_2indep(k_b, n, k_a, n, method="newcomb", compare="diff")
    got = newcombe_paired(4, 8, 12, 24)
    assert got.low == pytest.approx(low, abs=1e-12)
    assert got.high == pytest.approx(high, abs=1e-12)


def test_newcombe_by_hand() -> None:
    # a, b, c, d = 36, 2, 12, 0: rates 38/50 and 48/50; phi from -24 without correction (it is negative).
    got = newcombe_paired(36, 2, 12, 0)
    first, second = wilson(38, 50), wilson(48, 50)
    phi = -24 / math.sqrt(38 * 12 * 48 * 2)
    down, up = 0.96 - second.low, first.high - 0.76
    assert got.low == pytest.approx(0.2 - math.sqrt(down**2 - 2 * phi * down * up + up**2))
    down, up = second.high - 0.96, 0.76 - first.low
    assert got.high == pytest.approx(0.2 + math.sqrt(down**2 - 2 * phi * down * up + up**2))
    # Published for this table: 0.0569 to 0.3404.
    assert (got.low, got.high) == (pytest.approx(0.0569, abs=5e-5), pytest.approx(0.3404, abs=5e-5))


@given(tables)
def test_newcombe_properties(table: tuple[int, int, int, int]) -> None:
    both, only_a, only_b, neither = table
    n = sum(table)
    got = newcombe_paired(*table)
    swapped = newcombe_paired(both, only_b, only_a, neither)
    flipped = newcombe_paired(neither, only_b, only_a, both)
    assert -1.0 <= got.low <= (only_b - only_a) / n + 1e-12
    assert (only_b - only_a) / n - 1e-12 <= got.high <= 1.0
    assert got.low == pytest.approx(-swapped.high, abs=1e-9)
    assert got.low == pytest.approx(-flipped.high, abs=1e-9)
    assert got.high > got.low


def test_newcombe_covers() -> None:
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.08, 0.15, 0.27])
    hits = 0
    for table in rng.multinomial(80, p, size=1500):
        got = newcombe_paired(*(int(x) for x in table))
        hits += got.low <= p[2] - p[1] <= got.high
    assert 0.935 <= hits / 1500 <= 0.985


def test_newcombe_without_pairs_knows_nothing() -> None:
    assert (newcombe_paired(0, 0, 0, 0).low, newcombe_paired(0, 0, 0, 0).high) == (-1.0, 1.0)
    with pytest.raises(BadInput):
        newcombe_paired(1, -1, 0, 0)


def test_cluster_bootstrap_matches_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(2.0, 3.0, size=400)
    got = cluster_bootstrap(values, level=0.9, draws=4000, seed=3)
    half = 1.6449 * values.std() / 20
    assert got.low == pytest.approx(values.mean() - half, abs=0.05)
    assert got.high == pytest.approx(values.mean() + half, abs=0.05)
    assert got.method == "cluster_bootstrap"


def test_cluster_bootstrap_widens_with_clusters() -> None:
    # 40 prompts, 10 identical answers each: 400 answers say no more than 40.
    values = np.repeat(np.arange(40) % 2, 10).astype(float)
    clusters = [f"prompt {i // 10}" for i in range(400)]
    alone, together = cluster_bootstrap(values), cluster_bootstrap(values, clusters)
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.12)


def test_resampling_is_seeded_and_blind_to_names() -> None:
    values = np.random.default_rng(0).random(60).tolist()
    clusters = [i // 2 for i in range(60)]
    renamed = [("prompt", i) for i in clusters]
    for method in (cluster_bootstrap, bounded_mean):
        assert method(values, clusters, seed=5) == method(values, renamed, seed=5)
        assert method(values, clusters, seed=5) != method(values, clusters, seed=6)


@pytest.mark.parametrize("method", [cluster_bootstrap, bounded_mean])
def test_resampling_refuses_nonsense(method: object) -> None:
    for args, kwargs in (
        (([],), {}),
        (([1.0], ["a", "b"]), {}),
        (([1.0],), {"draws": 5}),
        (([1.0],), {"level": 95}),
        (([[1.0]],), {}),
    ):
        with pytest.raises(BadInput):
            method(*args, **kwargs)  # type: ignore[operator]
    with pytest.raises(NumericalFailure):
        method([0.5, float("nan")])  # type: ignore[operator]


def test_bounded_mean_is_clopper_pearson_on_rates() -> None:
    for k, n in ((1, 20), (7, 30), (29, 30)):
        values = [1.0] * k + [0.0] * (n - k)
        got, exact = bounded_mean(values, draws=40_000), clopper_pearson(k, n)
        assert got.low == pytest.approx(exact.low, abs=0.006)
        assert got.high == pytest.approx(exact.high, abs=0.006)


@given(st.floats(0, 1), st.integers(1, 200))
def test_bounded_mean_keeps_its_width_when_all_agree(value: float, n: int) -> None:
    got = bounded_mean([value] * n)
    shrink = 0.025 ** (1 / n)
    assert got.low == pytest.approx(value * shrink)
    assert got.high == pytest.approx(1 - (1 - value) * shrink)
    assert got.high - got.low >= 1 - shrink - 1e-12


def test_bounded_mean_ends_are_exact() -> None:
    for n in (1, 5, 50):
        assert bounded_mean([0.0] * n).high == pytest.approx(clopper_pearson(0, n).high)
        assert bounded_mean([1.0] * n).low == pytest.approx(clopper_pearson(n, n).low)


def test_bounded_mean_counts_clusters_not_answers() -> None:
    got = bounded_mean([0.0] * 100, [i // 10 for i in range(100)])
    assert got.high == pytest.approx(clopper_pearson(0, 10).high)


def test_bounded_mean_has_no_jump_next_to_agreement() -> None:
    same, nearly = bounded_mean([0.8] * 50), bounded_mean([0.8] * 49 + [0.801])
    assert nearly.low == pytest.approx(same.low, abs=0.006)
    assert nearly.high == pytest.approx(same.high, abs=0.006)


def test_bounded_mean_covers_where_the_plain_bootstrap_fails() -> None:
    # One in twenty scores 0, the others 1: many samples of 30 hold no 0 at all.
    rng = np.random.default_rng(2)
    plain = bounded = 0
    for seed in range(300):
        values = (rng.random(30) > 0.05).astype(float)
        a = cluster_bootstrap(values, draws=400, seed=seed)
        b = bounded_mean(values, draws=400, seed=seed)
        plain += a.low <= 0.95 <= a.high
        bounded += b.low <= 0.95 <= b.high
    assert plain / 300 < 0.9
    assert bounded / 300 >= 0.94


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=40))
def test_bounded_mean_holds_the_mean(pairs: list[tuple[float, int]]) -> None:
    values, clusters = [v for v, _ in pairs], [c for _, c in pairs]
    got = bounded_mean(values, clusters, draws=1000)
    assert 0.0 <= got.low <= got.high <= 1.0
    assert got.low - 1e-9 <= np.mean(values) <= got.high + 1e-9


def test_bounded_mean_refuses_values_outside() -> None:
    with pytest.raises(BadInput, match=r"1\.2"):
        bounded_mean([0.5, 1.2])


def test_paired_bootstrap_is_of_b_minus_a() -> None:
    rng = np.random.default_rng(4)
    a = rng.random(200) * 0.5
    b = a + 0.2 + rng.normal(0, 0.05, 200).clip(-0.1, 0.1)
    for bounds in (None, (0.0, 1.0)):
        got = paired_cluster_bootstrap(a, b, bounds=bounds)
        assert got.low < 0.2 < got.high
        assert got.low > 0.1
    # Pairing is the point: the two samples alone are far noisier.
    assert paired_cluster_bootstrap(a, b).high - paired_cluster_bootstrap(a, b).low < 0.02


def test_paired_bootstrap_with_bounds_keeps_its_width_when_nothing_changed() -> None:
    same = [0.0, 1.0] * 25
    assert paired_cluster_bootstrap(same, same).high == 0.0
    got = paired_cluster_bootstrap(same, same, bounds=(0.0, 1.0))
    assert got.low == pytest.approx(-got.high)
    assert 0.01 < got.high < 0.1


def test_paired_bootstrap_refuses_unpaired_values() -> None:
    with pytest.raises(BadInput, match="2 values were paired with 1"):
        paired_cluster_bootstrap([0.0, 1.0], [1.0])
    with pytest.raises(BadInput, match="value of b"):
        paired_cluster_bootstrap([0.0], [1.5], bounds=(0.0, 1.0))
