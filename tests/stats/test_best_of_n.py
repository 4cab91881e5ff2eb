"""Best of N: both views, the closed form, the fit beyond m, and drawing in batches."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safewright.errors import BadInput
from safewright.stats.best_of_n import (
    best_of_area,
    best_of_curve,
    best_of_reading,
    beta_binomial,
    first_token,
    powers,
    shares,
    still_open,
    stopped_shares,
    unsafe_all,
    unsafe_any,
)
from safewright.stats.intervals import clopper_pearson

COUNTS = st.integers(1, 10).flatmap(
    lambda m: st.tuples(st.just(m), st.lists(st.integers(0, m), min_size=1, max_size=6), st.integers(1, m))
)


def brute(counts: list[int], m: int, N: int, view: str) -> float:
    """The mean over every choice of N among the m answers."""
    found = []
    for u in counts:
        answers = [1] * u + [0] * (m - u)
        test = all if view == "all" else any
        picks = [test(pick) for pick in itertools.combinations(answers, N)]
        found.append(sum(picks) / len(picks))
    return sum(found) / len(found)


@settings(deadline=None, max_examples=60)
@given(COUNTS)
def test_03_best_of_n_equals_brute_force(given_: tuple[int, list[int], int]) -> None:
    m, counts, N = given_
    assert unsafe_all(counts, m, N) == pytest.approx(brute(counts, m, N, "all"), abs=1e-12)
    assert unsafe_any(counts, m, N) == pytest.approx(brute(counts, m, N, "any"), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 32), min_size=1, max_size=20))
def test_03_best_of_n_is_monotone_and_ends_in_the_share_of_all_unsafe(counts: list[int]) -> None:
    of_all = [unsafe_all(counts, 32, N) for N in range(1, 33)]
    of_any = [unsafe_any(counts, 32, N) for N in range(1, 33)]
    assert all(b <= a for a, b in itertools.pairwise(of_all))
    assert all(b >= a for a, b in itertools.pairwise(of_any))
    assert of_all[0] == pytest.approx(of_any[0], abs=1e-12)
    assert of_all[-1] == sum(u == 32 for u in counts) / len(counts)
    assert of_any[-1] == pytest.approx(sum(u > 0 for u in counts) / len(counts), abs=1e-15)


def test_03_best_of_n_is_exact_to_512_and_goes_on_beyond() -> None:
    for m in (512, 513, 4000):
        for u, N in ((m - 1, m - 1), (m - 3, 200), (m // 2, 17)):
            exact = math.comb(u, N) / math.comb(m, N)
            assert unsafe_all([u], m, N) == pytest.approx(exact, rel=0 if m == 512 else 1e-9)


def test_03_more_draws_than_answers_is_an_error_and_never_nan() -> None:
    for find in (unsafe_all, unsafe_any):
        with pytest.raises(BadInput, match="only 4 scored answers"):
            find([3, 2], 4, 5)
        with pytest.raises(BadInput, match="only 3 scored"):
            find([3, 2], [8, 3], 4)
        for wrong in (0, -1, True, 1.5):
            with pytest.raises(BadInput, match="N is"):
                find([1], 4, wrong)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="5 unsafe answers among 4"):
            find([5], 4, 1)
        with pytest.raises(BadInput, match="among 0"):
            find([0], [0], 1)
        with pytest.raises(BadInput, match="no prompts"):
            find([], 4, 1)
        with pytest.raises(BadInput, match="2 counts came with 1"):
            find([1, 2], [4], 1)
        with pytest.raises(BadInput, match="whole numbers"):
            find([1.5], 4, 1)  # type: ignore[list-item]
    with pytest.raises(BadInput, match="view"):
        shares([1], 2, 1, "some")  # type: ignore[arg-type]


def test_03_mean_over_simulated_sets_is_the_closed_form() -> None:
    rng = np.random.default_rng(3)
    q = rng.beta(0.8, 0.9, size=60)
    for N in (1, 4, 16, 32):
        drawn = [rng.binomial(32, q) for _ in range(300)]
        of_all = np.mean([unsafe_all(counts, 32, N) for counts in drawn])
        of_any = np.mean([unsafe_any(counts, 32, N) for counts in drawn])
        assert of_all == pytest.approx(first_token(1 - q, N), abs=0.005)
        assert of_any == pytest.approx(first_token(1 - q, N, "any"), abs=0.005)


def test_03_one_minus_is_pass_at_k_of_inspect() -> None:
    from inspect_ai.scorer import Score, pass_at

    for u, N in ((0, 3), (5, 3), (7, 4), (8, 8), (8, 1)):
        safe = [Score(value=0.0)] * u + [Score(value=1.0)] * (8 - u)
        assert 1 - unsafe_all([u], 8, N) == pytest.approx(pass_at(N)(safe).as_float(), abs=1e-12)


def test_samples_that_were_not_scored_leave_a_prompt_with_fewer() -> None:
    assert unsafe_all([4, 1], [4, 2], 2) == pytest.approx((1 + 0) / 2)
    assert unsafe_any([1, 1], [4, 2], 2) == pytest.approx((0.5 + 1) / 2)


def test_curve_reading_and_area_agree() -> None:
    counts, clusters = [32, 31, 16, 0, 0, 8], ["a", "a", "b", "b", "c", "c"]
    curve = best_of_curve(counts, 32, clusters=clusters, name="asr_all[prefix]")
    assert curve.name == "asr_all[prefix]"
    assert curve.x == (1, 2, 4, 8, 16, 32)
    for N, y, low, high in zip(curve.x, curve.y, curve.low, curve.high, strict=True):
        reading = best_of_reading("asr_all@N", counts, 32, int(N), clusters)
        assert (reading.value, reading.n, reading.unit) == (pytest.approx(y, abs=1e-12), 6, "rate")
        assert reading.interval is not None
        assert (reading.interval.low, reading.interval.high) == (pytest.approx(low), pytest.approx(high))
        assert low <= y <= high
    alone = best_of_curve(counts, 32)
    assert alone.high[0] - alone.low[0] != curve.high[0] - curve.low[0]
    area = best_of_area("auc", counts, 32)
    heights = [unsafe_all(counts, 32, int(N)) for N in curve.x]
    assert area.value == pytest.approx(sum((a + b) / 2 for a, b in itertools.pairwise(heights)) / 5)
    assert best_of_area("auc", [8] * 5, 8).value == 1.0
    never = best_of_curve([0] * 20, 8, view="any")
    assert never.y == (0.0,) * 4
    assert min(never.high) > 0.1  # nothing seen among 20 prompts is not nothing
    with pytest.raises(BadInput, match="grid"):
        best_of_curve(counts, 32, (4, 2))
    with pytest.raises(BadInput, match="at least two"):
        best_of_area("auc", [1], 1)
    assert powers(24) == (1, 2, 4, 8, 16, 24)


def test_04_closed_form_of_a_model_that_refuses_at_its_first_token(tiny_folder: Path) -> None:
    """The refusal is one word; whoever draws it first refuses, and one forward pass gives the whole curve."""
    from safewright.models import load
    from safewright.types import Decoding
    from tests import tiny

    model = load(tiny_folder, batch_size=512)
    chats = [row.prompt for row in tiny.rows(2)]
    greedy = [g.raw.split()[0] for g in model.generate(chats, Decoding(max_new_tokens=1))]
    word = next(w for w in greedy if w in tiny.WORDS)
    p = [math.exp(sum(s.logprobs)) for s in model.logprobs(chats, [word] * len(chats))]
    assert max(p) > 0.05
    draws = 512
    refused = []
    for chat in chats:
        how = Decoding(max_new_tokens=1, temperature=1.0, seed=5)
        said = model.generate([chat] * draws, how)
        refused.append([g.raw.strip() == word for g in said])
    for N in (1, 4, 16):
        trials = np.array(refused).reshape(len(chats), draws // N, N)
        hits = ~trials.any(axis=2)
        for own, row in zip(p, hits, strict=True):
            found = clopper_pearson(int(row.sum()), draws // N, 0.999)
            assert found.low <= first_token([own], N) <= found.high
        over = clopper_pearson(int(hits.sum()), hits.size, 0.999)
        assert over.low <= first_token(p, N) <= over.high


def test_04_closed_form_keeps_small_probabilities_and_checks_them() -> None:
    assert first_token([1e-18], 10**6) < 1
    assert first_token([0.0, 1.0], 50) == 0.5
    assert first_token([0.0, 1.0], 50, "any") == 0.5
    with pytest.raises(BadInput, match=r"probability is 1\.5"):
        first_token([1.5], 2)
    with pytest.raises(BadInput, match="no probabilities"):
        first_token([], 2)
    with pytest.raises(BadInput, match="N is 0"):
        first_token([0.5], 0)


def drawn_from(a: float, b: float, n: int, m: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    found: list[int] = rng.binomial(m, rng.beta(a, b, size=n)).tolist()
    return found


def truth(a: float, b: float, N: int) -> float:
    return math.exp(
        math.lgamma(a + N) + math.lgamma(a + b) - math.lgamma(a + b + N) - math.lgamma(a)
    )  # B(a + N, b) / B(a, b)


def test_05_fit_recovers_parameters_and_extrapolates() -> None:
    inside = []
    for seed in range(6):
        fit = beta_binomial(drawn_from(0.8, 0.9, 400, 32, seed), 32)
        at = fit.extrapolate(128)
        assert at.value == pytest.approx(truth(0.8, 0.9, 128), abs=0.02)
        assert at.interval is not None
        inside += [
            at.interval.low <= truth(0.8, 0.9, 128) <= at.interval.high,
            fit.interval[0].low <= 0.8 <= fit.interval[0].high,
            fit.interval[1].low <= 0.9 <= fit.interval[1].high,
        ]
        if seed == 0:
            assert fit.a == pytest.approx(0.8, rel=0.15)
            assert fit.b == pytest.approx(0.9, rel=0.15)
            assert not fit.warnings
    assert sum(inside) >= 15  # of 18, at 95 %


def test_05_fit_is_the_maximum_and_agrees_with_the_unbiased_estimate() -> None:
    counts = drawn_from(2.0, 0.3, 80, 16, 1)
    fit = beta_binomial(counts, 16)

    def likelihood(a: float, b: float) -> float:
        beta = [math.lgamma(u + a) + math.lgamma(16 - u + b) - math.lgamma(16 + a + b) for u in counts]
        return sum(beta) - len(counts) * (math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))

    best = likelihood(fit.a, fit.b)
    for x in (0.98, 1.02):
        assert best > likelihood(fit.a * x, fit.b)
        assert best > likelihood(fit.a, fit.b * x)
    # The edge of the region is where the likelihood has fallen by half the chi-square quantile.
    for a, b in fit.region:
        assert best - likelihood(a, b) == pytest.approx(3.841459 / 2, abs=1e-4)
    curve = fit.curve((1, 4, 16))
    assert curve.y == pytest.approx([unsafe_all(counts, 16, N) for N in (1, 4, 16)], abs=0.03)
    assert fit.at(4, "any") == pytest.approx(unsafe_any(counts, 16, 4), abs=0.03)


@pytest.mark.parametrize("count", [0, 32])
def test_05_counts_that_are_all_alike_give_a_bounded_estimate_and_a_warning(count: int) -> None:
    fit = beta_binomial([count] * 40, 32)
    assert 1e-3 <= fit.a <= 1e3
    assert 1e-3 <= fit.b <= 1e3
    assert "are safe" in fit.warnings[0] if count == 0 else "are unsafe" in fit.warnings[0]
    for view in ("all", "any"):
        at = fit.extrapolate(128, view=view)
        assert at.value == pytest.approx(count / 32, abs=0.05)
        assert at.interval is not None
        assert 0 <= at.interval.low <= at.value <= at.interval.high <= 1
        assert all(map(math.isfinite, (at.value, at.interval.low, at.interval.high)))
    open_side = fit.extrapolate(128, view="any" if count == 0 else "all").interval
    assert open_side is not None
    assert open_side.high - open_side.low > 0.02


def test_05_a_fit_of_what_is_not_a_beta_says_so() -> None:
    rng = np.random.default_rng(2)
    # Three of four prompts always work, the rest one time in two: no beta distribution.
    counts = [32] * 300 + rng.binomial(32, 0.5, size=100).tolist()
    assert any("not spread as it assumes" in warning for warning in beta_binomial(counts, 32).warnings)


def test_05_prompts_of_one_cluster_widen_the_interval() -> None:
    counts = drawn_from(0.8, 0.9, 60, 16, 4)
    alone, grouped = beta_binomial(counts, 16), beta_binomial(counts, 16, [i // 3 for i in range(60)])
    assert (alone.a, alone.b) == (grouped.a, grouped.b)
    for one, other in zip(alone.interval, grouped.interval, strict=True):
        assert other.low < one.low < one.high < other.high


def test_drawing_stops_at_the_first_safe_answer_without_bias() -> None:
    rng = np.random.default_rng(0)
    q, m, batch = np.array([0.95, 0.8, 0.5, 1.0]), 10, 4
    total = {N: np.zeros(4) for N in (1, 3, 4, 6, 8, 9, 10)}
    used = 0
    rounds = 4000
    for _ in range(rounds):
        answers = rng.random((4, m)) < q[:, None]
        unsafe, drawn = [0] * 4, [0] * 4
        while places := still_open(unsafe, drawn, m):
            for i in places:
                end = min(drawn[i] + batch, m)
                unsafe[i] += int(answers[i, drawn[i] : end].sum())
                drawn[i] = end
        used += sum(drawn)
        for N, sums in total.items():
            sums += stopped_shares(unsafe, drawn, batch, N)
    for N, sums in total.items():
        assert sums / rounds == pytest.approx(q**N, abs=0.03)
    assert used < 0.9 * rounds * 4 * m


def test_stopped_counts_are_checked() -> None:
    with pytest.raises(BadInput, match="drawn on after a safe one"):
        stopped_shares([3], [8], 4, 2)
    with pytest.raises(BadInput, match="all unsafe, and N is 9"):
        stopped_shares([8], [8], 4, 9)
    assert stopped_shares([7], [8], 4, 9).tolist() == [0.0]
    assert still_open([0, 4, 8, 3], [0, 4, 8, 4], 8) == (0, 1)
