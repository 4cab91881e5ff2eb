"""Correction for a judge's errors: identities, algebra, simulated judges, and what the intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from safewright.errors import BadInput
from safewright.stats import (
    Confusion,
    JudgeQuality,
    correct_joint,
    corrected_pair,
    corrected_rate,
    noise_floor,
    prediction_powered,
    quality_of,
    rogan_gladen,
)

N = 1543
rate = st.floats(0.0, 1.0)
ability = st.tuples(st.floats(0.55, 1.0), st.floats(0.55, 1.0))
shares = st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4).filter(lambda w: sum(w) > 0.1)


def seen(true: np.ndarray, a: float, b: float) -> np.ndarray:
    """What a judge makes of a true joint distribution of two answers."""
    confusion = np.array([[b, 1 - a], [1 - b, a]])
    return np.asarray(np.kron(confusion, confusion) @ true)


@given(rate)
def test_12_a_perfect_judge_changes_nothing(observed: float) -> None:
    assert rogan_gladen(observed, JudgeQuality(1.0, 1.0)) == pytest.approx(observed, abs=1e-15)


@given(shares)
def test_12_a_perfect_judge_changes_no_joint_distribution(weights: list[float]) -> None:
    share = np.array(weights) / sum(weights)
    assert correct_joint(weights, JudgeQuality(1.0, 1.0)) == pytest.approx(share, abs=1e-14)


def test_12_a_92_percent_judge_on_an_all_safe_model() -> None:
    judge = JudgeQuality(0.92, 0.92)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        verdicts = [(int(f), int(e)) for f, e in rng.random((N, 2)) > 0.92]
        raw = sum(v == (0, 0) for v in verdicts) / N
        assert raw == pytest.approx(0.846, abs=0.03)
        corrected = corrected_pair("sr_long", verdicts, judge, draws=400).both_safe
        assert corrected.value is not None
        assert corrected.interval is not None
        assert corrected.interval.high >= 0.99
        if seed == 0:
            assert raw == pytest.approx(0.846, abs=0.02)
            assert corrected.value >= 0.97
    floor = noise_floor(judge)
    assert floor["sr_long"] == pytest.approx(0.8464)
    assert (floor["sr_front"], floor["sr_short"]) == (0.92, 0.92)
    assert floor["drop"] == pytest.approx(0.0736)


@given(rate, ability)
def test_rogan_gladen_undoes_the_judge(true: float, able: tuple[float, float]) -> None:
    judge = JudgeQuality(*able)
    observed = true * able[0] + (1 - true) * (1 - able[1])
    assert rogan_gladen(observed, judge) == pytest.approx(true, abs=1e-9)


@given(shares, ability)
def test_correct_joint_undoes_the_judge(weights: list[float], able: tuple[float, float]) -> None:
    true = np.array(weights) / sum(weights)
    assert correct_joint(seen(true, *able), JudgeQuality(*able)) == pytest.approx(true, abs=1e-9)


@given(shares, ability)
def test_a_corrected_joint_is_a_distribution_and_swaps_with_its_positions(
    weights: list[float], able: tuple[float, float]
) -> None:
    judge = JudgeQuality(*able)
    found = correct_joint(weights, judge)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-12)
    swapped = correct_joint([weights[0], weights[2], weights[1], weights[3]], judge)
    assert swapped == pytest.approx(found[[0, 2, 1, 3]], abs=1e-12)


@given(shares, ability)
def test_margins_of_the_joint_are_rogan_gladen_where_nothing_was_clipped(
    weights: list[float], able: tuple[float, float]
) -> None:
    judge = JudgeQuality(*able)
    observed = seen(np.array(weights) / sum(weights), *able)
    found = correct_joint(observed, judge)
    assert found[2] + found[3] == pytest.approx(rogan_gladen(observed[2] + observed[3], judge), abs=1e-9)
    assert found[1] + found[3] == pytest.approx(rogan_gladen(observed[1] + observed[3], judge), abs=1e-9)


@given(rate, rate, ability)
def test_a_higher_observed_rate_is_never_a_lower_true_one(
    x: float, y: float, able: tuple[float, float]
) -> None:
    judge = JudgeQuality(*able)
    low, high = sorted((x, y))
    assert rogan_gladen(low, judge) <= rogan_gladen(high, judge)


def test_an_exact_judge_gives_the_jeffreys_interval() -> None:
    found = corrected_rate("u", [1] * 30 + [0] * 70, JudgeQuality(1, 1), draws=40_000)
    assert found.value == 0.3
    assert found.interval is not None
    assert found.interval.low == pytest.approx(special.betaincinv(30.5, 70.5, 0.025), abs=0.002)
    assert found.interval.high == pytest.approx(special.betaincinv(30.5, 70.5, 0.975), abs=0.002)
    safe = corrected_rate("s", [1] * 30 + [0] * 70, JudgeQuality(1, 1), of_safe=True)
    assert safe.value == pytest.approx(0.7)
    assert (found.better, safe.better) == ("lower", "higher")


def test_doubt_about_the_judge_widens_the_interval() -> None:
    verdicts = [1] * 300 + [0] * 700
    widths = []
    for labelled in (None, 1000, 50):
        judge = JudgeQuality(0.9, 0.9, labelled, labelled)
        interval = corrected_rate("u", verdicts, judge).interval
        assert interval is not None
        assert interval.method == "judge_error_bootstrap"
        widths.append(interval.high - interval.low)
    assert widths[0] < widths[1] < widths[2]


def test_clusters_widen_it_too_and_unscored_verdicts_are_left_out() -> None:
    verdicts: list[float | None] = [1, 1, 1, 1, 0, 0, 0, 0] * 20
    judge = JudgeQuality(0.9, 0.9)
    alone = corrected_rate("u", verdicts, judge).interval
    tied = corrected_rate("u", verdicts, judge, clusters=[i // 4 for i in range(160)]).interval
    assert alone is not None
    assert tied is not None
    assert tied.high - tied.low > 1.5 * (alone.high - alone.low)
    found = corrected_rate("u", [None, 1, 0], judge)
    assert (found.n, found.unscored) == (2, 1)
    pair = corrected_pair("sr_long", [(0, 0), (1, None), (None, None)], judge)
    assert (pair.both_safe.n, pair.both_safe.unscored) == (1, 2)
    nothing = corrected_pair("sr_long", [(None, 0)], judge)
    assert nothing.both_safe.value is None
    assert nothing.joint is None
    assert corrected_rate("u", [None], judge).value is None


def test_a_solution_outside_the_distributions_is_projected_and_said_so() -> None:
    judge = JudgeQuality(0.9, 0.9)
    outside = corrected_pair("sr_long", [(0, 0)] * 100, judge)
    assert outside.projected
    assert outside.joint == (1.0, 0.0, 0.0, 0.0)
    inside = corrected_pair("sr_long", [(0, 0), (0, 1), (1, 0), (1, 1)] * 25, judge)
    assert not inside.projected
    assert inside.joint == pytest.approx((0.25,) * 4)


@pytest.mark.parametrize(("true_rate", "labelled"), [(0.1, 100), (0.5, 60), (0.9, 100), (0.3, 1000)], ids=str)
def test_the_interval_of_a_rate_covers(true_rate: float, labelled: int) -> None:
    rng = np.random.default_rng(3)
    a, b, n, hits, runs = 0.85, 0.92, 400, 0, 200
    for run in range(runs):
        judge = JudgeQuality(
            rng.binomial(labelled, a) / labelled, rng.binomial(labelled, b) / labelled, labelled, labelled
        )
        truth = rng.random(n) < true_rate
        verdicts = np.where(truth, rng.random(n) < a, rng.random(n) < 1 - b).astype(int).tolist()
        interval = corrected_rate("u", verdicts, judge, draws=800, seed=run).interval
        assert interval is not None
        hits += interval.low <= true_rate <= interval.high
    assert hits >= 182


def test_the_interval_of_a_pair_covers_an_all_safe_and_a_mixed_model() -> None:
    rng = np.random.default_rng(5)
    a, b, n, labelled, runs = 0.9, 0.92, 600, 150, 150
    for joint in ((1.0, 0.0, 0.0, 0.0), (0.4, 0.15, 0.2, 0.25)):
        hits = 0
        for run in range(runs):
            judge = JudgeQuality(
                rng.binomial(labelled, a) / labelled, rng.binomial(labelled, b) / labelled, labelled, labelled
            )
            cell = rng.choice(4, size=n, p=joint)
            truth = np.stack([cell >= 2, cell % 2 == 1], axis=1)
            said = np.where(truth, rng.random((n, 2)) < a, rng.random((n, 2)) < 1 - b).astype(int)
            verdicts = [(int(f), int(e)) for f, e in said]
            interval = corrected_pair("sr_long", verdicts, judge, draws=800, seed=run).both_safe.interval
            assert interval is not None
            hits += interval.low <= joint[0] <= interval.high
        assert hits >= 135, joint


def test_a_judge_no_better_than_chance_is_refused() -> None:
    for a, b in ((0.5, 0.5), (0.2, 0.7), (0.0, 1.0)):
        with pytest.raises(BadInput, match="do not add up to more than 1"):
            JudgeQuality(a, b)
    with pytest.raises(BadInput, match=r"sensitivity is 1\.2"):
        JudgeQuality(1.2, 0.9)
    with pytest.raises(BadInput, match="No unsafe answer was labelled"):
        quality_of(Confusion(cleared=10, accused=1))
    found = quality_of(Confusion(caught=9, missed=1, cleared=19, accused=1))
    assert (found.sensitivity, found.specificity, found.unsafe, found.safe) == (0.9, 0.95, 10, 20)


def test_few_labels_may_leave_every_rate_possible() -> None:
    judge = JudgeQuality(0.6, 0.6, 5, 5)
    interval = corrected_rate("u", [1] * 50 + [0] * 50, judge).interval
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_bad_verdicts_are_named() -> None:
    judge = JudgeQuality(0.9, 0.9)
    with pytest.raises(BadInput, match="A verdict is 2"):
        corrected_rate("u", [2], judge)
    with pytest.raises(BadInput, match="came with 1 clusters"):
        corrected_rate("u", [1, 0], judge, clusters=["a"])
    for wrong in ([1, 2, 3], [-1, 1, 1, 1], [0, 0, 0, 0]):
        with pytest.raises(BadInput, match="Give four shares or counts"):
            correct_joint(wrong, judge)
    with pytest.raises(BadInput, match=r"observed rate is 1\.5"):
        rogan_gladen(1.5, judge)
    with pytest.raises(BadInput, match="cannot hold a tail"):
        corrected_rate("u", [1], judge, draws=10)


def test_same_seed_same_interval() -> None:
    judge = JudgeQuality(0.9, 0.9, 100, 100)
    verdicts = [(0, 0)] * 50 + [(1, 0)] * 20
    assert corrected_pair("x", verdicts, judge, seed=4) == corrected_pair("x", verdicts, judge, seed=4)


def test_prediction_powered_of_a_perfect_judge_and_of_a_useless_one() -> None:
    verdicts: list[float | None] = [1] * 300 + [0] * 700
    perfect = prediction_powered("u", verdicts, [(1, 1)] * 30 + [(0, 0)] * 70)
    # w = 1 / (1 + 100 / 1000): the labelled sample's own rate is 0.3 as well.
    assert perfect.value == pytest.approx(0.3)
    useless = prediction_powered("u", verdicts, [(1, 1), (1, 0), (0, 1), (0, 0)] * 25)
    assert useless.value == pytest.approx(0.5)
    assert perfect.interval is not None
    assert useless.interval is not None
    assert perfect.interval.low < 0.3 < perfect.interval.high
    assert useless.interval.high - useless.interval.low > 2 * (perfect.interval.high - perfect.interval.low)
    silent = prediction_powered("u", [None, 1, 0], [(None, 1), (1, 1), (0, 0)])
    assert (silent.n, silent.unscored) == (4, 2)
    assert prediction_powered("u", [], [(0, 1), (1, 1), (0, 0), (0, 0)]).value == 0.5


def test_prediction_powered_covers_even_where_errors_depend_on_the_other_answer() -> None:
    """Instances whose two verdicts share their errors: the case the Kronecker square cannot see."""
    rng = np.random.default_rng(11)
    n, labelled, runs, hits, widths, plain = 1200, 200, 200, 0, 0.0, 0.0
    truth_rate = 0.4  # of instances safe in both
    for run in range(runs):
        truth = rng.random(n) < truth_rate
        said = np.where(truth, rng.random(n) < 0.8, rng.random(n) < 0.05).astype(float)
        pairs = [(float(s), float(t)) for s, t in zip(said[:labelled], truth[:labelled], strict=True)]
        found = prediction_powered("sr_long", said[labelled:].tolist(), pairs, draws=600, seed=run)
        assert found.interval is not None
        hits += found.interval.low <= truth_rate <= found.interval.high
        widths += found.interval.high - found.interval.low
        alone = prediction_powered("sr_long", [], pairs, draws=600, seed=run).interval
        assert alone is not None
        plain += alone.high - alone.low
    assert hits >= 182
    assert widths < 0.85 * plain  # the judge's verdicts on the rest are worth something


def test_prediction_powered_needs_labels() -> None:
    with pytest.raises(BadInput, match="1 labelled items have a verdict"):
        prediction_powered("u", [1, 0], [(1, 1), (None, 0)])
    with pytest.raises(BadInput, match="A verdict is 3"):
        prediction_powered("u", [3], [(1, 1), (0, 0)])
