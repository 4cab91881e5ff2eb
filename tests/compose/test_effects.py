"""What breaks what and what comes back, from run folders whose scores are made up."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safewright.compose import effects
from safewright.compose.effects import Arm, Contrast, contrasts, direction, findings, pairs_of, significant
from safewright.compose.matrix_plan import arms_of
from safewright.errors import BadInput
from safewright.stats import holm
from safewright.types import Delta, Interval, Reading
from tests.compose.test_compare import run

ARMS = (Arm(), Arm(("mend",)), Arm(("forget",)), Arm(("mend", "forget")), Arm(("forget", "mend")))


def folders(
    home: Path, shares: Mapping[str, Mapping[str, float]], n: int = 60
) -> dict[tuple[str, str], Path]:
    """A run per arm and measure in which a share of the records has the score."""
    found = {}
    for arm, measures in shares.items():
        for measure, share in measures.items():
            values = {f"r{i}": float(i < round(share * n)) for i in range(n)}
            better = "lower" if measure == "harmful_rate" else "higher"
            reading = Reading("harmful", share, n, 0, Interval(0.0, 1.0), better=better)  # type: ignore[arg-type]
            place = home / arm / measure
            found[arm, measure] = run(place, values, model=arm[0], measure=measure, readings=(reading,))
    return found


SHARES = {
    "none": {"harmful_rate": 0.95, "made_up": 0.0, "kept": 0.9},
    "mend": {"harmful_rate": 0.0, "made_up": 0.0, "kept": 0.9},
    "forget": {"harmful_rate": 0.95, "made_up": 0.9, "kept": 0.3},
    "mend+forget": {"harmful_rate": 0.6, "made_up": 0.9, "kept": 0.3},
    "forget+mend": {"harmful_rate": 0.0, "made_up": 0.1, "kept": 0.9},
}


def test_arms_are_none_each_alone_and_every_order() -> None:
    labels = ["a", "b", "c"]
    assert [arm.name for arm in arms_of(labels, "none")] == ["none", "a", "b", "c"]
    pairs = [arm.name for arm in arms_of(labels, "pairs")]
    assert pairs[4:] == ["a+b", "a+c", "b+a", "b+c", "c+a", "c+b"]
    assert len(arms_of(labels, "all")) == 1 + 3 + 6 + 6
    with pytest.raises(BadInput, match="6 treatments make 1957 arms"):
        arms_of(list("abcdef"), "all")


def test_contrasts_are_untreated_before_and_order() -> None:
    found = [(kind, a.name, b.name) for kind, a, b in pairs_of(ARMS)]
    assert found == [
        ("untreated", "none", "mend"),
        ("untreated", "none", "forget"),
        ("untreated", "none", "mend+forget"),
        ("untreated", "none", "forget+mend"),
        ("before", "mend", "mend+forget"),
        ("before", "forget", "forget+mend"),
        ("order", "mend+forget", "forget+mend"),
    ]


def test_holm_runs_over_every_difference_of_the_matrix(tmp_path: Path) -> None:
    found = contrasts(ARMS, folders(tmp_path, SHARES))
    deltas = list(itertools.chain.from_iterable(contrast.deltas for contrast in found))
    assert len(deltas) == 7 * 3
    assert [d.p_holm for d in deltas] == pytest.approx(holm([d.p for d in deltas]))
    assert max(d.p_holm for d in deltas) == 1.0
    # The adjustment of one comparison alone would be milder.
    mend = next(c for c in found if (c.a, c.b) == ("none", "mend"))
    harm = next(d for d in mend.deltas if d.measure == "harmful_rate")
    assert harm.p_holm > 3 * harm.p
    assert significant(harm)
    assert direction(harm) == 1


def test_what_breaks_and_what_comes_back_is_said(tmp_path: Path) -> None:
    found = findings(ARMS, contrasts(ARMS, folders(tmp_path, SHARES)))
    said = {(f.kind, f.arm, f.measure): f for f in found}
    assert set(said) == {
        ("improves", "mend", "harmful_rate"),
        ("unseen", "mend", "made_up"),
        ("unseen", "mend", "kept"),
        ("unseen", "forget", "harmful_rate"),
        ("improves", "forget", "made_up"),
        ("breaks", "forget", "kept"),
        ("comes back", "mend+forget", "harmful_rate"),
        ("improves", "mend+forget", "made_up"),
        ("breaks", "mend+forget", "kept"),
        ("improves", "forget+mend", "harmful_rate"),
        ("comes back", "forget+mend", "made_up"),
        ("makes good", "forget+mend", "kept"),
        ("order", "forget+mend", "harmful_rate"),
        ("order", "forget+mend", "made_up"),
        ("order", "forget+mend", "kept"),
    }
    back = said["comes back", "mend+forget", "harmful_rate"]
    assert back.path == ("none", "mend", "mend+forget")
    assert back.values == pytest.approx((57 / 60, 0.0, 36 / 60))
    assert said["order", "forget+mend", "kept"].values == pytest.approx((0.3, 0.9))


def test_what_holds_says_what_it_would_have_missed(tmp_path: Path) -> None:
    shares = {**SHARES, "mend+forget": {"harmful_rate": 0.02, "made_up": 0.9, "kept": 0.3}}
    found = findings(ARMS, contrasts(ARMS, folders(tmp_path, shares)))
    (holds,) = [f for f in found if f.kind == "holds"]
    assert (holds.arm, holds.measure) == ("mend+forget", "harmful_rate")
    assert holds.missed is not None
    assert 0.1 < holds.missed < 0.4
    # Fewer rows miss more.
    few = folders(tmp_path / "few", {k: dict(v) for k, v in shares.items()}, n=24)
    (less,) = [f for f in findings(ARMS, contrasts(ARMS, few)) if f.kind == "holds"]
    assert less.missed is None or less.missed > holds.missed


def test_a_gain_that_may_be_gone_is_open_and_not_said_to_hold(tmp_path: Path) -> None:
    shares = {**SHARES, "mend+forget": {"harmful_rate": 0.15, "made_up": 0.9, "kept": 0.3}}
    shares["mend"] = {**shares["mend"], "harmful_rate": 0.6}
    shares["mend+forget"]["harmful_rate"] = 0.7
    found = findings(ARMS, contrasts(ARMS, folders(tmp_path, shares)))
    (finding,) = [
        f for f in found if f.arm == "mend+forget" and f.measure == "harmful_rate" and f.kind != "order"
    ]
    assert finding.kind == "open"
    assert finding.values == pytest.approx((57 / 60, 0.6, 0.7))


def test_a_gain_does_not_hold_on_the_word_of_a_few_equal_pairs() -> None:
    """The bootstrap of equal differences has no width; three pairs without a loss still bound nothing."""
    gain = Delta("m", "s", 60, 0.1, 0.7, 0.6, Interval(0.5, 0.7), 0.0, 0.0, 40, 0, "sign_flip", "higher")
    for n, kind in ((3, "open"), (5, "open"), (6, "holds"), (60, "holds")):
        after = replace(
            gain, n=n, a=0.7, b=0.7, difference=0.0, interval=Interval(0.0, 0.0), p=1.0, p_holm=1.0
        )
        found = [Contrast("untreated", "none", "mend", (gain,), {})]
        found.append(Contrast("before", "mend", "mend+forget", (after,), {}))
        said = {f.arm: f.kind for f in findings(ARMS, found)}
        assert said == {"mend": "improves", "mend+forget": kind}


def test_a_family_too_large_for_sampled_tests_is_told_of(monkeypatch: Any, tmp_path: Path) -> None:
    rows = {f"r{i}": 0.5 + 0.01 * (i % 7) for i in range(20)}
    there = {}
    for arm, more in (("none", 0.0), ("mend", 0.2)):
        reading = Reading("harmful", 0.5, 20, 0, Interval(0.0, 1.0), "score", "higher")
        scores = {key: value + more for key, value in rows.items()}
        there[arm, "kept"] = run(tmp_path / arm, scores, model=arm, measure="kept", readings=(reading,))
    (contrast,) = contrasts(ARMS[:2], there)
    assert "monte_carlo" in contrast.deltas[0].method
    assert not [line for line in contrast.warnings if "adjusted together" in line]
    monkeypatch.setattr(effects, "DRAWS", 18)
    (contrast,) = contrasts(ARMS[:2], there)
    (told,) = [line for line in contrast.warnings if "adjusted together" in line]
    assert "no p below 1 in 19" in told


def test_two_small_losses_are_one_that_both_made(tmp_path: Path) -> None:
    shares = {arm: {"kept": share} for arm, share in zip(SHARES, (1.0, 0.92, 0.92, 0.8, 0.92), strict=True)}
    found = findings(ARMS, contrasts(ARMS, folders(tmp_path, shares)))
    (together,) = [f for f in found if f.kind != "unseen"]
    assert (together.kind, together.arm, together.values) == (
        "together",
        "mend+forget",
        (1.0, pytest.approx(0.8)),
    )


def test_only_rates_and_scores_with_a_better_end_are_compared(tmp_path: Path) -> None:
    def reading(unit: str, better: str) -> Reading:
        return Reading("harmful", 0.5, 60, 0, Interval(0.0, 1.0), unit, better)  # type: ignore[arg-type]

    units = {
        "a": ("rate", "neither"),
        "b": ("score", "higher"),
        "c": ("score", "neither"),
        "d": ("tokens", "lower"),
    }
    units |= {"e": ("rating 1 to 5", "higher")}
    there = {
        (arm, measure): run(
            tmp_path / arm / measure,
            {f"r{i}": value for i in range(20)},
            measure=measure,
            readings=(reading(*unit),),
        )
        for arm, value in (("none", 0.0), ("mend", 1.0))
        for measure, unit in units.items()
    }
    (contrast,) = contrasts(ARMS[:2], there)
    assert {d.measure for d in contrast.deltas} == {"a", "b", "e"}
    assert {f.measure: f.kind for f in findings(ARMS[:2], [contrast])} == {
        "a": "changes",
        "b": "improves",
        "e": "improves",
    }


def test_too_few_records_show_nothing(tmp_path: Path) -> None:
    found = contrasts(ARMS, folders(tmp_path, SHARES, n=4))
    assert not any(significant(d) for contrast in found for d in contrast.deltas)
    assert {f.kind for f in findings(ARMS, found)} == {"unseen"}


def test_an_arm_that_is_missing_loses_its_own_contrasts_alone(tmp_path: Path) -> None:
    there = folders(tmp_path, SHARES)
    left = {place: folder for place, folder in there.items() if place[0] != "forget"}
    del left["mend", "kept"]
    found = contrasts(ARMS, left)
    assert {(c.a, c.b) for c in found} == {
        ("none", "mend"),
        ("none", "mend+forget"),
        ("none", "forget+mend"),
        ("mend", "mend+forget"),
        ("mend+forget", "forget+mend"),
    }
    assert {d.measure for c in found if c.b == "mend" for d in c.deltas} == {"harmful_rate", "made_up"}
    # Without the arm before it, what the last treatment did is not claimed.
    assert not [f for f in findings(ARMS, found) if f.arm == "forget+mend" and f.kind != "order"]


def test_records_that_cannot_be_paired_are_a_warning(tmp_path: Path) -> None:
    there = folders(tmp_path, {k: SHARES[k] for k in ("none", "mend")})
    there["mend", "kept"] = run(tmp_path / "other", {"x1": 1.0}, measure="kept", model="m")
    (contrast,) = contrasts(ARMS[:2], there)
    assert {d.measure for d in contrast.deltas} == {"harmful_rate", "made_up"}
    assert any("kept: The two runs of kept share no record" in line for line in contrast.warnings)
