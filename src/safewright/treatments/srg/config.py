"""Options of `srg`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safewright.errors import BadInput
from safewright.training.fitting import FitOptions
from safewright.treatments.srg.rows import FILLER
from safewright.treatments.srg.synthesis.config import SynthesisOptions


def _help(text: str, **more: Any) -> dict[str, Any]:
    return {"help": text, **more}


@dataclass(frozen=True)
class SRGConfig(SynthesisOptions):
    """Options of `srg`, after those of its synthesis."""

    target: Literal["srg", "rt", "noguide", "label", "filler", "posthoc", "answer_then_check"] = field(
        default="srg",
        metadata=_help(
            "What is learned of a row: reasoning and answer; rt the refusal alone; the others are controls."
        ),
    )
    context: Literal["distilled", "kept"] = field(
        default="distilled", metadata=_help("Whether the guidelines are kept in the training prompts.")
    )
    context_file: str | None = field(
        default=None,
        metadata=_help(
            "Text file in the place of the guidelines: kept in the system turn (context=kept), or shown to the "
            "frozen student (on_policy_kl).",
            decides=False,
        ),
    )
    harden: float = field(
        default=0.0,
        metadata=_help(
            "Share of rows whose turn somebody else has begun, and which return to reasoning; 0.25 is hardened."
        ),
    )
    reentry_openings: str | None = field(
        default=None,
        metadata=_help("Text file of such beginnings, one a line; default our own list.", decides=False),
    )
    attacked_openings: str | None = field(
        default=None,
        metadata=_help(
            "Text file of the beginnings an evaluation attacks with, held out of training.", decides=False
        ),
    )
    objective: Literal["sft", "on_policy_kl", "dpo"] = field(
        default="sft",
        metadata=_help("The loss: rows; the student's own traces drawn to guided ones; rejected candidates."),
    )
    reason_on: Literal["all", "harmful"] = field(
        default="all", metadata=_help("Whether benign rows get reasoning, too.")
    )
    budget: Literal["rows", "tokens"] = field(
        default="rows",
        metadata=_help("tokens: as many learned tokens as target=srg has in its steps, by more steps."),
    )
    general_share: float | None = field(
        default=None, metadata=_help("Share of general rows among all; default every row as given.")
    )
    helpful_share: float | None = field(
        default=None,
        metadata=_help("Share of helpful and contrast rows beside harmful ones; default every row as given."),
    )
    holdout: float = field(
        default=0.0,
        metadata=_help(
            "Share of rows that are not learned: where their loss rises twice, training stops and the best is kept."
        ),
    )
    filler_word: str = field(default=FILLER, metadata=_help("The word without content of target=filler."))
    think_open: str = field(default="<think>", metadata=_help("Marker before the reasoning."))
    think_close: str = field(default="</think>", metadata=_help("Marker behind the reasoning."))
    lora_rank: int = field(default=64, metadata=_help("Rank of the adapter; 0 trains all weights."))
    lora_alpha: float | None = field(
        default=None, metadata=_help("The adapter's scaling times its rank; default twice the rank.")
    )
    lora_dropout: float = field(default=0.0, metadata=_help("Dropout on the adapter's input."))
    lora_targets: str = field(
        default="all-linear", metadata=_help("Modules with an adapter: all-linear, or names with commas.")
    )
    epochs: float = field(default=3.0, metadata=_help("Passes over all rows."))
    steps: int | None = field(default=None, metadata=_help("Optimiser steps, instead of epochs."))
    batch: int = field(default=64, metadata=_help("Rows of a step, over all processes."))
    accumulation: int = field(default=1, metadata=_help("Micro-batches of a step on each process."))
    lr: float | None = field(
        default=None, metadata=_help("Peak learning rate; default 1e-4 for an adapter, 1e-5 for all weights.")
    )
    schedule: Literal["cosine", "linear", "constant"] = field(
        default="cosine", metadata=_help("How the learning rate falls.")
    )
    warmup: float = field(default=0.1, metadata=_help("Share of the steps spent rising to the peak."))
    weight_decay: float = field(default=0.0, metadata=_help("AdamW's weight decay."))
    clip: float = field(default=1.0, metadata=_help("Largest gradient norm; 0 for none."))
    optimiser: Literal["adamw", "sgd", "paged_adamw"] = field(
        default="adamw", metadata=_help("paged_adamw needs bitsandbytes and a GPU.")
    )
    precision: Literal["auto", "bf16"] = field(
        default="auto", metadata=_help("auto: the weights' own; bf16: mixed.")
    )
    gradient_checkpointing: bool = field(
        default=False, metadata=_help("Less memory, a third more time.", decides=False)
    )
    max_length: int = field(
        default=4096, metadata=_help("Longest row in tokens; longer ones are left out, at most 5 % of all.")
    )
    save_every: int = field(
        default=200, metadata=_help("Steps between checkpoints to resume from.", decides=False)
    )
    dpo_beta: float = field(default=0.1, metadata=_help("dpo: how sharply two traces are told apart."))
    dpo_learned: float = field(
        default=1.0, metadata=_help("dpo: weight of the rows learned beside the pairs; 0 leaves them out.")
    )
    kl_tokens: int = field(default=512, metadata=_help("on_policy_kl: most tokens drawn for a request."))
    kl_temperature: float = field(default=1.0, metadata=_help("on_policy_kl: temperature of the draws."))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_length", "save_every", "kl_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}.", fix="It must be at least 1.")
        for name, high in (
            ("harden", 1.0),
            ("holdout", 0.5),
            ("lora_dropout", 0.999),
            ("general_share", 0.999),
            ("helpful_share", 0.999),
            ("dpo_learned", 1e6),
            ("kl_temperature", 10.0),
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= high:
                raise BadInput(f"{name} is {value}.", fix=f"It must lie in [0, {high:g}].")
        if not 0 < self.dpo_beta <= 1e3:
            raise BadInput(f"dpo_beta is {self.dpo_beta}.", fix="It must lie in (0, 1000].")
        if self.lora_rank < 0:
            raise BadInput(f"lora_rank is {self.lora_rank}.", fix="It must be at least 0.")
        if not self.think_open.strip() or not self.think_close.strip() or self.think_open == self.think_close:
            raise BadInput(
                f"The markers are {self.think_open!r} and {self.think_close!r}.",
                fix="They must be two different texts with words in them.",
            )
        if not self.filler_word.strip():
            raise BadInput("filler_word is empty.", fix="Name a word without content, such as '.'.")
        if self.harden and self.target in ("rt", "posthoc"):
            raise BadInput(
                f"harden is {self.harden:g}, and target={self.target}.",
                why="A begun turn returns to the reasoning before the answer, and this target has none.",
                fix="Use harden=0, or another target.",
            )
        unread = "harden" if self.harden else "holdout" if self.holdout else "budget=tokens"
        if self.objective != "sft" and (self.harden or self.holdout or self.budget != "rows"):
            raise BadInput(
                f"{unread} is given, and objective={self.objective}.",
                why="It belongs to plain fine-tuning; nothing would come of it here.",
                fix=f"Leave {unread} out, or use objective=sft.",
            )
        if self.objective == "on_policy_kl" and self.target != "srg":
            raise BadInput(
                f"target is {self.target}, and objective=on_policy_kl.",
                why="It reads no answers, so no target either: the student says what it says below the guidelines.",
                fix="Leave target out, or use objective=sft.",
            )
        if self.context_file is not None and self.context == "distilled" and self.objective != "on_policy_kl":
            raise BadInput(
                "context_file is given, and context=distilled keeps no text.",
                fix="Use context=kept, or leave it out.",
            )
        self.fit_options()

    @property
    def markers(self) -> dict[str, str]:
        """The markers of the reasoning, as a recipe names them."""
        return {"open": self.think_open, "close": self.think_close}

    @property
    def reasons(self) -> bool:
        """Whether the trained model writes reasoning."""
        return self.target != "rt"

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        return self.lr if self.lr is not None else (1e-4 if self.lora_rank else 1e-5)

    @property
    def alpha(self) -> float:
        """The adapter's scaling times its rank."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    @property
    def targets(self) -> str | list[str]:
        """The modules with an adapter."""
        if self.lora_targets == "all-linear":
            return self.lora_targets
        return [part.strip() for part in self.lora_targets.split(",") if part.strip()]

    def fit_options(self, steps: int | None = None) -> FitOptions:
        """How to fit; ``steps`` in the place of the option."""
        return FitOptions(
            steps=self.steps if steps is None else steps,
            epochs=self.epochs,
            batch=self.batch,
            accumulation=self.accumulation,
            lr=self.peak,
            schedule=self.schedule,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            clip=self.clip,
            optimiser=self.optimiser,
            precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
            save_every=self.save_every,
        )

    def inputs(self) -> dict[str, Path]:
        """The files whose content decides the result.

        Raises:
            BadInput: One is not there.
        """
        found = dict(super().inputs())
        for name in ("context_file", "reentry_openings", "attacked_openings"):
            value = getattr(self, name)
            if value is None:
                continue
            file = Path(value)
            if not file.is_file():
                raise BadInput(f"{name}={file} is no file.", fix="Name a text file.")
            found[name] = file
        return found
