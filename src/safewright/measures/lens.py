"""Where a model keeps an answer: its candidates at the first answer tokens, and what each layer would say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from safewright.catalog import measure
from safewright.errors import BadInput
from safewright.measures.journal import Key, journal_rows
from safewright.models.lens import Layers, stream_layers
from safewright.models.scoring import Candidates, Encoded, encode_answer, stream_candidates, white_box
from safewright.runs import Run, digest_json
from safewright.stats import cluster_bootstrap, mean_reading
from safewright.types import Curve, Findings, Reading, Record, Row

FORGET, RETAIN = "forget", "retain"
BEFORE, AFTER = "before", "target"
TOP = 5
"""Candidates that are kept at every place."""

SCORES = ("top1_mass", "top5_mass", "entropy", "kl_step")
MASSES = ("top1_mass", "top5_mass")
NO_TOKENS = "the answer has no tokens that fit the model's context"


@dataclass(frozen=True)
class LensConfig:
    """Options of `lens`."""

    positions: int = field(
        default=4, metadata={"help": "How many of an answer's first tokens are looked at."}
    )

    def __post_init__(self) -> None:
        whole = isinstance(self.positions, int) and not isinstance(self.positions, bool)
        if not whole or not 1 <= self.positions <= 1000:
            raise BadInput(
                f"positions is {self.positions!r}.", fix="It must be a whole number from 1 to 1,000."
            )


Seen = Mapping[str, Any]
"""What one model shows on one row: its scores, ``places`` (a candidates list per answer token), ``layers``, and
``ids``, a digest of the tokens at whose places it was looked at."""


@measure(
    "lens",
    version="1",
    paper="2502.11190",
    config=LensConfig,
    takes=(AFTER,),
    optional=(BEFORE,),
    data=(FORGET,),
    optional_data=(RETAIN,),
    needs={"logprobs", "hidden"},
    behaviour=False,
)
def lens(
    models: Mapping[str, Any], rows: Sequence[Row], *, config: LensConfig, run: Run
) -> tuple[Findings, list[Record]]:
    """Candidates at the first answer tokens and the logit lens of every layer, before and after.

    The mass of the likeliest token and of the five likeliest, and the entropy (nats), at the places of the
    answer's first tokens under teacher forcing; and at the prompt's last token, for each layer, the likeliest
    tokens of softmax(W_U norm(h)) and the KL divergence of the last layer's distribution from it.
    """
    lacking = [row.id for row in rows if row.reference is None]
    if lacking:
        raise BadInput(
            f"{len(lacking)} of {len(rows)} rows have no answer (first: {lacking[0]}).",
            fix="Each needs response, output, answer, or a last assistant turn.",
        )
    roles = [role for role in (BEFORE, AFTER) if role in models]
    seen = {role: _look(role, models[role], rows, config, run) for role in roles}
    _check_tokens(seen)
    records = [_record(row, {role: seen[role].get(row.id) for role in roles}) for row in rows]
    return _findings(records, roles), records


def _check_tokens(seen: Mapping[str, Mapping[str, Seen]]) -> None:
    """Both models are looked at at the same tokens of each answer.

    Raises:
        BadInput: They are not: their tokenizers differ.
    """
    for row, found in seen.get(BEFORE, {}).items():
        own = seen[AFTER].get(row)
        if own is not None and own["ids"] != found["ids"]:
            raise BadInput(
                f"The model before cuts the answer of {row} into other tokens than the target.",
                why="Candidates at other places, or of another vocabulary, say nothing about what changed.",
                fix="Give the model that the target was made of: --model-role before=MODEL.",
            )


def _look(role: str, model: Any, rows: Sequence[Row], config: LensConfig, run: Run) -> dict[str, Seen]:
    """What one model shows on each row, by the row's id; a row whose answer has no tokens is left out."""
    keys: list[Key] = [(role, row.id, 0) for row in rows]
    candidates = journal_rows(run, "candidates", ("places", "ids"))
    places = {key: row["places"] for key, row in candidates.items()}
    ids = {key: row["ids"] for key, row in candidates.items()}
    layers = {key: row["layers"] for key, row in journal_rows(run, "layers", ("layers",)).items()}
    if any(key not in layers for key in keys):
        inner = white_box(model)
        items = [_encoded(inner, row) for row in rows]
        known = [place for place, item in enumerate(items) if item.answer]
        mine = [items[place] for place in known]
        decode = _decoder(inner.tokenizer)

        def done(journal: Mapping[Key, Any]) -> frozenset[int]:
            return frozenset(i for i, place in enumerate(known) if keys[place] in journal)

        first = stream_candidates(model, mine, first=config.positions, top=TOP, done=done(places))
        with closing(first) as stream:
            for ready in stream:
                for index, found in ready:
                    key = keys[known[index]]
                    places[key] = list(_places(found, decode))
                    ids[key] = digest_json(list(mine[index].answer[: config.positions]))
                    run.append("candidates", {"key": key, "places": places[key], "ids": ids[key]})
        prompts = [item.prompt for item in mine]
        with closing(stream_layers(model, prompts, top=TOP, done=done(layers))) as deep:
            for read in deep:
                for index, reading in read:
                    key = keys[known[index]]
                    layers[key] = list(_layers(reading, decode))
                    run.append("layers", {"key": key, "layers": layers[key]})
    return {
        key[1]: {
            **_scores(places[key], layers[key]),
            "places": places[key],
            "layers": layers[key],
            "ids": ids[key],
        }
        for key in keys
        if key in places and key in layers
    }


def _encoded(model: Any, row: Row) -> Encoded:
    answer = row.reference or ""
    if not answer.strip():
        return Encoded((), ())
    return encode_answer(model.tokenizer, row.prompt, answer, limit=model.limit)


def _decoder(tokenizer: Any) -> Any:
    known: dict[int, str] = {}

    def decode(token: int) -> str:
        if token not in known:
            known[token] = str(tokenizer.decode([token], skip_special_tokens=False))
        return known[token]

    return decode


def _places(found: Candidates, decode: Any) -> Iterator[dict[str, Any]]:
    for tokens, masses, entropy in zip(found.tokens, found.masses, found.entropy, strict=True):
        yield {"tokens": list(map(decode, tokens)), "masses": list(masses), "entropy": entropy}


def _layers(found: Layers, decode: Any) -> Iterator[dict[str, Any]]:
    for layer in found:
        yield {
            "tokens": list(map(decode, layer.tokens)),
            "masses": list(layer.masses),
            "entropy": layer.entropy,
            "kl": layer.kl,
        }


def _scores(places: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the answer's first tokens; ``kl_step`` is the largest fall of the KL from layer to layer."""
    kl = [layer["kl"] for layer in layers]
    return {
        "top1_mass": sum(place["masses"][0] for place in places) / len(places),
        "top5_mass": sum(_mass(place) for place in places) / len(places),
        "entropy": sum(place["entropy"] for place in places) / len(places),
        "kl_step": max((a - b for a, b in itertools.pairwise(kl)), default=0.0),
    }


def _mass(place: Mapping[str, Any]) -> float:
    # Five shares that make up the whole may add up to a little more.
    return min(1.0, float(sum(place["masses"])))


def _record(row: Row, seen: Mapping[str, Seen | None]) -> Record:
    role = str(row.meta.get("set", FORGET))
    after = seen[AFTER]
    meta: dict[str, Any] = {"set": role}
    for part in ("places", "layers"):
        meta[part] = {model: found[part] for model, found in seen.items() if found is not None}
    if BEFORE in seen and seen[BEFORE] is not None:
        meta[BEFORE] = {name: (seen[BEFORE] or {})[name] for name in SCORES}
    return Record(
        id=row.id,
        input=row.prompt,
        output=None,
        scores={_named(name, role): after[name] if after else None for name in SCORES},
        status={_named(name, role): "ok" if after else "no_answer" for name in SCORES},
        why="" if after else NO_TOKENS,
        cluster=row.id,
        lang=row.lang,
        reference=row.reference,
        meta=meta,
    )


def _named(name: str, role: str) -> str:
    """Rows of two sets never share a score: two runs are compared score by score."""
    return name if role == FORGET else f"{name}/set/{role}"


def _findings(records: Sequence[Record], roles: Sequence[str]) -> Findings:
    readings: list[Reading] = []
    curves: list[Curve] = []
    sets = dict.fromkeys(str(record.meta["set"]) for record in records)
    for role in sorted(sets, key=lambda role: role != FORGET):
        mine = [record for record in records if record.meta["set"] == role]
        good = [record for record in mine if record.meta["layers"].get(AFTER)]
        lost = len(mine) - len(good)
        for name in SCORES:
            label = _named(name, role)
            readings.append(_reading(label, name, [record.scores[label] for record in good], good, lost))
            if BEFORE not in roles:
                continue
            both = [record for record in good if BEFORE in record.meta]
            was = [record.meta[BEFORE][name] for record in both]
            if role == FORGET:
                readings.append(_reading(f"{name}/model/before", name, was, both, len(mine) - len(both)))
            change = [(record.scores[label] or 0.0) - b for record, b in zip(both, was, strict=True)]
            label = _named(f"{name}_change", role)
            readings.append(_reading(label, name, change, both, len(mine) - len(both), change=True))
        for model in roles:
            curves += _curves(role, model, [r for r in mine if r.meta["layers"].get(model)])
    return Findings(
        tuple(readings),
        tuple(curves),
        conventions={
            "places": "of the answer's first tokens, under teacher forcing; the lens at the prompt's last token",
            "lens": "softmax(W_U norm(h)) with the model's own final norm and head; layer 0 is the embedding",
            "kl": "sum p_L (log p_L - log p_l), nats, L the last layer",
        },
    )


def _reading(
    label: str,
    name: str,
    values: Sequence[float | None],
    records: Sequence[Record],
    lost: int,
    *,
    change: bool = False,
) -> Reading:
    known = [float(value) for value in values if value is not None]
    mass = name in MASSES
    bounds = (-1.0, 1.0) if change else (0.0, 1.0)
    return mean_reading(
        label,
        known,
        [record.id for record in records],
        lost,
        unit=("difference" if change else "rate") if mass else "nats",
        bounds=bounds if mass else None,
    )


def _curves(role: str, model: str, records: Sequence[Record]) -> list[Curve]:
    """Means over rows by layer and by answer token; curves of a name up to its slash belong in one drawing."""
    rows = "" if role == FORGET else f", {role} rows"
    label = BEFORE if model == BEFORE else "after"
    layers = [record.meta["layers"][model] for record in records]
    places = [record.meta["places"][model] for record in records]
    found = []
    for name, what in (("kl_to_last", "kl"), ("entropy", "entropy")):
        grid = [[layer[what] for layer in own] for own in layers]
        found.append(_curve(f"{name} by layer{rows}/{label}", grid, "layer", first=0))
    for name, of in (
        ("top1_mass", lambda place: place["masses"][0]),
        ("top5_mass", _mass),
        ("entropy", lambda place: place["entropy"]),
    ):
        grid = [[of(place) for place in own] for own in places]
        found.append(_curve(f"{name} by answer token{rows}/{label}", grid, "answer token", first=1))
    return [curve for curve in found if curve.x]


def _curve(name: str, grid: Sequence[Sequence[float]], unit: str, *, first: int) -> Curve:
    """The mean of each column over the rows that reach it, with a 95 % bootstrap band over rows."""
    columns = [
        [row[place] for row in grid if place < len(row)] for place in range(max(map(len, grid), default=0))
    ]
    means = tuple(sum(column) / len(column) for column in columns)
    bands = [cluster_bootstrap(column) for column in columns]
    return Curve(
        name,
        tuple(float(first + place) for place in range(len(columns))),
        means,
        tuple(min(band.low, mean) for band, mean in zip(bands, means, strict=True)),
        tuple(max(band.high, mean) for band, mean in zip(bands, means, strict=True)),
        unit,
    )
