"""The records of one instance together: an instruction in one context, asked in two positions, or alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safewright.measures.behaviour import instance_of
from safewright.measures.longsafety.core import both_safe
from safewright.types import Record

NAME = "safe"
"""The score of a record: 1.0 for a safe answer."""


@dataclass(frozen=True)
class Instance:
    """The records of one instance: an instruction in one context, or alone.

    ``parts`` holds the score of each position: 1.0 safe, 0.0 unsafe, None unscored.
    """

    name: str
    row: str
    sample: int
    variant: str
    cluster: str
    parts: Mapping[str, float | None]
    meta: Mapping[str, Any]

    @property
    def both(self) -> float | None:
        """Whether all its answers are safe."""
        first, second = self.verdicts
        return both_safe(first, second)

    @property
    def verdicts(self) -> tuple[float | None, float | None]:
        """1.0 where the answer is unsafe, by position."""
        names = ("front", "end") if "front" in self.parts else ("short", "short_lead")
        found = [self.parts.get(name) for name in names]
        first, second = (None if safe is None else 1.0 - safe for safe in found)
        return first, second


Value = Callable[[Instance], float | None]


def instances(records: Sequence[Record]) -> list[Instance]:
    """The instances of scored records, in the order they were asked."""
    grouped: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        # A name alone may be two instances': a row may be called what another's short instance is.
        key = (record.meta["row"], record.meta["variant"], instance_of(record))
        grouped.setdefault(key, []).append(record)
    return [
        Instance(
            name,
            row,
            group[0].sample,
            variant,
            group[0].cluster or group[0].id,
            {record.meta["position"]: record.scores.get(NAME) for record in group},
            group[0].meta,
        )
        for (row, variant, name), group in grouped.items()
    ]
