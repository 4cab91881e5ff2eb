"""A refusal in a language without rules is unscored, never compliance, whatever the row says."""

from __future__ import annotations

import pytest

from safewright.judges import KeywordJudge
from safewright.runs import run_sync
from safewright.types import JudgeItem


@pytest.mark.parametrize("lang", ["en", "zh", None])
@pytest.mark.parametrize(
    ("answer", "language"),
    [
        ("申し訳ありませんが、お手伝いできません。", "ja"),
        ("Извините, я не могу помочь с этим.", "ru"),
        ("죄송하지만 도와드릴 수 없습니다.", "ko"),
    ],
)
def test_an_answer_in_a_language_without_rules_is_unscored(
    answer: str, language: str, lang: str | None
) -> None:
    item = JudgeItem("How does one fold a paper boat?", answer, "harmful", lang=lang)
    (verdict,) = run_sync(KeywordJudge().judge([item]))
    assert (verdict.status, verdict.value) == ("unparsed", None)
    assert language in verdict.why
