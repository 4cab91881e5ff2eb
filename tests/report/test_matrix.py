"""The page of a matrix, the profile of forgetting, and readings under attack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from safewright.compose.effects import Arm, Finding, contrasts, findings
from safewright.compose.folders import load_card
from safewright.compose.matrix import Failure, Matrix, Treated
from safewright.report import matrix_console, render_matrix, render_page
from safewright.report.matrix import cells_of, columns_of, sentences
from safewright.report.profile import attack_tables, profile_figure
from safewright.types import Check, Interval, ModelRef, Reading, Scorecard
from tests.compose.test_effects import ARMS, SHARES, folders

EVIL = "<script>alert(1)</script>"


def rate(name: str, value: float | None, better: str = "higher", unit: str = "rate", n: int = 36) -> Reading:
    interval = None if value is None else Interval(max(0.0, value - 0.1), min(1.0, value + 0.1))
    return Reading(name, value, n, 36 - n, interval, unit, better)  # type: ignore[arg-type]


def forgetting(kfr: float, krr: float, prefix: float | None, label: str = "m") -> Scorecard:
    readings = (
        rate("kfr", kfr),
        rate("krr", krr),
        replace(rate("ls_forget", 0.3, unit="score"), interval=None),
        rate("rougeL_recall_forget", 0.2, "lower", "score"),
        rate("kfr[prefix]", prefix, n=30),
        rate("kfr[int4]", kfr),
        rate("krr[int4]", krr),
    )
    return Scorecard("forgetting", "1", {"target": ModelRef("hf", label, "sha256:1")}, readings)


def made(home: Path) -> Matrix:
    """A matrix of made-up scores, with forgetting beside them."""
    there = folders(home, SHARES)
    found = contrasts(ARMS, there)
    cards = {arm.name: {m: load_card(f)[0] for (a, m), f in there.items() if a == arm.name} for arm in ARMS}
    for i, arm in enumerate(ARMS):
        cards[arm.name]["forgetting"] = forgetting(0.2 * i, 1.0 - 0.1 * i, 0.1 * i, arm.name)
    treated = tuple(Treated(arm.name, arm.steps, ModelRef("hf", arm.name, "sha256:1")) for arm in ARMS)
    return Matrix(ModelRef("hf", "tuned", "sha256:0"), treated, cards, found, findings(ARMS, found))


def test_rows_are_arms_and_marks_are_paired_tests(tmp_path: Path) -> None:
    found = made(tmp_path)
    columns, cells = columns_of(found), cells_of(found)
    assert [(c.measure, c.name) for c in columns] == [
        ("harmful_rate", "harmful"), ("made_up", "harmful"), ("kept", "harmful"),
        ("forgetting", "kfr"), ("forgetting", "krr"), ("forgetting", "ls_forget"),
        ("forgetting", "rougeL_recall_forget"),
    ]  # fmt: skip
    marks = {(arm, measure): cell.mark for (arm, measure, _), cell in cells.items() if cell.mark}
    assert marks == {
        ("mend", "harmful_rate"): "▲",
        ("forget", "made_up"): "▲",
        ("forget", "kept"): "▼",
        ("mend+forget", "harmful_rate"): "▲",
        ("mend+forget", "made_up"): "▲",
        ("mend+forget", "kept"): "▼",
        ("forget+mend", "harmful_rate"): "▲",
    }
    assert cells["mend", "harmful_rate", "harmful"].said.startswith(
        "−95.0 points against untreated, p <0.0001"
    )


def test_sentences_say_what_breaks_and_what_comes_back(tmp_path: Path) -> None:
    said = [line for _, line in sentences(made(tmp_path).findings)]
    assert said[0].startswith(
        "Under forget, Harmful rate goes back: about 63% of what mend had gained is undone (95.0% → 0.0% → 60.0%;"
    )
    assert any(line.startswith("forget breaks Kept (90.0% → 30.0%;") for line in said)
    assert any(line.startswith("mend makes good what forget had broken: Kept (90.0%") for line in said)
    assert any("The order matters for Kept: mend, then forget ends elsewhere" in line for line in said)
    (unseen,) = [line for line in said if line.startswith("mend: no change is shown in")]
    assert "Made up (less than about" in unseen


def test_a_sentence_claims_no_more_than_was_shown(tmp_path: Path) -> None:
    """A gain undone whole; two steps of which one breaks the score alone, but not after the other; sizes that
    would have been missed, for the scores they are known of."""

    def said(findings: Sequence[Finding]) -> list[str]:
        return [line for _, line in sentences(findings)]

    whole = Finding("comes back", "a+b", "m", "s", "rate", ("none", "a", "a+b"), (0.2, 0.8, 0.2), 0.01, 60)
    assert said([whole])[0].startswith("Under b, M goes back: what a had gained is undone")
    mended = replace(whole, kind="makes good", values=(0.8, 0.2, 0.5))
    assert said([mended])[0].startswith("b makes good about 50% of what a had broken: M (80.0%")
    both = replace(whole, kind="together", arm="a+b+c", path=("none", "a+b+c"), values=(0.8, 0.2))
    assert said([both]) == [
        "a, then b, then c together break M: untreated against the end (80.0% → 20.0%; p 0.010, 60 pairs). No "
        "single step is shown to do it (a, b after a, c after a, then b)."
    ]
    sized = replace(whole, kind="unseen", arm="a", path=("none", "a"), values=(0.1, 0.1), missed=0.1)
    assert said([sized]) == ["a: no change is shown in M (less than about 10 points would have been missed)."]
    (both_,) = said([sized, replace(sized, score="t", missed=None)])
    assert "M (s, t; less than about 10 points in s would have been missed)" in both_


def test_the_page_holds_everything_and_nothing_foreign(tmp_path: Path) -> None:
    found = made(tmp_path)
    evil = replace(
        found,
        model=ModelRef("hf", EVIL, "sha256:0"),
        failures=(Failure("mend", "mend", EVIL, 3),),
        arms=(*found.arms[:-1], replace(found.arms[-1], checks=(Check(EVIL, False, EVIL),), notes=(EVIL,))),
        unscored={"mend/kept": 0.4},
    )
    page = render_matrix(evil, command=EVIL, pages={("mend", EVIL): f"arms/{EVIL}.html"})
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert not re.search(r'(src|href)="(https?:|//|javascript:)', page)
    assert "default-src 'none'" in page
    for words in ("What breaks what", "Every arm, measured", "mend, then forget", "Every difference", "Holm"):
        assert words in page
    assert page.count("<details") == 7
    assert "kept: records without a score are above the bound (mend 40.0%)" in page
    assert "better than untreated" in page
    assert "What was forgotten, and what was kept" in page
    assert "Forgetting: KFR under attack" in page


def test_the_terminal_has_tables_that_fit(tmp_path: Path) -> None:
    for width in (60, 100, 200):
        console = Console(width=width, markup=False, emoji=False)
        with console.capture() as captured:
            for drawn in matrix_console(made(tmp_path / str(width)), width):
                console.print(drawn)
        shown = captured.get()
        assert max(map(len, shown.splitlines())) <= width
        assert shown.count("untreated") >= 1
        assert "0.0% ▲" in shown
        assert "Under forget, Harmful rate goes back" in " ".join(shown.split())


def test_a_profile_draws_every_arm_and_says_its_values() -> None:
    cards = [(f"arm {i}", forgetting(0.1 * i, 0.9, None)) for i in range(7)]
    figure = profile_figure(cards)
    assert figure is not None
    assert figure.svg.count('class="dot s1"') == 8  # two arms share a look of six; four readings each
    assert 'aria-label="Forgotten (KFR): arm 0 0.0%, arm 1 10.0%' in figure.svg
    assert len(figure.legend) == 7
    assert profile_figure([("x", replace(cards[0][1], measure="utility"))]) is None
    bad = profile_figure([(EVIL, cards[0][1])])
    assert bad is not None
    assert "<script" not in bad.svg


def test_attacks_are_rows() -> None:
    one = forgetting(0.8, 0.9, 0.05)
    (alone,) = attack_tables([("m", one)])
    assert alone.columns == ("KFR", "KRR")
    assert [row[0] for row in alone.rows] == ["no attack", "prefix", "int4"]
    assert [cell[0] for _, cells in alone.rows for cell in cells] == [
        "80.0%",
        "90.0%",
        "5.0%",
        "–",
        "80.0%",
        "90.0%",
    ]
    assert "6 unscored" in alone.rows[1][1][0][1]
    tables = attack_tables([("a", one), ("b", forgetting(0.5, 0.5, None))])
    assert [table.title for table in tables] == [
        "Forgetting: KFR under attack",
        "Forgetting: KRR under attack",
    ]
    assert tables[0].columns == ("a", "b")
    assert tables[0].rows[1] == ("prefix", (("5.0%", "0.0–15.0%, 6 unscored"), ("–", "6 unscored")))
    assert attack_tables([("m", replace(one, readings=one.readings[:2]))]) == ()


def test_an_ordinary_page_has_the_attacks_as_a_table() -> None:
    page = render_page("Forgetting", [(forgetting(0.8, 0.9, 0.05), ())])
    assert "Under attack" in page
    assert "kfr[prefix]" not in page
    arms = [(forgetting(0.8, 0.9, 0.05, str(Path(name))), ()) for name in ("one", "two")]
    assert "What was forgotten, and what was kept" in render_page("Two", arms)
    assert Arm().name == "none"
