"""Two runs, record by record: what changed, by how much, and how sure that is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safewright import catalog
from safewright.compose.folders import find_cards, load_card
from safewright.errors import BadInput
from safewright.measures.behaviour import instance_of
from safewright.measures.plan import check_seed
from safewright.runs import to_json
from safewright.stats import (
    holm,
    mcnemar_exact,
    newcombe_paired,
    paired_cluster_bootstrap,
    paired_permutation,
)
from safewright.types import Delta, Interval, ModelRef, Reading, Record, Scorecard, Status

Floats = NDArray[np.float64]

Key = tuple[str, str, int]
"""What makes two records a pair: id, role, sample."""

DECIDING = ("judge", "decoding", "data.digest", "config")
"""Conventions that change what a number means; a difference in or below one of them is a warning."""

NO_MATTER = frozenset({"data.source", "data.path"})
"""Where the same bytes lay; the digest says whether they are the same."""


@dataclass(frozen=True)
class Difference:
    """A convention under which the two runs were not taken alike; ``key`` is dotted."""

    measure: str
    key: str
    a: str
    b: str
    warning: bool = False


@dataclass(frozen=True)
class Comparison:
    """What two runs say about the records they share.

    ``unmatched_a`` and ``unmatched_b`` count, by measure, records that only one run has.
    ``unscored_pairs`` counts, by ``measure/score``, shared records that carry no score in one run or
    in both: they are in no difference. ``units`` gives the unit of each ``measure/score``. ``only_a``
    and ``only_b`` name whole measures.
    """

    a: str
    b: str
    models_a: Mapping[str, ModelRef]
    models_b: Mapping[str, ModelRef]
    deltas: tuple[Delta, ...]
    unmatched_a: Mapping[str, int]
    unmatched_b: Mapping[str, int]
    unscored_pairs: Mapping[str, int]
    units: Mapping[str, str]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()
    level: float = 0.95

    def __iter__(self) -> Iterator[Delta]:
        return iter(self.deltas)


def compare(a: Path | str, b: Path | str, *, level: float = 0.95, seed: int = 0) -> Comparison:
    """The paired differences ``b - a`` of every score that two run folders share.

    A binary score with one answer per prompt gets Newcombe's paired interval and exact McNemar;
    anything else a bootstrap over clusters (prompts) and a sign-flip permutation test over them. Holm's
    adjustment runs over all differences together.

    Args:
        a: A run folder: of one measure, or with a subfolder per measure.
        b: The other one.
        level: Coverage of the intervals.
        seed: For the bootstrap and the permutations.

    Raises:
        BadInput: A folder is not a finished run, the two share no measure or no record, or a measure was
            taken in two versions.
    """
    if not 0 < level < 1:
        raise BadInput(f"level is {level}.", fix="Give a number between 0 and 1, such as 0.95.")
    check_seed(seed)
    cards_a, cards_b = _by_measure(a), _by_measure(b)
    shared = [name for name in cards_a if name in cards_b]
    if not shared:
        raise BadInput(
            f"{a} and {b} share no measure ({', '.join(cards_a)} against {', '.join(cards_b)}).",
            fix="Run the same measure on both models.",
        )
    parts = [_compare_cards(cards_a[name], cards_b[name], level, seed) for name in shared]
    deltas = [delta for part in parts for delta in part.deltas]
    adjusted = holm([delta.p for delta in deltas]) if deltas else []
    warnings = [line for part in parts for line in part.warnings]
    models_a, models_b = _models(cards_a.values()), _models(cards_b.values())
    if {ref.digest for ref in models_a.values()} == {ref.digest for ref in models_b.values()}:
        warnings.insert(0, "Both runs read the same weights: differences come from something else.")
    return Comparison(
        a=str(a),
        b=str(b),
        models_a=models_a,
        models_b=models_b,
        deltas=tuple(replace(delta, p_holm=float(p)) for delta, p in zip(deltas, adjusted, strict=True)),
        unmatched_a={part.measure: part.only_a for part in parts},
        unmatched_b={part.measure: part.only_b for part in parts},
        unscored_pairs={key: count for part in parts for key, count in part.unscored.items()},
        units={key: unit for part in parts for key, unit in part.units.items()},
        only_a=tuple(name for name in cards_a if name not in cards_b),
        only_b=tuple(name for name in cards_b if name not in cards_a),
        differences=tuple(d for part in parts for d in part.differences),
        warnings=tuple(warnings),
        level=level,
    )


@dataclass(frozen=True)
class _Part:
    """The comparison of one measure."""

    measure: str
    deltas: list[Delta]
    only_a: int
    only_b: int
    unscored: dict[str, int]
    units: dict[str, str]
    differences: list[Difference]
    warnings: list[str]


_Taken = tuple[Scorecard, list[Record]]


def _by_measure(folder: Path | str) -> dict[str, _Taken]:
    found: dict[str, _Taken] = {}
    places: dict[str, Path] = {}
    for file in find_cards(folder):
        card, records = load_card(file.parent)
        if card.measure in found:
            raise BadInput(
                f"{folder} holds {card.measure} twice: in {places[card.measure]} and in {file.parent}.",
                why="It would be open which of them is meant.",
                fix="Name one of these folders, or one that holds each measure once.",
            )
        found[card.measure], places[card.measure] = (card, records), file.parent
    return found


def _models(taken: Iterable[_Taken]) -> dict[str, ModelRef]:
    models: dict[str, ModelRef] = {}
    for card, _ in taken:
        models.update(card.models)
    return models


def _compare_cards(a: _Taken, b: _Taken, level: float, seed: int) -> _Part:
    (card_a, records_a), (card_b, records_b) = a, b
    measure = card_a.measure
    if card_a.version != card_b.version:
        raise BadInput(
            f"{measure} was taken in version {card_a.version} and in version {card_b.version}.",
            why="A measure's version changes when its numbers change meaning.",
            fix="Run the older one again with this version of safewright.",
        )
    conventions = [_flat(card.conventions).get("config.convention") for card in (card_a, card_b)]
    if conventions[0] != conventions[1]:
        raise BadInput(
            f"{measure} was taken under the conventions {conventions[0]} and {conventions[1]}.",
            why="Their figures do not mean the same.",
            fix="Take one of them again, under the other's.",
        )
    records_a, records_b = _wholes(card_a, records_a), _wholes(card_b, records_b)
    index_a, index_b = _index(measure, records_a), _index(measure, records_b)
    pairs = [(index_a[key], index_b[key]) for key in index_a if key in index_b]
    if not pairs and (records_a or records_b):
        raise BadInput(
            f"The two runs of {measure} share no record ({len(records_a)} against {len(records_b)}).",
            why="Only answers to the same question can be paired.",
            fix="Run both on the same data.",
        )
    differences = _differences(card_a, card_b)
    warnings = _warnings(measure, differences, pairs)
    deltas: list[Delta] = []
    unscored: dict[str, int] = {}
    units: dict[str, str] = {}
    names = dict.fromkeys(name for pair in pairs for record in pair for name in record.scores)
    for name in names:
        both = [(x, y) for x, y in pairs if _score(x, name) is not None and _score(y, name) is not None]
        key = f"{measure}/{name}"
        # Records of another set of rows were never asked for this score.
        unscored[key] = sum(name in x.scores or name in y.scores for x, y in pairs) - len(both)
        reading = _reading(card_a, name)
        if not both:
            warnings.append(f"{key}: no record carries a score in both runs; no difference exists.")
            continue
        delta = _delta(measure, name, both, reading, level, seed)
        deltas.append(delta)
        units[key] = reading.unit if reading else "score"
        if delta.interval.low == delta.interval.high:
            warnings.append(f"{key}: all paired differences are equal, so the interval has no width.")
    return _Part(
        measure=measure,
        deltas=deltas,
        only_a=len(index_a) - len(pairs),
        only_b=len(index_b) - len(pairs),
        unscored=unscored,
        units=units,
        differences=differences,
        warnings=warnings,
    )


def _wholes(card: Scorecard, records: list[Record]) -> list[Record]:
    """One record per instance where the measure says what its answers say together, as its readings count them;
    else the records as they are."""
    entry = next((e for e in catalog.entries("measure") if e.name == card.measure and e.behaviour), None)
    values = (
        entry.function(catalog.read_options(entry, card.conventions.get("config", {}))).values
        if entry
        else None
    )
    if values is None:
        return records
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(instance_of(record), []).append(record)
    wholes = []
    for name, group in grouped.items():
        scores = values(group)
        status: dict[str, Status] = {
            key: "ok" if score is not None else "unparsed" for key, score in scores.items()
        }
        wholes.append(replace(group[0], id=name, scores=scores, status=status))
    return wholes


def _index(measure: str, records: Sequence[Record]) -> dict[Key, Record]:
    found: dict[Key, Record] = {}
    for record in records:
        key = (record.id, record.role, record.sample)
        if key in found:
            raise BadInput(
                f"{measure} holds the record {record.id!r} (role {record.role}, sample {record.sample}) twice.",
                why="It would be open which of them pairs with the other run.",
                fix="Give the rows of the data file distinct ids.",
            )
        found[key] = record
    return found


def _score(record: Record, name: str) -> float | None:
    """The score, unless its status says that it is none: a failed judgement decides nothing."""
    return record.scores.get(name) if record.status.get(name, "ok") == "ok" else None


def _delta(
    measure: str,
    name: str,
    pairs: Sequence[tuple[Record, Record]],
    reading: Reading | None,
    level: float,
    seed: int,
) -> Delta:
    a = np.array([x.scores[name] for x, _ in pairs], dtype=float)
    b = np.array([y.scores[name] for _, y in pairs], dtype=float)
    # Several draws for one prompt are not independent, whether or not a cluster was named.
    clusters = [x.cluster if x.cluster is not None else x.id for x, _ in pairs]
    gained, lost = int(np.sum(b > a)), int(np.sum(b < a))
    binary = bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())
    if binary and len(set(clusters)) == len(clusters):
        interval, p, method = _binary(a, b, level)
    else:
        interval, p, method = _clustered(a, b, clusters, _bounds(reading, binary), level, seed)
    return Delta(
        measure=measure,
        score=name,
        n=len(pairs),
        a=float(a.mean()),
        b=float(b.mean()),
        difference=float(b.mean() - a.mean()),
        interval=interval,
        p=p,
        p_holm=p,
        gained=gained,
        lost=lost,
        method=method,
        better=reading.better if reading else "neither",
    )


def _binary(a: Floats, b: Floats, level: float) -> tuple[Interval, float, str]:
    both, neither = int(np.sum((a == 1) & (b == 1))), int(np.sum((a == 0) & (b == 0)))
    only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
    interval = newcombe_paired(both, only_a, only_b, neither, level)
    test = mcnemar_exact(only_a, only_b, pairs=len(a))
    return interval, test.p, f"{interval.method}, {test.method}"


def _clustered(
    a: Floats,
    b: Floats,
    clusters: Sequence[str],
    bounds: tuple[float, float] | None,
    level: float,
    seed: int,
) -> tuple[Interval, float, str]:
    interval = paired_cluster_bootstrap(a, b, clusters, bounds=bounds, level=level, seed=seed)
    test = paired_permutation(b - a, clusters, seed)
    return interval, test.p, f"{interval.method}, {test.method} over {test.n} clusters"


def _reading(card: Scorecard, score: str) -> Reading | None:
    """The reading that sums up a score: the one of its name, or the card's only one."""
    named = [reading for reading in card.readings if reading.name == score]
    if named:
        return named[0]
    return card.readings[0] if len(card.readings) == 1 else None


BOUNDED = frozenset({"wilson", "clopper_pearson", "bounded_bootstrap"})
"""Interval methods for scores within [0, 1]: what says that a score has these bounds."""


def _bounds(reading: Reading | None, binary: bool) -> tuple[float, float] | None:
    if binary or (reading and reading.interval and reading.interval.method in BOUNDED):
        return (0.0, 1.0)
    return None


def _differences(a: Scorecard, b: Scorecard) -> list[Difference]:
    left, right = _flat(a.conventions), _flat(b.conventions)
    differences = []
    for key in dict.fromkeys([*left, *right]):
        if left.get(key) == right.get(key) or key in NO_MATTER:
            continue
        differences.append(
            Difference(
                measure=a.measure,
                key=key,
                a=left.get(key, "not given"),
                b=right.get(key, "not given"),
                warning=any(key == head or key.startswith(f"{head}.") for head in DECIDING),
            )
        )
    return differences


def _flat(conventions: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys to JSON text, so that two conventions can be laid side by side."""
    flat: dict[str, str] = {}
    for key, value in conventions.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = (
                value
                if isinstance(value, str)
                else json.dumps(to_json(value), ensure_ascii=False, sort_keys=True)
            )
    return flat


def _warnings(
    measure: str, differences: Sequence[Difference], pairs: Sequence[tuple[Record, Record]]
) -> list[str]:
    changed: dict[str, list[str]] = {}
    for difference in differences:
        if difference.warning:
            head, _, rest = difference.key.partition(".")
            changed.setdefault(head, []).append(rest)
    judges = next(((d.a, d.b) for d in differences if d.key == "judge.name"), None)
    lines = [
        f"{measure}: the two runs were judged by {judges[0]} and by {judges[1]}"
        f"{_first(keys)}: {_MEANING[head]}"
        if head == "judge" and judges
        else f"{measure}: the two runs differ in {head}{_listed(keys)}: {_MEANING[head]}"
        for head, keys in changed.items()
    ]
    asked = Counter(tuple(map(_message, x.input)) != tuple(map(_message, y.input)) for x, y in pairs)[True]
    if asked:
        lines.append(
            f"{measure}: {asked} of {len(pairs)} paired records have the same id but another question."
        )
    return lines


LISTED = 4
"""Differing keys a warning names; the page and ``--json`` have them all."""


def _listed(keys: Sequence[str]) -> str:
    named = [key for key in keys if key]
    more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
    return f" ({', '.join(named[:LISTED])}{more})" if named else ""


def _first(keys: Sequence[str]) -> str:
    """The first key, besides the judge's name, in which two judges differ."""
    others = [key for key in keys if key and key != "name"]
    more = f", and in {len(others) - 1} more" if len(others) > 1 else ""
    return f" (they differ first in {others[0]}{more})" if others else ""


def _message(message: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(message.items()))


_MEANING = {
    "judge": "part of the difference may be the judge's.",
    "decoding": "part of the difference may be the decoding's.",
    "data": "they may not have been asked the same questions.",
    "config": "part of the difference may be the options'.",
}
