"""One training of `srg`: rows gathered and encoded, fitted by TRL or by an objective of our own, and saved."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from safewright.errors import BadInput
from safewright.models.recipes import RECIPE_FILE
from safewright.runs import digest_json, to_json, versions, write_json
from safewright.training import processes
from safewright.training.encoding import Example
from safewright.training.fitting import History, fell, save_trained, with_lora
from safewright.training.sft import passes, train_sft
from safewright.treatments.job import Job, Made
from safewright.treatments.srg import openings as begun
from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.encoding import Student, require_kept
from safewright.treatments.srg.kept import kept_text
from safewright.treatments.srg.mixing import Mixed, mix, shares
from safewright.treatments.srg.records import TYPES, Reasoned
from safewright.types import Check, Recipe

CHECKPOINTS = "training"
"""Where checkpoints are kept inside the run."""

MOST_DROPPED = 0.05
"""Share of rows that may be longer than max_length."""

SHORTER = ("rt", "noguide", "label")
"""Targets that learn less of a record than its reasoning."""


@dataclass
class Encoded:
    """Records whose rows fit, their examples for the target, and the ids of those that do not fit."""

    records: list[Reasoned]
    examples: list[Example]
    longest: int
    dropped: list[str] = field(default_factory=list)


def learns_reasoning(config: SRGConfig, record: Reasoned) -> bool:
    """Whether reasoning is learned of a record."""
    return config.reasons and bool(record.reasoning) and (config.reason_on == "all" or record.harmful)


def train(job: Job) -> Made:
    """The treatment of a job: gather, encode, examine, fit, save.

    Raises:
        BadInput: See `mixing.mix`, `encoding.Student` and `encoding.require_kept`; too many rows are too long.
        NumericalFailure: A loss is no number.
    """
    from safewright.models import load

    config: SRGConfig = job.config
    mixed = mix(job)
    loaded: Any = load(job.models["student"], device=job.device, need=frozenset({"gradient"}))
    try:
        tokenizer, model = loaded.tokenizer, loaded.model
        student = Student(tokenizer, config, frozenset(loaded.stops), kept_text(config))
        if config.objective == "on_policy_kl":  # no answer of a record is read
            encoded, examined = Encoded(list(mixed.records), [], room(config, model)), 0
        else:
            encoded = encode(student, mixed.records, room(config, model))
            examined = examine(student, encoded)
        merged = job.models["student"].kind == "adapter"
        if merged:
            model = model.merge_and_unload()
        generation = copy.deepcopy(model.generation_config)
        loss = "loss"
        if config.objective == "sft":
            model, history, facts = supervised(job, student, adapted(config, model, job.seed), encoded)
        else:
            from safewright.treatments.srg import objectives

            folder = job.run.own(CHECKPOINTS)
            other = objectives.train_other(
                job, student, model, encoded.records, encoded.examples, folder=folder
            )
            model, history, facts, loss = other.model, other.history, dict(other.facts), other.loss
            mixed.notes.extend(other.notes)
        if merged and config.lora_rank:
            # The result's base exists nowhere as a folder: it was given as an adapter.
            model = model.merge_and_unload()
            mixed.notes.append("the student is an adapter: the result is the whole model, merged")
        if not hasattr(model, "peft_config"):
            model.generation_config = generation
        kind = save_trained(model, tokenizer, job.draft)
        write_recipe(job)
    finally:
        loaded.close()
    report = report_of(job, mixed, encoded, history, facts)
    checks = [fell(history.values(loss))]
    if examined:
        checks.append(
            Check("the template keeps the reasoning", True, f"{examined} rows rendered and read back")
        )
    return Made(kind, tuple(checks), report)


def adapted(config: SRGConfig, model: Any, seed: int) -> Any:
    """The model with what is trained of it: a new adapter, or all weights."""
    if not config.lora_rank:
        return model.requires_grad_(True)
    return with_lora(model, config.lora_rank, config.alpha, config.lora_dropout, config.targets, seed=seed)


def room(config: SRGConfig, model: Any) -> int:
    """Longest row in tokens: the option, or what the model can read."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(config.max_length, limit) if limit else config.max_length


def encode(student: Student, records: Sequence[Reasoned], longest: int) -> Encoded:
    """The rows of the target as examples; those longer than ``longest`` tokens are left out.

    So are those that are too long with their reasoning, where the target learns less: all targets are trained on
    the same requests.

    Raises:
        BadInput: More than 5 % are.
    """
    found = Encoded([], [], longest)
    shorter = student.config.target in SHORTER
    for record in records:
        example = student.example(record.id, student.built(record))
        most = len(example.ids)
        if shorter and record.reasoning:
            most = max(most, len(student.example(record.id, student.built(record, target="srg")).ids))
        if most > longest:
            found.dropped.append(record.id)
            continue
        found.records.append(record)
        found.examples.append(example)
    if len(found.dropped) > MOST_DROPPED * len(records):
        raise BadInput(
            f"{len(found.dropped)} of {len(records)} rows are longer than {longest} tokens"
            f"{' with their reasoning' * shorter} (first: {found.dropped[0]}).",
            why=f"A cut row would lose its decision and answer; more than {MOST_DROPPED:.0%} left out is another set.",
            fix="Raise max_length (up to what the model reads), or shorten the reasoning.",
        )
    return found


def examine(student: Student, encoded: Encoded) -> int:
    """How many rows were read back; see `require_kept`."""
    places = [
        place for place, record in enumerate(encoded.records) if learns_reasoning(student.config, record)
    ]
    if student.config.reasons and not places:
        raise BadInput(
            "No row has reasoning.",
            why=f"target={student.config.target} learns it.",
            fix="Give rows with reasoning (--data reasoned=FILE), or use target=rt.",
        )
    return require_kept(
        student, [encoded.records[place] for place in places], [encoded.examples[place] for place in places]
    )


def supervised(
    job: Job, student: Student, model: Any, encoded: Encoded
) -> tuple[Any, History, dict[str, Any]]:
    """The model trained on the rows of its target; what was seen, and what the report says of the rows."""
    config: SRGConfig = job.config
    facts: dict[str, Any] = {}
    held: list[Example] = []
    if config.holdout:
        encoded, held = held_out(encoded, config.holdout, job.seed)
    steps = config.fit_options().planned(len(encoded.examples))
    if config.budget == "tokens":
        steps, facts["budget"] = budgeted(student, encoded, steps)
    sources = passes(len(encoded.examples), steps * config.batch, job.seed)
    examples, order = encoded.examples, sources
    if config.harden:
        examples, order = reentered(job, student, encoded, sources)
        entered = sum(place != source for place, source in zip(order, sources, strict=True))
        facts["begun_turns"] = round(entered / len(order), 4)
    trained, history = train_sft(
        model,
        student.tokenizer,
        examples,
        config.fit_options(steps),
        order=order,
        held=held,
        folder=job.run.own(CHECKPOINTS),
        seed=job.seed,
        device=job.device,
        progress=job.progress,
    )
    # What was read: all that was planned, unless held-out rows ended it.
    read = list(zip(order, sources, strict=True))[: history.steps * config.batch]
    rows: Counter[str] = Counter()
    learned: Counter[str] = Counter()
    for place, source in read:
        rows[encoded.records[source].type] += 1
        learned[encoded.records[source].type] += examples[place].supervised
    facts["learned_tokens"] = learned.total()
    facts["row_shares"] = shares({kind: rows[kind] for kind in TYPES if rows[kind]})
    facts["token_shares"] = shares({kind: learned[kind] for kind in TYPES if learned[kind]})
    if held:
        best = min(history.held, key=lambda line: line["nll"])
        facts["held_out"] = {
            "rows": len(held),
            "planned": steps,
            "kept_step": best["step"],
            "nll": history.held,
        }
    return trained, history, facts


def held_out(encoded: Encoded, share: float, seed: int) -> tuple[Encoded, list[Example]]:
    """The rows without a share of them, and that share: the same requests for every target, and all rows of each.

    Raises:
        BadInput: There are none, or nothing else.
    """
    places: dict[str, list[int]] = {}
    for place, record in enumerate(encoded.records):
        places.setdefault(digest_json(["held out", seed, record.messages]), []).append(place)
    chosen: set[int] = set()
    wanted = round(share * len(encoded.records))
    for key in sorted(places):
        if len(chosen) < wanted:
            chosen.update(places[key])
    kept = [place for place in range(len(encoded.records)) if place not in chosen]
    if not chosen or not kept:
        raise BadInput(
            f"holdout is {share:g}: of {len(encoded.records)} rows {len(chosen)} would be held out.",
            fix="Give more rows, or another share.",
        )
    rest = replace(
        encoded,
        records=[encoded.records[place] for place in kept],
        examples=[encoded.examples[place] for place in kept],
    )
    return rest, [encoded.examples[place] for place in sorted(chosen)]


def budgeted(student: Student, encoded: Encoded, steps: int) -> tuple[int, dict[str, float]]:
    """The steps in which a target learns as many tokens as srg does in its own.

    Raises:
        BadInput: The rows have no reasoning to be compared with.
    """
    own = sum(example.supervised for example in encoded.examples)
    pairs = zip(encoded.records, encoded.examples, strict=True)
    other = sum(
        student.example(record.id, student.built(record, target="srg")).supervised
        if record.reasoning
        else example.supervised
        for record, example in pairs
    )
    if not any(record.reasoning for record in encoded.records):
        raise BadInput(
            "budget is tokens, and no row has reasoning.",
            why="The budget is that of target=srg on the same rows.",
            fix="Give the rows with their reasoning (--data reasoned=FILE), or use budget=rows.",
        )
    count = max(1, math.ceil(steps * other / own))
    return count, {"steps_of_srg": steps, "tokens_of_srg": other, "tokens": own}


def reentered(
    job: Job, student: Student, encoded: Encoded, order: Sequence[int]
) -> tuple[list[Example], list[int]]:
    """The examples with those of begun turns behind them, and the order in which a share of the rows that reason are
    begun ones. Which, and how, is drawn anew in each pass."""
    config: SRGConfig = job.config
    known = begun.openings(config)
    student.require_known(known, "the opening (reentry_openings)")
    examples, found = list(encoded.examples), list(order)
    places: dict[tuple[int, str], int] = {}
    passed: Counter[int] = Counter()
    for spot, place in enumerate(order):
        record, turn = encoded.records[place], passed[place]
        passed[place] += 1
        if not learns_reasoning(config, record):
            continue
        opening = begun.drawn(known, config.harden, job.seed, record.id, turn)
        if opening is None:
            continue
        if (place, opening) not in places:
            made = student.example(f"{record.id} begun", student.built(record, opening=opening))
            if len(made.ids) > encoded.longest:
                continue
            places[place, opening] = len(examples)
            examples.append(made)
        found[spot] = places[place, opening]
    return examples, found


def write_recipe(job: Job) -> None:
    """How the model is read: the markers of its reasoning, beside what the student's own recipe says."""
    config: SRGConfig = job.config
    own = job.models["student"].recipe
    if not processes.is_main() or (not config.reasons and own is None):
        return
    base = own or Recipe()
    visible = config.markers if config.reasons else base.visible
    write_json(job.draft / RECIPE_FILE, to_json(Recipe(base.prepare, base.decoding, visible)))


def report_of(
    job: Job, mixed: Mixed, encoded: Encoded, history: History, facts: dict[str, Any]
) -> dict[str, Any]:
    """The report: rows, losses, conventions, and notes that must be read first."""
    config: SRGConfig = job.config
    notes = list(mixed.notes)
    if encoded.dropped:
        notes.append(
            f"{len(encoded.dropped)} of {len(mixed.records)} rows are longer than max_length and were left out "
            f"(first: {encoded.dropped[0]})"
        )
    if config.context == "kept":
        notes.append(
            "the guidelines were kept in the training prompts: without the same text in the system turn the model "
            "is another one"
        )
    if "held_out" in facts and history.steps < facts["held_out"]["planned"]:
        notes.append(
            f"stopped at step {history.steps} of {facts['held_out']['planned']}: the loss of held-out rows had risen "
            f"twice; the weights of step {facts['held_out']['kept_step']:g} were kept"
        )
    losses = history.values()
    return {
        "target": config.target,
        "objective": config.objective,
        **mixed.facts,
        **facts,
        "dropped": len(encoded.dropped),
        "steps": history.steps,
        "first_and_last": f"{losses[0]:.4g} to {losses[-1]:.4g}" if losses else "–",
        "losses": losses,
        "conventions": conventions(job),
        "notes": notes,
    }


def conventions(job: Job) -> dict[str, Any]:
    """What the training was done under."""
    config: SRGConfig = job.config
    return {
        "loss": "mean over the learned tokens of a step: completion and end token"
        if config.objective == "sft"
        else config.objective,
        "context": config.context,
        "reason_on": config.reason_on,
        "harden": config.harden,
        "holdout": config.holdout,
        "budget": config.budget,
        "trained": f"LoRA of rank {config.lora_rank}" if config.lora_rank else "all weights",
        "batch": config.batch,
        "lr": config.peak,
        "schedule": config.schedule,
        "warmup": config.warmup,
        "max_length": config.max_length,
        "markers": " ".join(config.markers.values()) if config.reasons else "none",
        "seed": job.seed,
        "versions": versions(("torch", "transformers", "trl", "peft", "accelerate")),
    }
