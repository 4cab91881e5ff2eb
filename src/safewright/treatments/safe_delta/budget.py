"""What an edit may cost, in the three units users know. No torch, so that options can be checked early."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from safewright.errors import BadInput

Mode = Literal["official", "paper", "exact", "soft"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Budget:
    """How much safety loss an edit may cost; exactly one field is set.

    ``mu``: the price of safety in the soft optimum, in units of 1 / (mean diagonal of H over live
    channels), times the mean diagonal of G where the task's metric G is used. ``rms_tol``: the loss of
    moving every entry by this much, ``rms_tol^2 numel mean 1/(2d)``.
    ``s``: the paper's parameter; outside `official` and `paper` it means ``rms_tol = sqrt(s) / 4096``.
    """

    mu: float | None = None
    rms_tol: float | None = None
    s: float | None = None

    @classmethod
    def of(
        cls, mode: str, mu: float | None = None, rms_tol: float | None = None, s: float | None = None
    ) -> Budget:
        """The budget given, or the mode's default (mu=1 for `soft` and `exact`, s=0.1 otherwise).

        Raises:
            BadInput: More than one is given, one is negative or not a number, or ``mu`` is given to a mode
                that has none.
        """
        given = {name: v for name, v in (("mu", mu), ("rms_tol", rms_tol), ("s", s)) if v is not None}
        if len(given) > 1:
            raise BadInput(
                f"{' and '.join(given)} are given together.",
                why="Each of them alone says how much safety an edit may cost.",
                fix="Keep one of mu, rms_tol and s.",
            )
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise BadInput(f"{name} is {value!r}.", fix="It must be a finite number of at least 0.")
        released = mode in ("official", "paper")
        if released and mu is not None:
            raise BadInput(f"The mode {mode!r} has no mu.", fix="Give s or rms_tol, or use soft or exact.")
        if not given:
            return cls(s=0.1) if released else cls(mu=1.0)
        if released and rms_tol is not None:
            return cls(s=(4096.0 * rms_tol) ** 2)
        if not released and s is not None:
            return cls(rms_tol=math.sqrt(s) / 4096.0)
        return cls(**{name: float(value) for name, value in given.items()})
