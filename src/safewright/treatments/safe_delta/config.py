"""Options of Safe Delta."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from safewright.errors import BadInput

PREPARING = ("rows", "max_length", "holdout", "templates", "answer_tokens", "judge", "store", "spectrum")
"""Options that only the stage prepare reads."""


@dataclass(frozen=True)
class SafeDeltaConfig:
    """Options of `safe_delta`; `safewright.treatments.safe_delta.core` has the mathematics of the modes."""

    mode: Literal["soft", "exact", "paper", "official"] = field(
        default="soft", metadata={"help": "soft, exact, paper, or official (the release's numbers)."}
    )
    mu: float | None = field(
        default=None,
        metadata={"help": "Price of safety, in units of 1/mean diagonal of H; default 1 for soft and exact."},
    )
    rms_tol: float | None = field(
        default=None, metadata={"help": "Budget: the safety loss of moving every entry by this much."}
    )
    s: float | None = field(
        default=None, metadata={"help": "Budget as in the paper; default 0.1 for paper and official."}
    )
    damping: Literal["auto", "channel", "mean"] = field(
        default="auto", metadata={"help": "channel, or mean; auto is mean for official, else channel."}
    )
    percdamp: float = field(default=0.01, metadata={"help": "Share of the diagonal of H added to it."})
    compensation: bool = field(
        default=True, metadata={"help": "Let entries that are not admitted compensate (paper, official)."}
    )
    blocksize: int = field(default=2048, metadata={"help": "Columns of a block in official."})
    utility: Literal["identity", "task"] = field(
        default="identity",
        metadata={"help": "What stays close: the weights, or the task's outputs (needs --data finetune)."},
    )
    modules: str = field(
        default="all",
        metadata={"help": "Matrices edited: all, or last names such as q_proj,v_proj; others are kept."},
    )
    nonlinear: Literal["auto", "finetuned", "aligned"] = field(
        default="auto",
        metadata={
            "help": "Whose norms, biases, embeddings and head; auto is aligned for official, else finetuned."
        },
    )
    output: Literal["auto", "model", "adapter"] = field(
        default="auto",
        metadata={"help": "model, or adapter; auto is what was given (official and paper: model)."},
    )
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "auto is the fine-tuned model's own; float16 for official."}
    )
    prep: str | None = field(
        default=None,
        metadata={"help": "Folder made by the stage prepare; default: prepared anew.", "decides": False},
    )
    rows: int = field(default=512, metadata={"help": "Calibration rows used at most."})
    max_length: int = field(default=512, metadata={"help": "Tokens of a calibration sequence at most."})
    holdout: float = field(
        default=0.2, metadata={"help": "Share of the calibration sequences the edit never sees."}
    )
    templates: str | None = field(
        default=None,
        metadata={
            "help": "Text file of system prompts, one a line, taken in turn for the calibration rows.",
            "decides": False,
        },
    )
    answer_tokens: int = field(
        default=128, metadata={"help": "Longest answer of the aligned model to a row without one."}
    )
    judge: str = field(
        default="keyword",
        metadata={"help": "Judge of refusals: the aligned model's answers, and the given ones."},
    )
    store: Literal["float32", "float64"] = field(
        default="float32", metadata={"help": "Precision in which H and its eigenvectors are kept."}
    )
    spectrum: Literal["auto", "always", "never"] = field(
        default="auto",
        metadata={
            "help": "Keep the eigenvectors of H, for sweep and budgets in s or rms_tol; auto: of inputs of up to "
            "4096 channels."
        },
    )
    row_chunk: int = field(
        default=4096, metadata={"help": "Rows of a matrix read together.", "decides": False}
    )
    allow_skip: bool = field(
        default=False, metadata={"help": "Keep matrices of unknown kind as the fine-tuned model has them."}
    )
    points: str = field(
        default="0.1,0.3,1,3,10", metadata={"help": "Values of mu the stage sweep visits, in rising order."}
    )

    def __post_init__(self) -> None:
        from safewright.treatments.safe_delta.budget import Budget

        Budget.of(self.mode, self.mu, self.rms_tol, self.s)
        for name, low in (
            ("rows", 1),
            ("max_length", 2),
            ("answer_tokens", 1),
            ("row_chunk", 1),
            ("blocksize", 1),
        ):
            if getattr(self, name) < low:
                raise BadInput(f"{name} is {getattr(self, name)}.", fix=f"It must be at least {low}.")
        if not 0 <= self.holdout < 1:
            raise BadInput(f"holdout is {self.holdout}.", fix="It must lie in [0, 1).")
        if not 0 <= self.percdamp < math.inf:
            raise BadInput(f"percdamp is {self.percdamp}.", fix="It must be a number of at least 0.")
        if self.utility == "task" and self.mode != "soft":
            raise BadInput(
                f"The mode {self.mode!r} has no task metric.", fix="Use mode=soft with utility=task."
            )
        if self.output == "adapter" and self.mode not in ("soft", "exact"):
            raise BadInput(
                f"The mode {self.mode!r} raises the rank of an adapter.",
                fix="Use soft or exact for an adapter, or output=model.",
            )
        self.sweep_points()

    @property
    def edited_dtype(self) -> str | None:
        """The dtype everything is saved in; None keeps each tensor's own."""
        if self.save_dtype != "auto":
            return self.save_dtype
        return "float16" if self.mode == "official" else None

    @property
    def others(self) -> Literal["finetuned", "aligned"]:
        """Whose values everything outside the edited matrices has."""
        if self.nonlinear != "auto":
            return self.nonlinear
        return "aligned" if self.mode == "official" else "finetuned"

    @property
    def damp(self) -> Literal["channel", "mean"]:
        """How H is damped."""
        if self.damping != "auto":
            return self.damping
        return "mean" if self.mode == "official" else "channel"

    def keeps_spectrum(self, width: int) -> bool:
        """Whether the eigenvectors of an input of so many channels are kept in a prepared folder."""
        from safewright.treatments.safe_delta.curvature import FP64_WIDTH

        return self.spectrum == "always" or (self.spectrum == "auto" and width <= FP64_WIDTH)

    def require_no_preparing(self, *given: str) -> None:
        """Pass when nothing only the stage ``prepare`` reads was given beside a prepared folder.

        Args:
            given: What else was given of that kind, such as rows.

        Raises:
            BadInput: Something was; it would be ignored.
        """
        defaults = {option.name: option.default for option in fields(self)}
        named = [*given, *(name for name in PREPARING if getattr(self, name) != defaults[name])]
        if named:
            raise BadInput(
                f"{', '.join(named)} beside a prepared folder (prep): only the stage prepare reads that.",
                why="H was made before, without it.",
                fix="Leave it out, or leave prep out to prepare with it now.",
            )

    def sweep_points(self) -> list[float]:
        """The values of mu of a sweep.

        Raises:
            BadInput: They are not rising positive finite numbers.
        """
        try:
            values = [float(part) for part in self.points.split(",")]
        except ValueError as error:
            raise BadInput(f"points is {self.points!r}.", fix="Write numbers: 0.1,0.3,1") from error
        if any(not 0 < value < math.inf for value in values) or values != sorted(set(values)):
            raise BadInput(f"points is {self.points!r}.", fix="They must be finite, positive and rising.")
        return values

    def inputs(self) -> dict[str, Path]:
        """The files whose content, not whose name, decides the result.

        Raises:
            BadInput: One of them is missing.
        """
        named = {
            "prep": Path(self.prep).expanduser() / "prep.json" if self.prep else None,
            "templates": Path(self.templates).expanduser() if self.templates else None,
        }
        found = {name: file for name, file in named.items() if file is not None}
        for name, file in found.items():
            if not file.is_file():
                raise BadInput(
                    f"{name}={getattr(self, name)}: there is no {file}.",
                    fix="The stage prepare makes such a folder." if name == "prep" else "Check the path.",
                )
        return found

    def system_prompts(self) -> list[str]:
        """The lines of `templates`; empty where there are none.

        Raises:
            BadInput: The file cannot be read, or is empty.
        """
        if self.templates is None:
            return []
        try:
            lines = Path(self.templates).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"templates={self.templates} cannot be read: {error}.") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise BadInput(f"templates={self.templates} is empty.", fix="Write one system prompt a line.")
        return found
