"""Claims and verdicts: the mean decides, fewer seeds than needed decide nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from safewright.errors import BadInput
from safewright.stats import Claim, over_seeds


def test_the_mean_over_seeds_decides() -> None:
    claim = Claim("it is high", "x", ">=", 0.5)
    assert claim.judge([0.4, 0.6, 0.6]).ruling == "holds"
    assert claim.judge([0.4, 0.4, 0.6]).ruling == "refuted"
    assert Claim("it is low", "x", "<=", 0.5).judge([0.5, 0.5, 0.5]).ruling == "holds"


def test_fewer_seeds_than_needed_decide_nothing() -> None:
    assert Claim("it is high", "x", ">=", 0.5).judge([0.9, 0.9]).ruling == "undecided"
    assert Claim("it is high", "x", ">=", 0.5, single_seed=True).judge([0.9]).ruling == "holds"


def test_the_interval_is_students() -> None:
    values = [0.2, 0.5, 0.4, 0.9]
    low, high = over_seeds(values)
    wanted = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(tuple(wanted))
    assert over_seeds([0.3]) == (None, None)


def test_no_value_is_an_error() -> None:
    with pytest.raises(BadInput, match="no value"):
        Claim("it is high", "x", ">=", 0.5).judge([])
