"""Rates with the judge's errors taken out, as its audit on labelled answers measured them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safewright.errors import BadInput
from safewright.judges.audit import load_audit
from safewright.runs import to_json
from safewright.types import Judge, Reading

if TYPE_CHECKING:
    from safewright.measures.longsafety.analysis import Instance


def check_audit(path: str, judge: Judge) -> None:
    """Pass when the audit is of this very judge.

    Raises:
        BadInput: It is of another judge, or of its prompts, options or models in another state; or it cannot be
            read.
    """
    audited = load_audit(path).judge
    own = to_json({"name": judge.name, **judge.conventions})
    for key in ("name", "model", *sorted({*audited, *own})):
        if audited.get(key) != own.get(key):
            raise BadInput(
                f"The audit {path} is of another judge: its {key} is {audited.get(key)!r:.120}.",
                why=f"Errors of one judge say nothing about another's verdicts ({key} here: {own.get(key)!r:.120}).",
                fix="Audit this judge: safewright judge audit LABELS --data FILE --judge JUDGE",
            )


def corrected(long_: Sequence[Instance], short: Sequence[Instance], path: str) -> list[Reading]:
    """SR of each position and of both, corrected; and what an all-safe model would be measured as.

    Each position by Rogan and Gladen's formula, both together by inverting the Kronecker square of the judge's
    confusion on their joint distribution; see `safewright.stats.correction`.
    """
    from safewright.stats import corrected_pair, corrected_rate, noise_floor

    quality = load_audit(path).quality()
    found = []
    if long_:
        clusters = [instance.cluster for instance in long_]
        pairs = [instance.verdicts for instance in long_]
        found.append(corrected_pair("sr_long_corrected", pairs, quality, clusters).both_safe)
        for place, position in enumerate(("front", "end")):
            verdicts = [pair[place] for pair in pairs]
            name = f"sr_{position}_corrected"
            found.append(corrected_rate(name, verdicts, quality, clusters, of_safe=True))
    if short:
        clusters = [instance.cluster for instance in short]
        alone = [instance.verdicts[0] for instance in short]
        found.append(corrected_rate("sr_short_corrected", alone, quality, clusters, of_safe=True))
    floor = noise_floor(quality)
    names = (["sr_long", "sr_front", "sr_end"] if long_ else []) + (
        ["sr_short", "sr_short2"] if short else []
    )
    names += ["drop"] if long_ and short else []
    found += [Reading(f"floor/{name}", floor[name], 0, 0, None, "rate", "neither") for name in names]
    return found
