"""Terminal and Markdown tables, and the small words numbers are written in."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console

from safewright.report import console_table, render_markdown, text
from safewright.report.svg import RATE_SCALE, scale_over
from safewright.types import Interval, Reading, Record, Scorecard
from tests.report.cards import CONVENTIONS, model, taken


def printed(thing: Any, width: int = 140) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(thing)
    return stream.getvalue()


def test_console_table_shows_what_the_page_shows() -> None:
    lines = printed(console_table([taken(values=[1.0, 0.0, 0.0, None])[0]])).splitlines()
    row = next(line for line in lines if line.startswith("Harmful rate"))
    for shown in ("33.3%", "6.1–79.2%", "1 (1 unparsed)", "lower", "keyword weak"):
        assert shown in row
    assert "Model" not in lines[0]


def test_console_table_of_several_models_names_them_and_prints_markup_as_text() -> None:
    cards = [taken(ref=model(name))[0] for name in ("[red]a", "b\x1b[2J")]
    shown = printed(console_table(cards))
    assert "[red]a" in shown
    assert "b␛[2J" in shown
    assert "\x1b" not in shown


def test_marks_of_direction_are_made_visible() -> None:
    for mark in "\u061c\u200e\u200f\u202a\u202e\u2066\u2069":
        assert text.clean(f"a{mark}b") == f"a[U+{ord(mark):04X}]b"


def test_markdown_is_one_table_that_names_cannot_break() -> None:
    conventions = {**CONVENTIONS, "judge": {"name": "a|b <b>\n# x", "strength": "weak"}}
    markdown = render_markdown("My_model", [taken(conventions=conventions)[0]], notes=["<i>note</i>"])
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert "a\\|b &lt;b&gt; \\# x" in table[2]
    assert "25.0% | 4.6–69.9% | 4 | 0 | lower" in table[2]
    assert markdown.startswith("# My\\_model\n")
    assert "- &lt;i&gt;note&lt;/i&gt;" in markdown


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (0.0, "0.0%"),
        (1.0, "100.0%"),
        (0.0004, "<0.1%"),
        (0.9996, ">99.9%"),
        (1999 / 2000, ">99.9%"),
        (1 / 3, "33.3%"),
        (None, "–"),
    ],
)
def test_percent_never_rounds_to_certainty(rate: float | None, shown: str) -> None:
    assert text.percent(rate) == shown


def test_numbers_are_written_for_people() -> None:
    assert text.signed(-0.0004) == "0.0"
    assert text.signed(-0.125) == "−12.5"
    assert text.signed(0.5) == "+50.0"
    assert text.span(Interval(-1.0, 2.0), "nats") == "−1.00 to 2.00"
    assert text.p_value(0.00001) == "<0.0001"
    assert text.p_value(1.0) == "1"
    assert text.p_value(0.0478) == "0.048"
    assert text.seconds(3725) == "1 h 02 min"
    assert text.seconds(59.7) == "1 min 00 s"
    assert text.size(3 * 2**30) == "3.0 GiB"
    assert text.short_digest("sha256:" + "ab" * 32) == "sha256:abababababab"


def test_scales_hold_their_values_with_few_round_ticks() -> None:
    for values in ([0.013, 0.029], [-3.0, 7.0], [5.0, 5.0], [0.0], [1200.0, 98000.0]):
        scale = scale_over(values)
        assert scale.low <= min(values) <= max(values) <= scale.high
        assert 3 <= len(scale.ticks) <= 7
        assert 0 <= scale.at(values[0]) <= 100
    assert RATE_SCALE.at(0.25) == 25.0


def test_readings_are_printed_as_papers_write_them() -> None:
    names = ("rouge_l_recall", "priv_leak", "mia_min_k_plus", "mia_min_k", "sr_long", "min_kept")
    said = [text.sentence(text.reading_name(name)) for name in names]
    assert said == ["ROUGE-L recall", "PrivLeak", "MIA Min-K++", "MIA Min-K", "SR long", "Min kept"]
    names = ("rougeL_recall_forget", "rouge1_recall_retain", "bi_forget", "hs_forget", "distinct2_forget")
    said = [text.sentence(text.reading_name(name)) for name in names]
    assert said == [
        "ROUGE-L recall forget",
        "ROUGE-1 recall retain",
        "BI forget",
        "HS forget",
        "Distinct-2 forget",
    ]


FORGETTING = (
    Reading("kfr", 1.0, 4, 0, None, "rate", "higher"),
    Reading("kfr[bf16]", 1.0, 4, 0, None, "rate", "higher"),
    Reading("harmonic_forget", 0.5, 4, 0, None, "score", "higher"),
)


def forgetting_card() -> tuple[Scorecard, list[Record]]:
    conventions = {
        **CONVENTIONS,
        "method": {"notes": ["Little was asked."]},
        "models": {"bf16": {"altered": {"changed_weights": 0}}, "int4": {"altered": {"changed_weights": 9}}},
    }
    card, records = taken("forgetting", "forgotten", readings=FORGETTING, conventions=conventions)
    others = {"fluency": model("/m/fluency"), "bf16": model("/m/unlearned (bf16)")}
    return dataclasses.replace(card, models={"target": model("/m/unlearned"), **others}), records


def test_a_scorecard_is_named_after_the_model_it_is_about() -> None:
    """Not after those that only helped to measure it, or were made of it."""
    from safewright.report.view import labels_of

    card, _ = forgetting_card()
    assert labels_of([card]) == ["unlearned"]
    other = dataclasses.replace(card, models={**card.models, "target": model("/n/unlearned")})
    assert labels_of([card, other]) == ["m/unlearned", "n/unlearned"]
    pair = dataclasses.replace(card, models={"before": model("/m/a"), "after": model("/m/b")})
    assert labels_of([pair]) == ["a vs b"]


def test_attacks_are_named_and_what_they_left_as_it_was_is_told() -> None:
    from safewright.report import remarks
    from safewright.report.examples import is_sensitive

    card, _ = forgetting_card()
    shown = io.StringIO()
    Console(file=shown, width=120).print(console_table([card]))
    assert "KFR under bf16" in shown.getvalue()
    said = remarks([card])
    assert "Forgetting: Little was asked." in said
    assert [line for line in said if "bf16" in line and "no weight" in line]
    assert not any("int4" in line for line in said)
    assert not is_sensitive(card)  # a harmonic mean asks for no harm
    assert is_sensitive(dataclasses.replace(card, measure="harmful_rate"))
