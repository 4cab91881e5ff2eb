"""Whether an audit log is as it was written: the chain of hashes recomputed, and the record named where it breaks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.guard.audit.log import COLUMNS, GENESIS, chained, columns_of, open_audit
from safewright.guard.sqlite import HEADER, Unavailable

MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Checked:
    """What `verify` found.

    ``head`` is the hash of the last good record: noted elsewhere, it later proves that none was cut off the end.
    """

    records: int
    head: str
    problems: tuple[str, ...] = ()
    torn: str = ""

    @property
    def sound(self) -> bool:
        """Whether every whole record is as it was written. A torn last line of an export is no fault of theirs."""
        return not self.problems


def verify(path: Path | str, *, head: str | None = None) -> Checked:
    """Examine an audit log, or an export of one; ``head``, noted earlier, must be among its hashes.

    Raises:
        BadInput: There is none.
    """
    place = Path(path)
    try:
        with open(place, "rb") as handle:
            begin = handle.read(len(HEADER))
    except OSError as error:
        raise BadInput(
            f"The audit log {place} cannot be read: {error.strerror}.", fix="Check the path."
        ) from error
    chain = _Chain(strict=begin == HEADER, awaited=head)
    found = _verify_database(place, chain) if begin == HEADER else _verify_lines(place, chain)
    if head is not None and chain.awaited is not None:
        said = f"no record has the hash {head}: records were cut off, or this is another log."
        found = replace(found, problems=(*found.problems, said))
    return found


class _Chain:
    """The chain so far."""

    def __init__(self, strict: bool, awaited: str | None = None) -> None:
        self.records, self.head, self.seq = 0, GENESIS, 0
        self.strict, self.awaited = strict, awaited
        self.problems: list[str] = []

    def take(self, record: Mapping[str, Any], hashed: str, where: str) -> None:
        seq, before = record.get("seq"), record.get("prev_hash")
        said = f"{where} (id {record.get('id')}, seq {seq})"
        if _hashed(record) != hashed:
            self.wrong(f"{said}: its content is not what was written.")
        if self.records == 0 and not self.strict:
            self.head, self.seq = (
                str(before),
                (seq if isinstance(seq, int) else 1) - 1,
            )  # an export may begin anywhere
        if before != self.head:
            self.wrong(f"{said}: it does not follow the record before it.")
        elif seq != self.seq + 1:
            self.wrong(f"{said}: it should be number {self.seq + 1}.")
        if hashed == self.awaited:
            self.awaited = None
        self.records += 1
        self.head, self.seq = hashed, int(seq) if isinstance(seq, int) else self.seq + 1

    def wrong(self, text: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)

    def checked(self, torn: str = "") -> Checked:
        return Checked(self.records, self.head, tuple(self.problems), torn)


def _hashed(record: Mapping[str, Any]) -> str:
    """The hash of a record; empty where it holds what no record was ever written with."""
    try:
        return chained(record)
    except (ValueError, RecursionError):
        return ""


def _verify_database(place: Path, chain: _Chain) -> Checked:
    try:
        log = open_audit(place, read_only=True, sound=True)
    except (Unavailable, BadInput) as error:
        chain.wrong(f"the file: {error}")
        return chain.checked()
    try:
        with log.database.reading() as connection:
            for row in _rows(connection):
                seq, body, hashed, columns = row[0], row[1], row[2], row[3:]
                where = f"record {seq}"
                try:
                    record = json.loads(body)
                    if not isinstance(record, dict):
                        raise ValueError("it is no object")
                except (ValueError, RecursionError) as error:
                    chain.wrong(f"{where} (id {columns[0]}): its content is not what was written ({error}).")
                    chain.records, chain.seq, chain.head = chain.records + 1, seq, str(hashed)
                    continue
                chain.take(record, str(hashed), where)
                if record.get("seq") != seq or columns_of(record) != columns:
                    chain.wrong(f"{where} (id {columns[0]}): what it is searched by is not what it says.")
            last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
        if last is not None and last[0] > chain.seq:
            chain.wrong(f"records {chain.seq + 1} to {last[0]} were written and are gone.")
        for problem in log.database.integrity():
            chain.wrong(f"the file: {problem}")
    except (Unavailable, sqlite3.Error) as error:
        chain.wrong(f"after record {chain.seq}: {error}")
    finally:
        log.close()
    return chain.checked()


def _rows(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    # Texts are read as they lie there: a damaged one is no UTF-8 any more, and is a finding, not an error.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        yield from connection.execute(f"SELECT seq, body, hash, {', '.join(COLUMNS)} FROM audit ORDER BY seq")
    finally:
        connection.text_factory = str


def _verify_lines(place: Path, chain: _Chain) -> Checked:
    torn = ""
    with open(place, "rb") as handle:
        lines = handle.read().split(b"\n")
    whole, rest = lines[:-1], lines[-1]
    for number, line in enumerate(whole, start=1):
        _take_line(chain, line, number)
    if rest:
        try:
            json.loads(rest)
            _take_line(chain, rest, len(lines))
        except (ValueError, RecursionError):
            torn = f"the last line ({len(lines)}) was cut off after {len(rest)} bytes"
    if not chain.records and not chain.problems and not rest.startswith(b"{"):
        raise BadInput(
            f"{place} is no audit log: neither SQLite nor records, one a line.", fix="Check the path."
        )
    return chain.checked(torn)


def _take_line(chain: _Chain, line: bytes, number: int) -> None:
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or "hash" not in record:
            raise ValueError("it is no record")
    except (ValueError, RecursionError) as error:
        chain.wrong(f"line {number}: {error}")
        chain.seq += 1
        return
    chain.take(record, str(record["hash"]), f"line {number}")
