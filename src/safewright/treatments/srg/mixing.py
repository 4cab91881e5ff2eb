"""From a job's rows to the records of a training: gathered, put into formats, drawn to shares, all by the seed."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from safewright.data.splits import normalise, question, words
from safewright.data.wrapping import formats
from safewright.errors import BadInput
from safewright.models.traces import holds_marker
from safewright.training import processes
from safewright.treatments.job import Job
from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.guidelines import Guidelines
from safewright.treatments.srg.records import TYPES, Reasoned, Type, from_row, request_of
from safewright.treatments.srg.synthesis.filters import ALLOWED, Leaks
from safewright.treatments.srg.synthesis.pool import Prompt, prompt_pool, require_apart, require_no_template

BENIGN = ("helpful", "contrast")
PLAIN: tuple[Type, ...] = ("harmful", "helpful", "contrast")
"""Roles of rows without reasoning: a teacher adds it, or refusal training takes their answers."""

SHOWN = 3

VERBATIM = "leak: verbatim"
"""How `Leaks` begins what it says of a text that repeats the guidelines."""

MOST_ALIKE = 0.01
"""Share of rows that may have the same reasoning without a word about it."""


@dataclass(frozen=True)
class Mixed:
    """The records of a training, and what has to be said about them."""

    records: list[Reasoned]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def mix(job: Job) -> Mixed:
    """The records of a job, in the order of its files: the same for every target.

    Raises:
        BadInput: No rows, rows that are no records, or rows that the evaluation has too.
    """
    config: SRGConfig = job.config
    notes: list[str] = []
    left: Counter[str] = Counter()
    records = once(_gathered(job, notes, left), left)
    general = [from_row(row, "general", config.markers) for row in job.rows("general")]
    wrong = [record.id for record in general if record.type != "general"]
    if wrong:
        raise BadInput(
            f"{len(wrong)} rows of the role general have another type (first: {wrong[0]}).",
            fix="Give rows with reasoning as --data reasoned=FILE.",
        )
    records += general
    if not records:
        raise BadInput("There are no rows to learn from.", fix="Give them: --data reasoned=FILE")
    _require_distinct(records)
    require_apart([record.row() for record in records], job.rows("evaluation"))
    require_no_template([record.row() for record in records if record.type != "general"])
    _require_plain(records, config)
    notes += _alike(records)
    notes += _undecided(records)
    if left:
        said = ", ".join(f"{count} {why}" for why, count in sorted(left.items()))
        notes.append(f"{left.total()} rows were left out, whose requests are empty or there already ({said})")
    records = formatted(records, config.formats, job.seed)
    records = drawn(records, config.helpful_share, BENIGN, ("harmful",), "helpful_share", job.seed, notes)
    records = drawn(records, config.general_share, ("general",), PLAIN, "general_share", job.seed, notes)
    found = Counter(record.type for record in records)
    facts = {
        "rows": {kind: found[kind] for kind in TYPES if found[kind]},
        "formats": dict(
            sorted(Counter(str(r.meta["format"]) for r in records if r.meta.get("format")).items())
        ),
    }
    if left:
        facts["left_out"] = dict(sorted(left.items()))
    return Mixed(records, facts, notes)


def once(records: Sequence[Reasoned], left: Counter[str]) -> list[Reasoned]:
    """The records without those of no request and further copies of a record, which ``left`` counts.

    A request may have several traces; it has one label.

    Raises:
        BadInput: A request is harmful in one record, and not in another.
    """
    labels: dict[str, Reasoned] = {}
    seen: set[tuple[str, str, str]] = set()
    found = []
    for record in records:
        if record.type == "general":
            found.append(record)
            continue
        asked = question(record.row())
        key = normalise(asked)
        if not words(asked):
            left["empty"] += 1
            continue
        other = labels.setdefault(key, record)
        if other.harmful != record.harmful:
            raise BadInput(
                f"The {record.type} row {record.id} asks the same as the {other.type} row {other.id}.",
                why="It would be taught to be answered and to be refused.",
                fix="Remove one of the two.",
            )
        if (key, record.reasoning, record.answer) in seen:
            left["duplicate"] += 1
            continue
        seen.add((key, record.reasoning, record.answer))
        found.append(record)
    return found


def _plain(job: Job, left: Counter[str]) -> Sequence[Prompt]:
    """The requests of rows without reasoning, as a synthesis would take them: labelled, each once."""
    pool = prompt_pool(*(job.rows(role) for role in PLAIN), share=0)
    left.update(pool.dropped)
    return pool.prompts


def _gathered(job: Job, notes: list[str], left: Counter[str]) -> list[Reasoned]:
    """Records with reasoning: given, or made now by a teacher; for refusal training also rows with answers,
    for on-policy distillation requests alone."""
    config: SRGConfig = job.config
    given = [role for role in PLAIN if job.rows(role)]
    if "reasoned" in job.data:
        if given:
            notes.append(f"rows with reasoning were given: the rows of {', '.join(given)} are not used")
        return [from_row(row, None, config.markers) for row in job.rows("reasoned")]
    if not given:
        return []
    if config.objective == "on_policy_kl" and "teacher" not in job.models:
        return [request_of(prompt.row, prompt.kind) for prompt in _plain(job, left)]
    if config.target == "rt" and config.objective == "sft" and "teacher" not in job.models:
        return [from_row(prompt.row, prompt.kind, config.markers) for prompt in _plain(job, left)]
    if processes.world_size() > 1:
        raise BadInput(
            "A teacher would be asked by several processes at once.",
            fix="Make the rows first (safewright treat srg synthesize), and give them: --data reasoned=FILE",
        )
    from safewright.treatments.srg import synthesis

    return synthesis.build(job)


def formatted(records: Sequence[Reasoned], share: float, seed: int) -> list[Reasoned]:
    """The records, with at least a share of the helpful ones in unusual formats.

    Rows that are in one already (meta ``format`` or ``attack``) count, and stay.
    """
    benign = [record for record in records if record.type == "helpful"]
    plain = [record for record in benign if not record.meta.get("format") and not record.meta.get("attack")]
    wanted = max(0, round(share * len(benign)) - (len(benign) - len(plain)))
    if not wanted or not plain:
        return list(records)
    changed = formats([record.row() for record in plain], min(1.0, wanted / len(plain)), seed)
    by_id = {row.id: row for row in changed}
    return [
        replace(record, messages=by_id[record.id].prompt, meta=_more(record.meta, by_id[record.id].meta))
        if record.id in by_id
        else record
        for record in records
    ]


def _more(own: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    return {**own, **({"format": meta["format"]} if "format" in meta else {})}


def drawn(
    records: Sequence[Reasoned],
    share: float | None,
    kinds: Sequence[str],
    beside: Sequence[str],
    option: str,
    seed: int,
    notes: list[str],
) -> list[Reasoned]:
    """The records, those of ``kinds`` drawn so that they are a share of themselves and those ``beside``.

    Each is drawn once before any is drawn again; copies get ids of their own.

    Raises:
        BadInput: There are none to draw, or none beside them.
    """
    if share is None:
        return list(records)
    some = [record for record in records if record.type in kinds]
    others = sum(record.type in beside for record in records)
    wanted = math.floor(share / (1 - share) * others + 0.5)
    if (wanted and not some) or not others:
        lacking = kinds if others else beside
        raise BadInput(
            f"{option} is {share:g}, and there are no {' or '.join(lacking)} rows.",
            fix=f"Give such rows, or leave {option} out.",
        )
    draw = random.Random(f"{option} {seed}")
    times: Counter[str] = Counter()
    while (left := wanted - times.total()) > 0:
        times.update(record.id for record in draw.sample(some, min(left, len(some))))
    if wanted > len(some):
        notes.append(f"{option} repeats rows: {wanted} are drawn from {len(some)}")
    found = []
    for record in records:
        if record.type not in kinds:
            found.append(record)
        for turn in range(times[record.id] if record.type in kinds else 0):
            found.append(record if not turn else replace(record, id=f"{record.id}#{turn + 1}"))
    return found


def _require_plain(records: Sequence[Reasoned], config: SRGConfig) -> None:
    """Pass when no prompt holds a marker of reasoning, and with a distilled context no text repeats the guidelines.

    Raises:
        BadInput: One does.
    """
    leaks = Leaks(Guidelines.load(config.guidelines)) if config.context == "distilled" else None
    for record in records:
        if record.type == "general":
            continue
        asked = "\n".join(turn["content"] for turn in record.messages)
        if holds_marker(asked, config.markers):
            raise BadInput(
                f"The prompt of the row {record.id} holds a marker of reasoning ({config.think_open} or "
                f"{config.think_close}).",
                why="Models are asked without markers, which are for what they say.",
                fix="Remove it from the prompt, or choose others: --set think_open=… --set think_close=…",
            )
        if leaks is None:
            continue
        learned = record.reasoning if config.reasons else ""
        texts = (("prompt", asked, ""), ("reasoning", learned, asked), ("answer", record.answer, asked))
        for name, text, beside in texts:
            said = leaks.repeated(text, beside)
            if said:
                raise BadInput(
                    f"The {name} of the row {record.id} repeats the guidelines{said.removeprefix(VERBATIM)}.",
                    why="They are to be distilled away: the trained model is asked without them.",
                    fix="Make the row anew, or keep the text in every prompt: --set context=kept",
                )


def _undecided(records: Sequence[Reasoned]) -> list[str]:
    """A warning where records decide otherwise than their label says."""
    odd = [
        r.id
        for r in records
        if r.decision is not None and r.decision not in ALLOWED.get(r.type, (r.decision,))
    ]
    if not odd:
        return []
    return [
        f"{len(odd)} rows decide against their label, such as comply for a harmful request (first: {odd[0]})"
    ]


def _alike(records: Sequence[Reasoned]) -> list[str]:
    """A warning where one reasoning stands in more than 1 % of the rows that have some, and in three at least."""
    found = Counter(record.reasoning for record in records if record.reasoning)
    if not found:
        return []
    text, count = found.most_common(1)[0]
    if count < max(SHOWN, MOST_ALIKE * found.total()):
        return []
    return [
        f"one reasoning stands in {count} of {found.total()} rows ({text[:60]!r}): a template learned by "
        "heart needs no request to be read"
    ]


def _require_distinct(records: Sequence[Reasoned]) -> None:
    """Pass when every id is there once.

    Raises:
        BadInput: One is not.
    """
    twice = [name for name, count in Counter(record.id for record in records).items() if count > 1]
    if twice:
        raise BadInput(
            f"{len(twice)} ids are in two roles ({', '.join(twice[:SHOWN])}{', …' * (len(twice) > SHOWN)}).",
            why="Orders and draws are made by them.",
            fix="Make the ids distinct, or leave them out.",
        )


def shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Counts as shares of their sum."""
    total = sum(counts.values())
    return {name: round(value / total, 4) for name, value in counts.items()} if total else {}
