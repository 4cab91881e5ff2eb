"""Agreement against statsmodels, against worked examples, and against its own algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa

from safewright.errors import BadInput
from safewright.stats import Confusion, cohen_kappa, confusion, krippendorff_alpha, wilson

label = st.sampled_from([0, 1, None])
pairs = st.lists(st.tuples(label, label), max_size=60)


def unzip(rows: list[tuple[int | None, int | None]]) -> tuple[list[int | None], list[int | None]]:
    return [a for a, _ in rows], [b for _, b in rows]


def test_12_readings_are_wilson_in_closed_form() -> None:
    found = Confusion(caught=40, missed=10, cleared=45, accused=5, unscored_unsafe=2, unscored_safe=1)
    readings = found.readings()
    for name, k, n, lost in (
        ("accuracy", 85, 100, 3),
        ("sensitivity", 40, 50, 2),
        ("specificity", 45, 50, 1),
        ("precision_unsafe", 40, 45, 0),
        ("precision_safe", 45, 55, 0),
    ):
        reading = readings[name]
        assert (reading.value, reading.n, reading.unscored) == (k / n, n, lost)
        z, p = 1.959963984540054, k / n
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        assert reading.interval is not None
        assert reading.interval.low == pytest.approx(middle - reach, abs=1e-12)
        assert reading.interval.high == pytest.approx(middle + reach, abs=1e-12)
        assert reading.interval == wilson(k, n)


@given(pairs)
def test_confusion_counts_every_labelled_item_once(rows: list[tuple[int | None, int | None]]) -> None:
    truth, said = unzip(rows)
    found = confusion(truth, said)
    assert sum(vars(found).values()) == sum(t is not None for t in truth)
    assert found.unscored_safe + found.unscored_unsafe == sum(
        t is not None and s is None for t, s in zip(truth, said, strict=True)
    )
    accuracy = found.readings()["accuracy"]
    assert accuracy.n == found.n
    assert accuracy.value is None or 0 <= accuracy.value <= 1


def test_an_unscored_item_is_never_agreement() -> None:
    found = confusion([1, 1, 0], [None, None, None]).readings()
    assert found["accuracy"].value is None
    assert found["accuracy"].unscored == 3
    assert found["sensitivity"].interval is None


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(lambda t: min(t[0] + t[3], t[1] + t[2]) > 0))
def test_kappa_and_its_interval_are_statsmodels(cells: tuple[int, int, int, int]) -> None:
    a, b, c, d = cells
    first = [0] * (a + b) + [1] * (c + d)
    second = [0] * a + [1] * b + [0] * c + [1] * d
    reading = cohen_kappa(first, second)
    with np.errstate(invalid="ignore"):  # their variance of nothing may be a negative zero
        theirs = cohens_kappa(np.array([[a, b], [c, d]]))
    assert reading.value == pytest.approx(theirs.kappa, abs=1e-12)
    if min(a + b, c + d, a + c, b + d) == 0:
        assert reading.interval is None
        return
    if b + c == 0:
        assert reading.interval is not None
        assert reading.interval.method == "clopper_pearson_disagreement"
        return
    if not theirs.var_kappa > 1e-12:
        assert reading.interval is None
        return
    assert reading.interval is not None
    assert reading.interval.method == "fleiss_cohen_everitt"
    assert reading.interval.low == pytest.approx(max(theirs.kappa_low, -1.0), abs=1e-9)
    assert reading.interval.high == pytest.approx(min(theirs.kappa_upp, 1.0), abs=1e-9)


@given(pairs)
def test_kappa_does_not_mind_order_of_raters_or_names_of_labels(
    rows: list[tuple[int | None, int | None]],
) -> None:
    first, second = unzip(rows)
    one, other = cohen_kappa(first, second), cohen_kappa(second, first)
    swapped = cohen_kappa(
        [None if x is None else 1 - x for x in first], [None if x is None else 1 - x for x in second]
    )
    assert one.n + one.unscored == len(rows)
    for each in (other, swapped):
        assert (each.value is None) == (one.value is None)
        if one.value is not None:
            assert each.value == pytest.approx(one.value, abs=1e-12)
            assert -1 <= one.value <= 1


def test_perfect_agreement_keeps_its_doubt_and_a_single_label_has_no_kappa() -> None:
    few, many = (cohen_kappa([0, 1] * n, [0, 1] * n) for n in (5, 100))
    for reading in (few, many):
        assert reading.value == 1.0
        assert reading.interval is not None
        assert reading.interval.high == 1.0
        assert reading.interval.method == "clopper_pearson_disagreement"
    # 1 - 0.025^(1/10) = 0.308 of ten items may be disagreed on; chance disagrees on half.
    assert few.interval is not None
    assert few.interval.low == pytest.approx(1 - (1 - 0.025**0.1) / 0.5, abs=1e-9)
    assert many.interval is not None
    assert many.interval.low > 0.9
    for alone in (cohen_kappa([1, 1, 1], [1, 1, 1]), cohen_kappa([], []), cohen_kappa([None], [1])):
        assert alone.value is None
        assert alone.interval is None


MISSING = None
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, MISSING, MISSING, MISSING],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, MISSING, 3],
    [MISSING, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, MISSING],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, MISSING],
]
"""The reliability data of Krippendorff (2011), section C: nominal, four observers, missing values."""


def test_alpha_is_krippendorffs_own_examples() -> None:
    two = krippendorff_alpha([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]])
    # Section A by hand: 8 disagreeing values of 20, values 14 and 6: 1 - 19 * 8 / (2 * 14 * 6).
    assert two.value == pytest.approx(1 - 19 * 8 / (2 * 14 * 6), abs=1e-12)
    assert two.value == pytest.approx(0.095, abs=5e-4)
    four = krippendorff_alpha(FOUR_OBSERVERS)
    assert four.value == pytest.approx(0.743, abs=5e-4)
    assert (four.n, four.unscored) == (11, 1)
    assert four.interval is not None
    assert four.interval.low < 0.743 < four.interval.high
    assert four.interval.method == "item_bootstrap"


@given(st.lists(st.lists(label, min_size=3, max_size=3), min_size=1, max_size=25), st.permutations(range(3)))
def test_alpha_is_that_of_the_coincidence_matrix_whoever_is_named_first(
    items: list[list[int | None]], order: list[int]
) -> None:
    raters = [[item[r] for item in items] for r in range(3)]
    pairable = [[x for x in item if x is not None] for item in items]
    together = np.zeros((2, 2))
    for item in pairable:
        for i, a in enumerate(item):
            for j, b in enumerate(item):
                if i != j:
                    together[a, b] += 1 / (len(item) - 1)
    n_c = together.sum(axis=1)
    n = n_c.sum()
    found = krippendorff_alpha(raters, draws=100)
    if n_c[0] * n_c[1] == 0:
        assert found.value is None
        return
    assert found.value == pytest.approx(1 - (n - 1) * together[0, 1] / (n_c[0] * n_c[1]), abs=1e-9)
    shuffled = krippendorff_alpha([raters[r] for r in order], draws=100)
    assert shuffled.value == pytest.approx(found.value, abs=1e-12)


def test_alpha_without_disagreement_keeps_its_doubt() -> None:
    found = krippendorff_alpha([[0, 1] * 10, [0, 1] * 10, [None] * 20])
    assert found.value == 1.0
    assert found.interval is not None
    assert 0.5 < found.interval.low < 0.8
    assert krippendorff_alpha([[0, 0], [0, 0]]).value is None
    assert krippendorff_alpha([[0, 1], [None, None]]).value is None


@pytest.mark.parametrize("intervals", ["kappa", "alpha"])
def test_intervals_cover(intervals: str) -> None:
    """Two raters who are each right on 85 % of items, 40 % of them unsafe; n = 120."""
    truth_rate, right, n = 0.4, 0.85, 120
    agree = right**2 + (1 - right) ** 2
    share = truth_rate * right + (1 - truth_rate) * (1 - right)
    expected = share**2 + (1 - share) ** 2
    true_value = (agree - expected) / (1 - expected)
    rng = np.random.default_rng(7)
    hits = 0
    for run in range(200):
        truth = rng.random(n) < truth_rate
        first, second = (np.where(rng.random(n) < right, truth, ~truth).astype(int).tolist() for _ in "ab")
        if intervals == "kappa":
            reading = cohen_kappa(first, second)
        else:
            reading = krippendorff_alpha([first, second], draws=400, seed=run)
        assert reading.interval is not None
        hits += reading.interval.low <= true_value <= reading.interval.high
    assert hits >= 182  # 95 % less 2.6 standard errors


def test_bad_labels_are_named() -> None:
    with pytest.raises(BadInput, match="2 labels were compared with 1"):
        cohen_kappa([0, 1], [0])
    with pytest.raises(BadInput, match=r"A label is 0\.5"):
        confusion([0.5], [0])
    with pytest.raises(BadInput, match=r"The raters gave \[2, 1\] labels"):
        krippendorff_alpha([[0, 1], [0]])
    with pytest.raises(BadInput, match="caught is -1"):
        Confusion(caught=-1)
