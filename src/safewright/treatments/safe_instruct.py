"""SafeInstruct: fine-tune with a share of safety rows mixed in, instead of repairing afterwards."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from safewright.catalog import treatment
from safewright.errors import BadInput, need_extra
from safewright.training.encoding import encode
from safewright.training.fitting import FitOptions, fell, save_trained
from safewright.training.sft import train_sft
from safewright.treatments.job import Job, Made
from safewright.types import Row

CHECKPOINTS = "training"
"""Where the trainer's checkpoints are kept inside the run."""

MOST_SAFE = 1000
"""Safety rows mixed in at most, as published."""


@dataclass(frozen=True)
class SafeInstructConfig:
    """Options of `safe_instruct`."""

    share: float = field(
        default=0.1,
        metadata={"help": "Safety rows mixed in, as a share of the fine-tuning rows (at most 1000)."},
    )
    epochs: float = field(default=3.0, metadata={"help": "Passes over all rows."})
    steps: int | None = field(default=None, metadata={"help": "Optimiser steps, instead of epochs."})
    batch: int = field(default=32, metadata={"help": "Rows of a step."})
    lr: float = field(default=2e-5, metadata={"help": "Peak learning rate."})
    schedule: Literal["cosine", "linear", "constant"] = field(
        default="cosine", metadata={"help": "How the learning rate falls."}
    )
    warmup: float = field(default=0.0, metadata={"help": "Share of the steps spent rising to the peak."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's weight decay."})
    lora_rank: int = field(default=0, metadata={"help": "Rank of a LoRA adapter; 0 trains all weights."})
    lora_alpha: int = field(default=16, metadata={"help": "Scaling of the adapter times its rank."})
    max_length: int = field(default=512, metadata={"help": "Longest row in tokens; longer ones are cut."})
    save_every: int = field(
        default=200, metadata={"help": "Steps between checkpoints to resume from.", "decides": False}
    )

    def __post_init__(self) -> None:
        for name in ("batch", "max_length", "save_every"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}.", fix="It must be at least 1.")
        if self.steps is not None and self.steps < 1:
            raise BadInput(f"steps is {self.steps}.", fix="It must be at least 1.")
        for name, low, high in (
            ("share", 0, 10),
            ("epochs", 1e-9, 1e6),
            ("lr", 1e-12, 1e3),
            ("warmup", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise BadInput(
                    f"{name} is {getattr(self, name)}.", fix=f"It must lie in [{low:g}, {high:g}]."
                )
        if self.lora_rank < 0:
            raise BadInput(f"lora_rank is {self.lora_rank}.", fix="It must be at least 0.")


@treatment(
    "safe_instruct",
    version="1",
    paper="2309.07875",
    config=SafeInstructConfig,
    takes=("aligned",),
    data=("finetune", "safe"),
    gives=("weights", "adapter"),
    extra="train",
)
def safe_instruct(job: Job) -> Made:
    """Fine-tuning with 10 % safety rows mixed in (SafeInstruct): prevention instead of repair.

    Trains the aligned model on the fine-tuning rows and a share of rows that show refusals, with the loss
    on the answers, by TRL's SFTTrainer.
    """
    config: SafeInstructConfig = job.config
    rows, safe = mixed(job.rows("finetune"), job.rows("safe"), config.share, job.seed)
    losses, cut = _train(job, rows)
    report = {"rows": len(rows), "safe_rows": safe, "cut": cut, "steps": len(losses), "losses": losses}
    return Made("adapter" if config.lora_rank else "weights", (fell(losses),), report)


def mixed(finetune: Sequence[Row], safe: Sequence[Row], share: float, seed: int) -> tuple[list[Row], int]:
    """Fine-tuning rows with ``min(share n, 1000)`` safety rows, drawn without repetition while they last.

    Raises:
        BadInput: A row has no answer to learn.
    """
    for role, rows in (("finetune", finetune), ("safe", safe)):
        lacking = [row.id for row in rows if not (row.reference or "").strip()]
        if lacking:
            raise BadInput(
                f"{len(lacking)} of {len(rows)} {role} rows have no answer (first: {lacking[0]}).",
                fix="Each row needs response, output, or a last assistant turn.",
            )
    wanted = min(MOST_SAFE, math.ceil(share * len(finetune)))
    draw = random.Random(f"safe rows {seed}")
    chosen: list[Row] = []
    while len(chosen) < wanted:
        chosen += draw.sample(list(safe), min(len(safe), wanted - len(chosen)))
    return [*finetune, *chosen], len(chosen)


def _train(job: Job, rows: Sequence[Row]) -> tuple[list[float], int]:
    from safewright.models import load

    config: SafeInstructConfig = job.config
    lora = None
    if config.lora_rank:
        try:
            import peft
        except ImportError as error:
            raise need_extra("peft", "train") from error
        lora = peft.LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
    loaded: Any = load(job.models["aligned"], device=job.device, need=frozenset({"gradient"}))
    try:
        tokenizer, generation = loaded.tokenizer, loaded.model.generation_config
        encoded = encode(tokenizer, rows, max_length=config.max_length)
        trained, history = train_sft(
            loaded.model,
            tokenizer,
            encoded.examples,
            FitOptions(
                steps=config.steps,
                epochs=config.epochs,
                batch=config.batch,
                lr=config.lr,
                schedule=config.schedule,
                warmup=config.warmup,
                weight_decay=config.weight_decay,
                save_every=config.save_every,
            ),
            lora=lora,
            folder=job.run.own(CHECKPOINTS),
            seed=job.seed,
            device=job.device,
            progress=job.progress,
        )
        if not lora:
            trained.generation_config = generation
        save_trained(trained, tokenizer, job.draft)
    finally:
        loaded.close()
    return history.values(), len(encoded.cut) + len(encoded.dropped)
