"""What the functions of this room demand of their arguments."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from safewright.errors import BadInput, NumericalFailure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def check_level(level: float) -> None:
    """Raise BadInput unless the confidence level lies strictly between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise BadInput(
            f"The confidence level is {level!r}.", fix="Give one between 0 and 1, for example 0.95."
        )


def check_counts(**counts: int) -> None:
    """Raise BadInput unless every count is a whole number of at least zero."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise BadInput(f"The count {name} is {value!r}.", fix="Counts are whole numbers of at least 0.")


def as_floats(values: Sequence[float] | Floats, what: str) -> Floats:
    """The values as a flat array of finite numbers.

    Raises:
        BadInput: It is not a flat sequence.
        NumericalFailure: A value is infinite or not a number.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise BadInput(f"{what} has {array.ndim} dimensions.", fix="Give one number per record.")
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise NumericalFailure(
            f"{what} holds {array[place]} at position {place}.",
            why="A mean over it would be meaningless.",
            fix="Records without a score are counted as unscored, not averaged.",
        )
    return array


def cluster_codes(clusters: Sequence[Hashable] | None, n: int) -> tuple[Ints, int]:
    """A number per value, equal within a cluster, and how many clusters there are.

    Without clusters every value is its own.

    Raises:
        BadInput: There is not one cluster per value.
    """
    if clusters is None:
        return np.arange(n, dtype=np.int64), n
    if len(clusters) != n:
        raise BadInput(f"{n} values came with {len(clusters)} clusters.", fix="Give one cluster per value.")
    seen: dict[Hashable, int] = {}
    codes = np.fromiter((seen.setdefault(c, len(seen)) for c in clusters), dtype=np.int64, count=n)
    return codes, len(seen)
