"""Rates with the judge's errors taken out, as its audit on labelled answers measured them."""

from __future__ import annotations

from collections.abc import Sequence

from safewright.judges.audit import load_audit
from safewright.types import Quality, Reading


def corrected(
    name: str, verdicts: Sequence[float | None], clusters: Sequence[str], about: Quality, path: str
) -> Reading:
    """A rate corrected by Rogan and Gladen's formula, with an interval that carries the doubt of both.

    The judge's errors on forgetting and on retaining are two things: each rate is corrected by its own.

    Args:
        name: Of the rate.
        verdicts: One per row; None where it is unscored.
        clusters: Of each verdict.
        about: What the verdicts say.
        path: Of the audit.

    Raises:
        BadInput: The audit has no labels of one class, or its judge is no better than chance.
    """
    from safewright.stats import corrected_rate

    rate, bracket, attack = name.partition("[")
    quality = load_audit(path).quality(about=about)
    return corrected_rate(f"{rate}_corrected{bracket}{attack}", verdicts, quality, clusters, better="higher")
