"""Stored records of the authors' evaluation, scored again by both rules, with their own labels beside.

A record has ``query``, ``pred``, ``gt``, ``entity_score`` (coverage, which may exceed 1 there), ``entity_gt`` and
``entity_pred`` (lists), ``ent_label`` (relation of the texts), and ``forget_label`` or ``retention_label``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safewright.data.load import read_objects
from safewright.errors import BadInput
from safewright.measures.forgetting.asking import FORGET, RETAIN
from safewright.measures.forgetting.config import ForgettingConfig
from safewright.types import Findings, Reading, Record, Status

LABELS: Mapping[str, str] = {"forget_label": FORGET, "retention_label": RETAIN}
"""Which set a record belongs to, by the label it carries."""
NEEDED = ("query", "pred", "gt")
RELATIONS = ("entailment", "neutral", "contradiction")
FIGURES: Mapping[str, str] = {"BI": "bi", "HS": "hs", "ttr": "rttr", "r1r": "rouge1", "rLr": "rougeL"}
"""Figures that a record may hold and that are made again from its text, under their names and ours."""
CLOSE = 1e-9


def rescore(path: Path, config: ForgettingConfig) -> tuple[Findings, list[Record], dict[str, Any]]:
    """What stored records say by the rule of the paper, by that of the release, and by their own labels.

    A record without a coverage score or relation is unscored by the rules: nothing is assumed about it.

    Raises:
        BadInput: The file cannot be read, or a record is none of this kind; with its place.
    """
    records = [_record(number, where, obj) for number, (where, obj) in enumerate(_objects(path), 1)]
    if not records:
        raise BadInput(f"{path} holds no records.", fix=f"Give records with {', '.join(NEEDED)}.")
    return Findings(tuple(_readings(records))), records, {"records": len(records), "preset": "both"}


def _objects(path: Path) -> list[tuple[str, Any]]:
    """The records of a file: one per line, a list, or lists by name in one object."""
    if path.suffix.lower() == ".json" and path.is_file():
        try:
            whole = json.loads(path.read_bytes())
        except ValueError:
            whole = None  # read_objects says where it is broken
        if isinstance(whole, dict):
            lists = {key: value for key, value in whole.items() if isinstance(value, list)}
            return [
                (f"{path}, {key} item {number}", obj)
                for key, value in lists.items()
                for number, obj in enumerate(value, 1)
            ]
    return list(read_objects(path))


def _record(number: int, where: str, obj: Any) -> Record:
    if not isinstance(obj, Mapping):
        raise BadInput(f"{where}: the record is no object.", fix=f"Give {', '.join(NEEDED)} and the rest.")
    lacking = [name for name in NEEDED if not isinstance(obj.get(name), str)]
    label = next((name for name in LABELS if name in obj), None)
    if lacking or label is None:
        found = ", ".join(sorted(map(str, obj))) or "none"
        missing = lacking[0] if lacking else " or ".join(LABELS)
        raise BadInput(f"{where}: `{missing}` is absent (fields found: {found}).", why=_WHY)
    role = LABELS[label]
    scores: dict[str, float | None] = {}
    status: dict[str, Status] = {}
    why = ""
    stored = _truth(obj[label], f"{where}: `{label}`")
    scores["stored"], status["stored"] = stored, "ok" if stored is not None else "unparsed"
    relation, ecs, references, lost = _given(obj)
    for rule in ("paper", "release"):
        value, state = (None, "unparsed") if lost else _decided(role, rule, ecs, references, relation)
        scores[rule], status[rule] = value, state  # type: ignore[assignment]
        why = lost or why
    for name, (value, _) in _figures(obj).items():
        scores[name], status[name] = value, "ok"
    meta = {
        "set": role,
        "ecs": ecs,
        "reference_entities": references,
        "relation": relation,
        "stored": {ours: given for ours, (_, given) in _figures(obj).items() if given is not None},
    }
    return Record(
        id=f"{role}/{number:05d}",
        input=({"role": "user", "content": obj["query"]},),
        output=obj["pred"],
        scores=scores,
        status=status,
        why=why,
        reference=obj["gt"],
        meta=meta,
    )


_WHY = "These are records of the authors' evaluation: query, pred, gt, the entity fields and a label."


def _truth(value: Any, where: str) -> float | None:
    """A stored label; None where it is null.

    Raises:
        BadInput: It is neither yes nor no.
    """
    if value is None:
        return None
    words = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}
    found = words.get(str(value).strip().lower().removesuffix(".0"))
    if found is None:
        raise BadInput(f"{where} is {value!r:.80}.", fix="It must be true or false, or 1 or 0.")
    return found


def _given(obj: Mapping[str, Any]) -> tuple[str | None, float | None, int, str]:
    """Relation, coverage and number of reference entities of a record, and what of it is missing."""
    relation = obj.get("ent_label")
    relation = relation.strip().lower() if isinstance(relation, str) else None
    entities = obj.get("entity_gt")
    if isinstance(entities, str):
        entities = [part for part in entities.split(",") if part.strip()]
    if not isinstance(entities, Sequence):
        return relation, None, 0, "entity_gt is missing"
    score = obj.get("entity_score")
    known = isinstance(score, (int, float)) and not isinstance(score, bool) and score >= 0
    if relation not in RELATIONS:
        return None, None, len(entities), f"ent_label is {obj.get('ent_label')!r:.40}"
    if entities and not known:
        return relation, None, len(entities), f"entity_score is {score!r:.40}"
    return relation, float(score) if entities and known and score is not None else None, len(entities), ""


def _decided(
    role: str, rule: Any, ecs: float | None, references: int, relation: str | None
) -> tuple[float | None, str]:
    from safewright.judges.coverage import decide

    found = decide("forgotten" if role == FORGET else "retained", rule, ecs, references, relation)
    return found.value, "ok" if found.value is not None else "unparsed"


def _figures(obj: Mapping[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Figures of the text, made again, each with the stored one where there is one."""
    from safewright.stats.lexical import lexical
    from safewright.stats.rouge import rouge_recall

    found = lexical(obj["pred"])
    own = {"bi": found.bi, "hs": found.hs, "rttr": found.rttr, **rouge_recall(obj["gt"], obj["pred"])}
    return {
        ours: (float(own[ours]), float(obj[theirs]) if _is_number(obj.get(theirs)) else None)
        for theirs, ours in FIGURES.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _readings(records: Sequence[Record]) -> list[Reading]:
    from safewright.stats import mean_reading, rate_reading

    found: list[Reading] = []
    for role, rate in ((FORGET, "kfr"), (RETAIN, "krr")):
        own = [record for record in records if record.meta["set"] == role]
        if not own:
            continue
        for rule in ("paper", "release", "stored"):
            values = [float(r.scores[rule] or 0.0) for r in own if r.status[rule] == "ok"]
            found.append(
                rate_reading(f"{rate}[{rule}]", values, unscored=len(own) - len(values), better="higher")
            )
        for rule in ("paper", "release"):
            both = [r for r in own if r.status[rule] == r.status["stored"] == "ok"]
            differ = sum(r.scores[rule] != r.scores["stored"] for r in both)
            name = f"count/{rate}_{rule}_differs_from_stored"
            found.append(Reading(name, float(differ), len(both), len(own) - len(both), None, "count"))
        for figure in FIGURES.values():
            values = [float(record.scores[figure] or 0.0) for record in own]
            limits = (0.0, 1.0) if figure.startswith("rouge") else None
            found.append(mean_reading(f"{figure}_{role}", values, bounds=limits))
            given = [
                (value, record.meta["stored"][figure])
                for record, value in zip(own, values, strict=True)
                if figure in record.meta["stored"]
            ]
            if given:
                same = sum(abs(a - b) <= CLOSE * max(1.0, abs(b)) for a, b in given)
                name = f"count/{figure}_{role}_as_stored"
                found.append(Reading(name, float(same), len(given), len(own) - len(given), None, "count"))
    return found
