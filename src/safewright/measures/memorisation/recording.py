"""From what the models said to a record per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safewright.errors import BadInput
from safewright.measures.behaviour import answer_status
from safewright.measures.memorisation import core
from safewright.measures.memorisation.asking import ANSWER, FIRST_WRONG, Facts, Heard, wrong_of
from safewright.measures.memorisation.config import (
    CHOICES,
    FORGET,
    GENERATED,
    HOLDOUT,
    NORMALISED,
    SCORED,
    WITH_OPTIONS,
    MemorisationConfig,
    named,
)
from safewright.stats.rouge import rouge_recall
from safewright.types import Generation, Record, Row, Status

NO_TOKENS = "the answer has no tokens that fit the model's context"
Found = tuple[float | None, Status, str]
"""A score, its status, and why it has none."""


def record_of(role: str, row: Row, heard: Heard, config: MemorisationConfig, attacked: bool) -> Record:
    """One row with all its scores.

    Args:
        role: The role of the row, not of a model.
        row: What was asked.
        heard: What the models said.
        config: Options.
        attacked: Whether there are holdout rows, so that membership is scored too.
    """
    scores: dict[str, Found] = {}
    meta: dict[str, Any] = {"set": role}
    if role in SCORED:
        facts = heard.facts["target", row.id, ANSWER]
        meta |= {"tokens": facts.tokens, "cut": facts.cut}
        scores |= _of_answer(facts)
        if role in WITH_OPTIONS and wrong_of(row):
            scores |= _of_options(role, row, heard, meta)
        if attacked and role in (FORGET, HOLDOUT):
            scores |= _of_membership(row, facts, heard, config)
        others = _of_others(row, heard)
        if others is not None:
            meta["retrained"] = others
    if role == CHOICES:
        scores["multiple_choice"] = _choice(row, heard)
    said = heard.generations.get(("target", row.id, ANSWER))
    if config.rouge and role in GENERATED:
        scores |= _of_text(row, said)
    return Record(
        id=row.id,
        input=row.prompt,
        output=said.answer if said is not None else None,
        # A set's own names: rows of two sets never share a score.
        scores={_named(name, role): value for name, (value, _, _) in scores.items()},
        status={_named(name, role): status for name, (_, status, _) in scores.items()},
        why="; ".join(dict.fromkeys(why for _, _, why in scores.values() if why)),
        cluster=row.id,
        lang=row.lang,
        reference=row.reference,
        generation=said,
        meta=meta,
    )


def _named(name: str, role: str) -> str:
    return name if role == CHOICES else named(name, role)


def _known(values: Mapping[str, float | None]) -> dict[str, Found]:
    return {
        name: (value, "ok", "") if value is not None else (None, "no_answer", NO_TOKENS)
        for name, value in values.items()
    }


def _of_answer(facts: Facts) -> dict[str, Found]:
    return _known(
        {
            "probability": None if facts.loss is None else core.probability(facts.loss),
            "exact_memorisation": facts.exact,
            "extraction_strength": facts.extraction,
        }
    )


def _of_options(role: str, row: Row, heard: Heard, meta: dict[str, Any]) -> dict[str, Found]:
    found: dict[str, float | None] = {"truth_ratio": None, "truth_share": None}
    if role in NORMALISED:
        found["probability_normalised"] = None
    losses = heard.losses("target", row)
    facts = heard.facts["target", row.id, ANSWER]
    if losses is not None and facts.loss is not None:
        ratio = core.truth_ratio(*losses)
        meta["truth_ratio"] = ratio
        found["truth_ratio"] = core.closeness(ratio) if role == FORGET else core.truth(ratio)
        found["truth_share"] = core.truth_share(*losses)
        if role in NORMALISED:
            found["probability_normalised"] = core.normalised(facts.loss, losses[1])
    return _known(found)


def _of_membership(row: Row, facts: Facts, heard: Heard, config: MemorisationConfig) -> dict[str, Found]:
    loss = facts.loss
    found: dict[str, float | None] = {
        "loss": loss,
        "zlib": facts.zlib,
        "min_k": facts.min_k,
        "min_k_plus": facts.min_k_plus,
    }
    other = heard.facts.get(("reference", row.id, ANSWER))
    if other is not None:
        found["reference"] = None if loss is None or other.loss is None else loss - other.loss
    if config.gradient_norm:
        found["gradient_norm"] = heard.gradients.get(("target", row.id, ANSWER))
    return _known(found)


def _of_others(row: Row, heard: Heard) -> dict[str, float] | None:
    """What the retrained model makes of the row: nothing where no token of the answer is left, None if not asked."""
    facts = heard.facts.get(("retrained", row.id, ANSWER))
    if facts is None:
        return None
    if facts.loss is None:
        return {}
    scored = {name: getattr(facts, name) for name in ("loss", "zlib", "min_k", "min_k_plus")}
    found = {name: float(value) for name, value in scored.items() if value is not None}
    losses = heard.losses("retrained", row)
    return found if losses is None else {**found, "truth_ratio": core.truth_ratio(*losses)}


def _of_text(row: Row, said: Generation | None) -> dict[str, Found]:
    status, why = answer_status(Record(id=row.id, input=row.prompt, output=None, generation=said))
    if status != "ok" or said is None:
        return dict.fromkeys(("rouge_l_recall", "rouge_l_f1"), (None, status, why))
    reference = row.reference or ""
    recall = rouge_recall(reference, said.answer)["rougeL"]
    # The recall of the answer by the reference is the precision.
    precision = rouge_recall(said.answer, reference)["rougeL"]
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"rouge_l_recall": (recall, "ok", ""), "rouge_l_f1": (f1, "ok", "")}


def _choice(row: Row, heard: Heard) -> Found:
    """1 where the right letter has a higher log-probability than every other.

    Raises:
        BadInput: The tokenizer writes two of the letters alike.
    """
    keys = [
        ("target", row.id, ANSWER),
        *(("target", row.id, FIRST_WRONG + i) for i in range(len(wrong_of(row)))),
    ]
    facts = [heard.facts[key] for key in keys]
    known = [found.loss for found in facts if found.loss is not None]
    if len(known) < len(facts):
        return None, "no_answer", NO_TOKENS
    if len({found.ids for found in facts}) < len(facts):
        raise BadInput(
            f"The model's tokenizer writes two of the letters of {row.id} alike.",
            why="Which choice it prefers cannot be told.",
            fix="Leave out --data choices= for this model.",
        )
    return float(known[0] < min(known[1:])), "ok", ""


def values(records: Sequence[Record], name: str) -> tuple[list[float], list[str], int]:
    """The scores of a name with their rows' ids, and how many records should have it and do not."""
    asked = [record for record in records if name in record.status]
    good = [(record.scores[name], record.id) for record in asked if record.status[name] == "ok"]
    return [float(v) for v, _ in good if v is not None], [i for _, i in good], len(asked) - len(good)
