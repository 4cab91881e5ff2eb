"""How a comparison looks on a page and in a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from safewright.compose.compare import Comparison, Difference
from safewright.report import comparison_table, render_comparison, render_page
from safewright.report import page as page_module
from safewright.types import Delta, Interval
from tests.report.cards import model, taken
from tests.report.test_page import Page
from tests.report.test_tables import printed


def delta(**more: Any) -> Delta:
    fields = {
        "measure": "harmful_rate",
        "score": "harmful",
        "n": 50,
        "a": 0.96,
        "b": 0.76,
        "difference": -0.2,
        "interval": Interval(-0.3404, -0.0569, method="newcombe_paired"),
        "p": 0.0129,
        "p_holm": 0.0258,
        "gained": 2,
        "lost": 12,
        "method": "newcombe_paired, mcnemar_exact",
        "better": "lower",
    }
    return Delta(**{**fields, **more})  # type: ignore[arg-type]


def comparison(**more: Any) -> Comparison:
    fields = {
        "a": "runs/before",
        "b": "runs/after",
        "models_a": {"target": model("before")},
        "models_b": {"target": model("after")},
        "deltas": (delta(), delta(measure="fluency", score="nll", a=2.5, b=3.0, difference=0.5,
                                  interval=Interval(0.2, 0.8, method="cluster_bootstrap"))),
        "unmatched_a": {"harmful_rate": 3, "fluency": 0},
        "unmatched_b": {"harmful_rate": 0, "fluency": 1},
        "unscored_pairs": {"harmful_rate/harmful": 4, "fluency/nll": 0},
        "units": {"harmful_rate/harmful": "rate", "fluency/nll": "nats"},
        "only_b": ("utility",),
        "differences": (Difference("harmful_rate", "judge.name", "keyword", "<b>other</b>", True),),
        "warnings": ("harmful_rate: the two runs differ in judge (name).",),
    }  # fmt: skip
    return Comparison(**{**fields, **more})  # type: ignore[arg-type]


def test_the_page_shows_difference_interval_pairs_and_both_p() -> None:
    page = Page(render_comparison(comparison(), command="safewright compare runs/before runs/after"))
    for shown in (
        "96.0%", "76.0%", "−20.0", "−34.0 to −5.7", "2 up, 12 down", "0.026", "alone 0.013",
        "Newcombe's for paired rates, McNemar's exact test", "Holm's over all 2 differences", "models/after",
        "differ in judge (name)", "<b>other</b>", "utility",
    ):  # fmt: skip
        assert shown in page.text
    assert "+0.500" in page.text
    assert "+50.0" not in page.text
    assert not page.all("b")


def test_the_drawing_has_zero_in_the_middle() -> None:
    page = Page(render_comparison(comparison()))
    zeros = [a["x1"] for a in page.all("line") if a.get("class") == "zero"]
    assert zeros == ["50%", "50%"]
    points = [float(str(a["cx"]).rstrip("%")) for a in page.all("circle")]
    assert points[0] < 50 < points[1]
    # Points run over the round scale from -40 to +40: -20 lies a quarter in.
    assert points[0] == pytest.approx(25.0)


def test_a_comparison_without_deltas_says_so() -> None:
    page = Page(render_comparison(comparison(deltas=())))
    assert "No score exists in both runs." in page.text


def test_a_comparison_can_stand_on_a_page_of_scorecards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "_summaries", dict)
    page = Page(render_page("Both", [taken()], comparisons=[("Difference", comparison())]))
    assert page.text.index("Results") < page.text.index("Difference")
    assert "−34.0 to −5.7" in page.text


def test_the_terminal_shows_the_same_and_no_markup_of_others() -> None:
    shown = printed(comparison_table(comparison(warnings=("[bold]as it is",))))
    for part in ("−20.0", "−34.0 to −5.7", "0.026", "! [bold]as it is"):
        assert part in shown
    assert "harmful_rate: only in A 3, only in B 0, unscored in a pair 4" in shown
    assert "utility: only in A –, only in B all" in shown
