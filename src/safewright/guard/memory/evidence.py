"""What evidence a remembered check has, as arithmetic: no database, no text, standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LEVEL = 0.05
"""Which quantile of a check's posterior must lie above `GATE`."""
GATE = 0.5
STRIKES = 2
"""Sessions that must have struck a check out, with no confirmation in between, before memory drops it."""


@dataclass(frozen=True)
class Evidence:
    """How often a check stood (``pos``) and how often it was struck out or overruled (``neg``).

    Counts are whole numbers, except under `visit` with a decay.
    """

    pos: float = 0
    neg: float = 0

    @property
    def lower(self) -> float:
        """The 5 % quantile of its posterior, Beta(1 + pos, 1 + neg)."""
        return lower(self.pos, self.neg)

    @property
    def settled(self) -> bool:
        """Whether it is believed: the quantile lies above one half."""
        return settled(self.pos, self.neg)

    @property
    def mean(self) -> float:
        """The mean of its posterior."""
        return (1 + self.pos) / (2 + self.pos + self.neg)


def lower(pos: float, neg: float, level: float = LEVEL) -> float:
    """The quantile of Beta(1 + pos, 1 + neg) at ``level``; with ``neg = 0`` it is ``level ** (1 / (pos + 1))``.

    Raises:
        ValueError: A count is negative or not finite.
    """
    _counts(pos, neg)
    if neg == 0:
        return float(level ** (1 / (pos + 1)))
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        if beta_cdf(middle, 1 + pos, 1 + neg) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def settled(pos: float, neg: float) -> bool:
    """Whether the 5 % quantile of Beta(1 + pos, 1 + neg) lies above one half: with ``neg = 0``, from ``pos = 4``."""
    _counts(pos, neg)
    return pos > neg and beta_cdf(GATE, 1 + pos, 1 + neg) < LEVEL


def beta_cdf(x: float, a: float, b: float) -> float:
    """P(X <= x) of X ~ Beta(a, b), by its continued fraction."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + term * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + term / c
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _counts(pos: float, neg: float) -> None:
    if not (0 <= pos < math.inf and 0 <= neg < math.inf):
        raise ValueError(f"pos and neg are counts, not {pos} and {neg}")


def visit(
    ledger: Mapping[str, Evidence], kept: Iterable[str], deleted: Iterable[str] = (), *, decay: float = 1.0
) -> dict[str, Evidence]:
    """A ledger of checks after one more judged call.

    A kept check gains one confirmation (a new one begins with it), a deleted one that is known gains one refutation.
    One that is known but neither kept nor deleted is *absent*: its confirmations are multiplied by ``decay``. With
    ``decay = 1`` absence says nothing, which is what the guard's memory does; the replication runs with and without.

    Raises:
        ValueError: ``decay`` lies outside [0, 1].
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay is {decay}")
    kept, deleted = list(dict.fromkeys(kept)), set(deleted)
    after = {name: Evidence(found.pos * decay, found.neg) for name, found in ledger.items()}
    for name in deleted & set(ledger):
        after[name] = Evidence(ledger[name].pos, ledger[name].neg + 1)
    for name in kept:
        before = ledger.get(name, Evidence())
        after[name] = Evidence(before.pos + 1, before.neg)
    return after


def listed(ledger: Mapping[str, Evidence], least: float = GATE) -> list[str]:
    """The checks of a ledger that are worth showing again: those whose posterior mean is at least ``least``."""
    return [name for name, found in ledger.items() if found.mean >= least]
