"""How answers agree with the reference and how they are written, set by set: ROUGE, linguistic score, ratings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safewright.measures.forgetting.asking import FORGET
from safewright.measures.forgetting.scoring import FORGOTTEN, LEXICAL, RETAINED, ROUGE
from safewright.types import Better, Interval, Reading, Record

UNITS: Mapping[str, tuple[str, Better]] = {
    "bi": ("Brunet's index", "lower"),
    "hs": ("Honore's statistic", "higher"),
    "rttr": ("root type-token ratio", "neither"),
    "longest_repeat": ("tokens", "neither"),
    "length": ("tokens", "neither"),
}
LS = ("ls", "ls_robust", "ls_median_ppl", "ls_arithmetic", "ppl", "ppl_median")
"""Readings that a fluency model is needed for."""
LS_SHORT = ("ls", "ppl")
"""Those that say that there is no such model."""
RATINGS = ("fluency", "relevance", "forgetting", "retention")
DRAWS = 1000
"""Draws of the interval of a figure that is made of several columns."""

AT_ONCE = 2_000_000
"""Numbers of a table that are held for several draws together."""

Kind = Callable[..., float]
"""From the means of a table's columns, and the median of the first behind them, to a figure."""


def writing(role: str, own: Sequence[Record]) -> list[Reading]:
    """All readings of one set that are about its texts."""
    good = [record for record in own if all(record.status.get(name) == "ok" for name in ROUGE)]
    return [
        *_agreement(role, own, good),
        *_together(role, own),
        *_linguistic(role, own),
        *_ratings(role, own),
    ]


def _agreement(role: str, own: Sequence[Record], good: Sequence[Record]) -> list[Reading]:
    """Recall of the reference, and the statistics of the texts."""
    from safewright.stats import mean_reading

    clusters, unscored = _clusters(good), len(own) - len(good)
    better: Better = "lower" if role == FORGET else "higher"
    found: list[Reading] = [
        mean_reading(f"{name}_recall_{role}", _scores(good, name), clusters, unscored, better=better)
        for name in ROUGE
    ]
    for name in LEXICAL:
        unit, wanted = UNITS.get(name, ("share", "neither"))
        bounds = (0.0, 1.0) if name == "distinct2" else None
        values = _scores(good, name)
        found.append(
            mean_reading(
                f"{name}_{role}", values, clusters, unscored, better=wanted, unit=unit, bounds=bounds
            )
        )
    return found


def _scores(records: Sequence[Record], name: str) -> list[float]:
    return [float(record.scores[name] or 0.0) for record in records]


def _clusters(records: Sequence[Record]) -> list[str]:
    return [record.cluster or record.id for record in records]


def _together(role: str, own: Sequence[Record]) -> list[Reading]:
    """Harmonic and arithmetic mean of the rate and of ROUGE-L recall (of 1 minus it, where it is to be low)."""
    from safewright.stats.lexical import harmonic

    score = FORGOTTEN if role == FORGET else RETAINED
    good = [r for r in own if r.status.get(score) == "ok" and r.status.get("rougeL") == "ok"]
    table = list(zip(_scores(good, score), _scores(good, "rougeL"), strict=True))

    def both(rate: float, recall: float, _: float) -> tuple[float, float]:
        rate, recall = (min(max(mean, 0.0), 1.0) for mean in (rate, recall))
        return rate, 1.0 - recall if role == FORGET else recall

    drawn = _drawn(table, _clusters(good))
    counts = len(good), len(own) - len(good)
    return [
        _figure(f"harmonic_{role}", drawn, *counts, lambda *means: harmonic(*both(*means))),
        _figure(f"mean_{role}", drawn, *counts, lambda *means: sum(both(*means)) / 2),
    ]


def _linguistic(role: str, own: Sequence[Record]) -> list[Reading]:
    """The linguistic score with its parts; without a fluency model there is none, and the scorecard says so.

    ``ls`` is the official one, over the means of PPL, BI and HS; ``ls_robust`` the mean of each text's own;
    ``ls_median_ppl`` has the median in the place of the mean PPL.
    """
    from safewright.stats.lexical import arithmetic_score, linguistic_score

    good = [record for record in own if record.status.get("ppl") == "ok"]
    if not good:
        asked = any("ppl" in record.status for record in own)
        missing, names = (len(own), LS) if asked else (0, LS_SHORT)
        return [Reading(f"{name}_{role}", None, 0, missing, None, "score", "neither") for name in names]
    table = list(zip(*(_scores(good, name) for name in ("ppl", "bi", "hs")), strict=True))

    kinds: dict[str, tuple[Kind, str, Better]] = {
        "ls": (lambda ppl, bi, hs, _: linguistic_score(ppl, bi, hs), "score", "higher"),
        "ls_median_ppl": (lambda _, bi, hs, median: linguistic_score(median, bi, hs), "score", "higher"),
        "ls_arithmetic": (lambda ppl, bi, hs, _: arithmetic_score(ppl, bi, hs), "score", "higher"),
        "ppl": (lambda ppl, *_: ppl, "perplexity", "lower"),
        "ppl_median": (lambda *means: means[-1], "perplexity", "lower"),
    }
    clusters, counts = _clusters(good), (len(good), len(own) - len(good))
    drawn = _drawn(table, clusters)
    found = {
        name: _figure(f"{name}_{role}", drawn, *counts, kind, unit=unit, better=better)
        for name, (kind, unit, better) in kinds.items()
    }
    alone = _drawn([(linguistic_score(*row),) for row in table], clusters)
    found["ls_robust"] = _figure(f"ls_robust_{role}", alone, *counts, lambda mean, _: mean)
    return [found[name] for name in LS]


def _drawn(table: Sequence[Sequence[float]], clusters: Sequence[str]) -> Any:
    """An array of `_summary`: of a table (records, columns), then of `DRAWS` tables of resampled clusters."""
    import numpy as np

    columns = np.asarray(table, dtype=np.float64)
    if not len(columns):
        return None
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    members = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)]
    rng = np.random.default_rng(0)
    parts = [_summary(columns[None])]
    together = max(1, AT_ONCE // columns.size) if len(members) == len(columns) else 1
    for begin in range(0, DRAWS, together):
        picks = rng.integers(0, len(members), (min(together, DRAWS - begin), len(members)))
        if len(members) < len(columns):  # clusters of several records: each draw has a length of its own
            picks = np.concatenate([members[pick] for pick in picks[0]])[None]
        parts.append(_summary(columns[picks]))
    return np.concatenate(parts)


def _summary(tables: Any) -> Any:
    """The mean of each column, and the median of the first: (tables, records, columns) to (tables, columns + 1)."""
    import numpy as np

    return np.concatenate([tables.mean(axis=1), np.median(tables[:, :, :1], axis=1)], axis=1)


def _figure(
    name: str,
    drawn: Any,
    n: int,
    unscored: int,
    kind: Kind,
    *,
    unit: str = "score",
    better: Better = "higher",
) -> Reading:
    """A figure made of several columns, with a percentile interval over resampled clusters of rows.

    Args:
        name: Of the reading.
        drawn: Of `_drawn`; None where no record is good.
        n: Number of good records.
        unscored: Number of the others.
        kind: From the columns to the figure.
        unit: Of the figure.
        better: Which way is better.
    """
    import numpy as np

    if drawn is None:
        return Reading(name, None, 0, unscored, None, unit, better)
    value, *others = (float(kind(*row)) for row in drawn.tolist())
    low, high = np.quantile(others, [0.025, 0.975])
    interval = Interval(min(float(low), value), max(float(high), value), method="cluster_bootstrap")
    return Reading(name, value, n, unscored, interval, unit, better)


def _ratings(role: str, own: Sequence[Record]) -> list[Reading]:
    """Mean ratings from 1 to 5, where a rubric was given."""
    from safewright.stats import mean_reading

    found = []
    for name in RATINGS:
        rated = [record for record in own if name in record.status]
        if not rated:
            continue
        good = [record for record in rated if record.status[name] == "ok"]
        found.append(
            mean_reading(
                f"{name}_{role}",
                _scores(good, name),
                _clusters(good),
                len(rated) - len(good),
                better="higher",
                unit="rating 1 to 5",
                bounds=(1.0, 5.0),
            )
        )
    return found
