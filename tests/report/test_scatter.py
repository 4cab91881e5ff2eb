"""Hidden states as a picture."""

from __future__ import annotations

from typing import Any

from safewright.report import render_page
from safewright.report.scatter import MOST, harm_figures
from safewright.types import Interval, Reading, Record, Scorecard


def reading(name: str, value: float) -> Reading:
    return Reading(name, value, 20, 0, Interval(value - 0.1, value), "score", "higher")


CARD = Scorecard(
    "harm_direction",
    "1",
    {},
    (
        reading("transfer_auc_decision", 0.99),
        reading("cv_auc_decision", 0.98),
        reading("transfer_auc_prompt_end/model/before", 0.87),
        reading("transfer_auc_prompt_end/layer/middle, before", 0.61),
    ),
)


def record(name: str, role: str, harm: Any) -> Record:
    return Record(name, (), None, meta={"set": role, "harm": harm})


def both(x: float, *, before: bool = True) -> dict[str, Any]:
    own = {"last": [x, 0.5], "middle": [x / 2, -0.5]}
    found: dict[str, Any] = {"target": {"prompt_end": own, "decision": own}}
    return found | ({"before": {"prompt_end": own}} if before else {})


RECORDS = [
    record(f"{role}{i}", role, both(mean + i / 10))
    for role, mean in (("harmful", 1), ("benign", -1), ("wrapped_harmful", -0.5), ("wrapped_benign", -0.9))
    for i in range(3)
]


def test_before_and_after_lie_side_by_side_with_their_areas() -> None:
    end, decision = harm_figures(CARD, RECORDS, "m", several=False)
    assert end.title == "Harm direction: states at the prompt's last token"
    for heading in ("before, middle layer", "after, middle layer", "before, last layer", "after, last layer"):
        assert f'<div class="paneltitle">{heading} <span' in end.svg
    assert "AUC wrapped 0.870 (0.770–0.870)" in end.svg
    assert "AUC wrapped 0.610" in end.svg
    # The model before never reasons: there is one model to show, and no before.
    assert '<div class="paneltitle">last layer <span' in decision.svg
    assert "AUC plain 0.980 (0.880–0.980), AUC wrapped 0.990" in decision.svg
    assert decision.svg.count('class="ring s2"') == 2 * 3 + 1  # two layers, and the legend
    assert "harmful, wrapped −0.400 on average over 3" in decision.svg


def test_many_rows_are_thinned_and_said_so() -> None:
    many = [record(f"r{i}", "harmful", both(i / 500, before=False)) for i in range(500)]
    figure = harm_figures(CARD, many, "m", several=True)[1]
    assert figure.title.endswith("· m")
    assert figure.svg.count('class="dot s2"') == 2 * MOST + 1
    assert f"{MOST} rows of a group are drawn" in figure.caption
    assert "over 500" in figure.svg


def test_data_that_brings_harm_of_its_own_is_no_picture() -> None:
    odd: list[Any] = [
        None,
        "text",
        3,
        {"target": "x"},
        {"target": {"decision": [1, 2]}},
        {"target": {"decision": {"last": "ab"}}},
        {"target": {"decision": {"last": [1.0]}}},
        {"target": {"decision": {"last": [float("nan"), 1.0]}}},
        {"target": {"decision": {"last": ["a", "b"]}}},
    ]
    records = [record(str(i), "harmful", harm) for i, harm in enumerate(odd)]
    assert harm_figures(CARD, records, "m", several=False) == []
    assert harm_figures(CARD, [record("a", "other", both(1.0))], "m", several=False) == []


def test_the_page_shows_the_pictures() -> None:
    page = render_page("p", [(CARD, RECORDS)])
    assert page.count('class="cloud"') == 4 + 2
    assert "<script" not in page
