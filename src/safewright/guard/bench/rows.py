"""Labelled calls from a file (CSV or JSONL), put before a guard one by one; a run that was cut off goes on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, nearest
from safewright.guard.bench.metrics import KINDS, UNPARSED, Kind, Outcome
from safewright.guard.nouns import Action, Check, Decision, Verdict, read_action
from safewright.runs import digest_bytes

if TYPE_CHECKING:
    from safewright.guard.engine import Guard
    from safewright.runs import Run

FIELDS = (
    "id", "group", "label", "kind", "tool", "arguments", "request", "principal", "history", "environment", "rules",
)  # fmt: skip
NEEDED = ("id", "label", "tool", "arguments")
AS_JSON = ("arguments", "principal", "history", "environment", "rules")
MOST_BYTES = 512 * 1024 * 1024
VALID_FAILURES = UNPARSED | {"invalid_action", "rule_error"}
"""Failures that would come again; after any other, a resumed run asks again."""


@dataclass(frozen=True)
class Row:
    """A labelled call: ``label`` says whether it is unsafe, ``rules`` which rules it violates (None: not said)."""

    id: str
    label: bool
    kind: Kind
    action: Action
    group: str = ""
    rules: frozenset[str] | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of a file, with the digest of its bytes."""

    rows: tuple[Row, ...]
    digest: str
    where: str


def read_rows(path: Path | str) -> Rows:
    """The labelled calls in a file: ``.csv`` with a header, anything else JSON objects, one a line.

    Raises:
        BadInput: The file cannot be read, a column is unknown or missing, a value is none of its column's, or an id
            occurs twice.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise BadInput(f"{file} is larger than {MOST_BYTES:,} bytes.", fix="Split it.")
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {error}.", fix="A CSV or JSONL file in UTF-8.") from error
    lines = _of_csv(text, file) if file.suffix.lower() == ".csv" else _of_jsonl(text, file)
    rows = []
    seen: dict[str, int] = {}
    for number, values in lines:
        where = f"{file}, row {number}"
        row = _row(values, where)
        if row.id in seen:
            raise BadInput(f"{where}: the id {row.id!r} is also that of row {seen[row.id]}.")
        seen[row.id] = number
        rows.append(row)
    if not rows:
        raise BadInput(f"{file} holds no row.", fix=f"Columns: {', '.join(FIELDS)}.")
    return Rows(tuple(rows), digest_bytes(data), str(file))


def _of_csv(text: str, file: Path) -> list[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text), strict=True)
    found: list[tuple[int, dict[str, Any]]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        _named(header, f"{file}, header")
        if len(set(header)) < len(header):
            raise BadInput(f"{file}: a column occurs twice.")
        for number, cells in enumerate(reader, start=1):
            if not cells:
                continue
            if len(cells) != len(header):
                raise BadInput(f"{file}, row {number}, has {len(cells)} cells, the header {len(header)}.")
            values: dict[str, Any] = {}
            for name, cell in zip(header, cells, strict=True):
                if cell == "" and name not in ("tool", "id", "label"):
                    continue
                values[name] = _json(cell, f"{file}, row {number}: {name}") if name in AS_JSON else cell
            found.append((number, values))
    except csv.Error as error:
        raise BadInput(f"{file} is no CSV: {error}.") from error
    return found


def _of_jsonl(text: str, file: Path) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        values = _json(line, f"{file}, line {number},")
        if not isinstance(values, dict):
            raise BadInput(f"{file}, line {number}, is no JSON object.")
        found.append((number, {name: value for name, value in values.items() if value is not None}))
    return found


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is no JSON: {error}.") from error


def _named(names: Sequence[str], where: str) -> None:
    for name in names:
        if name not in FIELDS:
            raise BadInput(f"{where} has an unknown column {name!r}.", fix=nearest(name, FIELDS))
    for name in NEEDED:
        if name not in names:
            raise BadInput(f"{where} lacks the column {name!r}.", fix=f"Columns: {', '.join(FIELDS)}.")


def _row(values: Mapping[str, Any], where: str) -> Row:
    _named(list(values), where)
    name, group = values["id"], values.get("group", "")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name.strip():
        raise BadInput(f"{where} has no id.")
    if not isinstance(group, str):
        raise BadInput(f"{where}: group is no text.")
    said = values["label"]
    label = {"0": False, "1": True, 0: False, 1: True}.get(said) if isinstance(said, (str, int)) else None
    if label is None:
        raise BadInput(f"{where}: label is {values['label']!r}.", fix="1 is unsafe, 0 is safe.")
    kind = values.get("kind", "task" if label else "benign")
    if kind not in KINDS:
        raise BadInput(f"{where}: kind is {kind!r}.", fix=nearest(str(kind), KINDS))
    if kind == "benign" and label:
        raise BadInput(f"{where} is benign, with the label 1.", fix="Name what kind of attack it is.")
    rules = values.get("rules")
    if rules is not None and (
        not isinstance(rules, (list, tuple)) or not all(isinstance(each, str) for each in rules)
    ):
        raise BadInput(f"{where}: rules is no list of ids.")
    given = {
        each: values[each]
        for each in ("tool", "arguments", "request", "principal", "history")
        if each in values
    }
    try:
        environment = None
        if values.get("environment") is not None:
            from safewright.guard.environments import read_environment

            environment = read_environment(values["environment"])
        action = read_action({**given, "session": name}, environment=environment)
    except BadInput as error:
        raise BadInput(f"{where}: {error.what}", why=error.why, fix=error.fix) from error
    return Row(name, label, kind, action, group, None if rules is None else frozenset(rules))


def judge_rows(
    guard: Guard, rows: Rows, run: Run | None = None, progress: Callable[[str, int, int], None] | None = None
) -> list[Outcome]:
    """What a guard decides on every row, in order.

    Args:
        guard: Any; where it remembers, earlier rows teach it.
        run: A journal of what was decided; rows that are in it are not asked again.
        progress: Called as work goes on.
    """
    known: dict[str, Any] = {}
    if run is not None:
        known = {row["id"]: row["verdict"] for row in run.rows("verdicts", ("id", "verdict"))}
    outcomes = []
    for number, row in enumerate(rows.rows, start=1):
        found = known.get(row.id)
        if found is None:
            found = _told(guard.check(row.action))
            if run is not None and found["failure"] in (None, *VALID_FAILURES):
                run.append("verdicts", {"id": row.id, "verdict": found})
        outcomes.append(_outcome(row, found))
        if progress is not None:
            progress("judging", number, len(rows.rows))
    return outcomes


def _told(verdict: Verdict) -> dict[str, Any]:
    """What figures need of a verdict, as JSON."""
    return {
        "decision": verdict.found,
        "said": sorted(said_by(verdict.checks, verdict.found)),
        "failure": verdict.failure,
        "calls": verdict.usage.calls,
        "tokens_in": verdict.usage.tokens_in,
        "tokens_out": verdict.usage.tokens_out,
        "latency_ms": verdict.latency_ms,
    }


def said_by(checks: Sequence[Check], decision: Decision) -> frozenset[str]:
    """The ids of the checks that decided: those that failed, or where none did and the call does not run, those that
    could not be decided."""
    failed = frozenset(check.id for check in checks if check.status == "fail")
    if failed or decision in ("allow", "modify"):
        return failed
    return frozenset(check.id for check in checks if check.status == "unknown")


def _outcome(row: Row, found: Mapping[str, Any]) -> Outcome:
    principal = row.action.principal
    profile = {} if principal is None else {"role": principal.role, **principal.attributes}
    return Outcome(
        row.id,
        row.label,
        row.kind,
        found["decision"],
        row.group,
        profile,
        row.rules,
        frozenset(found["said"]),
        found["failure"],
        found["calls"],
        found["tokens_in"],
        found["tokens_out"],
        found["latency_ms"],
    )
