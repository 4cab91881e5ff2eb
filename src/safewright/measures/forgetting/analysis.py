"""What the records say: forgetting and retaining, each attack beside the plain question, and how it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safewright.data.roles import SET
from safewright.measures.behaviour import instance_of
from safewright.measures.forgetting.asking import FORGET, RETAIN
from safewright.measures.forgetting.config import ForgettingConfig
from safewright.measures.forgetting.scoring import FORGOTTEN, LEXICAL, READ, RETAINED, ROUGE
from safewright.types import Better, Findings, Interval, Quality, Reading, Record, Test

RATES: Mapping[str, tuple[str, str]] = {FORGET: ("kfr", FORGOTTEN), RETAIN: ("krr", RETAINED)}
"""The rate of each set, and the score behind it."""
WORST = frozenset({"paraphrase", "sampling"})
"""Attacks that ask a row several times: it has forgotten only where every answer has."""
UNITS: Mapping[str, tuple[str, Better]] = {
    "bi": ("Brunet's index", "lower"),
    "hs": ("Honore's statistic", "higher"),
    "rttr": ("root type-token ratio", "neither"),
    "longest_repeat": ("tokens", "neither"),
    "length": ("tokens", "neither"),
}
DRAWS = 1000
"""Draws of the interval of a figure that is made of several means."""

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
    return Findings(tuple(readings), (), adjusted(tests), conventions_of(records, config))


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


def writing(role: str, own: Sequence[Record]) -> list[Reading]:
    """Agreement with the reference and how answers are written, for one set."""
    from safewright.stats import mean_reading

    good = [record for record in own if all(record.status.get(name) == "ok" for name in ROUGE)]
    clusters = [record.cluster or record.id for record in good]
    unscored = len(own) - len(good)
    better: Better = "lower" if role == FORGET else "higher"
    found: list[Reading] = [
        mean_reading(f"{name}_recall_{role}", _scores(good, name), clusters, unscored, better=better)
        for name in ROUGE
    ]
    for name in LEXICAL:
        unit, wanted = UNITS.get(name, ("share", "neither"))
        found.append(
            mean_reading(
                f"{name}_{role}",
                _scores(good, name),
                clusters,
                unscored,
                better=wanted,
                unit=unit,
                bounds=(0.0, 1.0) if name == "distinct2" else None,
            )
        )
    found += _together(role, own)
    found += _linguistic(role, own, good)
    found += _ratings(role, own)
    return found


def _scores(records: Sequence[Record], name: str) -> list[float]:
    return [float(record.scores[name] or 0.0) for record in records]


def _together(role: str, own: Sequence[Record]) -> list[Reading]:
    """Harmonic and arithmetic mean of the rate and of ROUGE-L recall (of 1 minus it, where it is to be low)."""
    from safewright.stats.lexical import harmonic

    _, score = RATES[role]
    good = [r for r in own if r.status.get(score) == "ok" and r.status.get("rougeL") == "ok"]
    table = [(float(r.scores[score] or 0.0), float(r.scores["rougeL"] or 0.0)) for r in good]

    def agreement(means: Sequence[float]) -> float:
        return 1.0 - means[1] if role == FORGET else means[1]

    clusters, unscored = [r.cluster or r.id for r in good], len(own) - len(good)
    kinds: dict[str, Callable[[Sequence[float]], float]] = {
        f"harmonic_{role}": lambda means: harmonic(means[0], min(max(agreement(means), 0.0), 1.0)),
        f"mean_{role}": lambda means: (means[0] + agreement(means)) / 2,
    }
    return [
        _of_means(name, table, clusters, unscored, kind, unit="score", better="higher")
        for name, kind in kinds.items()
    ]


def _linguistic(role: str, own: Sequence[Record], good: Sequence[Record]) -> list[Reading]:
    """The linguistic score with its parts; without a fluency model there is none, and the scorecard says so."""
    from safewright.stats.lexical import Lexical, arithmetic_score, linguistic, linguistic_score

    names = ("ls", "ls_robust", "ls_median_ppl", "ls_arithmetic", "ppl", "ppl_median")
    if not any("ppl" in record.status for record in own):
        return [Reading(f"{name}_{role}", None, 0, 0, None, "score", "neither") for name in names]
    texts = [_lexical(Lexical, record) for record in good]
    ppl = [record.scores["ppl"] if record.status.get("ppl") == "ok" else None for record in good]
    found = linguistic(ppl, texts)
    read = [(record, value) for record, value in zip(good, ppl, strict=True) if value is not None]
    missing = len(own) - len(read)
    if found is None:
        return [Reading(f"{name}_{role}", None, 0, missing, None, "score", "neither") for name in names]
    table = [(value, float(r.scores["bi"] or 0.0), float(r.scores["hs"] or 0.0)) for r, value in read]
    clusters = [record.cluster or record.id for record, _ in read]

    def of(name: str, kind: Callable[[Sequence[float]], float], rows: Any = table) -> Reading:
        return _of_means(f"{name}_{role}", rows, clusters, missing, kind, unit="score", better="higher")

    each = [(linguistic_score(*row),) for row in table]
    median = [(value,) for value, _, _ in table]
    return [
        of("ls", lambda m: linguistic_score(m[0], m[1], m[2])),
        of("ls_robust", lambda m: m[0], each),
        Reading(f"ls_median_ppl_{role}", found.ls_median_ppl, found.n, missing, None, "score", "higher"),
        of("ls_arithmetic", lambda m: arithmetic_score(m[0], m[1], m[2])),
        dataclasses.replace(of("ppl", lambda m: m[0], median), unit="perplexity", better="lower"),
        Reading(f"ppl_median_{role}", found.ppl_median, found.n, missing, None, "perplexity", "lower"),
    ]


def _lexical(kind: Any, record: Record) -> Any:
    scores = {name: float(record.scores[name] or 0.0) for name in LEXICAL}
    return kind(
        tokens=int(scores["length"]),
        types=0,
        once=0,
        bi=scores["bi"],
        hs=scores["hs"],
        rttr=scores["rttr"],
        distinct1=None,
        distinct2=scores["distinct2"],
        distinct3=None,
        longest_repeat=int(scores["longest_repeat"]),
        empty=False,
    )


def _of_means(
    name: str,
    table: Sequence[Sequence[float]],
    clusters: Sequence[str],
    unscored: int,
    kind: Callable[[Sequence[float]], float],
    *,
    unit: str,
    better: Better,
) -> Reading:
    """A figure made of the columns' means, with a percentile interval over resampled rows.

    Args:
        name: Of the reading.
        table: One row of numbers per record.
        clusters: The cluster of each.
        unscored: Records without a row.
        kind: From the columns' means to the figure.
        unit: Of the figure.
        better: Which way is better.
    """
    import numpy as np

    if not table:
        return Reading(name, None, 0, unscored, None, unit, better)
    columns = np.asarray(table, dtype=np.float64)
    value = float(kind(columns.mean(axis=0).tolist()))
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    size = int(codes.max()) + 1
    sums = np.zeros((size, columns.shape[1]))
    np.add.at(sums, codes, columns)
    counts = np.bincount(codes, minlength=size).astype(np.float64)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        picks = rng.integers(0, size, size)
        drawn.append(kind((sums[picks].sum(axis=0) / counts[picks].sum()).tolist()))
    low, high = np.quantile(drawn, [0.025, 0.975])
    interval = Interval(min(float(low), value), max(float(high), value), method="cluster_bootstrap")
    return Reading(name, value, len(table), unscored, interval, unit, better)


def _ratings(role: str, own: Sequence[Record]) -> list[Reading]:
    """Mean ratings from 1 to 5, where a rubric was given."""
    from safewright.stats import mean_reading

    found = []
    for name in ("fluency", "relevance", "forgetting", "retention"):
        rated = [record for record in own if name in record.status]
        if not rated:
            continue
        good = [record for record in rated if record.status[name] == "ok"]
        found.append(
            mean_reading(
                f"{name}_{role}",
                _scores(good, name),
                [record.cluster or record.id for record in good],
                len(rated) - len(good),
                better="higher",
                unit="rating 1 to 5",
                bounds=(1.0, 5.0),
            )
        )
    return found


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
        if read["is_target"]:
            said["warning"] = (
                "perplexity was taken under the judged model itself: it finds its own words likely, whatever "
                "they are"
            )
    attacks = config.attack_names()
    if attacks:
        said["attacks"] = {name: _asked(records, name) for name in attacks}
        if "roleplay" in attacks:
            prompts = {"en": config.roleplay()} | (
                {} if config.roleplay_prompt else {"zh": config.roleplay(chinese=True)}
            )
            said["roleplay_prompt"] = {lang: prompt.digest for lang, prompt in prompts.items()}
    return said


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
