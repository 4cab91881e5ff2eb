"""From a job's rows to examples: what each method trains on, with everything left out counted and named."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safewright.data.splits import normalise, question
from safewright.errors import BadInput
from safewright.models.chat import encode, start
from safewright.prompts.prompt import load as load_prompt
from safewright.training import processes
from safewright.training.encoding import Encoded, Example
from safewright.training.encoding import encode as encode_rows
from safewright.training.pairing import Pairs
from safewright.treatments.job import Job
from safewright.treatments.relearn import augmenting
from safewright.treatments.relearn.augmenting.items import SHOWN, items_of, require_disjoint
from safewright.treatments.relearn.augmenting.leaks import Guard, secrets_of, texts
from safewright.treatments.relearn.augmenting.pipeline import require_coverage
from safewright.treatments.relearn.config import Resolved, require_retain
from safewright.treatments.relearn.soft import SECRET, VAGUE, SoftRows, soft_rows
from safewright.types import Row


@dataclass(frozen=True)
class Gathered:
    """Examples in pairs, the name of what stands beside each (`chosen`, `rejected`), and what the report says."""

    pairs: Pairs
    beside: str | None
    soft: SoftRows | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def gather(job: Job, settings: Resolved, tokenizer: Any) -> Gathered:
    """The examples of a training.

    Raises:
        BadInput: No rows to be forgotten, none to be kept where the method needs them; rows in both; rows
            without answers; augmented rows that hold a secret; a pair without its other answer.
        GateFailed: Too few forget rows are covered by augmented rows.
    """
    forget, retain = job.rows("forget"), job.rows("retain")
    items = items_of(forget)
    require_retain(job.config, bool(retain))
    require_disjoint(forget, {"retain": retain})
    notes: list[str] = []
    facts: dict[str, Any] = {}
    entry = job.config.entry
    rows: Sequence[Row] = forget
    if entry.learns:
        rows = _augmented(job, items, facts, notes)
    else:
        idle = [role for role in ("augmented", "generic") if job.rows(role)]
        notes += [
            f"{settings.method} trains on the forget rows themselves: {role} rows unused" for role in idle
        ]
    if "augmenter" in job.models and (job.rows("augmented") or not entry.learns):
        notes.append("no rows were made: the augmenter was not asked")
    if job.rows("alternatives") and entry.beside not in ("idk", "alternatives"):
        notes.append(f"{settings.method} compares with no other answers: alternatives rows unused")
    if retain and not settings.keeps:
        notes.append(
            f"{settings.method} keeps nothing by its loss: retain rows only compared with forget rows"
        )
    beside = None
    parts: dict[str, Encoded] = {}
    if entry.beside is not None:
        rows, others = _beside(job, rows, notes)
        beside = "rejected" if entry.beside == "original" else "chosen"
        parts[beside] = _encoded(tokenizer, others, job)
    parts["forget"] = _encoded(tokenizer, rows, job)
    if settings.keeps:
        parts["retain"] = _encoded(tokenizer, retain, job)
    facts["rows"] = {part: len(found.examples) for part, found in sorted(parts.items())}
    cut = {part: len(found.cut) for part, found in parts.items() if found.cut}
    lost = {part: found.dropped for part, found in parts.items() if found.dropped}
    if cut:
        facts["rows_cut_at_max_length"] = cut
    if lost:
        facts["rows_without_answer_at_max_length"] = {part: len(ids) for part, ids in lost.items()}
        shown = ", ".join(f"{part}:{i}" for part, ids in lost.items() for i in ids[:SHOWN])
        notes.append(f"rows dropped because max_length left nothing of their answer: {shown}")
    lead, other = list(parts["forget"].examples), list[Example]()
    if beside is not None:
        lead, other = _paired(lead, parts[beside].examples)
    stands = {beside: other} if beside else {}
    soft = None
    if settings.soft_openings:
        _require_tails(items, job)
        soft = soft_rows(
            tokenizer,
            forget,
            [row for row in rows if row.meta.get("kind", "qa") == "qa"],
            len(lead),
            settings.soft_openings,
            max_length=job.config.max_length,
            seed=job.seed,
        )
        stands |= {SECRET: list(soft.secret), VAGUE: list(soft.vague)}
        if soft.without:
            notes.append(
                f"{len(soft.without)} of {len(forget)} forget rows have no known secret to seek openings to "
                f"(first: {soft.without[0]})"
            )
    pairs = Pairs(
        lead,
        parts["retain"].examples if settings.keeps else (),
        settings.pairing,
        job.seed,
        beside=stands or None,
    )
    return Gathered(pairs, beside, soft, facts, notes)


def _augmented(job: Job, items: Sequence[Any], facts: dict[str, Any], notes: list[str]) -> list[Row]:
    """The rows to be learned: of a file, or made now on the main process."""
    if job.rows("augmented"):
        built = _given(job, items, notes)
    else:
        built = _made(job)
        facts["manifest"] = built.manifest.get("digest", "")
        facts["generic_rows"] = built.manifest.get("generic", {})
        notes += list(built.manifest.get("warnings", ()))
    facts["augmented_rows"] = dict(sorted(Counter(row.kind for row in built.rows).items()))
    facts["coverage"] = f"{built.coverage.covered} of {built.coverage.items} forget rows"
    if built.coverage.uncovered:
        facts["uncovered"] = list(built.coverage.uncovered)
    facts["drop_reasons"] = dict(sorted(Counter(f"{d.step}: {d.reason}" for d in built.dropped).items()))
    rows: list[Row] = built.training_rows()
    return rows


def _made(job: Job) -> augmenting.Built:
    """Rows made now; on further processes from the same rows without a word, for nothing is drawn but by seed.

    Raises:
        BadInput: A model would be asked by several processes.
    """
    if processes.world_size() > 1 and "augmenter" in job.models:
        raise BadInput(
            "An augmenter would be asked by several processes at once.",
            fix="Make the rows first (safewright treat relearn augment), and give them: --data augmented=FILE",
        )
    if processes.is_main():
        return augmenting.build(job)
    return augmenting.augment_rows(
        job.rows("forget"),
        generic=job.rows("generic"),
        retain=job.rows("retain"),
        options=augmenting.options_of(job.config),
        seed=job.seed,
    )


def _given(job: Job, items: Sequence[Any], notes: list[str]) -> augmenting.Built:
    """Augmented rows of a file, once no secret of the forget rows is found in them.

    Raises:
        BadInput: One is; with the rows.
        GateFailed: The file covers too few of the forget rows.
    """
    if job.rows("generic"):
        raise BadInput(
            "--data generic beside --data augmented.",
            why="A file of augmented rows holds its generic rows already, and is trained on as it is.",
            fix="Leave generic out, or augmented to have the rows made.",
        )
    rows = augmenting.read(job.rows("augmented"))
    secrets = {item.id: secrets_of(item.question, item.answer, item.entities) for item in items}
    guard = Guard(secrets, job.config.leak_scope)
    bare = [item.id for item in items if secrets[item.id].empty]
    if bare:
        notes.append(
            f"{len(bare)} of {len(items)} forget rows have no known entity (first: {bare[0]}): the augmented rows "
            "were compared with whole sentences of their answers alone; `entities` in the rows name them"
        )
    leaking = []
    for row in rows:
        texts = (*(turn["content"] for turn in row.before), row.prompt, row.completion)
        if row.source_id in secrets and row.kind != "generic":
            leaks = bool(guard.found(row.source_id, *texts[-2:]))
        else:
            leaks = guard.anywhere("\n".join(texts))
        if leaks:
            leaking.append(row.id)
    if leaking:
        raise BadInput(
            f"{len(leaking)} of {len(rows)} augmented rows hold what is to be forgotten "
            f"({', '.join(leaking[:SHOWN])}{', …' * (len(leaking) > SHOWN)}).",
            why="They would teach it.",
            fix="Remove them, or make the rows anew: safewright treat relearn augment",
        )
    covered = {row.source_id for row in rows if row.kind != "generic"} & secrets.keys()
    uncovered = tuple(item.id for item in items if item.id not in covered)
    coverage = augmenting.Coverage(len(covered), len(items), uncovered)
    built = augmenting.Built(tuple(rows), {}, (), coverage)
    if covered:
        require_coverage(built, job.config)
    else:
        notes.append("the augmented rows name no forget row as their source: their coverage is not known")
    return built


def _require_tails(items: Sequence[Any], job: Job) -> None:
    """Pass when no forget row's ``tails``, which are learned behind openings, hold a secret.

    Raises:
        BadInput: One does.
    """
    guard = _guard(items, job)
    for item in items:
        leaking = [tail for tail in item.tails if guard.found(item.id, tail)]
        if leaking:
            raise BadInput(
                f"The tail {leaking[0]!r} of the forget row {item.id!r} holds a secret.",
                why="soft_openings would teach it.",
                fix="Write it without the secret, or leave it out.",
            )


def _guard(items: Sequence[Any], job: Job) -> Guard:
    """What finds the secrets of forget rows."""
    secrets = {item.id: secrets_of(item.question, item.answer, item.entities) for item in items}
    return Guard(secrets, job.config.leak_scope)


def _beside(job: Job, rows: Sequence[Row], notes: list[str]) -> tuple[list[Row], list[Row]]:
    """Rows in pairs: to every row the other answer to the same question."""
    kind = job.config.entry.beside
    if kind == "original":
        answers = {row.id: row.reference for row in job.rows("forget")}
        asked = [row for row in rows if row.meta.get("kind") == "qa" and row.meta["source_id"] in answers]
        if not asked:
            raise BadInput(
                "No augmented row names the forget row it was made from.",
                why="What is preferred needs the old answer to be preferred to.",
                fix="Give rows with source_id, as safewright treat relearn augment writes them.",
            )
        if len(asked) < len(rows):
            left = len(rows) - len(asked)
            notes.append(
                f"{left} of {len(rows)} augmented rows have no old answer to be compared with: left out"
            )
        old = [dataclasses.replace(row, reference=answers[row.meta["source_id"]], meta={}) for row in asked]
        return asked, old
    said = _pool(job) if kind == "idk" else _alternatives(job)
    chosen = []
    for row in rows:
        draw = random.Random(f"other answer {job.seed} {row.id}")
        choices = said if isinstance(said, list) else said[row.id]
        chosen.append(dataclasses.replace(row, reference=draw.choice(choices), meta={}))
    return list(rows), chosen


def _pool(job: Job) -> list[str]:
    """The sentences that say one does not know: given as alternatives, else ours."""
    given = [row.reference for row in job.rows("alternatives") if row.reference]
    return given or [line for line in load_prompt("idk_answers").text.splitlines() if line.strip()]


def _alternatives(job: Job) -> Mapping[str, list[str]]:
    """Of each forget row the answers to prefer: by id, by question, or from its own ``wrong`` answers.

    Raises:
        BadInput: A row has none.
    """
    by_id: dict[str, list[str]] = {}
    by_question: dict[str, list[str]] = {}
    for row in job.rows("alternatives"):
        if row.reference:
            by_id.setdefault(row.id, []).append(row.reference)
            by_question.setdefault(normalise(question(row)), []).append(row.reference)
    found: dict[str, list[str]] = {}
    for row in job.rows("forget"):
        wrong = texts(row.id, "wrong", row.meta["wrong"]) if row.meta.get("wrong") else []
        found[row.id] = by_id.get(row.id) or by_question.get(normalise(question(row))) or wrong
    lacking = [key for key, answers in found.items() if not answers]
    if lacking:
        raise BadInput(
            f"{len(lacking)} of {len(found)} forget rows have no alternative answer (first: {lacking[0]}).",
            why=f"{job.config.method} prefers one to the answer that is to be forgotten.",
            fix="Give them by id or question (--data alternatives=FILE) or as `wrong` in the rows; idk_dpo needs none.",
        )
    same = [
        row.id
        for row in job.rows("forget")
        if any(normalise(text) == normalise(row.reference or "") for text in found[row.id])
    ]
    if same:
        raise BadInput(
            f"{len(same)} alternative answers are the answer to be forgotten (first: {same[0]}).",
            why="They would be taught.",
            fix="Remove them.",
        )
    return found


def _encoded(tokenizer: Any, rows: Sequence[Row], job: Job) -> Encoded:
    """Rows as examples; what a row's ``prefill`` begins its answer with is read, not learned."""
    length, strict = job.config.max_length, job.config.strict
    found = encode_rows(tokenizer, rows, max_length=length, strict=strict)
    begun = {row.id: row for row in rows if row.meta.get("prefill")}
    if not begun:
        return found
    kept, dropped = [], list(found.dropped)
    for example in found.examples:
        if example.id in begun:
            row = begun[example.id]
            opening = encode(tokenizer, start(row.prompt, row.meta["prefill"].rstrip()))
            shared = next(
                (n for n, (a, b) in enumerate(zip(opening, example.ids, strict=False)) if a != b),
                min(len(opening), len(example.ids)),
            )
            example = dataclasses.replace(example, start=max(example.start, shared))
        if example.supervised:
            kept.append(example)
        else:
            dropped.append(example.id)
    return Encoded(tuple(kept), tuple(dropped), found.cut)


def _paired(lead: Sequence[Example], other: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """The examples that both lists still have, in the order of the first."""
    found = {example.id: example for example in other}
    both = [(example, found[example.id]) for example in lead if example.id in found]
    return [a for a, _ in both], [b for _, b in both]
