"""The stage ``ablate``: every arm, data scale and teacher that is compared, trained from the same student."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safewright.data.load import SUFFIXES
from safewright.data.loaded import sample
from safewright.errors import BadInput
from safewright.treatments.comparing import Comparison, Source, Variant
from safewright.treatments.srg.arms import (
    ARMS,
    SCALED,
    SHOWN,
    SUMMARIES,
    AblationOptions,
    arms_of,
    measures_of,
    scales_of,
    teachers_of,
)
from safewright.types import Row

MEASURES = ("attack_success", "over_refusal", "utility")
"""What is measured of every arm unless something else is said."""

RECORDS = "reasoned"
MADE = "reasoned.jsonl"
"""What the stage ``synthesize`` writes its records as."""

GIVEN = "given"
RAW = ("harmful", "helpful", "contrast")
WHOLE = "general"
"""The type of records that every data scale keeps whole: they are no supervision of reasoning."""


def ablate(options: AblationOptions, models: Mapping[str, Any], data: Mapping[str, Any]) -> Comparison:
    """Train every arm on the same records, measure each, and write one table: arms, data scales and teachers.

    Args:
        options: Which arms, shares and teachers.
        models: Those that were given, by role.
        data: Rows that were given, by role.

    Raises:
        BadInput: There are neither records nor anything to make them of.
    """
    teachers = teachers_of(options.teachers)
    sources = [_given(models, data)] if arms_of(options.arms) else []
    variants = [_arm(name, name, SUMMARIES[name], "Arms", GIVEN) for name in arms_of(options.arms)]
    for share in scales_of(options.scales):
        variants += [
            _arm(
                f"{arm}_{_percent(share)}",
                arm,
                f"{arm} on {100 * share:.6g} % of the records",
                "Data scale",
                GIVEN,
                share,
            )
            for arm in SCALED
            if arm in arms_of(options.arms)
        ]
    for name, teacher in teachers.items():
        sources.append(_taught(name, teacher, data))
        about = f"srg on the records of {'the student itself' if teacher == 'self' else teacher}"
        variants.append(_arm(f"srg_by_{name}", "srg", about, "Teacher", name))
    _require_different(variants)
    return Comparison(
        treated="student",
        sources=tuple(sources),
        variants=tuple(variants),
        thin=thin,
        measures=measures_of(options.measures),
        reference="srg" if "srg" in arms_of(options.arms) else None,
        decided=frozenset({"target", "context", "objective", "budget", "harden"}),
        further=frozenset({"teacher", "fallback", "judge"}),
        raw=frozenset(RAW),
    )


def _arm(name: str, arm: str, about: str, group: str, source: str, share: float = 1.0) -> Variant:
    without = frozenset() if arm in SHOWN else frozenset({"context_file"})
    return Variant(name, about, group, dict(ARMS[arm]), source, share, without)


def _given(models: Mapping[str, Any], data: Mapping[str, Any]) -> Source:
    """The records of the arms: those given, or made by the teacher.

    Raises:
        BadInput: Neither can be.
    """
    if RECORDS in data:
        return Source(GIVEN, RECORDS)
    if not any(role in data for role in RAW):
        raise BadInput(
            "There are no records to train the arms on, and no requests to make them of.",
            fix="Give --data reasoned=FILE (as safewright treat srg synthesize writes it), or --data harmful=FILE and "
            "helpful=FILE with --model teacher=MODEL.",
        )
    return Source(GIVEN, RECORDS, stage="synthesize", writes=MADE)


def _taught(name: str, teacher: str, data: Mapping[str, Any]) -> Source:
    """The records of a teacher: a file of them, or made now.

    Raises:
        BadInput: There is no such file, or nothing to make records of.
    """
    if teacher.endswith(SUFFIXES):
        file = Path(teacher)
        if not file.is_file():
            raise BadInput(
                f"teachers={name}={teacher}: there is no such file.", fix="Name a file of records."
            )
        return Source(name, RECORDS, file=file)
    if not any(role in data for role in RAW):
        raise BadInput(
            f"The teacher {name} has no requests to write traces for.",
            fix=f"Give --data harmful=FILE and helpful=FILE, or records it made: --set teachers={name}=FILE.jsonl",
        )
    if teacher == "self":
        return Source(name, RECORDS, stage="synthesize", writes=MADE, options={"teacher_self": True})
    return Source(name, RECORDS, stage="synthesize", writes=MADE, models={"teacher": teacher})


def _percent(share: float) -> str:
    return f"{100 * share:.6g}pct".replace(".", "_")


def _require_different(variants: Sequence[Variant]) -> None:
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(f"Two arms would be called {twice[0]}.", fix="Give the teacher another name.")


def thin(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """A share of the records of each type, in their order; a smaller share is part of a larger one.

    General records stay: they are no supervision of reasoning. At least one record of every type is kept.
    """
    by_type: dict[str, list[Row]] = {}
    for row in rows:
        by_type.setdefault(str(row.meta.get("type", "")), []).append(row)
    kept: set[str] = set()
    for kind, own in by_type.items():
        wanted = len(own) if kind == WHOLE else math.ceil(share * len(own) - 1e-9)
        kept |= {row.id for row in sample(own, wanted, seed)}
    return [row for row in rows if row.id in kept]
