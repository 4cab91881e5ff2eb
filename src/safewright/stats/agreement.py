"""How far a judge and people, or people among themselves, say the same about the same items.

Labels are 0 or 1, 1 for "unsafe" (or whatever quality is looked for), and None where a rater said nothing. An
item without a judge's label is never counted as agreement: it is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from safewright.errors import BadInput
from safewright.stats.checks import Floats, check_counts, check_level
from safewright.stats.intervals import clopper_pearson, wilson
from safewright.types import Interval, Reading


@dataclass(frozen=True)
class Confusion:
    """What a judge said of items whose truth is known.

    Args:
        caught: Unsafe, and called unsafe.
        missed: Unsafe, and called safe.
        cleared: Safe, and called safe.
        accused: Safe, and called unsafe.
        unscored_unsafe: Unsafe, and the judge said nothing.
        unscored_safe: Safe, and the judge said nothing.
    """

    caught: int = 0
    missed: int = 0
    cleared: int = 0
    accused: int = 0
    unscored_unsafe: int = 0
    unscored_safe: int = 0

    def __post_init__(self) -> None:
        check_counts(**vars(self))

    @property
    def n(self) -> int:
        """Items with both labels."""
        return self.caught + self.missed + self.cleared + self.accused

    def readings(self, level: float = 0.95) -> dict[str, Reading]:
        """Accuracy, and for each class recall and precision, each with its Wilson interval.

        ``sensitivity`` is the recall of "unsafe", ``specificity`` that of "safe"; ``precision_unsafe`` and
        ``precision_safe`` are shares of what the judge called so, and depend on how common unsafe items are
        among the labelled ones. A rate of nothing has no value.
        """
        lost = self.unscored_unsafe + self.unscored_safe
        shares = {
            "accuracy": (self.caught + self.cleared, self.n, lost),
            "sensitivity": (self.caught, self.caught + self.missed, self.unscored_unsafe),
            "specificity": (self.cleared, self.cleared + self.accused, self.unscored_safe),
            "precision_unsafe": (self.caught, self.caught + self.accused, 0),
            "precision_safe": (self.cleared, self.cleared + self.missed, 0),
        }
        return {
            name: Reading(
                name, k / n if n else None, n, left, wilson(k, n, level) if n else None, "rate", "higher"
            )
            for name, (k, n, left) in shares.items()
        }


def confusion(truth: Sequence[float | None], said: Sequence[float | None]) -> Confusion:
    """The confusion of a judge's labels with the true ones; items without a true label are left out.

    Raises:
        BadInput: The lengths differ, or a label is not 0, 1 or None.
    """
    counts = dict.fromkeys(vars(Confusion()), 0)
    for true, given in zip(*_labels(truth, said), strict=True):
        if true is None:
            continue
        if given is None:
            counts["unscored_unsafe" if true else "unscored_safe"] += 1
        elif true:
            counts["caught" if given else "missed"] += 1
        else:
            counts["accused" if given else "cleared"] += 1
    return Confusion(**counts)


def cohen_kappa(
    first: Sequence[float | None], second: Sequence[float | None], level: float = 0.95
) -> Reading:
    """Agreement of two raters beyond chance, kappa = 1 - observed / expected disagreement.

    The interval is the large-sample one. Where no item is disagreed on it would have no width: then its lower
    end is 1 - u / expected, with u the upper Clopper-Pearson limit of the rate of disagreement. kappa has no
    value where both raters gave one and the same label to everything (chance alone explains that), and no
    interval where the labels say nothing about its spread (one rater gave a single label).

    Args:
        first: A rater's labels.
        second: The other's, on the same items; items that lack a label are left out, and counted.
        level: Two-sided confidence.

    Raises:
        BadInput: The lengths differ, a label is not 0, 1 or None, or the level is out of range.

    Source: Cohen (1960), Educ. Psychol. Meas. 20:37-46; standard error by Fleiss, Cohen and Everitt (1969),
    Psychol. Bull. 72:323-327.
    """
    check_level(level)
    table = np.zeros((2, 2))
    both = list(zip(*_labels(first, second), strict=True))
    for a, b in both:
        if a is not None and b is not None:
            table[int(a), int(b)] += 1
    n = int(table.sum())
    value, interval = None, None
    if n:
        p = table / n
        rows, columns = p.sum(axis=1), p.sum(axis=0)
        expected = float(rows @ columns)
        if expected < 1.0:
            value = float((np.trace(p) - expected) / (1.0 - expected))
            interval = _kappa_interval(p, rows, columns, expected, value, n, level)
    return Reading("cohen_kappa", value, n, len(both) - n, interval, "kappa", "higher")


def _kappa_interval(
    p: Floats, rows: Floats, columns: Floats, expected: float, value: float, n: int, level: float
) -> Interval | None:
    if p[0, 1] == p[1, 0] == 0:
        return _without_disagreement(n, 1.0 - expected, level)
    own = sum(
        p[i, i] * ((1.0 - expected) - (rows[i] + columns[i]) * (1.0 - np.trace(p))) ** 2 for i in (0, 1)
    )
    cross = (p[0, 1] * (columns[0] + rows[1]) ** 2 + p[1, 0] * (columns[1] + rows[0]) ** 2) * (
        1.0 - np.trace(p)
    ) ** 2
    slack = (np.trace(p) * expected - 2.0 * expected + np.trace(p)) ** 2
    variance = (own + cross - slack) / (n * (1.0 - expected) ** 4)
    if variance < 1e-12:
        return None
    reach = _normal_quantile(level) * math.sqrt(float(variance))
    return Interval(max(value - reach, -1.0), min(value + reach, 1.0), level, "fleiss_cohen_everitt")


def krippendorff_alpha(
    raters: Sequence[Sequence[Hashable | None]], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Reading:
    """Agreement of any number of raters beyond chance, alpha = 1 - observed / expected disagreement (nominal).

    Items with fewer than two labels cannot be paired: they are left out, and counted. The interval is the
    percentile bootstrap over items (resamples of a single label are drawn again); where no item is disagreed
    on it would have no width, and its lower end is that of `cohen_kappa`. alpha has no value where only one
    label occurs.

    Args:
        raters: One list of labels per rater over the same items; None where a rater gave none.
        level: Two-sided confidence.
        draws: Resamples.
        seed: Of the resampling.

    Raises:
        BadInput: No rater, unequal lengths, or level or draws out of range.

    Source: Krippendorff (2011), Computing Krippendorff's alpha-reliability; bootstrap over items as in Zapf et
    al. (2016), BMC Med. Res. Methodol. 16:93.
    """
    check_level(level)
    if not raters or len({len(labels) for labels in raters}) != 1:
        raise BadInput(
            f"The raters gave {[len(labels) for labels in raters]} labels.",
            fix="Give one list per rater over the same items, with None where there is no label.",
        )
    if draws < 100:
        raise BadInput(f"{draws} resamples cannot hold a tail.", fix="Use at least 100, better 2000.")
    items = list(zip(*raters, strict=True))
    codes: dict[Hashable, int] = {}
    for item in items:
        for label in item:
            if label is not None:
                codes.setdefault(label, len(codes))
    counts = np.zeros((len(items), len(codes)))
    for place, item in enumerate(items):
        for label in item:
            if label is not None:
                counts[place, codes[label]] += 1
    counts = counts[counts.sum(axis=1) >= 2]
    n = len(counts)
    sizes = counts.sum(axis=1)
    split = (sizes**2 - (counts**2).sum(axis=1)) / np.maximum(sizes - 1.0, 1.0)
    value = float(_alphas(np.ones((1, n)), counts, split)[0]) if n else math.nan
    if math.isnan(value):
        return Reading("krippendorff_alpha", None, n, len(items) - n, None, "alpha", "higher")
    if not split.any():
        shares = counts.sum(axis=0) / sizes.sum()
        interval = _without_disagreement(n, float(1.0 - shares @ shares), level)
    else:
        interval = _alpha_interval(counts, split, level, draws, seed)
    return Reading("krippendorff_alpha", value, n, len(items) - n, interval, "alpha", "higher")


def _alphas(weights: Floats, counts: Floats, split: Floats) -> Floats:
    """alpha of each row of item weights; NaN where only one label is left."""
    totals = weights @ counts
    pairable = totals.sum(axis=1)
    expected = pairable**2 - (totals**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = 1.0 - (pairable - 1.0) * (weights @ split) / expected
    found[expected <= 0] = np.nan
    return found


def _alpha_interval(counts: Floats, split: Floats, level: float, draws: int, seed: int) -> Interval:
    rng, n = np.random.default_rng(seed), len(counts)
    kept: list[Floats] = []
    have = 0
    step = max(1, min(draws, 2_000_000 // n))
    while have < draws:
        picks = rng.multinomial(n, np.full(n, 1.0 / n), size=min(step, draws - have)).astype(np.float64)
        found = _alphas(picks, counts, split)
        kept.append(found[~np.isnan(found)])
        have += len(kept[-1])
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.concatenate(kept), [tail, 1.0 - tail])
    return Interval(float(low), float(high), level, "item_bootstrap")


def _without_disagreement(n: int, expected: float, level: float) -> Interval:
    """The interval of an agreement of 1 over n items, given the disagreement expected by chance."""
    most = clopper_pearson(0, n, level).high
    return Interval(max(1.0 - most / expected, -1.0), 1.0, level, "clopper_pearson_disagreement")


def _normal_quantile(level: float) -> float:
    from scipy import special

    return float(special.ndtri(0.5 + level / 2.0))


def _labels(
    first: Sequence[float | None], second: Sequence[float | None]
) -> tuple[list[float | None], list[float | None]]:
    if len(first) != len(second):
        raise BadInput(
            f"{len(first)} labels were compared with {len(second)}.", fix="Pair them item by item first."
        )
    for label in (*first, *second):
        if label is not None and label not in (0, 1):
            raise BadInput(f"A label is {label!r}.", fix="Labels are 0 or 1, or None where there is none.")
    return list(first), list(second)
