"""The stage `check`: what a training would learn, row by row, before anything is trained."""

from __future__ import annotations

from collections import Counter
from typing import Any

from safewright.errors import BadInput
from safewright.models.opening import open_tokenizer
from safewright.models.references import base_folder, local_folder
from safewright.models.weights import read_json
from safewright.treatments.job import Job
from safewright.treatments.srg import openings as begun
from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.encoding import EXAMINED, Student, spread
from safewright.treatments.srg.kept import kept_text
from safewright.treatments.srg.mixing import mix
from safewright.treatments.srg.training import encode, examine, learns_reasoning
from safewright.types import ModelRef


def check(job: Job) -> dict[str, Any]:
    """Show what is learned: prompt and learned span of 32 rows, and whether the template keeps the reasoning.

    No weights are read.

    Raises:
        BadInput: Rows were not given; the template leaves the reasoning out; too many rows are too long; see
            `mixing.mix` and `encoding.Student`.
    """
    config: SRGConfig = job.config
    if "reasoned" not in job.data:
        raise BadInput(
            "check examines rows with reasoning, and none are given.", fix="Give them: --data reasoned=FILE"
        )
    mixed = mix(job)
    ref = job.models["student"]
    tokenizer = open_tokenizer(ref)
    student = Student(tokenizer, config, stops(ref, tokenizer), kept_text(config))
    encoded = encode(student, mixed.records, min(config.max_length, positions(ref) or config.max_length))
    examined = examine(student, encoded)
    rows = []
    bos = tokenizer.bos_token_id
    for place in spread(len(encoded.records), EXAMINED):
        record, example = encoded.records[place], encoded.examples[place]
        rows.append(
            {
                "id": record.id,
                "type": record.type,
                "prompt": example.start,
                "learned": example.supervised,
                "reasoning": "kept" if learns_reasoning(config, record) else "none",
                "double_bos": bos is not None and list(example.ids[:2]) == [bos, bos],
                "opened": student.opened(record.messages),
            }
        )
    found: dict[str, Any] = {
        "target": config.target,
        "rows": len(mixed.records),
        "types": dict(Counter(record.type for record in mixed.records)),
        "too_long": len(encoded.dropped),
        "longest": max(len(example.ids) for example in encoded.examples),
        "examined": rows,
        "first": _shown(student, encoded.records[0], encoded.examples[0]),
        "notes": mixed.notes,
    }
    if config.harden:
        known = begun.openings(config)
        student.require_known(known, "the opening (reentry_openings)")
        record = next(record for record in encoded.records if learns_reasoning(config, record))
        built = student.built(record, opening=known[0])
        found["begun"] = {
            "openings": len(known),
            **_shown(student, record, student.example(record.id, built)),
        }
    doubled = sum(row["double_bos"] is True for row in rows)
    found["checks"] = [
        {
            "name": "the template keeps the reasoning",
            "passed": True,
            "detail": f"{examined} rows rendered and read back",
        },
        {
            "name": "one begin token",
            "passed": not doubled,
            "detail": f"{doubled} of {len(rows)} rows begin with two",
        },
    ]
    return found


def _shown(student: Student, record: Any, example: Any) -> dict[str, str]:
    """The two spans of a row, as the model reads them."""
    before = student.tokenizer.decode(list(example.ids[: example.start]), skip_special_tokens=False)
    return {"id": record.id, "prompt": repr(before), "learned": repr(student.learned(example))}


def stops(ref: ModelRef, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, as files say without the weights: see `safewright.models.hf`."""
    folder = base_folder(ref) if ref.kind == "adapter" else local_folder(ref)
    found: list[Any] = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            declared = read_json(folder / name).get("eos_token_id")
            found += declared if isinstance(declared, list) else [declared]
            break
    return frozenset(stop for stop in found if isinstance(stop, int) and not isinstance(stop, bool))


def positions(ref: ModelRef) -> int | None:
    """How many tokens the model can read, where its configuration says so."""
    folder = base_folder(ref) if ref.kind == "adapter" else local_folder(ref)
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    limit = {**config, **(text if isinstance(text, dict) else {})}.get("max_position_embeddings")
    return limit if isinstance(limit, int) else None
