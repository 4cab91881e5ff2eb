"""The trainings that are no plain fine-tuning: `objective=dpo` and `objective=on_policy_kl`, by the shared loop."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.errors import BadInput
from safewright.prompts.prompt import load as load_prompt
from safewright.training.encoding import Example, pad_token
from safewright.training.fitting import History, fit, with_lora
from safewright.training.pairing import Pairs, collate_pairs
from safewright.training.references import Live
from safewright.treatments.job import Job
from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.encoding import Student
from safewright.treatments.srg.guidelines import Guidelines
from safewright.treatments.srg.kept import context_text
from safewright.treatments.srg.on_policy import GUIDED, PROMPT, OnPolicy
from safewright.treatments.srg.preferences import Preferences, Preferring
from safewright.treatments.srg.records import Reasoned
from safewright.treatments.srg.rows import build_rows
from safewright.treatments.srg.training import room

MOST_DROPPED = 0.05
"""Share of requests or pairs that may be longer than ``max_length``."""


@dataclass(frozen=True)
class Other:
    """What such a training made: the model, what was seen, the loss that must fall, and what the report says."""

    model: Any
    history: History
    loss: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def train_other(
    job: Job,
    student: Student,
    model: Any,
    records: Sequence[Reasoned],
    examples: Sequence[Example],
    *,
    folder: Path | None = None,
) -> Other:
    """Train a student by the objective of a job's configuration.

    Args:
        job: The treatment at work.
        student: Its tokenizer, with what rows have in common.
        model: Its model, plain; a new adapter is put on it where the configuration wants one.
        records: What is trained on.
        examples: What plain fine-tuning would learn of them: for dpo, learned beside the pairs.
        folder: Where checkpoints lie.

    Raises:
        BadInput: dpo without rejected candidates, rows that are too long, or a text kept where it is distilled.
        NumericalFailure: A loss is no number.
    """
    config: SRGConfig = job.config
    if config.objective == "on_policy_kl" and config.context == "kept":
        raise BadInput(
            "objective is on_policy_kl, and context=kept.",
            why="The text is what the student is to do without: only its frozen copy is shown it.",
            fix="Leave out context; context_file names another text than the guidelines.",
        )
    before = None if config.lora_rank else copy.deepcopy(model).requires_grad_(False).eval()
    reference = Live(pad_token(student.tokenizer), before, config.precision == "bf16")
    make = _on_policy if config.objective == "on_policy_kl" else _dpo
    longest = room(config, model)
    data, objective, facts, notes = make(job, student, reference, records, examples, longest)
    if config.lora_rank:
        model = with_lora(
            model, config.lora_rank, config.alpha, config.lora_dropout, config.targets, seed=job.seed
        )
    else:
        model.requires_grad_(True)
    history = fit(
        model,
        data,
        collate_pairs(reference.pad),
        objective,
        config.fit_options(),
        folder=folder,
        seed=job.seed,
        device=job.device,
        progress=job.progress,
    )
    facts["first_and_last_of"] = ends_of(history)
    if isinstance(objective, Preferring):
        notes += displaced(history)
    if isinstance(objective, OnPolicy):
        # By the history, which is that of all processes: an objective has seen the draws of its own alone.
        drawn = history.steps * config.batch
        unended = drawn - round(config.batch * sum(history.values("ended")))
        facts["drawn"], facts["drawn_without_end"] = drawn, unended
        if unended > drawn / 2:
            notes.append(
                f"{unended} of {drawn} drawn answers did not end within {config.kl_tokens} tokens "
                "(kl_tokens): what lies behind was not trained"
            )
    return Other(model, history, objective.parts[0], facts, tuple(notes))


OWN = frozenset({"learning_rate", "grad_norm", "step", "loss"})
"""Columns of the loop that are no part of the loss."""


def ends_of(history: History) -> dict[str, str]:
    """Of every part, and of what was told besides, the mean over the first and over the last tenth of the steps."""
    names = sorted({name for line in history.losses for name in line} - OWN)
    return {name: "{:.4g} to {:.4g}".format(*tenths(history.values(name))) for name in names}


def tenths(values: Sequence[float]) -> tuple[float, float]:
    """The means of the first and of the last tenth of some values."""
    tenth = max(1, len(values) // 10)
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def displaced(history: History) -> list[str]:
    """A note where the kept traces became less likely while they were preferred: what took their place is neither."""
    first, last = tenths(history.values("chosen_nll"))
    if last <= first:
        return []
    return [
        f"the kept traces became less likely while they were preferred (NLL {first:.4g} to {last:.4g} a trace): look "
        "for broken answers; a lower lr or a larger dpo_beta or dpo_learned holds them"
    ]


_Made = tuple[Any, Any, dict[str, Any], list[str]]


def _dpo(
    job: Job,
    student: Student,
    reference: Live,
    records: Sequence[Reasoned],
    examples: Sequence[Example],
    longest: int,
) -> _Made:
    """Pairs of kept and rejected completions, beside all rows.

    Raises:
        BadInput: There are none, or too many are too long.
    """
    config: SRGConfig = job.config
    kept, other, left, why = pairs_of(student, records, longest)
    if not kept:
        raise BadInput(
            f"objective=dpo, and none of {len(records)} records has rejected candidates to learn from.",
            why="A kept trace is preferred to those that the filter rejected.",
            fix="Give records with `rejected`, as safewright treat srg synthesize writes them; adaptive_k=false "
            "draws more.",
        )
    _require_short(left["too long"], len(kept) + left["too long"], "pairs", longest)
    facts: dict[str, Any] = {"pairs": len(kept), "rejected_because": dict(sorted(why.items()))}
    facts |= {"pairs_left_out": dict(left)} if left else {}
    data = Preferences(examples if config.dpo_learned else [], kept, other, job.seed)
    objective = Preferring(reference, pad=reference.pad, beta=config.dpo_beta, learned=config.dpo_learned)
    asked = {record.id for record in records if record.rejected}
    notes = [f"{len(asked)} of {len(records)} records have rejected candidates: {len(kept)} pairs"]
    return data, objective, facts, notes


def pairs_of(
    student: Student, records: Sequence[Reasoned], longest: int
) -> tuple[list[Example], list[Example], Counter[str], Counter[str]]:
    """Every kept completion beside each of its rejected ones, as token ids.

    Returns:
        Kept and rejected ones in one order; how many candidates were left out, by reason (``the same``, ``no
        trace``, ``too long``); and why those that were taken had been rejected.
    """
    kept: list[Example] = []
    other: list[Example] = []
    left: Counter[str] = Counter()
    why: Counter[str] = Counter()
    for record in records:
        if not record.rejected or record.type == "general":
            continue
        chosen = student.example(record.id, student.built(record))
        for place, candidate in enumerate(record.rejected):
            as_record = dataclasses.replace(
                record,
                reasoning=candidate.reasoning.strip(),
                answer=candidate.answer.strip(),
                refusal=None,
                restated=None,
                verdict=None,
            )
            try:
                row = student.example(f"{record.id}/{place}", student.built(as_record))
            except BadInput:  # no reasoning, or no answer: in this target's format there is nothing to say
                left["no trace"] += 1
                continue
            if row.ids == chosen.ids:
                left["the same"] += 1
            elif max(len(row.ids), len(chosen.ids)) > longest:
                left["too long"] += 1
            else:
                kept.append(dataclasses.replace(chosen, id=row.id))
                other.append(row)
                why[candidate.why or "not said"] += 1
    return kept, other, left, why


def _on_policy(
    job: Job,
    student: Student,
    reference: Live,
    records: Sequence[Reasoned],
    examples: Sequence[Example],
    longest: int,
) -> _Made:
    """Every request, alone and below the guidelines.

    Raises:
        BadInput: Too many are too long for an answer to be drawn.
    """
    config: SRGConfig = job.config
    shown = contexts_of(config)
    plain: list[Example] = []
    guided: list[Example] = []
    long = 0
    most = longest - config.kl_tokens
    if most < 1:
        raise BadInput(
            f"kl_tokens is {config.kl_tokens}, and a row has at most {longest} tokens.",
            why="A request and what is drawn to it must fit together.",
            fix="Raise max_length, or lower kl_tokens.",
        )
    for record in records:
        own = student.prompt(record.messages)
        # General rows are drawn to what the student said before, without a text: it is to stay as it was there.
        text = None if record.type == "general" else shown(record.type)
        below = own if text is None else student.prompt(build_rows(record, "rt", context=text).prompt)
        if len(below) > most:
            long += 1
            continue
        plain.append(Example(record.id, tuple(own), len(own)))
        guided.append(Example(record.id, tuple(below), len(below)))
    _require_short(long, len(records), "requests", longest)
    data = Pairs(plain, beside={GUIDED: guided}, lead=PROMPT, seed=job.seed)
    objective = OnPolicy(
        plain,
        guided,
        reference,
        stops=student.stops,
        pad=reference.pad,
        new_tokens=config.kl_tokens,
        temperature=config.kl_temperature,
        seed=job.seed,
    )
    facts: dict[str, Any] = {"requests": len(plain), **({"too_long": long} if long else {})}
    facts["shown"] = config.context_file or config.guidelines
    notes = [
        "the answers of the records were not read: each token is drawn to the student's own, below the text"
    ]
    return data, objective, facts, notes


def contexts_of(config: SRGConfig) -> Callable[[str], str]:
    """What the frozen student is shown above a request of a type: the text of ``context_file`` as it is, else the
    guidelines of that type under an instruction to think by them."""
    if config.context_file is not None:
        text = context_text(config)
        return lambda kind: text
    guidelines = Guidelines.load(config.guidelines)
    prompt = load_prompt("srg_shown")
    made: dict[str, str] = {}

    def shown(kind: str) -> str:
        if kind not in made:
            made[kind] = prompt.render(
                open=config.think_open,
                close=config.think_close,
                words=config.most_words,
                guidelines=guidelines.render(kind, 0),
            )
        return made[kind]

    return shown


def _require_short(long: int, count: int, what: str, longest: int) -> None:
    """Pass where few were too long.

    Raises:
        BadInput: Too many were, or all.
    """
    if count and (long > MOST_DROPPED * count or long == count):
        raise BadInput(
            f"{long} of {count} {what} do not fit into {longest} tokens.",
            why="Left out, they would be missed; cut, they would lose their answers.",
            fix="Raise max_length (up to what the model reads), or shorten the rows.",
        )
