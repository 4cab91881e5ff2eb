"""Best of N on a page: a panel per side, the control beside its model, fits as broken lines."""

from __future__ import annotations

from safewright.report import render_page
from safewright.report.best_of import best_of_figures, is_best_of
from safewright.stats.best_of_n import best_of_curve, beta_binomial
from safewright.types import Curve, ModelRef, Reading, Scorecard

COUNTS = {"asr_all": [8, 7, 3, 0], "refusal": [8, 8, 6, 2], "asr_any": [8, 7, 3, 0]}


def card(*prefixes: str, attacks: tuple[str, ...] = ("past_tense", "cipher"), fit: bool = False) -> Scorecard:
    curves: list[Curve] = []
    readings: list[Reading] = []
    for prefix in prefixes:
        for side, counts in COUNTS.items():
            view = "any" if side == "asr_any" else "all"
            for attack in ("", *(f"[{name}]" for name in attacks)):
                curves.append(best_of_curve(counts, 8, view=view, name=f"{prefix}{side}{attack}"))
            if fit and view == "all":
                name = f"{prefix}{side}_fit@32[{attacks[0]}]"
                readings.append(beta_binomial(counts, 8).extrapolate(32, name=name))
    models = {"target": ModelRef("hf", "/m/srg", "sha256:1"), "base": ModelRef("hf", "/m/base", "sha256:2")}
    return Scorecard("attack_success", "1", models, tuple(readings), tuple(curves))


def test_a_panel_per_side_and_a_figure_per_attack() -> None:
    figures = best_of_figures([("srg", card(""))])
    assert [figure.title for figure in figures] == [
        "Attack success: best of N as a mean over attacks",
        "Attack success: best of N under past tense",
        "Attack success: best of N under cipher",
    ]
    for figure in figures:
        assert figure.svg.count('class="paneltitle"') == 3
        assert figure.svg.count('<polyline class="curve s1"') == 3
        assert figure.svg.count('class="band s1"') == 3
        assert figure.legend == (("s1", "srg"),)
    assert "lower is better" in figures[0].caption
    assert figures[1].caption == ""
    assert "control" not in figures[0].caption


def test_a_control_is_drawn_beside_its_model_and_once_for_several() -> None:
    both = best_of_figures([("rt", card("", "base_")), ("srg", card("", "base_"))])
    for figure in both:
        assert [look for look, _ in figure.legend] == ["s1", "s2", "s6"]
        assert figure.svg.count('<polyline class="curve s6"') == 3
        assert figure.svg.count('<polyline class="curve s2"') == 3
    assert "apart from its control" in both[0].caption


def test_what_a_fit_says_goes_on_as_a_broken_line() -> None:
    figures = best_of_figures([("srg", card("", attacks=("cipher",), fit=True))])
    assert len(figures) == 1  # the mean over one attack is that attack
    assert figures[0].title.endswith("under cipher")
    assert figures[0].svg.count('<polyline class="curve s1 fit"') == 2
    assert ">32</text>" in figures[0].svg


def test_other_curves_are_left_to_other_drawings() -> None:
    assert best_of_figures([("m", Scorecard("lens", "1", {}, ()))]) == []
    assert not is_best_of(Curve("refusal", (1.0, 2.0), (0.0, 1.0), x_unit="step"))
    assert not is_best_of(best_of_curve([1], 2, name="asr_some"))
    other = Curve("loss", (1.0, 2.0), (0.5, 0.4), x_unit="step")
    shown = card("", attacks=("<b>",))
    page = render_page("p", [(Scorecard(shown.measure, "1", shown.models, (), (*shown.curves, other)), [])])
    assert page.count("best of N") == 1
    assert "Attack success: loss" in page
    assert "Attack success: refusal" not in page
    assert "under &lt;b&gt;" in page
    assert "<b>" not in page
