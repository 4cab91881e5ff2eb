"""Readings: the right interval for the right kind of score, and nothing made of nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from safewright.errors import BadInput, NumericalFailure
from safewright.stats import bounded_mean, mean_reading, rate_reading, wilson


def test_rate_of_independent_records_is_wilson() -> None:
    got = rate_reading("harmful_rate", [1, 0, 0, 1], ["a", "b", "c", "d"], unscored=2, better="lower")
    assert (got.name, got.value, got.n, got.unscored, got.unit, got.better) == (
        "harmful_rate", 0.5, 4, 2, "rate", "lower",
    )  # fmt: skip
    assert got.interval == wilson(2, 4)
    assert rate_reading("r", [1, 0, 0, 1]).interval == wilson(2, 4)


def test_rate_of_shared_prompts_is_resampled_by_prompt() -> None:
    values, clusters = [1.0] * 10 + [0.0] * 30, [i // 10 for i in range(40)]
    got = rate_reading("r", values, clusters)
    assert got.interval == bounded_mean(values, clusters)
    assert got.interval is not None
    assert got.interval.high - got.interval.low > 2 * (wilson(10, 40).high - wilson(10, 40).low)


def test_agreeing_clusters_still_have_doubt() -> None:
    got = rate_reading("r", [0.0] * 40, [i // 10 for i in range(40)])
    assert got.interval is not None
    assert got.interval.high > 0.5  # four prompts only


@pytest.mark.parametrize("make", [rate_reading, mean_reading])
def test_nothing_scored_is_not_a_rate(make: object) -> None:
    got = make("r", [], [], unscored=7)  # type: ignore[operator]
    assert (got.value, got.interval, got.n, got.unscored) == (None, None, 0, 7)


def test_a_rate_counts_whole_records() -> None:
    with pytest.raises(BadInput, match=r"0\.5"):
        rate_reading("r", [0.5])
    with pytest.raises(NumericalFailure):
        rate_reading("r", [float("nan")])
    with pytest.raises(BadInput):
        rate_reading("r", [1.0], unscored=-1)
    with pytest.raises(BadInput):
        rate_reading("r", [1.0, 0.0], ["a"])


def test_mean_of_scores() -> None:
    got = mean_reading("rougeL", [0.2, 0.4, 0.9], better="higher")
    assert got.value == pytest.approx(0.5)
    assert got.interval == bounded_mean([0.2, 0.4, 0.9])
    assert got.unit == "score"
    with pytest.raises(BadInput):
        mean_reading("rougeL", [1.1])


def test_mean_of_equal_scores_is_not_a_point() -> None:
    got = mean_reading("rougeL", [0.7] * 20).interval
    assert got is not None
    assert got.low < 0.7 < got.high
    assert got.method == "bounded_bootstrap"


def test_mean_without_bounds() -> None:
    got = mean_reading("tokens", [10.0, 20.0, 40.0, 35.0], bounds=None)
    assert got.interval is not None
    assert got.interval.method == "cluster_bootstrap"
    assert mean_reading("tokens", [10.0, 10.0], bounds=None).interval is None


def test_importing_costs_no_heavy_package() -> None:
    code = (
        "import sys, safewright.stats, safewright.data; "
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'huggingface_hub', 'scipy.optimize'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
