"""Reading finished runs back: every scorecard of a folder with its records."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePath
from typing import Any, NoReturn, TypeVar

from safewright.errors import BadInput
from safewright.runs import digest_bytes, from_json
from safewright.runs.folder import is_plan
from safewright.types import Record, Scorecard

CARD_FILE = "scorecard.json"
RECORDS_FILE = "records.jsonl"
PLAN_FILE = "plan.json"
AUDIT_FILE = "audit.json"

T = TypeVar("T")


def load_cards(folder: Path | str) -> list[tuple[Scorecard, list[Record]]]:
    """Every scorecard at or below ``folder`` with its records, ordered by path.

    Args:
        folder: The folder of one measure, or one with a subfolder per measure (an audit).

    Raises:
        BadInput: The folder is not a run, is unfinished, or holds a damaged file (named, with its line).
    """
    return [load_card(file.parent) for file in find_cards(folder)]


def find_cards(folder: Path | str) -> list[Path]:
    """The ``scorecard.json`` files at or below ``folder``, ordered by path; at least one.

    Raises:
        BadInput: The folder is not a run, or a run in it is unfinished.
    """
    root = Path(folder)
    if not root.is_dir():
        seen = "is a file" if root.exists() else "does not exist"
        raise BadInput(f"{root} {seen}.", fix="Name the folder that was given with --out.")
    cards = _visible(root, CARD_FILE)
    finished = {file.parent for file in cards}
    for plan in _visible(root, PLAN_FILE):
        found = _parse(_text(plan), str(plan))
        if not is_plan(found):
            continue  # the plan of something else
        # An audit's own plan lies above the scorecards of its measures.
        ended = any(done == plan.parent or plan.parent in done.parents for done in finished)
        lacking = CARD_FILE
        if ended and "audit" in found and not (plan.parent / AUDIT_FILE).is_file():
            ended, lacking = False, AUDIT_FILE
        if not ended:
            raise BadInput(
                f"The run in {plan.parent} is unfinished: it has no {lacking} yet.",
                why="A part of the answers would be shown as the whole.",
                fix="Give the command that began it again with the same --out: it goes on from where it stopped.",
            )
    if not cards:
        raise BadInput(
            f"{root} is not a run: there is no {CARD_FILE} in it.", fix="Name the folder of a run."
        )
    return cards


def load_card(folder: Path | str) -> tuple[Scorecard, list[Record]]:
    """The scorecard lying in ``folder`` itself, with its records.

    Raises:
        BadInput: A file is missing or damaged, or says something that is no scorecard or record.
    """
    file = Path(folder) / CARD_FILE
    if not file.is_file():
        raise BadInput(f"There is no {CARD_FILE} in {folder}.", fix="Name the folder of a finished run.")
    card = _value(Scorecard, _parse(_text(file), str(file)), str(file))
    return card, _records(file, card)


def load_records(folder: Path | str) -> list[Record]:
    """The records of the finished run lying in ``folder`` itself.

    Raises:
        BadInput: As `load_card`.
    """
    return load_card(folder)[1]


def load_command(folder: Path | str) -> str:
    """The command that began the run in ``folder``; empty where its plan names none."""
    file = Path(folder) / PLAN_FILE
    found = _parse(_text(file), str(file)) if file.is_file() else None
    command = found.get("command") if isinstance(found, dict) and is_plan(found) else None
    return command if isinstance(command, str) else ""


def load_finished(folder: Path | str, file: str, kind: type[T], what: str) -> T:
    """What a finished run left in a file of its folder.

    Raises:
        BadInput: The folder does not hold it.
    """
    place = Path(folder) / file
    if not place.is_file():
        raise BadInput(
            f"There is no {file} in {folder}.",
            fix=f"Give the command that began the {what} again with the same --out: it goes on from there.",
        )
    return from_json(kind, read_json(place))


def read_json(file: Path) -> Any:
    """The content of a JSON file of a run.

    Raises:
        BadInput: It cannot be read, or is damaged.
    """
    return _parse(_text(file), str(file))


def _visible(root: Path, name: str) -> list[Path]:
    """Files called ``name``, leaving out hidden folders (half-built cache entries lie in them)."""
    found = (file for file in root.rglob(name) if file.is_file())
    return sorted(
        file for file in found if not any(part.startswith(".") for part in file.relative_to(root).parts)
    )


def _records(file: Path, card: Scorecard) -> list[Record]:
    name = card.records
    if name and (PurePath(name).name != name or name in (".", "..")):
        # The file name comes from a document that may have been passed on: never follow it elsewhere.
        raise BadInput(f"{file} names {name!r} as its records, which is not a file beside it.")
    path = file.parent / (name or RECORDS_FILE)
    if not path.is_file():
        if not name:
            return []  # a measure without records, for example one that only reads weights
        raise BadInput(
            f"{path} is missing, but {file.name} names it.",
            fix="Copy the run folder as a whole, or run the measure again.",
        )
    text = _text(path)
    if card.records_digest and digest_bytes(text.encode("utf-8")) != card.records_digest:
        raise BadInput(
            f"{path} is not what {file.name} was made from.",
            why="A run was stopped while it wrote its results, or one of the two files was changed or replaced.",
            fix="Give the command that began the run again with the same --out: it goes on from there.",
        )
    # Not splitlines: answers may contain U+2028 and the like, which JSON does not escape.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [
        _value(Record, _parse(line, f"{path} line {number}"), f"{path} line {number}")
        for number, line in enumerate(lines, start=1)
    ]


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")  # line ends as they are: they are part of the digest
    except OSError as error:
        raise BadInput(f"{file} cannot be read ({error.strerror}).", fix="Check its permissions.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{file} line {line} is not UTF-8: {error.reason}.", fix=_AGAIN) from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        place = f"{where} column {error.colno}" if "\n" not in text else f"{where} line {error.lineno}"
        raise BadInput(f"{place} is damaged: {error.msg}.", fix=_AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is damaged: {error}.", fix=_AGAIN) from error


def _value(kind: type[T], plain: Any, where: str) -> T:
    try:
        return from_json(kind, plain)
    except BadInput as error:
        raise BadInput(f"{where}: {error.what}", fix=error.fix or _AGAIN) from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_AGAIN = "Run the measure again with --overwrite."
