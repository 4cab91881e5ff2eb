"""``safewright data``: fetch a preset, check a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safewright.cli import console
from safewright.cli.options import JsonOut
from safewright.errors import BadInput, GateFailed, SafewrightError, nearest

if TYPE_CHECKING:
    from safewright.types import Check, Row

app = typer.Typer(help="Data sets: download presets, check files.", no_args_is_help=True)

_IDS, _SHOWN = 20, 5
"""Missing documents, and differing figures, that are named for a reader; --json has them all."""


_SHORT = {
    "Brainstorming": "Brain.",
    "Generation": "Gener.",
    "Question Answering": "QA",
    "Role-playing": "Role",
    "Summarization": "Summ.",
}
"""Kinds of task as the heads of a table of eighty columns."""


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A preset; safewright list names them.")], json: JsonOut = False
) -> None:
    """Download a preset into the hub's cache, and say which revision it is."""
    from safewright.data import fetch_preset

    found = fetch_preset(name)
    if json:
        console.result({"name": name, "rows": len(found.rows), **found.describe()})
    else:
        print(f"{name}: {len(found.rows)} rows of {found.source} at revision {found.revision}")
        for note in found.notes:
            print(f"note: {note}")


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="A JSONL, JSON or parquet file; for long contexts also a folder.")
    ],
    reference: Annotated[bool, typer.Option("--reference", help="Require a reference in every row.")] = False,
    against: Annotated[
        list[Path], typer.Option("--against", help="Files that must not overlap with it.")
    ] = [],  # noqa: B006 - typer copies it
    role: Annotated[
        str,
        typer.Option(
            "--role", help="What it is for; long_context is noticed by LongSafety's fields or names."
        ),
    ] = "",
    expect_release: Annotated[
        bool,
        typer.Option(
            "--expect-release",
            help="Compare with the figures of LongSafety's release; its metadata alone will do, and the preset's "
            "name stands for what was fetched.",
        ),
    ] = False,
    json: JsonOut = False,
) -> None:
    """Read a file as every measure would: its rows, languages and overlaps.

    Of long contexts also what is missing or wrong, and the set in figures.
    """
    from safewright.data import DEFAULTS, load_rows, longsafety

    if role and role not in DEFAULTS:
        raise BadInput(f"The role {role!r} is unknown.", fix=nearest(role, DEFAULTS))
    long = longsafety.ROLE
    if expect_release or role == long or (not role and _is_long(file)):
        if reference or (role and role != long):
            raise BadInput(
                f"{'--reference' if reference else f'--role {role}'} does not go with long contexts.",
                fix="Leave it out.",
            )
        if expect_release:
            _release(file, json)
        else:
            _long(file, against, json)
        return
    rows = load_rows(file, need_reference=reference or role == "utility")
    facts = {
        "file": str(file),
        "rows": len(rows),
        "with reference": sum(row.reference is not None for row in rows),
        "languages": _languages(rows),
    }
    _disjoint(facts, rows, file, against)
    if json:
        console.result(facts)
    else:
        for key, value in facts.items():
            print(f"{key}: {value}")
        if all("context" in row.meta for row in rows):
            print(
                f"note: every row has a `context`; as long contexts: safewright data check {file} --role {long}"
            )


def _languages(rows: Sequence[Row]) -> dict[str, int]:
    from safewright.data import detect

    return dict(Counter(row.lang or detect(row.prompt[-1]["content"]) for row in rows).most_common())


def _disjoint(facts: dict[str, Any], rows: Sequence[Row], file: Path, against: list[Path]) -> None:
    from safewright.data import load_long, load_rows, require_disjoint

    if against:
        others = {
            f"--against {other}": load_long(other)[0] if _is_long(other) else load_rows(other)
            for other in against
        }
        require_disjoint({str(file): rows, **others})
        facts["disjoint from"] = [str(other) for other in against]


def _is_long(file: Path) -> bool:
    """Whether a place is of LongSafety's format, by the names in a folder or the fields of a file's first row."""
    from safewright.data.load import read_objects
    from safewright.data.longsafety.labels import DOCS, LABELS, META, WHOLE

    if file.is_dir():
        return any((file / name).is_file() for name in (META, DOCS, *WHOLE))
    first = next(iter(read_objects(file)), ("", None))[1]
    return isinstance(first, dict) and "instruction" in first and any(name in first for name in LABELS)


def _long(file: Path, against: list[Path], json: bool) -> None:
    """Long contexts: what they are, in figures, and then what is wrong with them.

    Raises:
        BadInput: They cannot be used; all that could be read was told before.
    """
    from safewright.data import longsafety

    found = longsafety.survey(file)
    facts: dict[str, Any] = {
        "file": str(file),
        "rows": len(found.rows),
        "documents": len(found.rows) - len(found.missing),
        "missing documents": list(found.missing),
        "problems": [str(problem) for problem in found.problems],
        "notes": list(found.notes),
        "languages": _languages(found.rows),
        "statistics": longsafety.statistics(found.rows),
    }
    _disjoint(facts, found.rows, file, against)
    if json:
        console.result(facts)
    else:
        _tell(facts)
    found.usable()


def _tell(facts: dict[str, Any]) -> None:
    for key in ("file", "rows", "documents", "languages", "disjoint from"):
        if key in facts:
            print(f"{key}: {facts[key]}")
    missing = facts["missing documents"]
    if missing:
        print(f"missing documents: {', '.join(missing[:_IDS])}{', …' if len(missing) > _IDS else ''}")
    for problem in facts["problems"]:
        print(f"problem: {problem}")
    for note in facts["notes"]:
        print(f"note: {note}")
    from rich.table import Table

    figures = facts["statistics"]
    tasks = list(figures["task_type"])
    short = [_SHORT.get(task, task) for task in tasks]
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("safety issue", no_wrap=True)
    for column in (*short, "rows", "words"):
        table.add_column(column, justify="right")
    for label, row in figures["safety_type"].items():
        cells = [figures["cross"].get(label, {}).get(task, "") for task in tasks]
        table.add_row(label, *map(str, cells), str(row["rows"]), _words(row["mean length"]))
    kinds = figures["task_type"].values()
    table.add_row("rows", *(str(kind["rows"]) for kind in kinds), str(figures["rows"]), "")
    table.add_row(
        "words (mean)",
        *(_words(kind["mean length"]) for kind in kinds),
        "",
        _words(figures["length"]["mean"]),
    )
    console.show(table)
    length = figures["length"]
    names = [name for name in length if name not in ("bins", "below the first bin", "total")]
    print("words of a context: " + ", ".join(f"{name} {_words(length[name])}" for name in names))
    bins = [f"from {edge}: {count}" for edge, count in length["bins"].items()]
    print(f"rows by words: below {min(length['bins'])}: {length['below the first bin']}, {', '.join(bins)}")
    print(
        "rows by documents: " + (", ".join(f"{n}: {k}" for n, k in figures["doc_num"].items()) or "not given")
    )
    print(", ".join(f"{name} {value}" for name, value in figures["clusters"].items()))
    print(", ".join(f"links {name} {value}" for name, value in figures["links"].items()))
    for name in ("distinct instructions", "distinct keywords"):
        print(f"{name}: {figures[name]}")


def _words(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _release(file: Path, json: bool) -> None:
    """Each figure of the release, and whether the file has it.

    Raises:
        BadInput: The file cannot be read: the comparison is not run.
        Missing: The preset was asked for and is not at hand: not run.
        GateFailed: A figure does not hold.
    """
    from safewright.data import PRESETS, load_preset, longsafety

    try:
        if str(file) in PRESETS and not file.exists():
            if PRESETS[str(file)].role != longsafety.ROLE:
                raise BadInput(f"The preset {str(file)!r} is not LongSafety.", fix="Give longsafety.")
            rows: Sequence[Row] = load_preset(str(file)).rows
        else:
            rows = longsafety.survey(file).rows
    except SafewrightError as error:
        if json:
            console.result({"file": str(file), "verdict": "not run", "why": str(error)})
        raise type(error)(
            f"The figures of the release were not run, so none of them holds. {error.what}",
            why=error.why,
            fix=error.fix,
        ) from error
    checks = longsafety.release_checks(rows)
    failed = [each for each in checks if not each.passed]
    verdict = "fails" if failed else "holds"
    if json:
        console.result({"file": str(file), "verdict": verdict, "checks": checks})
    else:
        _compared(checks)
        print(
            f"{len(checks) - len(failed)} of {len(checks)} figures of the release hold in {file}. "
            "They are counts: that they agree does not say that the texts are the release's."
        )
    if failed:
        raise GateFailed(
            f"{len(failed)} of {len(checks)} figures of the release do not hold in {file}: "
            f"{'; '.join(each.name for each in failed[:_SHOWN])}{'; …' if len(failed) > _SHOWN else ''}.",
            why="Rates over other rows are not comparable with published ones.",
            fix="Fetch the set: safewright data fetch longsafety.",
        )


def _compared(checks: Sequence[Check]) -> None:
    for each in checks:
        print(f"{'holds' if each.passed else 'DIFFERS'}  {each.name}: {each.detail}".rstrip(": "))
