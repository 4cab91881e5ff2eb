"""Files: what can be read, and every way in which one cannot."""

from __future__ import annotations

import builtins
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from safewright.data import load_rows
from safewright.errors import BadInput, Missing

GOOD = '{"prompt": "a", "response": "b"}\n'


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def complaint(path: Path, **kwargs: Any) -> str:
    with pytest.raises(BadInput) as error:
        load_rows(path, **kwargs)
    assert error.value.exit_code == 2
    assert str(path) in error.value.what
    return str(error.value)


def test_jsonl_keeps_the_order_and_skips_blank_lines(tmp_path: Path) -> None:
    path = put(tmp_path, "r.jsonl", '{"prompt": "b"}\n\n  \n{"prompt": "a"}\r\n{"prompt": "c"}')
    assert [row.prompt[0]["content"] for row in load_rows(path)] == ["b", "a", "c"]
    assert [row.prompt[0]["content"] for row in load_rows(put(tmp_path, "R.NDJSON", '{"prompt": "b"}'))] == [
        "b"
    ]


def test_line_separators_inside_texts_do_not_end_a_line(tmp_path: Path) -> None:
    path = put(tmp_path, "r.jsonl", '{"prompt": "a\u2028b\u0085c"}\n')
    assert load_rows(path)[0].prompt[0]["content"] == "a\u2028b\u0085c"


def test_byte_order_mark(tmp_path: Path) -> None:
    assert len(load_rows(put(tmp_path, "r.jsonl", b"\xef\xbb\xbf" + GOOD.encode()))) == 1


def test_json_list_and_jsonl_are_the_same_rows(tmp_path: Path) -> None:
    objects = [{"prompt": "a", "response": "b", "n": 1}, {"messages": [{"role": "user", "content": "c"}]}]
    lines = put(tmp_path, "r.jsonl", "\n".join(map(json.dumps, objects)))
    assert load_rows(put(tmp_path, "r.json", json.dumps(objects))) == load_rows(lines)


def test_parquet_is_the_same_rows(tmp_path: Path) -> None:
    objects = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "topic": "x"},
        {"messages": [{"role": "user", "content": "c"}], "topic": None},
    ]
    pq.write_table(pa.Table.from_pylist(objects), tmp_path / "r.parquet")
    assert load_rows(tmp_path / "r.parquet") == load_rows(put(tmp_path, "r.json", json.dumps(objects)))


def test_parquet_cells_become_json(tmp_path: Path) -> None:
    cell = {"when": datetime.date(2024, 1, 2), "raw": b"\x00", "odd": float("nan"), "many": [1, 2]}
    pq.write_table(pa.Table.from_pylist([{"prompt": "a", **cell}]), tmp_path / "r.parquet")
    meta = load_rows(tmp_path / "r.parquet")[0].meta
    assert meta["when"] == "2024-01-02"
    assert meta["raw"].startswith("sha256:")
    assert (meta["odd"], meta["many"]) == (None, [1, 2])
    json.dumps(dict(meta), allow_nan=False)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    put(tmp_path, "harm.jsonl", GOOD)
    assert "Did you mean 'harm.jsonl'" in complaint(tmp_path / "hram.jsonl")
    assert "does not exist" in complaint(tmp_path / "no" / "where.jsonl")


def test_folder_instead_of_file(tmp_path: Path) -> None:
    put(tmp_path, "harm.jsonl", GOOD)
    assert "It holds harm.jsonl" in complaint(tmp_path)


def test_unknown_suffix(tmp_path: Path) -> None:
    said = complaint(put(tmp_path, "r.csv", "prompt\na\n"))
    assert "'.csv'" in said
    assert ".parquet" in said
    assert "suffix ''" in complaint(put(tmp_path, "rows", GOOD))


@pytest.mark.parametrize(
    ("name", "content"), [("r.jsonl", ""), ("r.jsonl", "\n \n"), ("r.json", ""), ("r.json", "[]")]
)
def test_empty_data(tmp_path: Path, name: str, content: str) -> None:
    assert "holds no rows" in complaint(put(tmp_path, name, content))


def test_empty_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "r.parquet")
    assert "holds no rows" in complaint(tmp_path / "r.parquet")


def test_rows_without_needed_fields(tmp_path: Path) -> None:
    said = complaint(put(tmp_path, "r.jsonl", GOOD + "\n" + '{"text": "a"}\n'))
    assert "line 3" in said
    assert "fields found: text" in said
    assert "`prompt`" in said
    assert "item 2" in complaint(put(tmp_path, "r.json", '[{"prompt": "a"}, {"text": "a"}]'))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "r.parquet")
    assert "row 1" in complaint(tmp_path / "r.parquet")
    assert "line 2" in complaint(put(tmp_path, "r.jsonl", GOOD + '{"prompt": "a"}\n'), need_reference=True)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{'prompt': 'a'}", "line 2: not JSON"),
        ('{"prompt": "a"', "line 2: not JSON"),
        ('{"prompt": "a"} {"prompt": "b"}', "line 2: not JSON"),
        ('{"prompt": "a", "x": NaN}', "line 2: NaN is not JSON"),
        ('{"prompt": "\\ud800"}', "line 2: not usable JSON .half of a surrogate pair"),
        (
            '{"prompt": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "line 2: not usable JSON .nested too deeply",
        ),
        ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "line 2: not usable JSON"),
        ("[1]", "line 2: the row is a list"),
    ],
)
def test_invalid_json(tmp_path: Path, line: str, match: str) -> None:
    path = put(tmp_path, "r.jsonl", GOOD + line + "\n" + GOOD)
    with pytest.raises(BadInput, match=match) as error:
        load_rows(path)
    assert error.value.exit_code == 2


def test_invalid_json_list(tmp_path: Path) -> None:
    assert "line 3: not JSON" in complaint(put(tmp_path, "r.json", '[\n{"prompt": "a"},\n{]\n'))
    assert "not a list" in complaint(put(tmp_path, "r.json", '{"prompt": "a"}'))


def test_not_utf8(tmp_path: Path) -> None:
    said = complaint(put(tmp_path, "r.jsonl", GOOD.encode() + '{"prompt": "caf\xe9"}\n'.encode("latin-1")))
    assert f"line 2: not UTF-8 (byte 0xe9 at offset {len(GOOD) + 15})" in said
    bom = b"\xef\xbb\xbf" + b'{"prompt": "\xff"}'
    assert "line 1: not UTF-8 (byte 0xff at offset 15)" in complaint(put(tmp_path, "b.jsonl", bom))
    assert "line 1: not UTF-8" in complaint(put(tmp_path, "u.json", '[{"prompt": "a"}]'.encode("utf-16")))


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    path = put(tmp_path, "r.jsonl", '{"prompt": "a", "id": "x"}\n\n{"prompt": "b", "id": "x"}\n')
    said = complaint(path)
    assert f"{path}, line 3: the id 'x' was already given at {path}, line 1" in said


def test_damaged_parquet(tmp_path: Path) -> None:
    assert "not a readable parquet file" in complaint(put(tmp_path, "r.parquet", b"PAR1 no"))
    pq.write_table(pa.table({"prompt": ["a" * 100] * 1000}), tmp_path / "w.parquet")
    data = bytearray((tmp_path / "w.parquet").read_bytes())
    cut = put(tmp_path, "c.parquet", bytes(data[: len(data) // 2]))
    assert "not a readable parquet file" in complaint(cut)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "r.parquet", b"")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Missing, match=r"safewright\[models\]") as error:
        load_rows(path)
    assert error.value.exit_code == 5


def test_a_key_that_stands_twice_is_no_row(tmp_path: Path) -> None:
    said = complaint(put(tmp_path, "r.jsonl", GOOD + '{"prompt": "a", "id": "x", "prompt": "b"}\n'))
    assert "line 2: the key 'prompt' stands twice" in said
    said = complaint(
        put(tmp_path, "r.json", '[{"messages": [{"role": "user", "role": "system", "content": "a"}]}]')
    )
    assert "'role' stands twice" in said
