"""The one entry for data: names, paths, rows; and the limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from safewright.data import LoadedData, load_data, sample
from safewright.errors import BadInput
from safewright.runs import to_json
from safewright.types import Row

ROWS = [Row(f"r{i}", ({"role": "user", "content": f"zor {i}"},)) for i in range(200)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"id": "r{i}", "prompt": "zor {i}"}}\n' for i in range(200)), encoding="utf-8")
    return path


def test_a_file(file: Path) -> None:
    for given in (file, str(file)):
        data = load_data(given, "harm")
        assert (data.kind, data.source, len(data.rows), data.revision) == ("file", str(file), 200, None)
    assert data.digest == load_data(ROWS, "harm").digest
    assert data.describe() == {
        "source": str(file), "kind": "file", "digest": data.digest, "rows": 200, "of": 200,
    }  # fmt: skip
    to_json(data)


def test_rows_and_loaded_data() -> None:
    data = load_data(ROWS, "harm", limit=5)
    assert (len(data.rows), data.total, data.kind) == (5, 200, "rows")
    again = load_data(load_data(ROWS, "harm"), "harm", limit=5)
    assert again == data
    assert load_data(data, "harm") == data
    assert isinstance(data, LoadedData)


def test_quick_is_a_hundred_rows() -> None:
    assert len(load_data(ROWS, "harm", quick=True).rows) == 100
    assert len(load_data(ROWS, "harm", quick=True, limit=7).rows) == 7
    assert len(load_data(ROWS[:3], "harm", quick=True).rows) == 3


def test_the_sample_is_seeded_nested_and_in_order() -> None:
    small, large = sample(ROWS, 20, 0), sample(ROWS, 50, 0)
    assert len(small) == 20
    assert {r.id for r in small} <= {r.id for r in large}
    assert [r.id for r in small] == [r.id for r in ROWS if r in small]
    assert {r.id for r in sample(ROWS[::-1], 20, 0)} == {r.id for r in small}
    assert sample(ROWS, 20, 1) != small
    assert sample(ROWS, 500, 0) == ROWS == sample(ROWS, None, 0)
    # Rows that are chosen stay chosen when others leave the file.
    assert {r.id for r in small} & {r.id for r in ROWS[:100]} <= {r.id for r in sample(ROWS[:100], 20, 0)}


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_a_limit_below_one_names_the_option(limit: int) -> None:
    for load in (lambda: load_data(ROWS, "harm", limit=limit), lambda: load_data("jbb", "harm", limit=limit)):
        with pytest.raises(BadInput, match="--limit") as error:
            load()
        assert error.value.exit_code == 2


def test_utility_needs_answers(file: Path) -> None:
    with pytest.raises(BadInput, match="line 1: the row has no reference answer"):
        load_data(file, "utility")


def test_what_is_neither_file_nor_preset(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Did you mean 'gsm8k'"):
        load_data("gsm8", "utility")
    with pytest.raises(BadInput, match="does not exist"):
        load_data(str(tmp_path / "none.jsonl"), "harm")
    with pytest.raises(BadInput, match="does not exist"):
        load_data("none.jsonl", "harm")
    with pytest.raises(BadInput, match="is a folder"):
        load_data(str(tmp_path), "harm")


def test_a_preset_of_another_role() -> None:
    with pytest.raises(BadInput, match=r"harm data, but it was given for 'benign'.*or_bench, xstest"):
        load_data("jbb", "benign")


def test_no_data() -> None:
    with pytest.raises(BadInput, match="--data calibration="):
        load_data(None, "calibration")
    with pytest.raises(BadInput, match="are empty"):
        load_data([], "harm")


def test_no_data_falls_back_to_the_preset_of_the_role(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "safewright.data.sources.load_preset", lambda name, **kwargs: asked.append((name, kwargs))
    )
    for role in ("harm", "benign", "utility", "long_context"):
        load_data(None, role, limit=3, seed=4)
    assert asked == [(name, {"limit": 3, "seed": 4}) for name in ("jbb", "xstest", "gsm8k", "longsafety")]
