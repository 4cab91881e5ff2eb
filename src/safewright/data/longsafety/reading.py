"""Instructions about long documents, labelled by safety issue and task: LongSafety's published format.

Lu et al. 2025, arXiv:2502.16971. Its repository has the labels and the documents in two files, which are
joined by id; its set on the hub has both in one. Nothing of the set is shipped. A file of one's own needs an
instruction and a context in every row; what else it lacks is left out, never invented.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safewright.data.load import SUFFIXES, read_objects
from safewright.data.longsafety.figures import clusters, oddities
from safewright.data.longsafety.labels import (
    DOCS,
    FETCH,
    LABELS,
    LENGTH_TOLERANCE,
    META,
    NEEDED,
    SHOWN,
    SPELLING,
    WHOLE,
    listed,
)
from safewright.data.rows import read_object
from safewright.data.splits import count_words
from safewright.errors import BadInput, nearest
from safewright.runs import digest_json
from safewright.types import Row

_RESERVED = frozenset({"messages", "prompt", "response", "input", "output", "system"})


@dataclass(frozen=True)
class Survey:
    """What a place holds in this format, whether or not it can be used.

    ``rows`` are all of them, without what is wrong or absent in them; ``problems`` are what forbids their
    use, one error of each kind; ``missing`` the ids without a document; ``notes`` what is merely odd.
    """

    rows: tuple[Row, ...]
    problems: tuple[BadInput, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    def usable(self) -> tuple[list[Row], tuple[str, ...]]:
        """The rows and the notes.

        Raises:
            BadInput: There is a problem; the first, and how many kinds more.
        """
        if not self.problems:
            return list(self.rows), self.notes
        first, more = self.problems[0], len(self.problems) - 1
        if not more:
            raise first
        also = f"{first.what} ({more} more kinds of problem; safewright data check lists them.)"
        raise BadInput(also, why=first.why, fix=first.fix)


def load_long(path: Path | str) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a folder or file in this format, in file order, and what is to be noted about them.

    A folder holds `META` and `DOCS` (joined by id, never by line), or one of `WHOLE`; a file (JSONL, JSON
    list, parquet) has the context in every row. A row's prompt is its instruction alone; its meta has
    ``context``, ``length`` (words; counted where the file has none), ``cluster`` (rows that share a link,
    named ``c`` and the smallest id among them), ``safety_type``, ``task_type``, ``doc_num``, ``link`` and
    ``key_words`` where the file has them, and every other field. Keywords are spelt right (`SPELLING`).

    Raises:
        BadInput: Unreadable or empty; an id twice or absent where it is needed; a document without a row, a
            row without a document; an unknown label; an empty or absent instruction or context; a value of
            the wrong type. With the ids concerned.
        Missing: A parquet file, and pyarrow is not installed.
    """
    return survey(path).usable()


def survey(path: Path | str) -> Survey:
    """What a folder or file holds in this format, and what is wrong with it; see `load_long`.

    Raises:
        BadInput: It cannot be read at all, a line is no object, or an id or a language is not one.
    """
    place = Path(path)
    if not place.is_dir():
        found = list(read_objects(place))
        _not_none(found, place)
        beside = place.with_name(DOCS)
        hint = f"{DOCS} lies beside it: give the folder. " if place.name == META and beside.is_file() else ""
        return _survey(found, str(place), hint)
    names = sorted(file.name for file in place.iterdir() if file.suffix.lower() in SUFFIXES)
    whole = next((name for name in WHOLE if name in names), None)
    if META in names:
        return _joined(place, DOCS in names)
    if whole is not None:
        return survey(place / whole)
    raise BadInput(
        f"{place} holds no {META} (data files in it: {', '.join(names[:SHOWN]) or 'none'}).",
        why="A folder is read by the names of its files.",
        fix=FETCH,
    )


def survey_records(records: Iterable[Mapping[str, Any]], source: str) -> Survey:
    """As `survey`, of records at hand: those of the hub, or rows of one's own as objects."""
    return _survey([(f"{source}, row {number}", obj) for number, obj in enumerate(records, 1)], source)


def complete(rows: Sequence[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """Rows at hand, checked and with the lengths and clusters they lack, as `load_long` gives them.

    Raises:
        BadInput: As `load_long`.
    """
    objects = [
        {**row.meta, "id": row.id, "lang": row.lang, "instruction": row.prompt[-1]["content"]} for row in rows
    ]
    found, notes = survey_records(objects, "the rows given").usable()
    return [replace(row, meta=made.meta) for row, made in zip(rows, found, strict=True)], notes


class _Faults:
    """What is wrong with the rows of one place, gathered by kind, in the order it was first met."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.kinds: dict[tuple[str, str, str], list[str]] = {}

    def add(self, name: str, what: str, *, why: str = "", fix: str = "") -> None:
        self.kinds.setdefault((what, why, fix), []).append(name)

    def errors(self) -> list[BadInput]:
        return [
            BadInput(f"{self.where}: {what}: {len(names)} ({listed(names)}).", why=why, fix=fix)
            for (what, why, fix), names in self.kinds.items()
        ]


def _joined(folder: Path, documented: bool) -> Survey:
    """The rows of the metadata with their documents, by id."""
    rows = list(read_objects(folder / META))
    _not_none(rows, folder / META)
    if not documented:
        return _survey(rows, str(folder / META), f"{DOCS} is not there. ")
    documents = list(read_objects(folder / DOCS))
    counts = f"({META} has {len(rows)} rows, {DOCS} {len(documents)})"
    faults = _Faults(str(folder))
    texts: dict[str, Any] = {}
    for where, obj in documents:
        name = _id(obj, where)
        if name is None:
            faults.add(_place(where), f"{DOCS} has documents without `id`", why="They are joined by it.")
        elif name in texts:
            faults.add(name, f"{DOCS} has an id more than once {counts}", fix="Keep one document of each.")
        else:
            texts[name] = obj.get("context")
            if texts[name] is None:
                faults.add(
                    name, f"{DOCS} has objects without `context`", fix="Each needs `id` and `context`."
                )
    full, seen = [], set()
    for where, obj in rows:
        name = _id(obj, where)
        seen.add(name)
        if name is None:
            faults.add(_place(where), f"{META} has rows without `id`", why="Documents are joined by it.")
        elif obj.get("context") not in (None, texts.get(name)):
            faults.add(
                name, f"{META} has a context that differs from the one in {DOCS}", fix="Keep one of them."
            )
        full.append((where, {**obj, "context": texts.get(name or "")}))
    orphans = [name for name in texts if name not in seen]
    for name in orphans:
        faults.add(
            name, f"{DOCS} has documents of no row {counts}", fix="The files are of different versions."
        )
    found = _survey(full, str(folder), f"{DOCS} does not hold them {counts}. ")
    return replace(found, problems=(*faults.errors(), *found.problems))


def _survey(objects: Sequence[tuple[str, Any]], source: str, hint: str = "") -> Survey:
    faults, missing, rows = _Faults(source), [], []
    seen: set[str] = set()
    copies: Counter[str] = Counter()
    respelt: Counter[str] = Counter()
    counted: dict[str, int] = {}
    for where, obj in objects:
        name = _id(obj, where)
        # A gap in a column of numbers comes out of parquet as NaN, which differs from itself.
        fields = {str(key): value for key, value in obj.items() if value is not None and value == value}
        shown = name or _place(where)
        if name is not None and name in seen:
            faults.add(name, "an id stands more than once", why="Records are paired and resumed by it.")
        seen.add(shown)
        asked = _needed(fields, "instruction", shown, faults)
        if "context" in fields:
            if _needed(fields, "context", shown, faults):
                counted[where] = count_words(fields["context"])
        else:
            missing.append(shown)
        facts = _facts(fields, shown, faults)
        for place, word in enumerate(facts.get("key_words", ())):
            if word in SPELLING:
                respelt[word] += 1
                facts["key_words"][place] = SPELLING[word]
        rest = {f"source_{key}" if key in _RESERVED else key: value for key, value in facts.items()}
        row = read_object({**rest, "id": name, "lang": fields.get("lang"), "prompt": asked or "?"}, where).row
        row = replace(row, prompt=({"role": "user", "content": asked},))
        rows.append((where, row if row.id else replace(row, id=_own_id(row, copies))))
    problems = faults.errors()
    if missing:
        what = (
            f"{source}: {len(missing)} of {len(rows)} rows have no document (`context`): {listed(missing)}."
        )
        problems.insert(0, BadInput(what, why=f"{hint}{NEEDED}", fix=FETCH))
    made, notes = _completed(rows, counted, respelt)
    return Survey(tuple(made), tuple(problems), tuple(missing), tuple(notes))


def _needed(fields: dict[str, Any], name: str, shown: str, faults: _Faults) -> str:
    """A text that must be there; empty, with the fault noted, where it is not."""
    value = fields.get(name)
    if value is None:
        faults.add(shown, f"`{name}` is absent", fix=NEEDED)
    elif not isinstance(value, str):
        faults.add(shown, f"`{name}` is not a text but {type(value).__name__}", fix=NEEDED)
    elif not value.strip():
        faults.add(shown, f"`{name}` is empty", why="There is nothing to ask.", fix="Remove the rows.")
    else:
        return value
    fields.pop(name, None)
    return ""


def _facts(fields: Mapping[str, Any], shown: str, faults: _Faults) -> dict[str, Any]:
    """The fields of a row beside its id, language and instruction; those with faults are left out."""
    facts = {key: value for key, value in fields.items() if key not in ("id", "lang", "instruction")}
    for name, labels in LABELS.items():
        if name in facts and (not isinstance(facts[name], str) or facts[name] not in labels):
            value = facts.pop(name)
            close = nearest(value, labels) if isinstance(value, str) else ""
            allowed = f"Allowed: {', '.join(labels)}."
            faults.add(
                shown,
                f"`{name}` is {value!r}, which is no label",
                fix=f"{close} {allowed}" if close.startswith("Did") else allowed,
            )
    for name in ("length", "doc_num"):
        if name in facts:
            value = facts.pop(name)
            # A column of whole numbers with gaps comes out of parquet as fractions.
            whole = int(value) if isinstance(value, float) and value.is_integer() else value
            if isinstance(whole, int) and not isinstance(whole, bool) and whole >= 1:
                facts[name] = whole
            else:
                faults.add(
                    shown, f"`{name}` is not a whole number above 0", fix="Correct it, or leave it out."
                )
    for name in ("link", "key_words"):
        if name in facts:
            value = facts.pop(name)
            if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
                facts[name] = list(value)
            else:
                faults.add(shown, f"`{name}` is not a list of texts", fix="Correct it, or leave it out.")
    if "cluster" in facts and not isinstance(facts["cluster"], str):
        facts["cluster"] = str(facts["cluster"])
    return facts


def _completed(
    rows: Sequence[tuple[str, Row]], counted: Mapping[str, int], respelt: Counter[str]
) -> tuple[list[Row], list[str]]:
    """The rows with their lengths and clusters, and what is odd about them."""
    names = clusters([(row.id, row.meta.get("link", ())) for _, row in rows])
    made, differing = [], []
    for (where, row), cluster in zip(rows, names, strict=True):
        words, given = counted.get(where), row.meta.get("length")
        if words is not None and given is not None and abs(words - given) > LENGTH_TOLERANCE * given:
            differing.append(row.id)
        extra = {"cluster": row.meta.get("cluster", cluster)}
        if given is None and words is not None:
            extra["length"] = words
        made.append(replace(row, meta={**row.meta, **extra}))
    notes = []
    for name in LABELS:
        without = [row.id for row in made if name not in row.meta]
        if without:
            notes.append(f"{len(without)} of {len(made)} rows carry no {name}.")
    if differing:
        notes.append(
            f"`length` differs by more than 5 % from the words of the context in {len(differing)} rows "
            f"({listed(differing)})."
        )
    if respelt:
        said = ", ".join(
            f"{word!r} ({count}) as {SPELLING[word]!r}" for word, count in sorted(respelt.items())
        )
        notes.append(f"Misspelt keywords were read: {said}.")
    return made, [*notes, *oddities(made)]


def _not_none(objects: Sequence[object], file: Path) -> None:
    if not objects:
        raise BadInput(f"{file} holds no rows.", why="There is nothing to measure.", fix=NEEDED)


def _id(obj: Any, where: str) -> str | None:
    """The id as text; None where there is none.

    Raises:
        BadInput: It is no id, or this is no object.
    """
    if not isinstance(obj, Mapping):
        raise BadInput(f"{where}: the row is a {type(obj).__name__}, not an object.", fix=NEEDED)
    return read_object({"id": obj.get("id"), "prompt": "?"}, where).row.id or None


def _own_id(row: Row, copies: Counter[str]) -> str:
    """A name from what the row asks and shows; a number behind it where that stands again."""
    name = f"row-{digest_json([row.prompt, row.meta.get('context')])[7:23]}"
    copies[name] += 1
    return name if copies[name] == 1 else f"{name}-{copies[name]}"


def _place(where: str) -> str:
    return where.rpartition(", ")[2]
