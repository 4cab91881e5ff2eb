"""Claims stated before anything is run, and what the seeds say about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from safewright.errors import BadInput

Ruling = Literal["holds", "refuted", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A bound on the mean of a quantity over seeds.

    Args:
        name: The claim in words.
        quantity: The key of the quantity in the results of a seed.
        sign: Which side of the bound.
        bound: The bound.
        seeds: Seeds needed to decide; with fewer the claim is undecided.
        single_seed: Whether one seed alone may decide, as in a demo.
    """

    name: str
    quantity: str
    sign: Literal[">=", "<="]
    bound: float
    seeds: int = 3
    single_seed: bool = False

    def judge(self, values: Sequence[float]) -> Verdict:
        """The verdict on one value per seed.

        Raises:
            BadInput: There is no value.
        """
        if not values:
            raise BadInput(f"There is no value for the claim {self.name!r}.")
        mean = sum(values) / len(values)
        ruling: Ruling = "undecided"
        if len(values) >= self.seeds or self.single_seed:
            kept = mean >= self.bound if self.sign == ">=" else mean <= self.bound
            ruling = "holds" if kept else "refuted"
        low, high = over_seeds(values)
        needs = self.seeds if ruling == "undecided" else 0
        return Verdict(
            self.name, self.quantity, self.sign, self.bound, mean, low, high, tuple(values), ruling, needs
        )


@dataclass(frozen=True)
class Verdict:
    """What the seeds say: the mean decides, the 95 % interval over seeds (Student's t) tells its doubt.

    ``low`` and ``high`` are None with a single seed. ``needs`` is how many seeds an undecided claim needs.
    """

    claim: str
    quantity: str
    sign: str
    bound: float
    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]
    ruling: Ruling
    needs: int = 0


def over_seeds(values: Sequence[float], level: float = 0.95) -> tuple[float | None, float | None]:
    """Student's t interval of a mean over seeds; None with fewer than two."""
    if len(values) < 2:
        return None, None
    from scipy import stats

    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    reach = float(stats.t.ppf(0.5 + level / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean - reach, mean + reach
