"""What answers cost: tokens of the reasoning, and of what the user sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from safewright.types import Interval, Reading, Record

DRAWS = 500
"""Resamples of an interval."""
MOST = 1_000_000
"""Numbers that are held at once for them."""


def token_readings(records: Sequence[Record], of: str = "") -> Iterator[Reading]:
    """Mean and 95th percentile of the tokens of reasoning (where any model reasoned) and answer.

    Reasoning that was never closed costs as much, and is in it; failed calls are not. ``of`` ends the names.
    """
    said = [r for r in records if r.generation is not None and r.generation.stop in ("stop", "length")]
    if not said:
        return
    pairs = [split_tokens(record) for record in said]
    clusters = [record.cluster or record.id for record in said]
    lost = len(records) - len(said)
    for name, place in (("reasoning_tokens", 0), ("answer_tokens", 1)):
        values = [pair[place] for pair in pairs]
        if place == 0 and not any(values):
            continue
        for suffix, figure in (("", _mean), ("_p95", _p95)):
            yield _reading(f"{name}{suffix}{of}", values, clusters, lost, figure)


def split_tokens(record: Record) -> tuple[float, float]:
    """An output's tokens, divided between its reasoning and its answer by their letters."""
    said = record.generation
    if said is None:
        return 0.0, 0.0
    thought, shown = len(said.reasoning), len(said.answer)
    if not thought + shown:
        return 0.0, float(said.tokens)
    part = said.tokens * thought / (thought + shown)
    return part, said.tokens - part


def _mean(values: Any) -> Any:
    return values.mean(axis=-1)


def _p95(values: Any) -> Any:
    import numpy as np

    return np.quantile(values, 0.95, axis=-1)


def _reading(
    name: str, values: Sequence[float], clusters: Sequence[str], lost: int, figure: Callable[[Any], Any]
) -> Reading:
    """A figure of some numbers, with a percentile interval over resampled clusters of requests."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    value = float(figure(array))
    low, high = np.quantile(_drawn(array, clusters, figure), [0.025, 0.975])
    interval = Interval(min(float(low), value), max(float(high), value), method="cluster_bootstrap")
    return Reading(name, value, len(values), lost, interval, "tokens", "lower")


def _drawn(array: Any, clusters: Sequence[str], figure: Callable[[Any], Any]) -> Any:
    """The figure over each resample; those of clusters of one size are taken many at a time."""
    import numpy as np

    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    sizes = np.bincount(codes)
    order, count = np.argsort(codes, kind="stable"), len(sizes)
    rng = np.random.default_rng(0)
    if (sizes != sizes[0]).any():
        members = np.split(order, np.cumsum(sizes)[:-1])
        picks = (rng.integers(0, count, count) for _ in range(DRAWS))
        return np.array([figure(array[np.concatenate([members[i] for i in pick])]) for pick in picks])
    table = array[order].reshape(count, -1)
    together = max(1, MOST // len(array))
    parts = [min(together, DRAWS - done) for done in range(0, DRAWS, together)]
    return np.concatenate(
        [figure(table[rng.integers(0, count, (part, count))].reshape(part, -1)) for part in parts]
    )
