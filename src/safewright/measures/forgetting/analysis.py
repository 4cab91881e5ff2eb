"""What the records say: forgetting and retaining, each attack beside the plain question, and how it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from safewright.data.roles import SET
from safewright.measures.behaviour import instance_of
from safewright.measures.forgetting.asking import FORGET, RETAIN
from safewright.measures.forgetting.config import ForgettingConfig
from safewright.measures.forgetting.scoring import FORGOTTEN, READ, RETAINED, ROUGE
from safewright.measures.forgetting.writing import writing
from safewright.types import Findings, Quality, Reading, Record, Test

RATES: Mapping[str, tuple[str, str]] = {FORGET: ("kfr", FORGOTTEN), RETAIN: ("krr", RETAINED)}
"""The rate of each set, and the score behind it."""
WORST = frozenset({"paraphrase", "sampling"})
"""Attacks that ask a row several times: it has forgotten only where every answer has."""

Value = float | None


@dataclasses.dataclass(frozen=True)
class Instance:
    """A row as it was asked in one way; ``value`` is what its answers say together."""

    name: str
    row: str
    set: str
    attack: str
    sample: int
    cluster: str
    value: Value
    silent: bool

    @property
    def reading(self) -> str:
        """The name of the reading it goes into."""
        rate, _ = RATES[self.set]
        return f"{rate}[{self.attack}]" if self.attack else rate


def instances(records: Sequence[Record]) -> list[Instance]:
    """The instances of some records, in their order."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(instance_of(record), []).append(record)
    return [_instance(name, own) for name, own in grouped.items()]


def _instance(name: str, own: Sequence[Record]) -> Instance:
    first = own[0]
    role, attack = str(first.meta[SET]), str(first.meta.get("attack", ""))
    _, score = RATES[role]
    values = [record.scores.get(score) if record.status.get(score) == "ok" else None for record in own]
    statuses = {record.status.get(score) for record in own}
    return Instance(
        name=name,
        row=str(first.meta["row"]),
        set=role,
        attack=attack,
        sample=0 if attack == "sampling" else first.sample,
        cluster=first.cluster or first.id,
        value=worst(values),
        # One missing answer leaves open what all of them say; a failed call is no silence.
        silent=statuses <= {"ok", "no_answer"} and "no_answer" in statuses,
    )


def worst(values: Sequence[Value]) -> Value:
    """What several answers to one row say together: one that gives it away decides; else all must be known."""
    known = [value for value in values if value is not None]
    if known and min(known) == 0.0:
        return 0.0
    return 1.0 if known and len(known) == len(values) else None


def instance_values(records: Sequence[Record]) -> dict[str, Value]:
    """What the records of one instance say, under the names of the readings they go into."""
    (found,) = instances(records) if len({instance_of(r) for r in records}) == 1 else (None,)
    if found is None:
        raise ValueError("records of several instances")
    values: dict[str, Value] = {found.reading: found.value}
    if not found.attack:
        (record,) = records
        for name in record.status:
            if name not in (FORGOTTEN, RETAINED):
                values[f"{_named(name)}_{found.set}"] = (
                    record.scores.get(name) if record.status[name] == "ok" else None
                )
    return values


def _named(score: str) -> str:
    return f"{score}_recall" if score in ROUGE else score


def summarise(records: Sequence[Record], config: ForgettingConfig) -> Findings:
    """All readings and tests; every rate with its n, what is missing from it, and its interval."""
    everything = instances(records)
    plain = {role: [i for i in everything if i.set == role and not i.attack] for role in RATES}
    readings: list[Reading] = []
    tests: list[Test] = []
    for own in plain.values():
        if own:
            readings += rates(own) + corrections(own, config)
    for attack in config.attack_names():
        for role in RATES:
            own = [i for i in everything if i.set == role and i.attack == attack]
            if not own:
                continue
            readings += rates(own) + corrections(own, config)
            change, test = compared(plain[role], own, drawn=config.samples > 1)
            readings.append(change)
            tests += [test] if test else []
    for role in RATES:
        own_records = [r for r in records if r.meta.get(SET) == role and not r.meta.get("attack")]
        if own_records:
            readings += writing(role, own_records)
    said = conventions_of(records, config)
    notes = tuple(_notes(said, readings, config))
    return Findings(tuple(readings), (), adjusted(tests), {**said, **({"notes": notes} if notes else {})})


def _notes(said: Mapping[str, Any], readings: Sequence[Reading], config: ForgettingConfig) -> Iterator[str]:
    """What a reader should know beside the figures, a sentence each."""
    if "ppl_model" not in said:
        yield (
            "LS and PPL were not taken: they need a model that has not learned the rows "
            "(--model-role fluency=FOLDER)."
        )
    by_name = {reading.name: reading for reading in readings}
    for attack in config.attack_names():
        kept = by_name.get(f"krr_change[{attack}]")
        if kept is not None and kept.interval is not None and kept.interval.high < 0:
            yield (
                f"Under {attack} less is kept, too (see KRR): there, a high KFR may only say that the model no "
                "longer answers."
            )


def rates(own: Sequence[Instance]) -> list[Reading]:
    """A rate over scored instances, and its bounds where some have no answer."""
    from safewright.stats import rate_reading

    name = own[0].reading
    good = [i for i in own if i.value is not None]
    silent = [i for i in own if i.value is None and i.silent]
    values, clusters = [float(i.value or 0.0) for i in good], [i.cluster for i in good]
    unscored = len(own) - len(good)
    found = [rate_reading(name, values, clusters=clusters, unscored=unscored, better="higher")]
    for suffix, value in (("low", 0.0), ("high", 1.0)) if silent else ():
        found.append(
            rate_reading(
                f"{name}_no_answer_{suffix}",
                values + [value] * len(silent),
                clusters=clusters + [i.cluster for i in silent],
                unscored=unscored - len(silent),
                better="neither",
            )
        )
    return found


def corrections(own: Sequence[Instance], config: ForgettingConfig) -> list[Reading]:
    """The rate with the judge's errors taken out, where an audit is named.

    Not of attacks that put several verdicts together: the errors of the whole are not those of one verdict.
    """
    if config.judge_audit is None or own[0].attack in WORST:
        return []
    from safewright.measures.forgetting.correcting import corrected

    about: Quality = "forgotten" if own[0].set == FORGET else "retained"
    verdicts, clusters = [i.value for i in own], [i.cluster for i in own]
    return [corrected(own[0].reading, verdicts, clusters, about, config.judge_audit)]


def compared(
    plain: Sequence[Instance], attacked: Sequence[Instance], *, drawn: bool
) -> tuple[Reading, Test | None]:
    """The change of a rate under an attack over the rows that are scored both ways, and its test.

    Several draws of a row are not independent: with them, a permutation test over rows replaces McNemar's.
    """
    from safewright.stats import mcnemar_exact, paired_cluster_bootstrap, paired_permutation

    name = attacked[0].reading
    rate, attack = name.partition("[")[0], attacked[0].attack
    before = {(i.row, i.sample): i.value for i in plain}
    pairs = [
        (first, i.value, i.cluster)
        for i in attacked
        if i.value is not None and (first := before.get((i.row, i.sample))) is not None
    ]
    unscored = len(attacked) - len(pairs)
    if not pairs:
        return Reading(f"{rate}_change[{attack}]", None, 0, unscored, None, "difference", "higher"), None
    a, b, clusters = [p[0] for p in pairs], [p[1] for p in pairs], [p[2] for p in pairs]
    interval = paired_cluster_bootstrap(a, b, clusters, bounds=(0.0, 1.0))
    lost, gained = (sum(x - y == side for x, y, _ in pairs) for side in (1.0, -1.0))
    label = f"{name}_vs_plain"
    test = mcnemar_exact(lost, gained, pairs=len(pairs), name=label)
    if drawn:
        found = paired_permutation([y - x for x, y, _ in pairs], clusters)
        test = dataclasses.replace(found, name=label)
    value = sum(y - x for x, y, _ in pairs) / len(pairs)
    reading = Reading(
        f"{rate}_change[{attack}]", value, len(pairs), unscored, interval, "difference", "higher"
    )
    return reading, test


def adjusted(tests: Sequence[Test]) -> tuple[Test, ...]:
    """The tests with their p-values adjusted by Holm over all of them."""
    from safewright.stats import holm

    if len(tests) < 2:
        return tuple(tests)
    found = holm([test.p for test in tests])
    return tuple(
        dataclasses.replace(test, p=p, method=f"{test.method}, Holm over {len(tests)}")
        for test, p in zip(tests, found, strict=True)
    )


def conventions_of(records: Sequence[Record], config: ForgettingConfig) -> dict[str, Any]:
    """What the figures were taken under, beyond the options."""
    said: dict[str, Any] = {
        "preset": config.preset,
        "hs_epsilon": _epsilon(),
        "rouge": "recall of the reference, Porter stemmer",
        "unscored": "in no rate: an answer that nobody judged is neither forgotten nor retained",
        "several answers": "a row has forgotten only where every answer has",
    }
    read = next((r.meta[READ]["ppl"] for r in records if "ppl" in (r.meta.get(READ) or {})), None)
    if read is None:
        said["ppl"] = "not available: no model in the role fluency, so there is no LS"
    else:
        said["ppl"] = (
            "of the answer after the bare question, no chat template, texts turned into tokens apart"
        )
        said["ppl_model"] = read["model"]
    warnings = [*_in_both(records)]
    if read is not None and read["is_target"]:
        warnings.append(
            "perplexity was taken under the judged model itself: it finds its own words likely, whatever they are"
        )
    if warnings:
        said["warning"] = "; ".join(warnings)
    rated = next((r.meta[READ]["fluency"] for r in records if "fluency" in (r.meta.get(READ) or {})), None)
    if rated is not None:
        said["ratings"] = {"model": rated["model"], "prompts": _rating_prompts(config)}
    attacks = config.attack_names()
    if attacks:
        said["attacks"] = {name: _asked(records, name) for name in attacks}
        if "roleplay" in attacks:
            prompts = {"en": config.roleplay()} | (
                {} if config.roleplay_prompt else {"zh": config.roleplay(chinese=True)}
            )
            said["roleplay_prompt"] = {lang: prompt.digest for lang, prompt in prompts.items()}
    return said


def _in_both(records: Sequence[Record]) -> Iterator[str]:
    """A warning where the same is asked in both sets: it cannot be both forgotten and kept."""
    asked: dict[str, dict[tuple[str, ...], str]] = {FORGET: {}, RETAIN: {}}
    for record in records:
        if not record.meta.get("attack"):
            turns = tuple(" ".join(turn["content"].split()) for turn in record.input)
            asked[record.meta[SET]].setdefault(turns, record.meta["row"])
    both = [(row, asked[RETAIN][turns]) for turns, row in asked[FORGET].items() if turns in asked[RETAIN]]
    if both:
        yield (
            f"questions that stand in both sets: {len(both)} (first: {both[0][0]} and {both[0][1]}); what is to be "
            "forgotten cannot be kept too"
        )


def _rating_prompts(config: ForgettingConfig) -> dict[str, str]:
    from safewright.prompts import load as load_prompt

    aspects = ("writing",) if config.ratings == "writing" else ("writing", "forgetting", "retention")
    return {aspect: load_prompt(f"rating_{aspect}").digest for aspect in aspects}


def _asked(records: Sequence[Record], attack: str) -> dict[str, int]:
    """How many rows of each set an attack was made on, and on how many it could not be."""
    found: dict[str, int] = {}
    for role in RATES:
        rows = {r.meta["row"] for r in records if r.meta.get(SET) == role and not r.meta.get("attack")}
        own = {r.meta["row"] for r in records if r.meta.get(SET) == role and r.meta.get("attack") == attack}
        if own:
            found |= {role: len(own), f"{role}_left_out": len(rows - own)}
    return found


def _epsilon() -> float:
    from safewright.stats.lexical import EPSILON

    return EPSILON
