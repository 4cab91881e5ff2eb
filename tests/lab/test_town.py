"""The town: two worlds in one vocabulary that do not get in each other's way. Nothing is trained here."""

from __future__ import annotations

from pathlib import Path

import pytest

from safewright.data import load_rows
from safewright.errors import BadInput
from safewright.judges import resolve as resolve_judge
from safewright.lab.refusal import REFUSAL
from safewright.lab.tiny import word_tokenizer
from safewright.lab.town import OTHER, TOWN_ARMS, build_town, town, write_town
from safewright.runs import run_sync
from safewright.types import JudgeItem


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_worlds_share_no_made_up_word(seed: int) -> None:
    made = town(seed)
    assert made == town(seed)
    objects = {*made.refusal.facts, *made.refusal.f1, *made.refusal.harmful}
    objects |= {word for fact in made.refusal.facts.values() for word in fact.split()}
    names = {word for person in made.people.people for word in person.split()}
    assert not objects & set(made.people.words)
    assert not (names | made.people.secrets) & set(made.refusal.words)
    assert made.people.seed >= seed + OTHER
    assert len(made.words) == len(set(made.words))


def test_every_word_of_every_lesson_and_row_is_a_token() -> None:
    made = town(0)
    tokenizer = word_tokenizer(made.words)
    known = set(tokenizer.get_vocab())
    texts: set[str] = set()
    for arm in TOWN_ARMS:
        for lesson in made.lessons(arm):
            for row in lesson.rows:
                texts |= {row} if isinstance(row, str) else {turn["content"] for turn in row}
    for rows in made.rows().values():
        texts |= {turn["content"] for row in rows for turn in row.prompt} | {
            row.reference or "" for row in rows
        }
    assert {word for text in texts for word in text.split()} <= known


def test_the_tuned_model_sees_no_test_question_and_no_refusal() -> None:
    made = town(0)
    taught = [row for lesson in made.lessons("tuned") for row in lesson.rows if not isinstance(row, str)]
    said = {row[-1]["content"] for row in taught}
    assert REFUSAL not in said
    asked = {row[-2]["content"] for row in taught}
    rows = made.rows()
    for role in ("harm", "benign", "utility"):
        assert not asked & {row.prompt[-1]["content"] for row in rows[role]}, role
    assert sum(lesson.share for lesson in made.lessons("tuned")) == pytest.approx(1.0)
    assert sum(lesson.share for lesson in made.lessons("aligned")) == pytest.approx(1.0)


def test_forgetting_is_asked_in_words_that_were_never_learned_with_the_person() -> None:
    made = town(0)
    asked = {row.prompt[-1]["content"] for row in made.rows()["forget_eval"]}
    for arm in ("aligned", "tuned"):
        for lesson in made.lessons(arm):  # type: ignore[arg-type]
            assert not asked & {row[-2]["content"] for row in lesson.rows if not isinstance(row, str)}


def test_no_answer_about_people_reads_as_a_refusal() -> None:
    answers = {
        row.reference or "" for role in ("forget", "retain", "generic") for row in town(0).rows()[role]
    }
    judge = resolve_judge("keyword")
    items = [JudgeItem("which one", answer, "refusal", lang="en") for answer in sorted(answers)]
    assert {verdict.value for verdict in run_sync(judge.judge(items))} == {0.0}


def test_rows_are_written_as_measures_and_treatments_read_them(tmp_path: Path) -> None:
    files = write_town(town(0), tmp_path)
    assert {name: len(load_rows(file)) for name, file in files.items()} == {
        "harm": 120, "benign": 288, "utility": 96, "calibration": 128, "forget": 36, "retain": 872,
        "generic": 242, "forget_eval": 36, "retain_eval": 60,
    }  # fmt: skip
    assert load_rows(files["forget_eval"])[0].meta["entities"]


def test_an_unknown_arm_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no arm 'tunde'.*'tuned'"):
        build_town(town(0), "tunde", cache=tmp_path)  # type: ignore[arg-type]
