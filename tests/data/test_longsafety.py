"""Long contexts: every form the published set and one's own files come in, counts, clusters and filters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safewright.data import SAFETY_TYPES, TASK_TYPES, count_words, load_data, load_long, select
from safewright.data.longsafety import META, RELEASE, clusters, release_checks, statistics, survey
from safewright.errors import BadInput
from safewright.runs import to_json
from safewright.types import Row
from tests.data.longsafety_files import (
    release_like,
    small,
    text,
    write,
    write_release_like,
    write_small,
)

SWAPPED = {"Toxicity": "Bias", "Bias": "Toxicity"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of made-up metadata with the release's figures."""
    return list(survey(write_release_like(tmp_path_factory.mktemp("release"))).rows)


def test_a_folder_is_joined_by_id_and_never_by_line(tmp_path: Path) -> None:
    given = small(12)
    data = load_data(write_small(tmp_path, 12), "long_context")  # the documents are in reversed order
    assert (data.kind, data.source, data.total, data.role) == ("file", str(tmp_path), 12, "long_context")
    for row, obj in zip(data.rows, given, strict=True):
        assert row.id == str(obj["id"])
        assert row.prompt == ({"role": "user", "content": obj["instruction"]},)
        assert row.reference is None
        fields = ("context", "safety_type", "task_type", "length", "doc_num", "link", "key_words")
        assert {name: row.meta[name] for name in fields} == {name: obj[name] for name in fields}
    assert data.rows[4].meta["cluster"] == data.rows[3].meta["cluster"] == "c3"
    assert load_data(str(tmp_path), "long_context", limit=3).total == 12
    to_json(data)


@pytest.mark.parametrize("name", ["own.jsonl", "own.json", "own.parquet", "sub/longsafety.jsonl"])
def test_one_file_with_everything_is_the_same_rows(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(small(6)), file)
    elif name.endswith(".json"):
        file.write_text(json.dumps(small(6)))
    else:
        file.write_text("\n".join(map(json.dumps, small(6))))
    expected = load_data(write_small(tmp_path / "two", 6), "long_context")
    for given in (file, file.parent) if name.startswith("sub/") else (file,):
        found = load_data(given, "long_context")
        assert found.rows == expected.rows
        assert found.digest == expected.digest


def test_own_rows_need_an_instruction_and_a_context_only(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    rows: list[dict[str, Any]] = [
        {"instruction": "blim it", "context": "zor kade\nwug"},
        {"instruction": "blim it", "context": "zor", "topic": "fep", "input": "kept", "lang": "en"},
        {"instruction": "blim it", "context": "zor kade\nwug", "length": None, "safety_type": None},
        {
            "id": "mine",
            "instruction": "blim it",
            "context": "墨水 zor 。",
            "safety_type": "Bias",
            "cluster": 7,
        },
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    data = load_data(file, "long_context")
    first, second, third, fourth = data.rows
    # Absent fields stay absent; the length is counted, the cluster is the row's own.
    assert first.meta == {"context": "zor kade\nwug", "length": 3, "cluster": f"c{first.id}"}
    assert third.meta["length"] == 3
    # The id is of what is asked and shown: the same wherever it stands, another with another context.
    assert third.id == f"{first.id}-2"
    assert second.id not in (first.id, third.id)
    assert (second.meta["topic"], second.meta["source_input"], second.lang) == ("fep", "kept", "en")
    assert (fourth.id, fourth.meta["length"], fourth.meta["cluster"]) == ("mine", 3, "7")
    assert "3 of 4 rows carry no safety_type." in data.notes
    assert "4 of 4 rows carry no task_type." in data.notes


def test_numbers_of_a_column_with_gaps_are_whole_again(tmp_path: Path) -> None:
    rows = [{"instruction": f"blim {i}", "context": text(30)} for i in range(2)]
    table = pa.Table.from_pylist(rows).append_column("length", pa.array([30.0, float("nan")]))
    pq.write_table(table, tmp_path / "own.parquet")
    assert [row.meta["length"] for row in load_long(tmp_path / "own.parquet")[0]] == [30, 30]


def test_rows_at_hand_are_completed() -> None:
    prompt = ({"role": "system", "content": "s"}, {"role": "user", "content": "blim"})
    rows = [
        Row(name, prompt, meta={"context": "zor kade", "link": [link]}) for name, link in ("ax", "by", "cx")
    ]
    found = load_data(rows, "long_context").rows
    assert [row.meta["cluster"] for row in found] == ["ca", "cb", "ca"]
    assert {row.meta["length"] for row in found} == {2}
    assert found[0].prompt == prompt
    with pytest.raises(BadInput, match=r"1 of 1 rows have no document .*ids a\."):
        load_data([replace(rows[0], meta={})], "long_context")
    # Another role asks for nothing.
    assert load_data([replace(rows[0], meta={})], "harm").total == 1


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", 0),
        ("  zor\tkade\n\nwug ", 3),
        ("zor - kade, wug.", 4),
        ("d'un café\u00a0noir", 3),
        ("墨水很蓝", 4),
        ("墨水，很蓝。zor kade！", 6),
        ("「墨水」zor墨", 4),
    ],
)
def test_words_are_counted_as_split_does_and_han_singly(said: str, words: int) -> None:
    assert count_words(said) == words
    if not any(letter > "\u3000" for letter in said):
        assert count_words(said) == len(said.split())


def test_a_length_that_is_off_by_more_than_a_twentieth_is_noted(tmp_path: Path) -> None:
    rows = small(6, words=100)
    rows[0]["length"] = 105  # the context has 100 words
    rows[1]["length"] = 200
    rows[2]["length"] = 90
    (note,) = [note for note in load_long(write(tmp_path, rows))[1] if "`length`" in note]
    assert note == "`length` differs by more than 5 % from the words of the context in 2 rows (ids 1, 2)."


def test_keywords_are_spelt_right_and_oddities_noted(tmp_path: Path) -> None:
    rows = small(6)
    wrong = ["Animal cruelt", "Academic dishonest", "Profanity and obscenit", "Racial Bias"]
    right = ["Animal cruelty", "Academic dishonesty", "Profanity and obscenity", "Racial bias"]
    for row, word in zip(rows, wrong, strict=False):
        row["key_words"] = [word, "kade"]
    rows[5]["instruction"] = rows[2]["instruction"]
    rows[1]["doc_num"] = 3
    found, notes = load_long(write(tmp_path, rows))
    assert [row.meta["key_words"][0] for row in found[:4]] == right
    # The labels are the file's.
    assert [row.meta["safety_type"] for row in found] == [row["safety_type"] for row in rows]
    said = "\n".join(notes)
    assert "'Racial Bias' (1) as 'Racial bias'" in said
    assert "Instructions that stand in more than one row: 1 (2, 5)." in said
    assert "`doc_num` is not the number of links in 1 rows (ids 1)." in said
    assert "Links that stand in more than one row: 1; 5 clusters, 2 rows in shared ones." in said
    assert "Keywords that stand under several safety types: 1 (3 rows away from the commonest one)." in said


def test_clusters_are_connected_components_named_by_the_smallest_id() -> None:
    rows = [("10", ["a"]), ("9", ["b"]), ("2", ["c"]), ("x", ["a", "b"]), ("30", []), ("4", ["d", "d"])]
    assert clusters(rows) == ["c9", "c9", "c2", "c9", "c30", "c4"]
    chain = [(str(i), [str(i), str(i + 1)]) for i in range(2000)]
    assert set(clusters(chain)) == {"c0"}
    assert clusters(chain[::-1]) == clusters(chain)
    assert clusters([]) == []


def test_07_counts_by_label_are_the_tables_and_stay_when_rows_have_none(made: list[Row]) -> None:
    found = statistics(made)
    assert {label: row["rows"] for label, row in found["safety_type"].items()} == {
        "Illegal Activities": 373, "Unethical Activities": 273, "Bias": 221, "Physical & Mental Health": 213,
        "Toxicity": 182, "Sensitive Topics": 170, "Privacy & Property": 111,
    }  # fmt: skip
    assert {label: row["rows"] for label, row in found["task_type"].items()} == {
        "Question Answering": 334, "Role-playing": 293, "Brainstorming": 278, "Generation": 277,
        "Summarization": 202, "Rewrite": 159,
    }  # fmt: skip
    # Both groupings are whole, and their weighted means are the overall one.
    for kind in ("safety_type", "task_type"):
        groups = found[kind].values()
        mean = sum(group["rows"] * group["mean length"] for group in groups) / 1543
        assert mean == pytest.approx(found["length"]["mean"], rel=1e-12)
    empty = statistics([])
    assert list(empty["safety_type"]) == list(SAFETY_TYPES)
    assert list(empty["task_type"]) == list(TASK_TYPES)
    assert empty["length"]["mean"] is None
    bare = statistics([replace(made[0], meta={"cluster": "c0"})])
    assert bare["safety_type"]["none"]["rows"] == bare["task_type"]["none"]["rows"] == 1
    assert len(bare["safety_type"]) == 8


def test_11_metadata_statistics_are_those_of_the_specification(made: list[Row]) -> None:
    found = statistics(made)
    order = ("Brainstorming", "Generation", "Question Answering", "Rewrite", "Role-playing", "Summarization")
    table = {issue: [found["cross"][issue][task] for task in order] for issue in SAFETY_TYPES}
    assert table == {
        "Bias": [39, 52, 15, 40, 37, 38],
        "Illegal Activities": [77, 54, 86, 27, 82, 47],
        "Physical & Mental Health": [28, 25, 62, 19, 46, 33],
        "Privacy & Property": [21, 15, 39, 8, 12, 16],
        "Sensitive Topics": [19, 43, 32, 38, 26, 12],
        "Toxicity": [35, 44, 32, 5, 36, 30],
        "Unethical Activities": [59, 44, 68, 22, 54, 26],
    }
    for issue, row in found["cross"].items():
        assert sum(row.values()) == found["safety_type"][issue]["rows"]
    for task in TASK_TYPES:
        assert sum(row[task] for row in found["cross"].values()) == found["task_type"][task]["rows"]
    assert found["doc_num"] == {1: 962, 2: 249, 3: 167, 4: 100, 5: 35, 6: 16, 7: 8, 8: 4, 9: 1, 11: 1}
    assert found["clusters"] == {"clusters": 1433, "largest": 9, "rows in shared clusters": 173}
    assert found["links"] == {"distinct": 2599, "in several rows": 122}
    assert found["rows"] == 1543
    assert found["distinct instructions"] == 1542
    assert found["length"]["mean"] == pytest.approx(5579.09, abs=0.01)
    assert (found["length"]["min"], found["length"]["max"]) == (3000, 20676)
    assert list(found["length"]["bins"].values()) == [565, 276, 172, 257, 181, 84, 7, 1]
    checks = release_checks(made)
    assert [each.name for each in checks if not each.passed] == []
    assert len(checks) == 99


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (lambda rows: rows[:-1], "rows"),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "ids are 0 to 1542 in order"),
        (lambda rows: [{**rows[0], "length": rows[0]["length"] + 40}, *rows[1:]], "length: mean"),
        (lambda rows: [{**rows[0], "doc_num": 12}, *rows[1:]], "doc_num is the number of links"),
        (lambda rows: [{**rows[0], "link": rows[9]["link"]}, *rows[1:]], "links: distinct"),
        (lambda rows: [*rows[:-1], {**rows[-1], "instruction": "zor"}], "instructions: distinct"),
        (lambda rows: [{**row, "length": row["length"] - 1} for row in rows], "length: min"),
        (lambda rows: [{**row, "safety_type": SWAPPED.get(row["safety_type"], row["safety_type"])} for row in rows],
         "Toxicity by Rewrite"),
    ],
)  # fmt: skip
def test_11_a_figure_that_differs_is_named(tmp_path: Path, change: Any, differing: str) -> None:
    rows = survey(write(tmp_path, change(release_like()), documents=False)).rows
    assert differing in [each.name for each in release_checks(rows) if not each.passed]


def test_11_the_release_itself() -> None:
    place = os.environ.get("SAFEWRIGHT_LONGSAFETY")
    if not place:
        pytest.skip("not run: SAFEWRIGHT_LONGSAFETY names no copy of the release")
    assert [each for each in release_checks(survey(place).rows) if not each.passed] == []


def test_made_up_documents_have_the_words_that_length_says(tmp_path: Path) -> None:
    rows, notes = load_long(write_release_like(tmp_path, scale=0.01, documents=True))
    assert len(rows) == 1543
    assert all(count_words(row.meta["context"]) == row.meta["length"] for row in rows)
    assert max(row.meta["length"] for row in rows) == 207
    assert not any("`length`" in note for note in notes)
    assert statistics(rows)["cross"] == RELEASE["cross"]


def test_rows_are_chosen_by_label_and_length(made: list[Row]) -> None:
    assert select(made) == made
    chosen = select(made, safety_type="Toxicity, Bias", task_type=["Rewrite"])
    assert len(chosen) == 45
    assert [row.id for row in chosen] == [row.id for row in made if row in chosen]
    assert len(select(made, min_length=4000, max_length=4999)) == 276
    assert len(select(made, safety_type="", task_type=())) == 1543


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            {"safety_type": "Toxicty"},
            ["safety_type 'Toxicty'", "Did you mean 'Toxicity'?", "Privacy & Property"],
        ),
        ({"task_type": ["Rewriting"]}, ["Did you mean 'Rewrite'?", "Allowed: Brainstorming"]),
        ({"safety_type": "bias"}, ["Did you mean 'Bias'?"]),
        ({"min_length": 9, "max_length": 8}, ["min_length is 9 and max_length 8"]),
        ({"min_length": -1}, ["min_length is -1"]),
        ({"max_length": True}, ["max_length is True"]),
        (
            {"safety_type": "Toxicity", "min_length": 99999},
            [
                "None of 1543 rows is left by safety_type Toxicity; min_length 99999",
                "lengths: 3000 to 20676 words",
            ],
        ),
    ],
)
def test_a_filter_that_leaves_nothing_or_names_nothing(
    made: list[Row], how: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(BadInput) as error:
        select(made, **how)
    for word in words:
        assert word in str(error.value)


def test_rows_without_a_label_are_in_no_filter() -> None:
    row = Row("a", ({"role": "user", "content": "blim"},), meta={"context": "zor", "length": 1})
    with pytest.raises(BadInput, match="safety_type: none 1"):
        select([row], safety_type="Bias")


def test_labels_are_the_papers_too() -> None:
    assert SAFETY_TYPES["Toxicity"] == "Toxicity Content"
    assert SAFETY_TYPES["Bias"] == "Biased Opinion"
    assert SAFETY_TYPES["Physical & Mental Health"] == "Physical & Mental Harm"
    assert (len(SAFETY_TYPES), len(TASK_TYPES)) == (7, 6)
    code = (
        "import sys, safewright.data.longsafety as l; assert l.SAFETY_TYPES; "
        "print([m for m in ('numpy', 'torch', 'datasets', 'pyarrow', 'inspect_ai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_metadata_name_is_the_published_one(tmp_path: Path) -> None:
    assert (write_small(tmp_path, 3) / META).name == "longsafety_meta.jsonl"
