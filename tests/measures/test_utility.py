"""Utility: numbers, short labels and running text compared with references, in both languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safewright.errors import BadInput
from safewright.measures import measure_model
from safewright.measures.utility import choose_metric, exact_match, number_match
from safewright.stats.rouge import rouge, words
from safewright.types import Generation, Row
from tests.contract.fakes import Speaking


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        ("18", "She makes 9 * 2 = 18 dollars.\n#### 18", True),
        ("18", "#### $18.00", True),
        ("1,200", "so 1200 in all", True),
        ("1200", "first 1,100, then 1,200.", True),
        ("18", "#### 17\nwait, 18 is a nice number", False),
        ("18", "eighteen", False),
        ("-3", "the answer is -3", True),
        ("0.5", "it is 0.50", True),
        ("20", "it is 20%", True),
        ("18", "18 apples and 19 pears", False),
    ],
)
def test_number_match(reference: str, answer: str, same: bool) -> None:
    assert number_match(reference, answer) is same


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        ("Paris", " paris. ", True),
        ("a b", "A  b", True),
        ("北京", "北京。", True),
        ("ＡＢ", "ab", True),
        ("Paris", "It is Paris", False),
    ],
)
def test_exact_match(reference: str, answer: str, same: bool) -> None:
    assert exact_match(reference, answer) is same


@pytest.mark.parametrize(
    ("references", "metric"),
    [
        (["18", "1,200", "-3.5"], "number"),
        (["ban dep", "kir"], "exact"),
        (["18", "a few words here"], "exact"),
        (["one sentence that has more than five words"], "rouge"),
    ],
)
def test_auto_chooses_the_metric_by_the_references(references: list[str], metric: str) -> None:
    assert choose_metric(references) == metric


def test_rouge_equals_rouge_score_on_english() -> None:
    from rouge_score import rouge_scorer

    reference = "Amanda baked cookies. She will bring Jerry some tomorrow."
    answer = "Amanda baked cookies and will bring some to Jerry tomorrow"
    wanted = rouge_scorer.RougeScorer(["rouge1", "rougeL"]).score(reference, answer)
    assert rouge(reference, answer) == {name: pytest.approx(s.fmeasure) for name, s in wanted.items()}


def test_rouge_sees_chinese() -> None:
    assert words("今天天气很好 ok") == ["今", "天", "天", "气", "很", "好", "ok"]
    assert rouge("今天天气很好", "今天天气不好")["rouge1"] == pytest.approx(5 / 6)
    assert rouge("今天天气很好", "完全无关")["rougeL"] == 0.0


def rows(*pairs: tuple[str, str | None]) -> list[Row]:
    return [
        Row(id=f"r{i}", prompt=({"role": "user", "content": text},), reference=reference)
        for i, (text, reference) in enumerate(pairs)
    ]


def says(text: str) -> Generation:
    return Generation(text, "", text, True, "stop", len(text.split()))


def test_rouge_reading_has_an_interval_over_rows(tmp_path: Path) -> None:
    given = rows(
        *(
            (f"the quick made-up story number {i} ends here", "a story that ends here at last")
            for i in range(6)
        )
    )
    card = measure_model("utility", Speaking(says), data=given, run=tmp_path / "run")
    names = {reading.name: reading for reading in card.readings}
    assert {"rouge1", "rougeL"} <= set(names)
    reading = names["rougeL"]
    assert reading.interval is not None
    assert reading.value is not None
    assert reading.interval.low < reading.value < reading.interval.high
    records = [json.loads(line) for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert set(records[0]["scores"]) == {"rouge1", "rougeL"}


def test_an_empty_answer_is_no_answer_not_a_wrong_one(tmp_path: Path) -> None:
    given = rows(("1", "1"), ("2", "2"), ("say nothing", "3"))
    speaks = Speaking(lambda text: says("" if text == "say nothing" else text))
    card = measure_model("utility", speaks, data=given, run=tmp_path / "run")
    rate, low, high = card.readings[:3]
    assert (rate.name, rate.value, rate.n, rate.unscored) == ("number_match", 1.0, 2, 1)
    assert (low.value, high.value) == (pytest.approx(2 / 3), 1.0)


def test_rows_without_reference_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="r1"):
        measure_model("utility", Speaking(says), data=rows(("a", "a"), ("b", None)), run=tmp_path / "run")
