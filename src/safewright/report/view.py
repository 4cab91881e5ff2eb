"""What a page shows, worked out from scorecards and records before any template is filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote

from safewright.measures import beyond_bounds
from safewright.report import text
from safewright.report.examples import ExampleSet, example_set, is_sensitive
from safewright.report.lines import (
    COUNT,
    FEW,
    Breakdown,
    HeatMap,
    Line,
    breakdowns,
    heat_maps,
    is_bound,
    line_of,
    split,
)
from safewright.report.profile import score_name
from safewright.types import Interval, ModelRef, Record, Scorecard

Taken = tuple[Scorecard, Sequence[Record]]
"""A scorecard with its records."""

MAX_UNSCORED = 0.02
"""The bound on the unscored share where a scorecard names none."""

ASIDE = ("cut_short",)
"""Readings about the answers rather than about the model: shown apart from the headline."""


@dataclass(frozen=True)
class ModelRow:
    """One model at the top of the page."""

    label: str
    role: str
    ref: ModelRef


@dataclass(frozen=True)
class Group:
    """One reading, for every model that has it; ``first`` of its measure, whose judge it then introduces."""

    name: str
    title: str
    code: str
    better: str
    unit: str
    judge: JudgeView | None
    lines: tuple[Line, ...]
    summary: str = ""
    aside: bool = False
    first: bool = True


@dataclass(frozen=True)
class JudgeView:
    """Who decided, how far that can be trusted, and on what evidence."""

    name: str
    version: str
    strength: str
    quality: tuple[str, ...]
    meaning: str = ""

    @property
    def is_weak(self) -> bool:
        """Whether the label WEAK is shown."""
        return self.strength == "weak"


@dataclass(frozen=True)
class Settings:
    """The conventions of one measure; ``facts`` are label and value per model set."""

    title: str
    label: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Viewer:
    """A log viewer beside the page; ``href`` is empty where no link can lead there."""

    label: str
    where: str
    href: str


@dataclass(frozen=True)
class View:
    """Everything the page's template reads."""

    models: tuple[ModelRow, ...]
    several: bool
    groups: tuple[Group, ...]
    aside: tuple[Group, ...]
    warnings: tuple[str, ...]
    settings: tuple[Settings, ...]
    examples: tuple[ExampleSet, ...]
    methods: tuple[str, ...]
    level: str
    missing: tuple[str, ...]
    breakdowns: tuple[Breakdown, ...] = ()
    maps: tuple[HeatMap, ...] = ()
    viewers: tuple[Viewer, ...] = ()
    few: int = 0


def labels_of(cards: Sequence[Scorecard]) -> list[str]:
    """A short name per scorecard: the last parts of its models' places, as few as keep them apart.

    A scorecard about a model in the role target is named after it alone: the others only help to measure it.
    """
    judged = [{"target": card.models["target"]} if "target" in card.models else card.models for card in cards]
    places = [tuple(_parts(ref.where) for ref in own.values()) for own in judged]
    different = set(places)
    depth = 1
    longest = max((len(parts) for place in different for parts in place), default=1)
    while depth < longest and len({_tail(place, depth) for place in different}) < len(different):
        depth += 1
    labels = [_tail(place, depth) or "model" for place in places]
    # The same place with other bytes is another model.
    digests = [tuple(ref.digest for ref in card.models.values()) for card in cards]
    by_label: dict[str, set[Any]] = {}
    for label, digest in zip(labels, digests, strict=True):
        by_label.setdefault(label, set()).add(digest)
    return [
        f"{label} ({', '.join(text.short_digest(d, 6) for d in digest)})"
        if len(by_label[label]) > 1
        else label
        for label, digest in zip(labels, digests, strict=True)
    ]


def _parts(where: str) -> tuple[str, ...]:
    if "#" in where:
        head, _, name = where.rpartition("#")
        return (*(p for p in head.split("/") if p), name)
    return tuple(part for part in PurePath(where).parts if part not in ("/", "\\")) or (where,)


def _tail(place: tuple[tuple[str, ...], ...], depth: int) -> str:
    return " vs ".join("/".join(parts[-depth:]) for parts in place)


def build(
    taken: Sequence[Taken],
    *,
    labels: Sequence[str] | None = None,
    summaries: Mapping[str, str] | None = None,
    examples: int = 20,
) -> View:
    """The view of some scorecards, in their order.

    Args:
        taken: Scorecards with their records.
        labels: A name per scorecard; of the models' places where None.
        summaries: A sentence per measure.
        examples: At most so many records per scorecard.
    """
    cards = [card for card, _ in taken]
    names = list(labels) if labels is not None else labels_of(cards)
    if len(names) != len(cards):
        raise ValueError(f"{len(names)} labels for {len(cards)} scorecards")
    names = [text.one_line(name) for name in names]
    models = _models(cards, names)
    several = len(set(names)) > 1
    groups = tuple(_groups(taken, names, summaries or {}))
    named = tuple(zip(cards, names, strict=True))
    parts = breakdowns(named)
    readings = [line.reading for group in groups for line in group.lines]
    readings += [line.reading for part in parts for _, lines in part.rows for line in lines]
    intervals = [reading.interval for reading in readings if reading.interval is not None]
    return View(
        models=models,
        several=several,
        groups=tuple(group for group in groups if not group.aside),
        aside=tuple(group for group in groups if group.aside),
        warnings=tuple(_warnings(taken, names, several)),
        settings=tuple(
            Settings(text.title_of(c.measure), name, _facts(c)) for c, name in zip(cards, names, strict=True)
        ),
        examples=tuple(
            found
            for (card, records), name in zip(taken, names, strict=True)
            if (found := example_set(card, records, name, examples))
        ),
        methods=tuple(dict.fromkeys(text.method_name(interval.method) for interval in intervals)),
        level=level_text(intervals),
        missing=tuple(dict.fromkeys(line.missing for group in groups for line in group.lines if line.bounds)),
        breakdowns=parts,
        maps=tuple(heat_maps(named)),
        viewers=tuple(_viewers(named)),
        few=FEW if any(part.has_few for part in parts) else 0,
    )


def level_text(intervals: Sequence[Interval]) -> str:
    """The common coverage as "95%"; empty when they differ or there are none."""
    levels = {interval.level for interval in intervals}
    return f"{100 * next(iter(levels)):g}%" if len(levels) == 1 else ""


def _models(cards: Sequence[Scorecard], names: Sequence[str]) -> tuple[ModelRow, ...]:
    rows: dict[tuple[str, str, str], ModelRow] = {}
    for card, name in zip(cards, names, strict=True):
        for role, ref in card.models.items():
            key = (ref.where, ref.digest, role if len(card.models) > 1 else "")
            rows.setdefault(key, ModelRow(name, role if len(card.models) > 1 else "", ref))
    return tuple(rows.values())


def _groups(taken: Sequence[Taken], names: Sequence[str], summaries: Mapping[str, str]) -> Iterator[Group]:
    """The readings that no group holds, and the counts, which are shown aside."""
    order: dict[tuple[str, str, str], list[tuple[Scorecard, Line]]] = {}
    headline: dict[str, set[str]] = {}
    for (card, _), label in zip(taken, names, strict=True):
        by_name = {reading.name: reading for reading in card.readings}
        for reading in card.readings:
            head, _, value = split(reading.name)
            if is_bound(reading, by_name) or (value and head != COUNT):
                continue  # shown with the reading it bounds, or in its breakdown
            if not value and reading.name not in ASIDE:
                headline.setdefault(card.measure, set()).add(reading.name)
            line = line_of(card, reading, by_name, label)
            order.setdefault((card.measure, reading.name, reading.unit), []).append((card, line))
    alike = len({card.measure for card, _ in taken}) == 1
    seen: set[str] = set()
    for (measure, name, unit), found in order.items():
        aside = name in ASIDE or "/" in name
        alone = len(headline.get(measure, ())) < 2 and not aside
        said = score_name(name.removeprefix(f"{COUNT}/"))
        title = f"{text.title_of(measure)}: {said}"
        if alone:
            title = text.title_of(measure)
        elif alike and not aside:
            title = text.sentence(said)
        ways = {line.reading.better for _, line in found}
        judges = {judge_of(card) for card, _ in found}
        yield Group(
            name=name,
            title=text.one_line(title),
            code=measure if alone else f"{measure} / {name}",
            better=ways.pop() if len(ways) == 1 else "neither",
            unit=unit,
            judge=judges.pop() if len(judges) == 1 and not aside else None,
            lines=tuple(line for _, line in found),
            summary=summaries.get(measure, "") if not aside else "",
            aside=aside,
            first=aside or measure not in seen,
        )
        if not aside:
            seen.add(measure)


def _viewers(cards: Sequence[tuple[Scorecard, str]]) -> Iterator[Viewer]:
    """Log viewers that scorecards name, each beside its own run."""
    for card, label in cards:
        found = card.conventions.get("inspect")
        where = found.get("viewer") if isinstance(found, Mapping) else None
        if isinstance(where, str) and where:
            # A page about several runs lies elsewhere: the path would lead nowhere from there.
            href = quote(where) if len(cards) == 1 and _is_beside(where) else ""
            yield Viewer(label, text.one_line(where), href)


def _is_beside(where: str) -> bool:
    """Whether a path names a file in the page's folder or below it, and nothing else a browser might open."""
    path = PurePosixPath(where)
    return not (path.is_absolute() or ".." in path.parts or ":" in where or "\\" in where or "//" in where)


def judge_of(card: Scorecard) -> JudgeView | None:
    """The judge a scorecard names, or None where none decided."""
    judge = card.conventions.get("judge")
    if isinstance(judge, str):
        return JudgeView(text.one_line(judge), "", "", ())
    if not isinstance(judge, Mapping) or not judge.get("name"):
        return None
    quality = tuple(_quality(judge.get("quality")))
    meaning = text.one_line(judge.get("harmful_means") or "")
    if quality and meaning:
        # Such a judge looks for refusals: its sensitivity is not that for harm.
        quality = (f"at recognising refusals, {quality[0]}", *quality[1:])
    return JudgeView(
        name=text.one_line(judge["name"]),
        version=text.one_line(judge.get("version") or ""),
        strength=text.one_line(judge.get("strength") or ""),
        quality=quality,
        meaning=meaning if is_sensitive(card) else "",
    )


LANGUAGES: Mapping[str, str] = {"en": "English", "zh": "Chinese"}


def _quality(found: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Sentences for every pair of sensitivity and specificity in a judge's measured quality."""
    if not isinstance(found, Mapping):
        return
    if "sensitivity" in found or "specificity" in found:
        shown = [
            f"{name} {_estimate(found, name)}" for name in ("sensitivity", "specificity") if name in found
        ]
        where = f"{' '.join(path)}: " if path else ""
        count = f" (n {found['n']})" if isinstance(found.get("n"), int) else ""
        yield text.one_line(f"{where}{', '.join(shown)}{count}")
        return
    if isinstance(found.get("all"), Mapping):
        # Subsets stand in the conventions; the headline is about the whole set.
        yield from _quality(found["all"], path)
        return
    for key, value in found.items():
        yield from _quality(value, (*path, LANGUAGES.get(key, str(key).replace("_", " "))))


def _estimate(found: Mapping[str, Any], name: str) -> str:
    value, interval = found[name], found.get(f"{name}_interval")
    if isinstance(value, Mapping):
        interval = value.get("interval", value)
        value = value.get("value", value.get("rate"))
    elif isinstance(value, (list, tuple)) and len(value) == 3:
        value, interval = value[0], value[1:]
    shown = text.percent(value) if isinstance(value, (int, float)) else text.NONE
    if isinstance(interval, Mapping) and "low" in interval and "high" in interval:
        interval = (interval["low"], interval["high"])
    if isinstance(interval, (list, tuple)) and len(interval) == 2:
        shown += f" [{text.span(Interval(float(interval[0]), float(interval[1])))}]"
    return shown


def _warnings(taken: Sequence[Taken], names: Sequence[str], several: bool) -> Iterator[str]:
    """Reasons to read a figure with care, each said once with the measures it concerns."""
    weak: dict[str, list[str]] = {}
    unpinned: dict[str, list[str]] = {}
    plain: list[str] = []
    for (card, records), name in zip(taken, names, strict=True):
        title = text.title_of(card.measure)
        which = f"{title} of {name}" if several else title
        judge = judge_of(card)
        if judge is not None and judge.is_weak:
            weak.setdefault(judge.name, []).append(title)
        data = card.conventions.get("data")
        if isinstance(data, Mapping) and data.get("pinned") is False:
            source = text.one_line(data.get("source") or data.get("name") or "the data")
            unpinned.setdefault(source, []).append(title)
        plain.extend(_of_card(card, records, which))
    for judge_name, titles in weak.items():
        yield (
            f"{_and(titles)}: decided by a weak judge ({judge_name}). Read the rate together with the judge's"
            " measured sensitivity and specificity; a stronger judge may give another figure."
        )
    for source, titles in unpinned.items():
        yield (
            f"{_and(titles)}: {source} is not pinned to a revision, so another download may hold other rows."
            " The digest under Conventions names the rows used here."
        )
    yield from plain


def _of_card(card: Scorecard, records: Sequence[Record], which: str) -> Iterator[str]:
    bound = card.conventions.get("max_unscored", MAX_UNSCORED)
    total = len(records) or max((r.n + r.unscored for r in card.readings), default=0)
    for what, lost, asked, allowed in beyond_bounds(card, total, bound):
        said = "carry no score" if what == "unscored" else f"are {what}"
        yield (
            f"{which}: {lost} of {asked} records ({text.percent(lost / asked)}) {said}"
            f" ({text.counts(card.unscored)}); the bound is {text.percent(allowed)}."
            " The rate may not speak for the rest."
        )
    method = card.conventions.get("method")
    if isinstance(method, Mapping) and method.get("warning"):
        yield f"{which}: {text.one_line(method['warning'])}."
    if isinstance(method, Mapping) and isinstance(method.get("notes"), (list, tuple)):
        yield from (f"{which}: {text.one_line(note)}" for note in method["notes"])
    yield from _unchanged(card, which)
    if card.conventions.get("sees") == "raw":
        yield f"{which}: the judge read the raw output, with the reasoning in it."
    for reading in card.readings:
        if reading.name == "cut_short" and reading.value:
            yield (
                f"{which}: {text.percent(reading.value)} of the answers reached the token limit;"
                " only their beginning was judged."
            )
        if reading.name == "count/truncated_context" and reading.value:
            yield (
                f"{which}: the middle of the context was left out of {reading.value:.0f} of {reading.n} prompts,"
                " which did not fit the model."
            )
    for role, ref in card.models.items():
        if ref.digest.startswith("declared:"):
            yield f"{which}: the weights behind {ref.where} ({role}) are what the server declares, not verified."


def _unchanged(card: Scorecard, which: str) -> Iterator[str]:
    """Changes of weights that changed none: the model was in that form already."""
    about = card.conventions.get("models")
    for role, said in about.items() if isinstance(about, Mapping) else ():
        altered = said.get("altered") if isinstance(said, Mapping) else None
        if isinstance(altered, Mapping) and altered.get("changed_weights") == 0:
            yield (
                f"{which}: {text.one_line(role)} changed no weight, since all of them were in that form already:"
                " its figures are those of the model as it is."
            )


def _and(items: Sequence[str]) -> str:
    unique = list(dict.fromkeys(items))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} and {unique[-1]}"


def _facts(card: Scorecard) -> tuple[tuple[str, str], ...]:
    facts = [("measure", f"{card.measure}, version {card.version}")]
    facts += list(_flat(card.conventions))
    methods = dict.fromkeys(r.interval.method for r in card.readings if r.interval is not None)
    if methods:
        facts.append(("intervals", ", ".join(methods)))
    return tuple((text.one_line(key), value) for key, value in facts)


def _flat(found: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    for key, value in found.items():
        here = (*path, str(key).replace("_", " "))
        if isinstance(value, Mapping) and "sensitivity" in value and "specificity" in value:
            yield " · ".join(here), "; ".join(_quality(value))
        elif isinstance(value, Mapping) and value:
            yield from _flat(value, here)
        elif not (isinstance(value, Mapping) and not value):
            yield " · ".join(here), text.plain_value(value)
