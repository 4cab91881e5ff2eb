"""From forget rows to training rows: the steps in their order, the manifest, and the two doors.

Source: ReLearn (arXiv 2502.11190), section on data synthesis; order and defects of the release in
`docs/relearn.md`. Every row is made from one forget row, whose id it carries from the first question on: nothing
is joined by position. An original answer is read by prompts and by the leak check, and by nothing that makes rows.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, GateFailed
from safewright.judges.model import JudgeModel
from safewright.prompts import digests as prompt_digests
from safewright.runs import digest_json, run_sync, versions, write_json
from safewright.runs.atomic import write_lines
from safewright.runs.progress import Progress, silent
from safewright.treatments.asking import Asker, deciding, journalled
from safewright.treatments.job import Job
from safewright.treatments.relearn.augmenting import given, writing
from safewright.treatments.relearn.augmenting.asking import PROMPTS, augmenter
from safewright.treatments.relearn.augmenting.config import AugmentOptions, options_of
from safewright.treatments.relearn.augmenting.estimating import first_calls
from safewright.treatments.relearn.augmenting.items import (
    SHOWN,
    Item,
    Wording,
    asks_entities,
    items_of,
    require_disjoint,
)
from safewright.treatments.relearn.augmenting.leaks import Guard, secrets_of
from safewright.treatments.relearn.augmenting.mixing import Pool, generic_rows, pool
from safewright.treatments.relearn.augmenting.rows import Augmented, Built, Coverage, Dropped, completions
from safewright.types import Message, Row

FILE = "augmented.jsonl"
MANIFEST = "manifest.json"
DROPPED = "dropped.jsonl"
UNCOVERED = "uncovered.json"
STEPS = 4
"""Secrets, questions, answers, rows."""


@dataclasses.dataclass
class _Made:
    """What the steps have made so far."""

    answers: list[writing.Vague]
    dropped: list[Dropped]
    guard: Guard
    generic: Pool
    openings: Mapping[str, Sequence[str]]
    warnings: list[str]


def augment_rows(
    forget: Sequence[Row],
    *,
    generic: Sequence[Row] = (),
    retain: Sequence[Row] = (),
    options: AugmentOptions | None = None,
    model: JudgeModel | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Built:
    """The training rows of a forget set.

    Args:
        forget: Questions with the answers to be forgotten; their meta may bring ``entities``, ``variants`` or
            ``paraphrases``, ``vague``, ``openings``, ``tails`` and ``subject``.
        generic: Questions with answers of any other kind.
        retain: Only compared with the forget rows.
        options: Of the pipeline.
        model: The augmenter, see `asking.augmenter`; None where the rows bring all that is needed.
        seed: Of everything drawn.
        progress: Called after each step.

    Raises:
        BadInput: Rows or options that cannot be used; too few generic rows.
        GateFailed: Fewer forget rows got a vague answer than ``min_coverage`` asks for.
    """
    built = _augmented(forget, generic, retain, options or AugmentOptions(), model, seed, progress)
    require_coverage(built, options or AugmentOptions())
    return built


def _augmented(
    forget: Sequence[Row],
    generic: Sequence[Row],
    retain: Sequence[Row],
    options: AugmentOptions,
    model: JudgeModel | None,
    seed: int,
    progress: Progress,
) -> Built:
    items = items_of(forget)
    require_disjoint(forget, {"retain": retain, "generic": generic})
    if model is None:
        given.require_given(items, options.kinds)
    asker = None if model is None else Asker(model)
    made = run_sync(_write(items, asker, generic, options, seed, progress))
    rows, about = _rows(made, options, seed)
    progress("data pipeline", STEPS, STEPS)
    covered = {answer.item.id for answer in made.answers}
    uncovered = tuple(item.id for item in items if item.id not in covered)
    coverage = Coverage(len(items) - len(uncovered), len(items), uncovered)
    dropped = tuple(sorted(made.dropped, key=lambda one: (one.source_id, one.step, one.variant)))
    counts: dict[str, int] = Counter(row.kind for row in rows)
    manifest = {
        "format": "relearn-augmented/1",
        "options": deciding(options),
        "seed": seed,
        "models": {} if asker is None else {"augmenter": asker.model.conventions()},
        "prompts": {} if asker is None else prompt_digests(PROMPTS),
        "versions": versions(("safewright",)),
        "data": {
            role: {"digest": digest_json(list(held)), "rows": len(held)}
            for role, held in (("forget", forget), ("generic", generic), ("retain", retain))
            if held
        },
        "counts": {**counts, "rows": len(rows), "wanted": _wanted(items, options)},
        "calls": {} if asker is None else {**asker.counts, "reply_tokens": asker.tokens},
        "rounds": {str(n): k for n, k in sorted(Counter(a.round for a in made.answers).items())},
        "dropped": dict(sorted(Counter(f"{one.step}: {one.reason}" for one in dropped).items())),
        "coverage": {"share": coverage.share, **dataclasses.asdict(coverage)},
        **about,
        **({"retain": _kept_secrets(retain, made.guard)} if retain else {}),
        "warnings": made.warnings,
        "digest": digest_json([row.plain() for row in rows]),
    }
    return Built(tuple(rows), manifest, dropped, coverage)


async def _write(
    items: Sequence[Item],
    asker: Asker | None,
    generic: Sequence[Row],
    options: AugmentOptions,
    seed: int,
    progress: Progress,
) -> _Made:
    """Secrets, wordings and vague answers, step by step."""
    dropped: list[Dropped] = []
    entities, lost = await _entities(items, asker, options)
    dropped += lost
    # A row whose secrets nobody could list gets no text at all: nothing could be checked against them.
    items = [item for item in items if item.id in entities]
    secrets = {
        item.id: secrets_of(
            item.question, item.answer, entities[item.id], known=not asks_entities(item, options.entities)
        )
        for item in items
    }
    guard = Guard(secrets, options.leak_scope)
    # What is wrong with the given rows shows before anything is paid for.
    source = pool(generic, _wanted(items, options) * (1 + len(options.shares)), options, guard)
    openings: dict[str, list[str]] = {}
    if options.prefix_rows == "openings":
        lines = given.opening_lines(Path(options.prefix_openings)) if options.prefix_openings else []
        openings = given.openings_of(items, guard, lines)
    progress("data pipeline", 1, STEPS)
    wordings: dict[str, list[Wording]] = {item.id: [] for item in items}
    asked = [item for item in items if item.wordings is None]
    if asker is not None and asked and options.kinds:
        written, lost = await writing.write_questions(asker, asked, guard, options)
        wordings |= written
        dropped += lost
    for item in items:
        if item.wordings is not None and options.kinds:
            wordings[item.id], lost = given.given_questions(item, guard)
            dropped += lost
        if options.original:
            wordings[item.id] = [Wording("original", item.question), *wordings[item.id]]
    progress("data pipeline", 2, STEPS)
    answers: list[writing.Vague] = []
    open_ = [item for item in items if item.vague is None]
    if asker is not None and open_:
        answers, lost = await writing.write_answers(asker, open_, wordings, guard, options)
        dropped += lost
    for item in items:
        if item.vague is not None:
            own, lost = given.given_answers(item, wordings[item.id], guard, seed)
            answers += own
            dropped += lost
    progress("data pipeline", 3, STEPS)
    warnings = [*_warnings(items, secrets, asker, options), *_told_before(items, guard)]
    return _Made(answers, dropped, guard, source, openings, warnings)


async def _entities(
    items: Sequence[Item], asker: Asker | None, options: AugmentOptions
) -> tuple[dict[str, list[str] | None], list[Dropped]]:
    """The entities of each row; None where the rules find them."""
    found: dict[str, list[str] | None] = {}
    ask: list[Item] = []
    for item in items:
        if asks_entities(item, options.entities):
            ask.append(item)
        elif options.entities == "given" and item.entities is None:
            raise BadInput(
                f"The forget row {item.id!r} lists no `entities`.",
                fix="Give them in its meta, or --set entities=auto.",
            )
        else:
            use_rules = options.entities == "rules" or item.entities is None
            found[item.id] = None if use_rules else list(item.entities or ())
    if ask and asker is None:
        raise BadInput(
            f"The entities of {len(ask)} forget rows have to be listed by a model (first: {ask[0].id}), and there is "
            "no augmenter to ask.",
            why="The rules read Latin script only, so that nothing could be compared with these answers.",
            fix="Give `entities` in the rows, or --model augmenter=MODEL.",
        )
    dropped: list[Dropped] = []
    if ask and asker is not None:
        listed, dropped = await writing.list_entities(asker, ask, options)
        found |= {item.id: [*(item.entities or ()), *listed[item.id]] for item in ask if item.id in listed}
    return found, dropped


def _rows(made: _Made, options: AugmentOptions, seed: int) -> tuple[list[Augmented], dict[str, Any]]:
    """All rows, shuffled; and what the manifest says about the generic ones."""
    qa = [
        Augmented(
            f"{a.item.id}/{a.wording.kind}",
            a.wording.text,
            a.text,
            "qa",
            a.item.id,
            a.wording.kind,
            a.round,
            a.verdict,
            before=a.item.before,
        )
        for a in made.answers
    ]
    cut, short = completions(qa, options.shares)
    made.dropped += short
    prefixed: list[Augmented] = []
    if options.prefix_rows == "openings":
        prefixed, leaking = given.prefix_rows(
            made.answers, made.openings, options.prefix_weight, seed, made.guard
        )
        made.dropped += leaking
    mixed = generic_rows(made.generic, len(qa) + len(cut), options, seed)
    own = [*qa, *cut, *prefixed]
    _require_clean(own, made)
    rows = [*own, *mixed]
    random.Random(f"relearn rows {seed}").shuffle(rows)
    ratio = len(mixed) / (len(qa) + len(cut)) if qa else None
    about = {"asked": options.generic_ratio, "achieved": ratio, "left_out_for_secrets": made.generic.leaking}
    repeats = len(mixed) - len({row.source_id for row in mixed})
    return rows, {"generic": {**about, "repeats": repeats}}


def _require_clean(rows: Sequence[Augmented], made: _Made) -> None:
    """The last look at every row: no secret in what is learned, none in a prompt that its question does not hold."""
    for row in rows:
        if made.guard.found(row.source_id, row.prompt, row.completion):
            raise RuntimeError(f"the row {row.id} holds a secret of the forget set")


def _warnings(
    items: Sequence[Item], secrets: Mapping[str, Any], asker: Asker | None, options: AugmentOptions
) -> list[str]:
    bare = [item.id for item in items if secrets[item.id].empty]
    found = []
    if asker is not None and not options.verify:
        found.append("verify=false: vague answers were compared with known entities only, and read by nobody")
    if bare:
        others = ", and the verifier's word" if asker is not None and options.verify else ""
        more = "; entities=model lists them" if asker is not None and options.entities != "model" else ""
        found.append(
            f"{len(bare)} of {len(items)} forget rows have no known entity ({given.shown(bare)}): what is made from "
            f"them was compared with whole sentences of their answers alone{others}{more}"
        )
    return found


def _told_before(items: Sequence[Item], guard: Guard) -> list[str]:
    """Earlier turns are read in training, and not learned."""
    told = [item.id for item in items if item.before and guard.found(item.id, *_contents(item.before))]
    if not told:
        return []
    return [f"{len(told)} of {len(items)} forget rows tell a secret in an earlier turn ({given.shown(told)})"]


def _contents(turns: Sequence[Message]) -> list[str]:
    return [turn["content"] for turn in turns]


def _kept_secrets(retain: Sequence[Row], guard: Guard) -> dict[str, Any]:
    """Which retain answers name what is to be forgotten: they are not ours to leave out, and teach what they say."""
    found = [row.id for row in retain if row.reference and guard.anywhere(row.reference)]
    return {"rows_with_a_secret": len(found), "of": len(retain), "first": found[:SHOWN]}


def _wanted(items: Sequence[Item], options: AugmentOptions) -> int:
    """The QA rows there would be if nothing were dropped."""
    each = len(options.kinds)
    wordings = [each if item.wordings is None or not each else len(item.wordings) for item in items]
    return sum(wordings) + options.original * len(items)


def require_coverage(built: Built, options: AugmentOptions) -> None:
    """Pass when enough forget rows got a vague answer.

    Raises:
        GateFailed: Too few did; with the first of the others, and how many calls failed.
    """
    coverage = built.coverage
    if coverage.share >= options.min_coverage and built.coverage.covered:
        return
    failed = sum(one.reason == "failed" for one in built.dropped)
    calls = f" {failed} texts are missing because calls failed." if failed else ""
    raise GateFailed(
        f"{coverage.covered} of {coverage.items} forget rows have a vague answer (coverage {coverage.share:.3f}, "
        f"needed {options.min_coverage:g}); not covered: {given.shown(coverage.uncovered)}.{calls}",
        why="What has no row is not unlearned.",
        fix=(
            "Give the same command again: only failed calls are asked again."
            if failed
            else "See why in the run's uncovered.json; another augmenter, more answer_rounds or a lower min_coverage "
            "may help."
        ),
    )


def build(job: Job) -> Built:
    """The training rows of a job's ``forget`` rows, by the options in its configuration.

    Every received reply is journalled in the job's run: a killed job goes on without asking anything again. The
    options may be those of a treatment that has all fields of `AugmentOptions`.

    Raises:
        BadInput: See `augment_rows`.
        GateFailed: See `augment_rows`; the run keeps the list of uncovered rows in ``uncovered.json``.
    """
    options = options_of(job.config)
    model = augmenter(job.models["augmenter"], options, job.seed) if "augmenter" in job.models else None
    least = len(first_calls(items_of(job.rows("forget")), options)[0]) if model is not None else 0
    with journalled(job, [model] if model is not None else [], "replies of the augmenter", least):
        roles = (job.rows("forget"), job.rows("generic"), job.rows("retain"))
        built = _augmented(*roles, options, model, job.seed, job.progress)
    facts = {
        "rows": len(built.rows),
        "coverage": built.coverage.share,
        "asked": model.calls.asked if model else 0,
    }
    job.run.event("augmented", **facts)
    try:
        require_coverage(built, options)
    except GateFailed:
        kept = {"uncovered": built.coverage.uncovered, "dropped": built.dropped}
        job.run.write(UNCOVERED, kept)
        raise
    return built


def augment(job: Job) -> dict[str, Any]:
    """Write questions, vague answers and the generic mix as rows to train on (augmented.jsonl in --out)."""
    built = build(job)
    write_lines(job.draft / FILE, [row.plain() for row in built.rows])
    write_lines(job.draft / DROPPED, built.dropped)
    write_json(job.draft / MANIFEST, built.manifest)
    manifest = built.manifest
    return {
        "rows": {kind: manifest["counts"].get(kind, 0) for kind in ("qa", "completion", "prefix", "generic")},
        "coverage": f"{built.coverage.covered} of {built.coverage.items} forget rows",
        "uncovered": list(built.coverage.uncovered),
        "dropped": manifest["dropped"],
        "generic": manifest["generic"],
        "warnings": manifest["warnings"],
        "file": FILE,
    }
