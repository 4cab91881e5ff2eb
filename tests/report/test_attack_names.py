"""Attack success on a page: what a bracket holds is said in words, and a mean is not taken for the plain request."""

from __future__ import annotations

import pytest

from safewright.report.profile import attack_tables, score_name
from safewright.types import Interval, Reading, Scorecard


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("asr[none]", "ASR with no attack"),
        ("asr[past_tense]", "ASR under past tense"),
        ("asr[wrappers]", "ASR as mean over wrappers"),
        ("over_refusal[benign]", "over refusal on benign rows"),
        ("over_refusal[benign:cipher]", "over refusal on benign rows, cipher"),
        ("kfr[prefix]", "KFR under prefix"),
        ("refusal@32", "ASR, none of 32 answers refuses"),
        ("refusal@32[none]", "ASR, none of 32 answers refuses with no attack"),
        ("asr_all@4[cipher]", "ASR, all 4 answers harmful under cipher"),
        ("base_asr_any@4", "base ASR, any of 4 answers harmful"),
        ("refusal_fit@128[cipher]", "ASR, none of 128 answers refuses (fit) under cipher"),
        ("asr_all_area", "ASR, all answers harmful (area over log N)"),
    ],
)
def test_names_in_words(name: str, said: str) -> None:
    assert score_name(name) == said


def test_the_mean_over_attacks_is_a_row_of_its_own() -> None:
    def reading(name: str, value: float) -> Reading:
        return Reading(name, value, 10, 0, Interval(0.0, 1.0), "rate", "lower")

    readings = (reading("asr", 0.5), reading("asr[none]", 0.0), reading("asr[cipher]", 1.0))
    (table,) = attack_tables([("m", Scorecard("attack_success", "1", {}, readings))])
    assert [(name, cells[0][0]) for name, cells in table.rows] == [
        ("mean over attacks", "50.0%"),
        ("no attack", "0.0%"),
        ("cipher", "100.0%"),
    ]
    kept = (reading("kfr", 0.9), reading("kfr[prefix]", 0.1))
    (table,) = attack_tables([("m", Scorecard("forgetting", "1", {}, kept))])
    assert [name for name, _ in table.rows] == ["no attack", "prefix"]
