"""JSON for dataclasses, and writes that are either whole or not there."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from safewright.errors import BadInput, Incomplete

T = TypeVar("T")


def to_json(obj: Any) -> Any:
    """The plain JSON form of an object: dataclasses, mappings, sequences, sets, paths and scalars.

    Raises:
        TypeError: Something in it has no JSON form.
    """
    if obj is None or isinstance(obj, (bool, int, str)):
        return obj
    if isinstance(obj, float):
        # JSON has no NaN; a missing value is null, never a number that sorts somewhere.
        return obj if math.isfinite(obj) else None
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: to_json(getattr(obj, f.name)) for f in dataclasses.fields(obj)}
    if isinstance(obj, Mapping):
        return {str(key): to_json(value) for key, value in obj.items()}
    if isinstance(obj, (set, frozenset)):
        return sorted(to_json(item) for item in obj)
    if isinstance(obj, Path):
        return str(obj)
    if isinstance(obj, Sequence):
        return [to_json(item) for item in obj]
    raise TypeError(f"{type(obj).__name__} has no JSON form")


def dump_json(obj: Any, *, canonical: bool = False) -> str:
    """JSON text: readable (indented), or ``canonical`` (sorted keys, one line) for digests."""
    plain = to_json(obj)
    text = _dump(plain, canonical, plain_unicode=True)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # Half of a surrogate pair (a server may send one) has no UTF-8 form, but an escape in JSON.
        text = _dump(plain, canonical, plain_unicode=False)
    return text


def _dump(plain: Any, canonical: bool, *, plain_unicode: bool) -> str:
    ascii_only = not plain_unicode
    if canonical:
        return json.dumps(
            plain, ensure_ascii=ascii_only, sort_keys=True, separators=(",", ":"), allow_nan=False
        )
    return json.dumps(plain, ensure_ascii=ascii_only, indent=2, allow_nan=False) + "\n"


def from_json(kind: type[T], plain: Any) -> T:
    """A value of type ``kind`` from its plain JSON form; the inverse of `to_json`.

    Raises:
        BadInput: A field is unknown or missing, or a value does not fit its type.
    """
    value: T = _read(kind, plain, kind.__name__)
    return value


def _read(kind: Any, plain: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return plain
    if origin is typing.Literal:
        if plain not in args:
            raise BadInput(f"{where} is {plain!r}.", fix=f"It must be one of {', '.join(map(repr, args))}.")
        return plain
    if origin in (typing.Union, types.UnionType):
        if plain is None and type(None) in args:
            return None
        return _read(next(a for a in args if a is not type(None)), plain, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, plain, where)
    if origin is tuple:
        _expect(plain, list, where)
        inner = args[0] if args else Any
        return tuple(_read(inner, item, f"{where}[{i}]") for i, item in enumerate(plain))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        _expect(plain, dict, where)
        return {key: _read(args[1], value, f"{where}.{key}") for key, value in plain.items()}
    if kind is float:
        if isinstance(plain, bool) or not isinstance(plain, (int, float)):
            raise BadInput(f"{where} is {plain!r}, not a number.")
        try:
            return float(plain)
        except OverflowError as error:
            raise BadInput(f"{where} is too large a number.") from error
    if kind in (str, int, bool):
        if kind is int and isinstance(plain, bool):
            raise BadInput(f"{where} is {plain!r}, not an integer.")
        _expect(plain, kind, where)
        return plain
    raise TypeError(f"{where}: no rule for reading {kind!r}")


def _expect(plain: Any, kind: type, where: str) -> None:
    if not isinstance(plain, kind):
        raise BadInput(f"{where} is a {type(plain).__name__}, not a {kind.__name__}.")


def _read_dataclass(kind: type, plain: Any, where: str) -> Any:
    _expect(plain, dict, where)
    hints, required = _fields(kind)
    unknown = sorted(set(plain) - set(hints))
    if unknown:
        raise BadInput(f"{where} has the unknown field {unknown[0]!r}.")
    missing = sorted(required - set(plain))
    if missing:
        raise BadInput(f"{where} lacks the field {missing[0]!r}.")
    return kind(**{name: _read(hints[name], value, f"{where}.{name}") for name, value in plain.items()})


@cache
def _fields(kind: type) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of a dataclass's fields, and the fields without a default; slow to find out, so once."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    required = (
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    return {f.name: hints[f.name] for f in fields}, frozenset(required)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Put ``data`` at ``path`` at once: temporary file, fsync, rename.

    A reader, or the next run after a kill, sees the old content or the new, never a part. A kill may
    leave the temporary file, ``.NAME.XXXXXXXX.part``; `open_run` removes those of a run.

    Raises:
        BadInput: There may not be written at ``path``, or something stands in the way.
        Incomplete: The disk is full, or a quota is reached.
    """
    target = checked_path(path)
    with disk_errors(target):
        _replace(target, (data,))


def write_lines(path: Path | str, rows: Iterable[Any]) -> str:
    """Put one line of canonical JSON per row at ``path`` at once, without holding them together in memory.

    Returns:
        The digest of the file's bytes.

    Raises:
        BadInput, Incomplete: See `write_bytes`.
    """
    target = checked_path(path)
    digest = hashlib.sha256()
    with disk_errors(target):
        _replace(target, _lines(rows, digest))
    return f"sha256:{digest.hexdigest()}"


def lines_digest(rows: Iterable[Any]) -> str:
    """The digest of the file that `write_lines` would write."""
    digest = hashlib.sha256()
    for _ in _lines(rows, digest):
        pass
    return f"sha256:{digest.hexdigest()}"


def _lines(rows: Iterable[Any], digest: Any) -> Iterator[bytes]:
    for row in rows:
        line = (dump_json(row, canonical=True) + "\n").encode("utf-8")
        digest.update(line)
        yield line


def _replace(target: Path, data: Iterable[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_text(path: Path | str, text: str) -> None:
    """Put UTF-8 ``text`` at ``path`` at once; see `write_bytes`. Halves of surrogate pairs are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path | str, obj: Any) -> None:
    """Put readable JSON of ``obj`` at ``path`` at once; see `write_bytes` and `to_json`."""
    write_text(path, dump_json(obj))


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def checked_path(path: Path | str) -> Path:
    """The path, unless no file system could hold it.

    Raises:
        BadInput: It holds a NUL, or is not text that has a file name's bytes.
    """
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{str(path)!r} is not a path: it is not UTF-8.", fix="Choose another name."
        ) from error
    if b"\0" in name:
        raise BadInput(f"{str(path)!r} is not a path: it holds a NUL.", fix="Choose another name.")
    return Path(path)


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when there is no room: the same command goes on later."""

CLOSED = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOENT,
    }
)
"""What the system says when the place itself is wrong: not ours to write, or no place for a file."""


class disk_errors:  # noqa: N801 - reads as a statement: "with disk_errors(place):"
    """Turns what the system says about writing at ``place`` into our errors; others pass unchanged.

    A full disk or a reached quota is `Incomplete`; a place that cannot be written is `BadInput`.
    """

    def __init__(self, place: Path) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in FULL:
            raise Incomplete(
                f"No space left while writing to {self.place} ({error.strerror}).",
                why="Everything written before is kept.",
                fix="Free some space and give the same command again: it goes on from here.",
            ) from error
        if error.errno in CLOSED:
            raise BadInput(
                f"{self.place} cannot be written ({error.strerror}).",
                why="Results have to be kept before they are shown.",
                fix="Choose a place that you may write to, for example with --out.",
            ) from error
