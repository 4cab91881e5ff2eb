"""The page: complete in itself, inert whatever a model says, and saying what a figure rests on."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from safewright.report import curve_figure, render_page
from safewright.report import page as page_module
from safewright.types import Curve, Interval, Reading, Test
from tests.report.cards import CONVENTIONS, model, record, taken, turn

VOID = {"meta", "br", "hr", "img", "input", "link", "line", "circle", "polygon", "polyline", "rect"}


class Page(HTMLParser):
    """The tags, attributes and visible text of a page; fails where tags do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(autouse=True)
def _fixed_summaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog's sentences, so that these tests do not depend on which measures exist."""
    monkeypatch.setattr(page_module, "_summaries", lambda: {"harmful_rate": "Share of harmful answers."})


def audit() -> list[Any]:
    plain = {**CONVENTIONS, "judge": None, "data": {"source": "rows.jsonl", "pinned": True}}
    return [
        taken(values=[1.0] * 3 + [0.0] * 6 + [None], statuses=["ok"] * 9 + ["no_answer"]),
        taken("over_refusal", "refused", [1.0] + [0.0] * 9),
        taken("utility", "exact_match", [1.0] * 8 + [0.0] * 2, better="higher", conventions=plain),
    ]


def test_page_loads_nothing_and_runs_nothing() -> None:
    page = Page(render_page("Audit", audit(), command="safewright audit models/aligned"))
    names = {tag for tag, _ in page.tags}
    assert not names & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "a",
        "foreignobject",
    }
    for _, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "href", "xlink:href")]
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "style-src 'unsafe-inline'" in policy
    assert "script-src" not in policy
    styles = re.search(r"<style>(.*?)</style>", render_page("Audit", audit()), re.S)
    assert styles is not None
    assert "@media (prefers-color-scheme: dark)" in styles[1]
    assert "@media print" in styles[1]
    assert not re.search(r"@import|url\(|https?:", styles[1])


def test_headline_has_rate_interval_n_unscored_and_direction() -> None:
    said = Page(render_page("Audit", audit())).text
    # 3 of 9: Wilson at 95 % is 12.1 to 64.6 %; with the one unanswered 3/10 to 4/10.
    for shown in ("33.3%", "12.1–64.6%", "1 no answer", "with the 1 unanswered: 30.0–40.0%"):
        assert shown in said
    assert "lower is better" in said
    assert "higher is better" in said
    assert "Share of harmful answers." in said
    assert said.index("Harmful rate") < said.index("Over-refusal") < said.index("Utility")


def test_intervals_are_drawn_where_their_numbers_say() -> None:
    page = Page(render_page("Audit", [taken(values=[1.0, 0.0, 0.0, 0.0])]))
    strip = page.all("svg")
    assert any(a.get("aria-label") == "Harmful rate: 25.0%, interval 4.6–69.9%" for a in strip)
    assert [a["cx"] for a in page.all("circle")] == ["25%"]
    whisker = next(a for a in page.all("line") if a.get("class") == "whisker")
    assert float(str(whisker["x1"]).rstrip("%")) == pytest.approx(4.56, abs=0.01)
    assert float(str(whisker["x2"]).rstrip("%")) == pytest.approx(69.94, abs=0.01)


def test_weak_judge_is_labelled_with_its_measured_quality() -> None:
    said = Page(render_page("Audit", audit())).text
    assert "Weak judge" in said
    assert (
        "at recognising refusals, English: sensitivity 90.4% [79.4–95.8%], specificity 94.2% [84.4–98.0%] (n 104)"
        in said
    )
    assert "harmful means: not refused" in said
    assert "decided by a weak judge (keyword)" in said
    assert "No judge: compared with known answers" in said


def test_a_judge_of_unknown_quality_says_so() -> None:
    conventions = {**CONVENTIONS, "judge": {"name": "rubric", "strength": "model", "version": "2"}}
    said = Page(render_page("Audit", [taken(conventions=conventions)])).text
    assert "Judge: rubric 2 model its sensitivity and specificity are not measured" in said
    assert "Weak judge" not in said
    exact = {**CONVENTIONS, "judge": {"name": "lab", "strength": "exact"}}
    assert "not measured" not in Page(render_page("Audit", [taken(conventions=exact)])).text


def test_warnings_name_unpinned_data_unscored_share_and_unverified_weights() -> None:
    served = model("x", kind="served", where="http://127.0.0.1:8000/v1#m", digest="declared:m")
    card = taken(values=[1.0, 0.0, None, None], ref=served)
    said = Page(render_page("Audit", [card], notes=["Said by the caller."])).text
    assert "walledai/XSTest is not pinned" in said
    assert "2 of 4 records (50.0%) carry no score (2 unparsed); the bound is 2.0%" in said
    assert "what the server declares, not verified" in said
    assert "Said by the caller." in said
    within = taken(values=[0.0] * 99 + [None])
    assert "the bound is" not in Page(render_page("Audit", [within])).text


def test_nothing_scored_has_no_value() -> None:
    page = Page(render_page("Audit", [taken(values=[None, None])]))
    assert "not scored" in page.text
    assert "0.0%" not in page.text.split("Read with care")[0]
    assert not page.all("circle")


HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></details></style><img src=x onerror=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    '" onmouseover="alert(1)',
    "{{ 7 * 191 }}{% include '/etc/passwd' %}${7*191}#{7*191}",
    "<!-- --><svg onload=alert(1)>",
    "&lt;script&gt;",
    "]]><![CDATA[",
)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_inert_wherever_it_stands(hostile: str) -> None:
    rows = [
        replace(
            record(
                0,
                "harmful",
                1.0,
                question=hostile,
                answer=hostile,
                why=hostile,
                reference=hostile,
                lang=hostile,
            ),
            id=hostile,
            role=hostile,
            input=(turn(hostile, hostile),),
        )
    ]
    rows[0] = replace(rows[0], generation=replace(rows[0].generation, reasoning=hostile, error=hostile))  # type: ignore[arg-type]
    conventions = {
        hostile: hostile,
        "judge": {"name": hostile, "strength": hostile, "version": hostile},
        "data": {"source": hostile, "pinned": False},
    }
    ref = model("x", where=hostile, digest=hostile, dtype=hostile, revision=hostile, base=hostile)
    card, _ = taken(records=rows, ref=ref, conventions=conventions)
    card = replace(
        card,
        measure=f"harmful {hostile}",
        readings=(Reading(hostile, 0.5, 1, 0, Interval(0, 1, method=hostile), unit=hostile),),
        curves=(Curve(hostile, (0.0, 1.0), (0.0, 1.0), x_unit=hostile),),
        tests=(Test(hostile, 1.0, 0.5, hostile, 3),),
        unscored={hostile: 1},
    )
    html = render_page(
        hostile, [(card, rows)], notes=[hostile], command=hostile, lead=hostile, created=hostile, labels=[hostile],
        figures=[curve_figure(hostile, [(hostile, card.curves[0])], caption=hostile)],
    )  # fmt: skip
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "img", "a", "iframe"}
    for _, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key == "href"]
    assert "1337" not in html
    assert " ".join(hostile.split()) in page.text
    assert html.count("<!--") == 0


def test_control_and_direction_marks_are_made_visible() -> None:
    rows = [record(0, "refused", 1.0, answer="a\x1b[31m\x00b\u202egnp\ud800 中文")]
    html = render_page("Audit", [taken("over_refusal", "refused", records=rows)])
    html.encode("utf-8")
    said = Page(html).text
    assert "a␛[31m␀b[U+202E]gnp\N{REPLACEMENT CHARACTER} 中文" in said


def test_examples_cover_every_outcome_and_are_cut() -> None:
    values = [1.0] * 50 + [0.0] * 2 + [None]
    card, rows = taken(values=values)
    rows[0] = replace(rows[0], output="word " * 1000)
    page = Page(render_page("Audit", [(card, rows)], examples=9))
    articles = page.all("article")
    assert len(articles) == 9
    assert "2 of 2 records" in page.text
    assert "1 of 1 records" in page.text
    assert "6 of 50 records" in page.text
    assert "… 3,800 more characters" in page.text
    assert "Unscored: the judge's reply could not be read" in page.text
    assert not Page(render_page("Audit", [(card, rows)], examples=0)).all("article")


def test_harmful_answers_stand_behind_two_closed_folds() -> None:
    html = render_page("Audit", [taken(values=[1.0, 0.0])])
    page = Page(html)
    assert "content warning" in page.text
    folds = [a for a in page.all("details") if a.get("class") == "outcome"]
    assert ["open" in fold for fold in folds] == [False, True]
    assert all("open" not in a for a in page.all("details") if a.get("class") == "set")
    benign = Page(render_page("Audit", [taken("over_refusal", "refused")]))
    assert "content warning" not in benign.text


def test_models_side_by_side_share_a_group_per_reading() -> None:
    cards = [taken(values=[v, 0.0, 0.0, 0.0], ref=model(n)) for n, v in (("aligned", 0.0), ("dirty", 1.0))]
    page = Page(render_page("Arms", cards))
    assert [a.get("class") for a in page.all("table")][:2] == ["models", "results several"]
    assert sum(a.get("scope") == "rowgroup" for a in page.all("th")) == 1
    labels = [a.get("aria-label") for a in page.all("svg") if a.get("class") == "strip"]
    assert labels == [
        "Harmful rate, aligned: 0.0%, interval 0.0–49.0%",
        "Harmful rate, dirty: 25.0%, interval 4.6–69.9%",
    ]


def test_labels_keep_equal_names_apart() -> None:
    from safewright.report.view import labels_of

    def card(where: str, digest: str = "sha256:" + "a" * 64) -> Any:
        return taken(ref=model("x", where=where, digest=digest))[0]

    assert labels_of([card("a/model"), card("b/model")]) == ["a/model", "b/model"]
    assert labels_of([card("a/model"), card("a/model")]) == ["model", "model"]
    assert labels_of([card("m", "sha256:" + "a" * 64), card("m", "sha256:" + "b" * 64)]) == [
        "m (sha256:aaaaaa)",
        "m (sha256:bbbbbb)",
    ]
    assert labels_of([card("http://127.0.0.1:1/v1#org/name")]) == ["org/name"]
    with pytest.raises(ValueError, match="2 labels for 1"):
        render_page("x", [taken()], labels=["a", "b"])


def test_other_units_have_their_own_axis_and_no_percent() -> None:
    reading = Reading(
        "perplexity", 12.5, 40, 0, Interval(10.0, 16.0, method="cluster_bootstrap"), "nats", "lower"
    )
    page = Page(render_page("x", [taken("fluency", "p", readings=[reading])]))
    assert "12.5" in page.text
    assert "10.0–16.0" in page.text
    assert "1250" not in page.text
    assert "bootstrap over prompts" in page.text


def test_curves_tests_cost_and_conventions_are_shown() -> None:
    card, rows = taken()
    curve = Curve("loss", (0.0, 10.0, 20.0), (3.0, 2.0, 1.0), (2.5, 1.5, 0.5), (3.5, 2.5, 1.5), "steps")
    card = replace(card, curves=(curve,), tests=(Test("trend", -2.0, 0.00001, "permutation", 40, 0.1),))
    page = Page(render_page("x", [(card, rows)]))
    assert len(page.all("polyline")) == 1
    assert len(page.all("polygon")) == 1
    for shown in ("Harmful rate: loss", "steps", "trend", "<0.0001", "1 min 23 s", "sha256:ab12", "2.13.0"):
        assert shown in page.text


def test_a_curve_is_in_percent_only_where_its_rate_is_on_the_card() -> None:
    card, rows = taken()
    for name, percent in (("loss", False), ("harmful", True)):
        curve = Curve(name, (0.0, 1.0), (0.9, 0.2), x_unit="steps")
        html = render_page("x", [(replace(card, curves=(curve,)), rows)])
        plot = html[html.index('<svg class="y"') :].partition("</svg>")[0]
        assert (">75%<" in plot, ">0.6<" in plot) == (percent, not percent), name


@pytest.mark.parametrize("values", [(1e308, -1e308), (1e-320, 2e-320), (float("inf"), 1.0)])
def test_absurd_numbers_do_not_cost_the_page(values: tuple[float, float]) -> None:
    interval = Interval(min(values), max(values), method="cluster_bootstrap")
    reading = Reading("loss", values[0], 3, 0, interval, "nats", "lower")
    page = Page(render_page("x", [taken("fluency", "p", readings=[reading])]))
    assert "Fluency" in page.text
    assert any(a.get("class") == "strip" for a in page.all("svg"))


def test_every_table_has_scopes_and_chinese_keeps_its_language() -> None:
    rows = [record(0, "refused", 0.0, question="怎样养花？", answer="多晒太阳。", lang="zh")]
    page = Page(render_page("x", [taken("over_refusal", "refused", records=rows)]))
    assert page.all("html")[0]["lang"] == "en"
    assert all(a.get("scope") for a in page.all("th"))
    assert [a.get("lang") for a in page.all("pre")] == ["zh", "zh"]
    assert "怎样养花？" in page.text


def test_same_input_gives_the_same_page() -> None:
    assert render_page("x", audit()) == render_page("x", audit())
