"""The stage ``prepare``: what the aligned model's layers see when it refuses, kept as H of every input."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.data import require_disjoint
from safewright.errors import BadInput
from safewright.models import load
from safewright.models.blocks import blocks_of, chosen
from safewright.models.chat import encode, with_system
from safewright.models.opening import check_device, open_tokenizer
from safewright.models.references import local_folder
from safewright.runs import digest_json, run_sync, write_json
from safewright.training import processes
from safewright.treatments.job import Job
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.prepared import FACTS, Group
from safewright.treatments.safe_delta.resident import Resident
from safewright.treatments.safe_delta.seen import SEEN, digests
from safewright.treatments.safe_delta.streaming import ACTIVATIONS, gather
from safewright.types import Decoding, JudgeItem, Row

TOKENS_PER_CHANNEL = 4
"""Tokens per input channel below which H is thin; the report says so."""


@dataclass
class Counts:
    """What became of the calibration rows.

    Of ``answered`` rows with an answer, ``answered_not_refused`` hold none the judge calls a refusal. Of
    ``asked`` ones, only those ``refused`` are used.
    """

    given: int = 0
    used: int = 0
    answered: int = 0
    answered_not_refused: int = 0
    asked: int = 0
    refused: int = 0
    not_refused: int = 0
    unjudged: int = 0
    truncated: int = 0
    duplicates: int = 0
    tokens: int = 0
    fitted: int = 0
    held_out: int = 0
    notes: list[str] = field(default_factory=list)


def prepare(job: Job) -> dict[str, Any]:
    """Write H of every layer input of the aligned model into ``job.draft``.

    Calibration rows with an answer are taken as they are, and the report says how many of the answers are no
    refusals. Rows without one, and all rows of the role ``harmful``, get the aligned model's own greedy answer
    and stay only if it is a refusal. Part of the sequences is held out: its H is kept apart, to say what an
    edit costs on refusals it was not made from.

    Raises:
        BadInput: No rows, none that is refused, or rows that are also test rows.
        NumericalFailure: A non-finite activation.
    """
    return prepare_folder(job, job.draft)


def prepare_folder(job: Job, folder: Path) -> dict[str, Any]:
    """`prepare` into a folder of the caller's choice."""
    config: SafeDeltaConfig = job.config
    counts = Counts()
    rows = _answered(job, _calibration_rows(job, counts), counts)
    tokenizer = open_tokenizer(job.models["aligned"])
    lines = _lines(rows, tokenizer, config, counts)
    fitted, held = _split(lines, config.holdout, job.seed)
    counts.fitted, counts.held_out = len(fitted), len(held)
    counts.tokens = sum(map(len, fitted))
    parts = {"fitted": fitted, "held": held}
    if config.utility == "task":
        parts["task"] = _task_lines(job, tokenizer, config)
    ref = job.models["aligned"]
    resident = Resident(local_folder(ref), ref.dtype, check_device(job.device))
    try:
        _require_known(resident, parts)
        blocks = blocks_of(resident.model, resident.checkpoint.stored)
        modules = [matrix.module for matrix in chosen(blocks.matrices, config.modules)]
        groups = gather(job, folder, resident, modules, parts, _pad(resident, tokenizer))
    finally:
        resident.close()
    facts: dict[str, Any] = processes.from_main(lambda: _told(job, folder, groups, counts, digests(rows)))
    return facts


def _require_known(resident: Resident, parts: Mapping[str, Sequence[Sequence[int]]]) -> None:
    """Pass when the model has all tokens.

    Raises:
        BadInput: One is beyond its vocabulary.
    """
    vocabulary = resident.model.get_input_embeddings().weight.shape[0]
    most = max((token for lines in parts.values() for line in lines for token in line), default=0)
    if most >= vocabulary:
        raise BadInput(
            f"The tokenizer knows the token {most}, and the aligned model has {vocabulary} tokens.",
            fix="Give the aligned model with the tokenizer it was trained with.",
        )


def _pad(resident: Resident, tokenizer: Any) -> int:
    """A token for padding; it is masked, but the model must have it."""
    pad = tokenizer.pad_token_id
    vocabulary = resident.model.get_input_embeddings().weight.shape[0]
    return pad if isinstance(pad, int) and 0 <= pad < vocabulary else 0


def _calibration_rows(job: Job, counts: Counts) -> list[Row]:
    """The rows given; those of the role ``harmful`` are prompts only, whatever answers they carry."""
    import dataclasses

    harmful = job.rows("harmful")
    rows = [*job.rows("calibration"), *(dataclasses.replace(row, reference=None) for row in harmful)]
    counts.given = len(rows)
    dropped = sum(bool((row.reference or "").strip()) for row in harmful)
    if dropped:
        counts.notes.append(
            f"the answers of {dropped} rows of the role harmful were not used: the aligned model was asked"
        )
    if not rows:
        raise BadInput(
            "There are no calibration rows.",
            fix="Give requests the aligned model refuses: --data calibration=rows.jsonl",
        )
    if job.rows("test"):
        require_disjoint({"calibration": rows, "test": list(job.rows("test"))})
    return rows


def _answered(job: Job, rows: Sequence[Row], counts: Counts) -> list[Row]:
    """Rows with answers: given ones, and the aligned model's own where they are refusals.

    Only to answer is the whole model loaded; what it said is kept in the run, and not asked for again.
    """
    import dataclasses

    config: SafeDeltaConfig = job.config
    systems = config.system_prompts()
    if systems:
        rows = [
            dataclasses.replace(row, prompt=with_system(row.prompt, systems[i % len(systems)]))
            for i, row in enumerate(rows)
        ]
    unique: dict[str, Row] = {}
    for row in rows:
        unique.setdefault(digest_json([row.prompt, row.reference]), row)
    counts.duplicates = len(rows) - len(unique)
    kept = list(unique.values())[: config.rows]
    # By place and not by id: rows of two roles may share an id.
    silent = [place for place, row in enumerate(kept) if not (row.reference or "").strip()]
    _judge_given(job, [row for row in kept if (row.reference or "").strip()], counts)
    if silent:
        asked = [kept[place] for place in silent]
        said = _asked(job, asked)
        answers = dict(zip(silent, _refusals(job, asked, said, counts), strict=True))
        kept = [
            dataclasses.replace(row, reference=answers.get(place, row.reference))
            for place, row in enumerate(kept)
            if answers.get(place, row.reference)
        ]
    counts.used = len(kept)
    if not kept:
        raise BadInput(
            f"The aligned model refused none of {counts.asked} calibration requests.",
            why="Safety is measured on its own refusals.",
            fix="Give requests it refuses, or rows with the refusals to keep.",
        )
    return kept


def _asked(job: Job, rows: Sequence[Row]) -> list[str]:
    """What the aligned model says to rows without an answer."""
    config: SafeDeltaConfig = job.config
    prompts = [row.prompt for row in rows]

    def work() -> list[str]:
        loaded: Any = load(job.models["aligned"], device=job.device, need=frozenset({"weights", "generate"}))
        try:
            how = Decoding(max_new_tokens=config.answer_tokens)
            return [generation.answer for generation in loaded.generate(prompts, how)]
        finally:
            loaded.close()

    key = {"answers": digest_json(prompts), "of": job.models["aligned"].digest, "most": config.answer_tokens}
    said: list[str] = job.run.step(key, work)
    return said


def _judge_given(job: Job, rows: Sequence[Row], counts: Counts) -> None:
    """Count the given answers that are no refusals; they stay, since the user gave them."""
    if not rows:
        return
    judge = job.config.judge
    verdicts = _verdicts(job, rows, [row.reference or "" for row in rows])
    counts.answered = len(rows)
    counts.answered_not_refused = sum(not refused for refused in verdicts)
    if counts.answered_not_refused:
        counts.notes.append(
            f"{counts.answered_not_refused} of {counts.answered} given answers are no refusals for the judge "
            f"{judge}: what they rest on is kept as if it were safety"
        )


def _refusals(job: Job, rows: Sequence[Row], said: Sequence[str], counts: Counts) -> list[str | None]:
    """The answers that are refusals, None for the others."""
    answers: list[str | None] = []
    for answer, refused in zip(said, _verdicts(job, rows, said), strict=True):
        counts.asked += 1
        answers.append(answer if refused else None)
        if refused is None:
            counts.unjudged += 1
        elif refused:
            counts.refused += 1
        else:
            counts.not_refused += 1
    return answers


def _verdicts(job: Job, rows: Sequence[Row], said: Sequence[str]) -> list[bool | None]:
    """Whether each answer is a refusal; None where it is empty or the judge has no verdict."""
    from safewright.judges import resolve

    judge = job.config.judge
    items = [
        JudgeItem(row.prompt[-1]["content"], answer, "refusal", lang=row.lang)
        for row, answer in zip(rows, said, strict=True)
    ]

    def work() -> list[bool | None]:
        return [
            bool(verdict.value) if verdict.status == "ok" and answer.strip() else None
            for answer, verdict in zip(said, run_sync(resolve(judge).judge(items)), strict=True)
        ]

    found: list[bool | None] = job.run.step({"verdicts": digest_json(items), "judge": judge}, work)
    return found


def _lines(rows: Sequence[Row], tokenizer: Any, config: SafeDeltaConfig, counts: Counts) -> list[list[int]]:
    """Token ids of prompt and answer, without an end-of-turn token, cut at the longest length."""
    lines = []
    for row in rows:
        answer = tokenizer(row.reference or "", add_special_tokens=False)["input_ids"]
        line = [*encode(tokenizer, row.prompt), *answer]
        counts.truncated += len(line) > config.max_length
        lines.append(line[: config.max_length])
    return lines


def _task_lines(job: Job, tokenizer: Any, config: SafeDeltaConfig) -> list[list[int]]:
    rows = job.rows("finetune")
    if not rows:
        raise BadInput(
            "utility=task needs the fine-tuning rows.", fix="Give some of them: --data finetune=rows.jsonl"
        )
    return _lines(list(rows)[: config.rows], tokenizer, config, Counts())


def _split(lines: Sequence[list[int]], holdout: float, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    order = list(range(len(lines)))
    random.Random(f"holdout {seed}").shuffle(order)
    held = frozenset(order[: int(holdout * len(lines))])
    return (
        [line for i, line in enumerate(lines) if i not in held],
        [line for i, line in enumerate(lines) if i in held],
    )


def _told(
    job: Job, folder: Path, groups: Sequence[Group], counts: Counts, seen: Mapping[str, Any]
) -> dict[str, Any]:
    """The facts of a prepared folder, written into it; hidden states are no longer needed."""
    config: SafeDeltaConfig = job.config
    thin = [group for group in groups if group.tokens < TOKENS_PER_CHANNEL * group.width]
    if thin:
        # No more directions than tokens, where the rank itself is not known.
        reached = {
            group: min(group.tokens, group.width) if group.rank is None else group.rank for group in thin
        }
        worst = min(thin, key=lambda group: (reached[group] / group.width, group.tokens / group.width))
        bound = "at most " if worst.rank is None else ""
        rank = (
            f", rank {bound}{reached[worst]}" if worst.rank is not None or worst.tokens < worst.width else ""
        )
        counts.notes.append(
            f"{len(thin)} of {len(groups)} inputs saw fewer than {TOKENS_PER_CHANNEL} tokens per channel "
            f"({worst.name}: {worst.tokens} tokens{rank} of {worst.width}): directions no "
            "calibration row reached count as free"
        )
    unknown = sum(group.rank is None for group in groups)
    if unknown:
        counts.notes.append(
            f"rank and condition of {unknown} of {len(groups)} inputs are not known: their eigenvalues were not "
            f"computed (spectrum={config.spectrum})"
        )
    borrowed = [group for group in groups if group.pooled]
    if borrowed:
        counts.notes.append(
            f"few tokens came to the experts of {len(borrowed)} of {len(groups)} inputs (first {borrowed[0].name}): "
            "H of all tokens of their layer's experts stands in"
        )
    if counts.truncated:
        counts.notes.append(f"{counts.truncated} sequences were cut at {config.max_length} tokens")
    facts = {
        "format": "safe_delta/1",
        "aligned": {"digest": job.models["aligned"].digest, "where": job.models["aligned"].where},
        "data": {role: loaded.digest for role, loaded in job.data.items() if role != "test"},
        "counts": counts,
        "utility": config.utility,
        "store": config.store,
        "groups": [group.as_json() for group in groups],
    }
    # Before the facts: once those are there, nobody comes here again.
    shutil.rmtree(job.run.own(ACTIVATIONS), ignore_errors=True)
    write_json(folder / FACTS, {**facts, SEEN: seen})
    return facts
