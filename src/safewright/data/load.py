"""Data files: JSONL, JSON lists and parquet, read strictly; every complaint names file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safewright.data.rows import FORMATS, read_object, with_ids
from safewright.errors import BadInput, nearest, need_extra
from safewright.types import Row

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")


def load_rows(path: Path | str, *, need_reference: bool = False) -> list[Row]:
    """The rows of a data file, in file order.

    JSONL (``.jsonl``, ``.ndjson``; blank lines are skipped), a JSON list (``.json``) or parquet. A row has
    ``messages``, or ``prompt`` with ``response``, or ``instruction`` with ``input`` and ``output``; also
    ``id``, ``lang`` and ``system``; everything else goes to its meta.

    Args:
        path: The file.
        need_reference: Demand a known answer in every row.

    Raises:
        BadInput: The file is not there, is a folder, has another suffix, is empty, damaged or not UTF-8,
            or a row cannot be used; with the line (JSONL), item (JSON) or row (parquet).
        Missing: A parquet file, and pyarrow is not installed.
    """
    drafts = [read_object(obj, where, need_reference=need_reference) for where, obj in read_objects(path)]
    if not drafts:
        raise BadInput(
            f"{path} holds no rows.", why="There is nothing to measure.", fix=f"Give rows with {FORMATS}."
        )
    return with_ids(drafts)


def read_objects(path: Path | str) -> Iterator[tuple[str, Any]]:
    """What a data file holds, each with its place (``FILE, line 3``), in file order; whatever its shape.

    Raises:
        BadInput: As `load_rows` does for files that cannot be read.
        Missing: A parquet file, and pyarrow is not installed.
    """
    file = Path(path)
    readers = {".json": _json_list, ".parquet": _parquet}
    reader = readers.get(_checked_suffix(file), _json_lines)
    for spot, obj in reader(file):
        yield f"{file}, {spot}", obj


def _checked_suffix(file: Path) -> str:
    if file.is_dir():
        inside = sorted(p.name for p in file.iterdir() if p.suffix.lower() in SUFFIXES)
        hint = f"It holds {', '.join(inside[:5])}: name one of them." if inside else "Name a data file."
        raise BadInput(f"{file} is a folder, not a data file.", fix=hint)
    if not file.exists():
        beside = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        close = [name for name in beside if Path(name).suffix.lower() in SUFFIXES]
        hint = nearest(file.name, close) if close else f"Check the path; {file.parent} holds no data file."
        raise BadInput(f"{file} does not exist.", fix=hint)
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput(
            f"{file} has the suffix {file.suffix!r}.",
            why="The suffix says how to read it.",
            fix=f"Use one of {', '.join(SUFFIXES)}.",
        )
    return suffix


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file} cannot be read ({error.strerror}).", fix="Check its permissions.") from error


def _decoded(file: Path) -> str:
    data = _bytes(file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder counts from behind a byte-order mark.
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, offset) + 1
        raise BadInput(
            f"{file}, line {line}: not UTF-8 (byte 0x{data[offset]:02x} at offset {offset}).",
            why="Guessing an encoding would change the text silently.",
            fix="Convert the file, for example: iconv -f ENCODING -t UTF-8",
        ) from error


def _json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    # Only "\n" ends a line: splitlines() would also cut at separators that JSON texts may hold.
    for number, line in enumerate(_decoded(file).split("\n"), 1):
        if line.strip():
            spot = f"line {number}"
            yield spot, _parsed(line, file, number, "One JSON object per line is needed.")


def _json_list(file: Path) -> Iterator[tuple[str, Any]]:
    text = _decoded(file)
    if not text.strip():
        return
    items = _parsed(text, file, None, "A JSON list of objects is needed.")
    if not isinstance(items, list):
        raise BadInput(
            f"{file}, line 1: the file is not a list.",
            fix="Put the rows into a JSON list, or write one object per line and name the file .jsonl.",
        )
    for number, item in enumerate(items, 1):
        yield f"item {number}", item


def _parsed(text: str, file: Path, line: int | None, fix: str) -> Any:
    def constant(name: str) -> Any:
        raise BadInput(f"{file}, line {line or 1}: {name} is not JSON.", fix="Use null for a missing number.")

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise BadInput(
                f"{file}, line {line or 1}: the key {twice!r} stands twice in one object.",
                why="Which of the two values is meant cannot be told.",
                fix="Keep one of them.",
            )
        return found

    try:
        value = json.loads(text, parse_constant=constant, object_pairs_hook=distinct)
        if "\\u" in text:  # an escaped half of a pair has no UTF-8 form and would fail when it is written
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        spot = line or error.lineno
        raise BadInput(
            f"{file}, line {spot}: not JSON ({error.msg} at column {error.colno}).", fix=fix
        ) from error
    except (RecursionError, ValueError) as error:
        reason = {RecursionError: "nested too deeply", UnicodeEncodeError: "half of a surrogate pair"}
        said = reason.get(type(error), str(error).partition(";")[0])
        raise BadInput(f"{file}, line {line or 1}: not usable JSON ({said}).", fix=fix) from error
    return value


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise need_extra("pyarrow", "models") from error
    number = 0
    try:
        source = pyarrow.parquet.ParquetFile(file)
        for batch in source.iter_batches(batch_size=4096):
            for item in batch.to_pylist():
                number += 1
                yield f"row {number}", item
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        place = f", after row {number}" if number else ""
        raise BadInput(
            f"{file}{place}: not a readable parquet file ({str(error).splitlines()[0]}).",
            fix="Write it again, or give JSONL.",
        ) from error
