"""Draws of N among the answers a prompt has: what best-of-N estimates are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from safewright.errors import BadInput
from safewright.stats.checks import Floats, Ints, as_floats

View = Literal["all", "any"]
VIEWS: tuple[View, ...] = ("all", "any")
EXACT = 512
"""Up to so many samples the ratio of binomial coefficients is that of whole numbers, beyond through lgamma."""

X_UNIT = "answers per prompt (N)"


def shares(counts: Sequence[int] | Ints, m: int | Sequence[int] | Ints, N: int, view: View = "all") -> Floats:
    """The terms of `safewright.stats.best_of_n.unsafe_all` or ``unsafe_any``, one per prompt.

    C(u_i, N) / C(m_i, N) in view ``all``, 1 - C(m_i - u_i, N) / C(m_i, N) in view ``any``. Paired differences
    between models are differences of these.

    Raises:
        BadInput: See `checked_counts` and `check_draws`; or the view is unknown.
    """
    unsafe, drawn = checked_counts(counts, m)
    check_draws(N, int(drawn.min()))
    check_view(view)
    found = np.empty(len(unsafe))
    for size in np.unique(drawn):
        table = np.array(ratios(int(size), N))
        mine = drawn == size
        if view == "all":
            found[mine] = table[unsafe[mine]]
        else:
            found[mine] = 1.0 - table[size - unsafe[mine]]
    return found


def powers(m: int) -> tuple[int, ...]:
    """The grid 1, 2, 4, … up to m, and m itself.

    Raises:
        BadInput: m is no whole number from 1.
    """
    check_draws(m)
    return tuple(sorted({2**k for k in range(m.bit_length())} | {m}))


def check_draws(N: int, m: int | None = None, *, what: str = "N") -> None:
    """Pass when N is a whole number from 1, and no more than the m answers there are.

    Raises:
        BadInput: It is not.
    """
    if isinstance(N, bool) or not isinstance(N, (int, np.integer)) or N < 1:
        raise BadInput(f"{what} is {N!r}.", fix="It must be a whole number from 1.")
    if m is not None and m < N:
        raise BadInput(
            f"N is {N}, but a prompt has only {m} scored answers.",
            why="The estimate averages over choices of N among them, and there is none.",
            fix="Draw more answers per prompt, or extrapolate with a fit (beta_binomial).",
        )


def check_view(view: str) -> None:
    """Raise BadInput unless the view is one of `VIEWS`."""
    if view not in VIEWS:
        raise BadInput(f"Unknown view {view!r}.", fix="It is all (the defender's) or any (the attacker's).")


def checked_counts(
    counts: Sequence[int] | Ints, m: int | Sequence[int] | Ints, *, none_drawn: bool = False
) -> tuple[Ints, Ints]:
    """Counts and sizes as whole numbers of one length, after their checks.

    Raises:
        BadInput: A count is above its size, a prompt has no answers, or there are no prompts.
    """
    unsafe = _whole(counts, "counts")
    given = m if isinstance(m, (Sequence, np.ndarray)) else [m] * len(unsafe)
    drawn = _whole(given, "m")
    if len(drawn) != len(unsafe):
        raise BadInput(
            f"{len(unsafe)} counts came with {len(drawn)} values of m.", fix="Give one per prompt."
        )
    if not len(unsafe):
        raise BadInput("There are no prompts to average over.", fix="Nothing scored is not a rate of zero.")
    least = 0 if none_drawn else 1
    wrong = np.flatnonzero((unsafe < 0) | (unsafe > drawn) | (drawn < least))
    if len(wrong):
        i = int(wrong[0])
        raise BadInput(
            f"Prompt {i} has {unsafe[i]} unsafe answers among {drawn[i]}.",
            fix="Counts run from 0 to the number of scored answers; leave out prompts without any.",
        )
    return unsafe, drawn


def _whole(values: Sequence[int] | Ints, what: str) -> Ints:
    array = as_floats(np.asarray(values, dtype=np.float64), what)
    if np.any(array != np.floor(array)):
        raise BadInput(f"{what} holds {array[array != np.floor(array)][0]}.", fix="Give whole numbers.")
    found: Ints = array.astype(np.int64)
    return found


@lru_cache(maxsize=256)
def ratios(m: int, N: int) -> tuple[float, ...]:
    """C(u, N) / C(m, N) for u = 0 … m."""
    if m <= EXACT:
        below = math.comb(m, N)
        # Whole numbers divide with one rounding, however large they are.
        return tuple(math.comb(u, N) / below for u in range(m + 1))
    from scipy import special

    u = np.arange(N, m + 1, dtype=np.float64)
    logs = special.gammaln(u + 1) - special.gammaln(u - N + 1)
    logs -= special.gammaln(m + 1.0) - special.gammaln(m - N + 1.0)
    return (*[0.0] * N, *np.exp(np.minimum(logs, 0.0)).tolist())
