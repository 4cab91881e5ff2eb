"""Acceptance check 13, the data's part: every unusable file has its own error, with the ids concerned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safewright.data import load_data
from safewright.data.longsafety import DOCS, META, complete, survey
from safewright.errors import BadInput
from safewright.types import Row
from tests.data.longsafety_files import small, write, write_small

Objects = list[dict[str, Any]]


def complaint(place: Path) -> str:
    with pytest.raises(BadInput) as error:
        load_data(place, "long_context")
    assert error.value.exit_code == 2
    assert str(place) in error.value.what
    return str(error.value)


def lines(file: Path) -> Objects:
    return [json.loads(line) for line in file.read_text().splitlines()]


def rewrite(file: Path, change: Callable[[Objects], Objects]) -> None:
    file.write_text("".join(json.dumps(obj) + "\n" for obj in change(lines(file))))


def changed(tmp_path: Path, **fields: Any) -> Path:
    """A small set whose rows 3 and 7 have other fields; None takes a field away."""
    rows = small(12)
    for row in (rows[3], rows[7]):
        row.update(fields)
    return write(tmp_path, rows)


def test_13_missing_documents_file_names_the_hub_and_the_command(tmp_path: Path) -> None:
    (write_small(tmp_path, 12) / DOCS).unlink()
    said = complaint(tmp_path)
    for part in (
        META, "12 of 12 rows have no document", "ids 0, 1, 2, 3, 4, …", f"{DOCS} is not there",
        "safewright data fetch longsafety", "thu-coai/LongSafety", "give as data a folder",
    ):  # fmt: skip
        assert part in said
    # The metadata file alone says the same, and where its documents may be.
    (tmp_path / DOCS).write_text("")
    assert f"{DOCS} lies beside it: give the folder." in complaint(tmp_path / META)


def test_13_a_row_without_document(tmp_path: Path) -> None:
    rewrite(write_small(tmp_path, 12) / DOCS, lambda docs: [d for d in docs if d["id"] not in (4, 9)])
    said = complaint(tmp_path)
    assert "2 of 12 rows have no document (`context`): ids 4, 9." in said
    assert f"({META} has 12 rows, {DOCS} 10)" in said
    assert "safewright data fetch longsafety" in said
    assert survey(tmp_path).missing == ("4", "9")


def test_13_a_document_without_row(tmp_path: Path) -> None:
    rewrite(write_small(tmp_path, 12) / META, lambda rows: [row for row in rows if row["id"] != 4])
    said = complaint(tmp_path)
    assert f"{DOCS} has documents of no row ({META} has 11 rows, {DOCS} 12): 1 (ids 4)." in said


def test_13_equal_counts_with_other_ids(tmp_path: Path) -> None:
    rewrite(
        write_small(tmp_path, 12) / DOCS,
        lambda docs: [{**d, "id": 400} if d["id"] == 4 else d for d in docs],
    )
    said = complaint(tmp_path)
    assert "documents of no row" in said
    assert "(ids 400)" in said
    assert "1 more kinds of problem" in said
    assert "have no document (`context`): ids 4." in str(survey(tmp_path).problems[1])


@pytest.mark.parametrize(
    ("name", "words"), [(META, "an id stands more than once: 2 (ids 3, 5)"), (DOCS, f"{DOCS} has an id more than once")]
)  # fmt: skip
def test_13_an_id_twice_in_either_file(tmp_path: Path, name: str, words: str) -> None:
    rewrite(write_small(tmp_path, 12) / name, lambda objs: [*objs, *(o for o in objs if o["id"] in (3, 5))])
    said = complaint(tmp_path)
    assert words in said
    assert "ids 3, 5" in said or "ids 5, 3" in said


def test_13_an_id_as_text_and_as_number_is_one_id(tmp_path: Path) -> None:
    rewrite(write_small(tmp_path, 12) / DOCS, lambda docs: [{**d, "id": str(d["id"])} for d in docs])
    assert load_data(tmp_path, "long_context").total == 12
    rewrite(tmp_path / META, lambda rows: [*rows, {**rows[0], "id": "0"}])
    assert "an id stands more than once: 1 (ids 0)" in complaint(tmp_path)


@pytest.mark.parametrize("name", [META, DOCS])
def test_13_no_id_to_join_by(tmp_path: Path, name: str) -> None:
    def without(objs: Objects) -> Objects:
        return [{key: value for key, value in objs[0].items() if key != "id"}, *objs[1:]]

    rewrite(write_small(tmp_path, 12) / name, without)
    said = complaint(tmp_path)
    assert f"{name} has" in said
    assert "without `id`: 1 (ids line 1)" in said


@pytest.mark.parametrize("name", [META, DOCS])
@pytest.mark.parametrize("value", [True, 1.5, [1], ""])
def test_13_an_id_of_the_wrong_type(tmp_path: Path, name: str, value: Any) -> None:
    rewrite(write_small(tmp_path, 12) / name, lambda objs: [objs[0], {**objs[1], "id": value}, *objs[2:]])
    assert f"{name}, line 2: `id` is {value!r}" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (
            "safety_type",
            "Toxicty",
            ["`safety_type` is 'Toxicty'", "Did you mean 'Toxicity'?", "Sensitive Topics"],
        ),
        (
            "safety_type",
            "Toxicity Content",
            ["`safety_type` is 'Toxicity Content'", "Allowed: Bias, Illegal"],
        ),
        ("safety_type", 3, ["`safety_type` is 3, which is no label", "Allowed: Bias"]),
        ("safety_type", "", ["`safety_type` is ''"]),
        ("task_type", "rewrite", ["`task_type` is 'rewrite'", "Did you mean 'Rewrite'?", "Role-playing"]),
        ("instruction", "", ["`instruction` is empty"]),
        ("instruction", " \n", ["`instruction` is empty"]),
        ("instruction", ["zor"], ["`instruction` is not a text but list"]),
        ("instruction", None, ["`instruction` is absent"]),
        ("context", "", ["`context` is empty"]),
        ("context", " \t", ["`context` is empty"]),
        ("context", 4, ["`context` is not a text but int"]),
        ("context", None, [f"{DOCS} has objects without `context`"]),
        ("length", "60", ["`length` is not a whole number above 0"]),
        ("length", 0, ["`length` is not a whole number"]),
        ("length", True, ["`length` is not a whole number"]),
        ("length", 60.5, ["`length` is not a whole number"]),
        ("doc_num", -1, ["`doc_num` is not a whole number"]),
        ("link", "https://zor.example", ["`link` is not a list of texts"]),
        ("link", [1], ["`link` is not a list of texts"]),
        ("key_words", "kade", ["`key_words` is not a list of texts"]),
    ],
)
def test_13_a_value_that_is_none(tmp_path: Path, field: str, value: Any, words: list[str]) -> None:
    said = complaint(changed(tmp_path, **{field: value}))
    for word in words:
        assert word in said
    assert "2 (ids 3, 7)" in said or "2 (ids 7, 3)" in said


def test_13_the_same_in_one_file(tmp_path: Path) -> None:
    rows = small(12)
    rows[3]["context"] = ""
    del rows[7]["context"]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = complaint(file)
    assert "1 of 12 rows have no document (`context`): ids 7." in said
    assert "1 more kinds of problem" in said
    found = survey(file)
    assert [str(problem).split(": ")[1] for problem in found.problems][1] == "`context` is empty"
    assert len(found.rows) == 12


def test_13_a_context_in_both_files_that_differs(tmp_path: Path) -> None:
    rewrite(write_small(tmp_path, 12) / META, lambda rows: [{**rows[0], "context": "zor"}, *rows[1:]])
    assert f"{META} has a context that differs from the one in {DOCS}: 1 (ids 0)" in complaint(tmp_path)


@pytest.mark.parametrize("name", [META, DOCS])
def test_13_lines_that_are_no_objects(tmp_path: Path, name: str) -> None:
    file = write_small(tmp_path, 3) / name
    whole = file.read_text()
    file.write_text(whole + "[1]\n")
    assert f"{name}, line 4: the row is a list, not an object" in complaint(tmp_path)
    file.write_text(whole + "{'id': 1}\n")
    assert f"{name}, line 4: not JSON" in complaint(tmp_path)


def test_13_files_that_are_not_there_or_hold_nothing(tmp_path: Path) -> None:
    said = complaint(tmp_path)
    assert f"holds no {META}" in said
    assert "safewright data fetch longsafety" in said
    (tmp_path / DOCS).write_text("")
    assert f"holds no {META} (data files in it: {DOCS})" in complaint(tmp_path)
    (tmp_path / META).write_text("\n")
    assert "holds no rows" in complaint(tmp_path)
    assert "holds no rows" in complaint(tmp_path / META)
    assert "does not exist" in complaint(tmp_path / "none.jsonl")


def test_13_a_bad_language_or_rows_at_hand() -> None:
    prompt = ({"role": "user", "content": "blim"},)
    with pytest.raises(BadInput, match="the rows given, row 1: `lang` is 'English tongue'"):
        complete([Row("a", prompt, lang="English tongue", meta={"context": "zor"})])
    with pytest.raises(BadInput, match=r"the rows given: an id stands more than once: 1 \(ids a\)"):
        complete([Row("a", prompt, meta={"context": "zor"})] * 2)
    with pytest.raises(BadInput, match="`safety_type` is 'Bad'"):
        complete([Row("a", prompt, meta={"context": "zor", "safety_type": "Bad"})])


def test_13_a_file_shorter_than_the_other_is_never_cut_in_silence(tmp_path: Path) -> None:
    """D11 of the specification: pairing by line stops at the shorter file without a word."""
    rewrite(write_small(tmp_path, 12) / DOCS, lambda docs: docs[:5])
    assert "7 of 12 rows have no document" in complaint(tmp_path)
