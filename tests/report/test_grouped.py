"""Readings in parts: heat maps, breakdowns, curves along words, and the link to a log viewer."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from safewright.report import console_table, render_markdown, render_page, text
from safewright.report.lines import heat_maps, split
from safewright.report.svg import LogScale, scale_along
from safewright.types import Curve, Interval, Reading
from tests.report.cards import CONVENTIONS, taken
from tests.report.grouped import ISSUES, TASKS, card
from tests.report.test_page import Page
from tests.report.test_tables import printed


def heat(html: str) -> str:
    found = re.search(r'<table class="heat".*?</table>', html, re.S)
    assert found is not None
    return found[0]


def test_every_cell_is_drawn_with_its_rate_and_n() -> None:
    drawn = Page(heat(render_page("x", [card()])))
    boxes = [a for a in drawn.all("svg") if str(a.get("class")).startswith("box")]
    assert len(boxes) == len(ISSUES) * len(TASKS) == 42
    assert [a.get("scope") for a in drawn.all("th")].count("row") == 7
    said = [str(a["aria-label"]) for a in boxes]
    assert said[0] == "Illegal Activities, Question Answering: 100.0%, interval 95.7–100.0%, n 86"
    assert "Bias, Question Answering: 53.3%, interval 30.1–75.2%, n 15, few" in said
    assert "Toxicity, Rewrite: nothing scored, 5 unscored" in said
    assert "n 86" in drawn.text


def test_few_and_unscored_cells_do_not_look_like_the_others() -> None:
    drawn = Page(heat(render_page("x", [card()])))
    looks = {
        str(a["aria-label"]).partition(":")[0]: str(a["class"]) for a in drawn.all("svg") if "aria-label" in a
    }
    assert looks["Toxicity, Rewrite"] == "box blank"
    assert looks["Sensitive Topics, Rewrite"] == "box"  # 0 of 38 is a rate
    assert looks["Privacy & Property, Rewrite"] == "box few"
    fills = [a for a in drawn.all("rect") if a.get("class") == "fill"]
    assert len(fills) == 41
    assert {a["style"] for a in fills} >= {"--v:0.000", "--v:1.000"}
    assert "fewer than 30 scored" in Page(render_page("x", [card()])).text


def test_colours_have_a_dark_form_and_text_keeps_its_contrast() -> None:
    """The number stands on the fill: at every value its contrast is at least 4.5, in light and in dark."""
    styles = render_page("x", [card()])

    def luminance(rgb: tuple[float, ...]) -> float:
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    def colour(name: str, nth: int) -> tuple[float, ...]:
        code = re.findall(rf"--{name}: #([0-9a-f]{{6}})", styles)[nth]
        return tuple(int(code[i : i + 2], 16) / 255 for i in (0, 2, 4))

    for nth in (0, 1):
        top = float(re.findall(r"--heat-top: ([0-9.]+)", styles)[nth])
        low = float(re.findall(r"--heat-low: ([0-9.]+)", styles)[nth])
        for value in (0.0, 0.25, 0.5, 0.75, 1.0):
            part = low + value * (top - low)
            under = tuple(
                part * h + (1 - part) * p
                for h, p in zip(colour("heat", nth), colour("paper", nth), strict=True)
            )
            bright, dim = sorted((luminance(under), luminance(colour("ink", nth))), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (nth, value)


def test_axes_are_named_by_the_other_groups() -> None:
    found = next(iter(heat_maps([(card()[0], "aligned")])))
    assert found.axes == ("safety_type", "task_type")
    assert found.title == "SR long by safety type and task type"
    bare = replace(card()[0], readings=tuple(r for r in card()[0].readings if "/cell/" in r.name))
    assert next(iter(heat_maps([(bare, "a")]))).title == "SR long by cell"


def test_any_measure_with_cells_gets_a_map_and_gaps_stay_empty() -> None:
    readings = [
        Reading("found", 0.5, 80, 0, Interval(0.4, 0.6)),
        Reading("found/cell/a/b", 0.002, 1000, 0, Interval(0.0, 0.01)),
        Reading("found/cell/c/d", 0.999, 1000, 0, Interval(0.99, 1.0)),
    ]
    html = render_page("x", [taken("other", "found", readings=readings)])
    drawn = Page(heat(html))
    assert len([a for a in drawn.all("svg") if a.get("class") == "box"]) == 2
    assert "<1%" in drawn.text
    assert ">99%" in drawn.text
    assert "fewer than" not in Page(html).text


def test_parts_stand_apart_from_the_headline() -> None:
    page = Page(render_page("x", [card()]))
    head, _, parts = page.text.partition("In parts")
    results = head.partition("Figures")[0]
    assert "SR long" in results
    assert "SR front" in results
    assert "Bias" not in results
    for shown in (
        "SR long by safety type",
        "SR long by task type",
        "SR long standardised to the pooled mix",
        "SR long as a mean of groups",
        "SR long by number of documents",
        "SR long change by context scale",
        "SR long in every cell",
        "Toxicity / Rewrite",
        "few",
    ):
        assert shown in parts, shown
    assert parts.index("SR long by number of documents") < parts.index("SR long in every cell")
    tables = [a for a in page.all("table") if str(a.get("class")).startswith("results parts")]
    assert len(tables) == 7
    assert all(a.get("scope") for a in page.all("th"))
    folds = [("open" in a) for a in page.all("details") if a.get("class") == "part"]
    assert folds == [True, True, False, False, False, False, False]


def test_counts_are_about_the_answers() -> None:
    said = Page(render_page("x", [card()])).text
    aside = said[said.index("About the answers") :]
    assert "Longsafety: unparsed" in aside
    assert "overlong" in aside
    assert "count/" not in said.partition("Conventions")[0]


def test_bounds_go_with_what_they_bound() -> None:
    said = Page(render_page("x", [card()])).text
    assert "with the 5 unscored: 39.7–40.0%" in said
    assert 'A range "with the unscored"' in said
    assert "sr_long_low" not in said
    alone = taken("m", "s", readings=[Reading("s_low", 0.5, 40, 0, Interval(0.3, 0.6))])
    assert "50.0%" in Page(render_page("x", [alone])).text  # bounds nothing: a reading of its own


def test_the_judge_is_introduced_once() -> None:
    said = Page(render_page("x", [card()])).text
    assert said.count("Judge: agents") == 1


def test_differences_are_in_points_with_their_sign() -> None:
    html = render_page("x", [card()])
    said = Page(html).text
    assert "−3.9 points" in said
    assert "−6.1 to −1.7" in said
    assert 'class="zero"' in html
    assert text.quantity(0.0, "difference") == "0.0 points"


def test_two_models_share_breakdowns_and_have_a_map_each() -> None:
    html = render_page("x", [card(), card("dirty", -0.2)])
    page = Page(html)
    assert html.count('<table class="heat"') == 2
    assert "by safety type and task type · dirty" in page.text
    strips = [str(a.get("aria-label")) for a in page.all("svg") if a.get("class") == "strip"]
    assert any(label.startswith("SR long by safety type, Bias, dirty: ") for label in strips)
    assert len([a for a in page.all("table") if str(a.get("class")).startswith("results parts")]) == 7
    assert len(page.all("polyline")) == 4


def test_curves_of_rates_along_words_and_along_factors() -> None:
    html = render_page("x", [card()])
    assert html.count('class="band s1"') == 2
    assert "words of context" in html
    assert "times the own context" in html
    assert html.count(">75%<") >= 2
    along = scale_along([0.125, 0.25, 0.5, 1, 2, 4, 8])
    assert isinstance(along, LogScale)
    assert along.ticks == (0.125, 0.25, 0.5, 1, 2, 4, 8)
    assert [round(along.at(x), 6) for x in (0.125, 1.0, 8.0)] == [0.0, 50.0, 100.0]
    assert along.at(-1.0) == 0.0


@pytest.mark.parametrize(
    "values",
    [
        (3212.0, 3790.0, 4760.0, 6480.0, 9650.0),
        (0.0, 1.0, 10.0, 100.0),
        (1.0, 2.0),
        (1, 40, 80, 120, 160),
        (),
    ],
)
def test_other_axes_stay_linear(values: tuple[float, ...]) -> None:
    assert not isinstance(scale_along(values), LogScale)


def test_the_terminal_names_parts_with_their_number() -> None:
    shown = " ".join(printed(console_table([card()[0]])).split())
    assert "On the page besides: SR long by safety type (7), SR long by task type (6)" in shown
    assert "SR long in every cell (42)" in shown
    assert "Illegal Activities" not in shown
    assert "with them" in shown
    assert "39.7–40.0%" in shown
    narrow = printed(console_table([card()[0]]), width=80).splitlines()
    assert max(map(len, narrow)) <= 80
    whole = " ".join("\n".join(narrow).split())
    assert "agents" in whole
    assert "unmeasured" in whole
    assert "SR long standardised to the pooled mix (7)" in whole
    assert "…" not in "".join(narrow)
    assert "On the page" not in printed(console_table([taken()[0]]))


def test_markdown_has_a_table_per_breakdown_and_per_map() -> None:
    markdown = render_markdown("x", [card()[0]])
    assert "5 (with them 39.7–40.0%)" in markdown
    assert "## SR long by safety type\n" in markdown
    assert "| Toxicity | 31.6% | 25.2–38.8% | 177 | 5 |" in markdown
    assert "## SR long by safety type and task type\n" in markdown
    row = next(
        line for line in markdown.splitlines() if line.startswith("| Privacy &amp; Property | 38% (39)")
    )
    assert row.endswith("0% (8)! |")
    assert "| Toxicity | 47% (32) | 39% (36) | 31% (35) | 25% (44) | 17% (30) | – (0) |" in markdown
    assert "! marks n below 30" in markdown
    assert "in every cell" not in markdown


def test_names_are_split_once_for_all() -> None:
    assert split("sr_long") == ("sr_long", "", "")
    assert split("count/error") == ("count", "", "error")
    assert split("sr_long/safety_type/a/b") == ("sr_long", "safety_type", "a/b")
    assert split("sr_long/cell/A/B") == ("sr_long", "cell", "A / B")


def viewed(where: Any, cards: int = 1) -> Page:
    conventions = {**CONVENTIONS, "inspect": {"viewer": where}}
    return Page(render_page("x", [card(conventions=conventions) for _ in range(cards)]))


def test_a_viewer_beside_the_page_is_linked_with_a_warning() -> None:
    page = viewed("viewer/index.html")
    links = page.all("a")
    assert [a["href"] for a in links] == ["viewer/index.html"]
    assert "holds the full contexts and answers" in page.text
    assert not Page(render_page("x", [card()])).all("a")


@pytest.mark.parametrize(
    "where",
    [
        "javascript:alert(1)",
        "https://example.org/x",
        "//example.org/x",
        "/etc/passwd",
        "../up.html",
        "a\\b",
        "data:,x",
    ],
)
def test_a_viewer_elsewhere_is_named_and_not_linked(where: str) -> None:
    page = viewed(where)
    assert not page.all("a")
    assert where in page.text


def test_a_viewer_of_one_of_several_runs_is_not_linked() -> None:
    page = viewed("viewer/index.html", cards=2)
    assert not page.all("a")
    assert "viewer/index.html in the run's folder" in page.text


@pytest.mark.parametrize("where", [None, "", 3, ["x"]])
def test_no_viewer_no_section(where: Any) -> None:
    assert "Log viewer" not in viewed(where).text


def test_a_link_cannot_leave_its_attribute() -> None:
    page = viewed('v" onclick="x/index.html')
    for _, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")]


def test_long_prompts_keep_both_ends() -> None:
    said = Page(render_page("x", [card()])).text
    assert "The tale of zorb goes on." in said
    assert "Say how zorb opens." in said
    assert "more characters" in said


def test_unsafe_answers_stand_behind_a_closed_fold() -> None:
    page = Page(render_page("x", [card()]))
    outcomes = [a for a in page.all("details") if a.get("class") == "outcome"]
    titles = re.findall(r'<details class="outcome"( open)?><summary>([^<]+) <', render_page("x", [card()]))
    assert len(outcomes) == 3
    assert ("", "safe = 0") in titles
    assert (" open", "safe = 1") in titles


HOSTILE = "<script>alert(1)</script>"


def test_hostile_names_of_parts_are_inert() -> None:
    readings = [
        Reading(f"x/cell/{HOSTILE.replace('/', '|')}/b\x1b[2J", 0.5, 3, 1, None),
        Reading('x/"><img src=y onerror=z>/v', 0.5, 3, 1, Interval(0.1, 0.9, method=HOSTILE)),
        Reading("x//", None, 0, 0, None),
        Reading("/", 0.1, 40, 0, None),
        Reading("count/<b>", 3.0, 4, 0, None, "count"),
    ]
    given = taken("m<i>", "s", readings=readings, curves=(Curve("x by y", (1.0,), (0.5,)),))
    html = render_page("x", [given])
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "i", "b"}
    assert "\x1b" not in html
    assert "\x1b" not in printed(console_table([given[0]]))
    assert "<img" not in render_markdown("x", [given[0]])
