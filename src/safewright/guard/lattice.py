"""The decision lattice: how checks become a decision. A further check can only tighten it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from safewright.guard.nouns import Check, Decision

ORDER: tuple[Decision, ...] = ("allow", "modify", "escalate", "deny")
"""From the loosest to the tightest."""
OnUnknown = Literal["escalate", "deny"]


def tightest(decisions: Iterable[Decision]) -> Decision:
    """The tightest of some decisions; `allow` where there are none."""
    return max(decisions, key=ORDER.index, default="allow")


def aggregate(checks: Sequence[Check], on_unknown: OnUnknown) -> Decision:
    """What some checks come to.

    Any `fail` denies; else any `unknown`, or no active check at all, is ``on_unknown``; else a check that holds of
    narrowed arguments only makes it `modify`; else the call is allowed. A `deleted` check counts for nothing, except
    that a pinned one cannot be deleted: its deletion is an `unknown`.
    """
    active = [check for check in checks if check.status != "deleted" or check.origin == "pinned"]
    if any(check.status == "fail" for check in active):
        return "deny"
    if not active or any(check.status in ("unknown", "deleted") for check in active):
        return on_unknown
    return "modify" if any(check.narrowed is not None for check in active) else "allow"
