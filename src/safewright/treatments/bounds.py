"""What treatments that have rows written by models hold their options to; light, for it is read with every option."""

from __future__ import annotations

import math
from typing import Any

from safewright.errors import BadInput


def check_calls(options: Any) -> None:
    """Pass when the options of how a model is asked, and of what its tokens cost, can be used.

    Raises:
        BadInput: One cannot, with the values that can.
    """
    for name in ("at_once", "call_timeout"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"{name} is {value}.", fix="It must be above 0, or left out.")
    for name in ("price_in", "price_out"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise BadInput(f"{name} is {value}.", fix="It must be a number of at least 0, or left out.")
