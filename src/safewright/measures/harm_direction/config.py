"""Options of `harm_direction`, and the roles of its rows and models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from safewright.errors import BadInput, nearest
from safewright.models.recipes import check_decoding

BEFORE, AFTER = "before", "target"
HARMFUL, BENIGN = "harmful", "benign"
WRAPPED_HARMFUL, WRAPPED_BENIGN = "wrapped_harmful", "wrapped_benign"


PROMPT_END, DECISION = "prompt_end", "decision"
POSITIONS = (PROMPT_END, DECISION)


@dataclass(frozen=True)
class HarmDirectionConfig:
    """Options of `harm_direction`."""

    positions: str = field(
        default=",".join(POSITIONS),
        metadata={
            "help": "Tokens that are looked at, with commas between: prompt_end (the prompt's last) and decision"
            " (the last before the verdict of the model's own reasoning)."
        },
    )
    max_new_tokens: int = field(
        default=1024, metadata={"help": "Longest trace in tokens; a longer one has no decision."}
    )

    def __post_init__(self) -> None:
        check_decoding({"max_new_tokens": self.max_new_tokens})
        if not isinstance(self.positions, str) or not self.places:
            raise BadInput(f"positions is {self.positions!r}.", fix=f"Give some of {', '.join(POSITIONS)}.")
        for place in self.places:
            if place not in POSITIONS:
                raise BadInput(f"positions names {place!r}.", fix=nearest(place, POSITIONS))

    @property
    def places(self) -> tuple[str, ...]:
        """The positions, each once."""
        return tuple(dict.fromkeys(part.strip() for part in self.positions.split(",") if part.strip()))

    def chosen(self) -> dict[str, Any]:
        """Greedy, whatever the model's recipe samples at: it is the one trace that can be repeated."""
        return {"max_new_tokens": self.max_new_tokens, "temperature": 0.0}
