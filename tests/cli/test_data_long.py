"""``safewright data check`` of long contexts: what is missing, the set in figures, the release's figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from safewright.data.longsafety import DOCS, META
from tests.cli.conftest import write_rows
from tests.data.longsafety_files import release_like, small, write, write_release_like, write_small


def said(capsys: Any, *arguments: str, code: int = 0) -> tuple[str, str]:
    assert run(["data", "check", *arguments]) == code
    found = capsys.readouterr()
    return found.out, found.err


def test_a_sound_folder_is_told_in_figures(tmp_path: Path, capsys: Any) -> None:
    out, err = said(capsys, str(write_small(tmp_path, 42)))
    assert err == ""
    for part in (
        "rows: 42", "documents: 42", "Physical & Mental Health      1", "words of a context: min 60",
        "rows by documents: 1: 42", "clusters 34, largest 2", "note: Links that stand in more than one row: 8",
    ):  # fmt: skip
        assert part in out
    assert max(map(len, out.split("words of a context")[0].splitlines())) <= 100
    found = json.loads(said(capsys, str(tmp_path), "--json")[0])
    assert found["problems"] == found["missing documents"] == []
    assert found["statistics"]["safety_type"]["Bias"] == {
        "rows": 6,
        "mean length": pytest.approx(77.5, abs=9),
    }
    assert sum(sum(row.values()) for row in found["statistics"]["cross"].values()) == 42


def test_metadata_alone_is_told_in_figures_and_is_exit_2(tmp_path: Path, capsys: Any) -> None:
    folder = write_release_like(tmp_path)
    for place in (folder, folder / META):
        out, err = said(capsys, str(place), code=2)
        assert "documents: 0" in out
        assert "missing documents: 0, 1, 2" in out
        assert "Privacy & Property 21 15 39 8 12 16 111 5,400" in " ".join(out.split())
        assert "clusters 1433, largest 9, rows in shared clusters 173" in out
        assert "1543 of 1543 rows have no document" in err
        assert "safewright data fetch longsafety" in err
        out, err = said(capsys, str(place), "--json", code=2)
        found = json.loads(out)
        assert (found["rows"], found["documents"], len(found["missing documents"])) == (1543, 0, 1543)
        assert found["statistics"]["doc_num"]["1"] == 962
        assert "hub id thu-coai/LongSafety" in found["problems"][0]


def test_every_kind_of_problem_is_listed(tmp_path: Path, capsys: Any) -> None:
    rows = small(12)
    rows[2]["safety_type"], rows[5]["instruction"] = "Bais", ""
    folder = write(tmp_path, rows)
    docs = (folder / DOCS).read_text().splitlines()
    (folder / DOCS).write_text("\n".join(docs[1:]))  # the last row's
    out, err = said(capsys, str(folder), code=2)
    assert "1 of 12 rows have no document (`context`): ids 11." in out
    assert "`safety_type` is 'Bais', which is no label: 1 (ids 2). Did you mean 'Bias'?" in out
    assert "`instruction` is empty: 1 (ids 5)" in out
    assert "2 more kinds of problem; safewright data check lists them" in err


def test_long_files_are_known_by_their_labels_or_by_the_role(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"instruction": "blim", "context": "zor kade"}\n')
    out, _ = said(capsys, str(file))
    assert f"safewright data check {file} --role long_context" in out
    out, _ = said(capsys, str(file), "--role", "long_context")
    assert "note: 1 of 1 rows carry no safety_type." in out
    file.write_text('{"instruction": "blim", "context": "", "safety_type": "Bias"}\n')
    assert "`context` is empty" in said(capsys, str(file), code=2)[1]
    rows = write_rows(tmp_path / "rows.jsonl", 4)
    assert "context" not in said(capsys, str(rows))[0]
    assert "have no document" in said(capsys, str(rows), "--role", "long_context", code=2)[1]
    assert "Did you mean 'long_context'?" in said(capsys, str(rows), "--role", "longcontext", code=2)[1]
    assert "--reference does not go with" in said(capsys, str(file), "--reference", code=2)[1]
    assert "is a folder" in said(capsys, str(tmp_path), code=2)[1]


def test_overlap_of_long_files(tmp_path: Path, capsys: Any) -> None:
    a, b = write_small(tmp_path / "a", 6), write(tmp_path / "b", small(12)[6:])
    assert "disjoint from" in said(capsys, str(a), "--against", str(b))[0]
    assert "6 of 6 rows" in said(capsys, str(a), "--against", str(a), code=2)[1]


def test_11_release_figures_hold_on_metadata_that_has_them(tmp_path: Path, capsys: Any) -> None:
    folder = write_release_like(tmp_path)
    for place in (folder, folder / META):
        out, _ = said(capsys, "--expect-release", str(place))
        assert "holds  length: mean: 5579.09" in out
        assert "holds  Toxicity by Rewrite: 5, expected 5" in out
        assert "99 of 99 figures of the release hold" in out
        assert "does not say that the texts are the release's" in out
    found = json.loads(said(capsys, "--expect-release", str(folder), "--json")[0])
    assert found["verdict"] == "holds"
    assert all(check["passed"] for check in found["checks"])


def test_11_release_figures_that_differ_are_exit_10(tmp_path: Path, capsys: Any) -> None:
    rows = release_like()
    rows[0]["doc_num"] = 12
    folder = write(tmp_path, rows, documents=False)
    out, err = said(capsys, "--expect-release", str(folder), code=10)
    assert "DIFFERS  doc_num is the number of links: not so in ids 0" in out
    assert "do not hold" in err
    found = json.loads(said(capsys, "--expect-release", str(folder), "--json", code=10)[0])
    assert found["verdict"] == "fails"
    out, _ = said(capsys, "--expect-release", str(write_small(tmp_path / "small", 5)), code=10)
    assert "DIFFERS  rows: 5, expected 1543" in out


def test_11_without_a_real_file_the_figures_are_not_run(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for place, code in ((str(tmp_path / "none.jsonl"), 2), (str(tmp_path), 2), ("longsafety", 5), ("jbb", 2)):
        out, err = said(capsys, "--expect-release", place, code=code)
        assert "were not run" in err
        assert "holds" not in out
        found = json.loads(said(capsys, "--expect-release", place, "--json", code=code)[0])
        assert found["verdict"] == "not run"
        assert "checks" not in found
