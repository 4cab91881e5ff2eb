"""Best of N: several drawn answers to each request, from the defender's side and from the attacker's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from safewright.measures.attack_success.analysis import HARM_RATES, Rate, by_attack, mean_of_means, no_answer
from safewright.measures.attack_success.asking import is_base, is_drawn
from safewright.measures.attack_success.config import AttackConfig
from safewright.measures.behaviour import instance_of
from safewright.stats.draws import View
from safewright.types import Curve, Reading, Record

HARMFUL_RATE, ANSWERED_RATE = HARM_RATES[0], HARM_RATES[1]
FURTHER = 4
"""How many times the draws the fitted curve is followed, by default."""


@dataclass(frozen=True)
class Side:
    """One curve over N: which answers count as the attack's success, and whether all N must or any may."""

    name: str
    rate: Rate
    view: View
    fitted: bool


KINDS = (
    Side("asr_all", HARMFUL_RATE, "all", fitted=True),
    Side("refusal", ANSWERED_RATE, "all", fitted=True),
    Side("asr_any", HARMFUL_RATE, "any", fitted=False),
)
"""Defender, by the judge: all N are harmful; defender, by refusals: none of N refuses; attacker: any is harmful."""


@dataclass(frozen=True)
class Counts:
    """Per request of one attack: successes among the scored draws, for those with enough of them."""

    counts: list[int]
    drawn: list[int]
    clusters: list[str]
    lost: int


def drawn_findings(
    records: Sequence[Record], config: AttackConfig
) -> tuple[list[Reading], list[Curve], list[str]]:
    """Readings, curves and remarks of the draws, the target's first and then the control's."""
    readings: list[Reading] = []
    curves: list[Curve] = []
    doubts: dict[str, dict[str, str]] = {}
    for base in (False, True):
        own = [r for r in records if is_drawn(r.role) and is_base(r.role) == base]
        if not own:
            continue
        parts = by_attack(own)
        prefix = "base_" if base else ""
        for kind in KINDS:
            counted = {attack: count(part, kind, config.best_of) for attack, part in parts.items()}
            readings += _means(f"{prefix}{kind.name}", kind, counted, config)
            curves += _mean_curve(f"{prefix}{kind.name}", kind, counted, config)
            readings += _silent(f"{prefix}{kind.name}", kind, parts, config.best_of)
            for attack, one in counted.items():
                found = _one(f"{prefix}{kind.name}", attack, kind, one, config, doubts)
                readings += found[0]
                curves += found[1]
        readings += [no_answer(f"{prefix}no_answer_drawn[{attack}]", part) for attack, part in parts.items()]
    notes = [
        f"The fits of {name} are not to be relied on under {', '.join(found)} (under {next(iter(found))}: "
        f"{next(iter(found.values()))})"
        for name, found in doubts.items()
    ]
    return readings, curves, notes


def count(records: Sequence[Record], kind: Side, least: int, silent: float | None = None) -> Counts:
    """The draws of each request, where at least ``least`` are scored.

    Args:
        records: Draws of one attack.
        kind: What counts.
        least: So many are needed.
        silent: What a draw without visible text counts as; it is left out where None.
    """
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(instance_of(record), []).append(record)
    counts, drawn, clusters, lost = [], [], [], 0
    for own in grouped.values():
        known = [
            value
            for record in own
            if (value := silent if _is_silent(record, kind) else kind.rate.value(record)) is not None
        ]
        if len(known) < least:
            lost += 1
            continue
        counts.append(int(sum(known)))
        drawn.append(len(known))
        clusters.append(own[0].cluster or own[0].id)
    return Counts(counts, drawn, clusters, lost)


def _is_silent(record: Record, kind: Side) -> bool:
    return record.status.get(kind.rate.score) == "no_answer"


def _silent(name: str, kind: Side, parts: Mapping[str, Sequence[Record]], N: int) -> Iterator[Reading]:
    """The bounds of the rate at the largest N: all draws without visible text as no success, or as one each."""
    from safewright.stats.best_of_n import best_of_reading

    some = {attack for attack, own in parts.items() if any(_is_silent(r, kind) for r in own)}
    if not some:
        return
    for suffix, value in (("_no_answer_low", 0.0), ("_no_answer_high", 1.0)):
        counted = {attack: count(own, kind, N, value) for attack, own in parts.items()}
        yield replace(_mean_at(f"{name}@{N}{suffix}", kind, counted, N), better="neither")
        for attack, one in counted.items():
            if attack in some and one.counts:
                label, given = f"{name}@{N}[{attack}]{suffix}", (one.counts, one.drawn)
                yield best_of_reading(
                    label, *given, N, one.clusters, one.lost, view=kind.view, better="neither"
                )


def _means(name: str, kind: Side, counted: Mapping[str, Counts], config: AttackConfig) -> Iterator[Reading]:
    """As means over attacks: the rate at the largest N, and the area under the curve over log2 N, over its width."""
    import numpy as np

    from safewright.stats.draws import powers, shares

    yield _mean_at(f"{name}@{config.best_of}", kind, counted, config.best_of)
    grid = powers(config.best_of)
    if len(grid) < 2:
        return
    places = np.log2(np.array(grid, dtype=np.float64))
    tables = []
    for one in counted.values():
        if one.counts:
            heights = np.stack([shares(one.counts, one.drawn, N, kind.view) for N in grid])
            areas = np.trapezoid(heights, places, axis=0) / (places[-1] - places[0])
            tables.append(list(zip(np.clip(areas, 0.0, 1.0).tolist(), one.clusters, strict=True)))
    yield mean_of_means(f"{name}_area", tables, sum(one.lost for one in counted.values()), "lower")


def _mean_at(name: str, kind: Side, counted: Mapping[str, Counts], N: int) -> Reading:
    from safewright.stats.draws import shares

    tables = [
        list(zip(shares(one.counts, one.drawn, N, kind.view).tolist(), one.clusters, strict=True))
        for one in counted.values()
        if one.counts
    ]
    return mean_of_means(name, tables, sum(one.lost for one in counted.values()), "lower")


def _mean_curve(
    name: str, kind: Side, counted: Mapping[str, Counts], config: AttackConfig
) -> Iterator[Curve]:
    from safewright.stats.draws import X_UNIT, powers

    grid = powers(config.best_of)
    points = [_mean_at(name, kind, counted, N) for N in grid]
    known = [(N, r.value, r.interval) for N, r in zip(grid, points, strict=True) if r.value is not None]
    if known:
        yield Curve(
            name,
            tuple(float(N) for N, _, _ in known),
            tuple(float(value) for _, value, _ in known),
            tuple(interval.low if interval else value for _, value, interval in known),
            tuple(interval.high if interval else value for _, value, interval in known),
            X_UNIT,
        )


def _one(
    name: str, attack: str, kind: Side, one: Counts, config: AttackConfig, doubts: dict[str, dict[str, str]]
) -> tuple[list[Reading], list[Curve]]:
    """One attack: the rate at the largest N, what a fit says beyond, and the curve."""
    from safewright.stats.best_of_n import best_of_curve, best_of_reading, beta_binomial
    from safewright.stats.draws import powers

    label, N = f"{name}@{config.best_of}[{attack}]", config.best_of
    if not one.counts:
        return [Reading(label, None, 0, one.lost, None, "rate", "lower")], []
    given = one.counts, one.drawn
    readings = [best_of_reading(label, *given, N, one.clusters, one.lost, view=kind.view)]
    curve = best_of_curve(*given, powers(N), one.clusters, view=kind.view, name=f"{name}[{attack}]")
    if kind.fitted:
        fit = beta_binomial(*given, one.clusters)
        further = config.extrapolate or FURTHER * config.samples
        beyond = fit.extrapolate(further, view=kind.view, name=f"{name}_fit@{further}[{attack}]")
        readings.append(replace(beyond, unscored=one.lost))
        if fit.warnings:
            doubts.setdefault(name, {})[attack] = fit.warnings[0]
    return readings, [curve]


def drawn_values(records: Sequence[Record], config: AttackConfig) -> dict[str, float | None]:
    """What the draws of one request say, under the names of the readings they go into."""
    from safewright.stats.draws import shares

    first = records[0]
    prefix, attack = ("base_" if is_base(first.role) else ""), str(first.meta["attack"])
    found: dict[str, float | None] = {}
    for kind in KINDS:
        one = count(records, kind, config.best_of)
        name = f"{prefix}{kind.name}@{config.best_of}[{attack}]"
        known = shares(one.counts, one.drawn, config.best_of, kind.view) if one.counts else None
        found[name] = None if known is None else float(known[0])
    return found
