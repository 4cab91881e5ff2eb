"""Options of the measure longsafety."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from safewright.data.longsafety import select
from safewright.errors import BadInput, nearest
from safewright.measures.behaviour import AskOptions
from safewright.types import Judge, Row

VARIANTS = ("long", "short", "irrelevant", "length")
LONGEST_SCALE = 64.0


@dataclass(frozen=True)
class LongSafetyConfig(AskOptions):
    """Options of `longsafety`."""

    convention: Literal["corrected", "release"] = field(
        default="corrected",
        metadata={"help": "release: slots, template choice, parser and counting as in the authors' code."},
    )
    variants: str = field(
        default="long",
        metadata={"help": "Which of long, short (no context), irrelevant (another's), length; with commas."},
    )
    overflow: Literal["error", "truncate_middle", "skip"] = field(
        default="error", metadata={"help": "What becomes of a context that does not fit the model."}
    )
    safety_type: str = field(default="", metadata={"help": "Only these safety issues, with commas."})
    task_type: str = field(default="", metadata={"help": "Only these task types, with commas."})
    min_length: int | None = field(default=None, metadata={"help": "Least words of a context."})
    max_length: int | None = field(default=None, metadata={"help": "Most words of a context."})
    scales: str = field(
        default="0.125,0.25,0.5,2,4,8",
        metadata={"help": "Lengths of the variant length, as multiples of the context's own."},
    )
    context_seed: int = field(
        default=0, metadata={"help": "Seed of the exchange and padding of contexts (irrelevant, length)."}
    )
    judge_audit: str | None = field(
        default=None,
        metadata={"help": "judge_audit.json of safewright judge audit: adds rates corrected for its errors."},
    )
    allow_self_judge: bool = field(default=False, metadata={"help": "Let a model judge its own answers."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("variants", "scales", "safety_type", "task_type"):
            if not isinstance(getattr(self, name), str):
                raise BadInput(
                    f"longsafety.{name} is {getattr(self, name)!r}.", fix="Give text, with commas."
                )
        self.variant_names()
        self.scale_values()
        if self.convention == "release" and self.judge_audit is not None:
            raise BadInput(
                "longsafety.judge_audit goes with convention=corrected only.",
                why="An audit counts the errors of verdicts as they are read there, not as the release reads them.",
                fix="Leave one of the two out.",
            )

    def check_judge(self, judge: Judge) -> None:
        """Pass when the audit, if one is named, is of this very judge.

        Raises:
            BadInput: It is of another, or cannot be read.
        """
        if self.judge_audit is not None:
            from safewright.judges.audit import check_audit  # brings numpy

            check_audit(self.judge_audit, judge)

    def choose(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that the filters leave.

        Raises:
            BadInput: An unknown label, or no row is left.
        """
        return select(
            rows,
            safety_type=self.safety_type,
            task_type=self.task_type,
            min_length=self.min_length,
            max_length=self.max_length,
        )

    def variant_names(self) -> tuple[str, ...]:
        """The variants that are asked.

        Raises:
            BadInput: An unknown one, or none.
        """
        names = tuple(dict.fromkeys(part.strip() for part in self.variants.split(",") if part.strip()))
        for name in names:
            if name not in VARIANTS:
                raise BadInput(f"longsafety has no variant {name!r}.", fix=nearest(name, VARIANTS))
        if not names:
            raise BadInput("longsafety.variants names none.", fix=f"Choose among {', '.join(VARIANTS)}.")
        return names

    def scale_values(self) -> tuple[float, ...]:
        """The lengths of the variant ``length``, as multiples, smallest first.

        Raises:
            BadInput: One is no number above 0.
        """
        found = set()
        for part in self.scales.split(","):
            try:
                scale = float(part)
            except ValueError:
                scale = -1.0
            if not 0 < scale <= LONGEST_SCALE:
                raise BadInput(
                    f"longsafety.scales has {part.strip()!r}.",
                    fix=f"Give multiples above 0 and at most {LONGEST_SCALE:g}, such as 0.5,2,4.",
                )
            found.add(float(f"{scale:g}"))  # as instances are named by it
        return tuple(sorted(found))
