"""SafeInstruct: fine-tune with a share of safety rows mixed in, instead of repairing afterwards."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from safewright.catalog import treatment
from safewright.errors import BadInput, need_extra
from safewright.training.encoding import encode, pad_token, padded
from safewright.training.fitting import fell, last_whole, save_trained, watching
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
    try:
        import trl as untyped
    except ImportError as error:
        raise need_extra("trl", "train") from error
    import datasets
    import transformers

    from safewright.models import load

    trl: Any = untyped
    config: SafeInstructConfig = job.config
    loaded: Any = load(job.models["aligned"], device=job.device, need=frozenset({"gradient"}))
    tokenizer, model = loaded.tokenizer, loaded.model
    generation = model.generation_config
    encoded = encode(tokenizer, rows, max_length=config.max_length)
    cut = len(encoded.cut) + len(encoded.dropped)
    examples = [{"input_ids": list(each.ids), "labels": each.labels} for each in encoded.examples]
    steps = config.steps or math.ceil(config.epochs * len(examples) / config.batch)
    folder = job.run.own(CHECKPOINTS)
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch,
        learning_rate=config.lr,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup if config.warmup else 0,
        weight_decay=config.weight_decay,
        max_length=None,
        packing=False,
        bf16=False,
        use_cpu=job.device == "cpu",
        gradient_checkpointing=False,
        report_to=[],
        logging_steps=1,
        # The trainer would log a mean in the place of a loss that is no number.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=1,
        seed=job.seed,
        data_seed=job.seed,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=0,
        average_tokens_across_devices=False,
    )
    lora = None
    if config.lora_rank:
        import peft

        lora = peft.LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )

    try:
        trainer = trl.SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_list(examples),
            processing_class=tokenizer,
            data_collator=_collated(tokenizer),
            peft_config=lora,
            callbacks=[watching(job.progress, steps)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=last_whole(folder))
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if not lora:
            trained.generation_config = generation
        save_trained(trained, tokenizer, job.draft)
        losses = [float(row["loss"]) for row in trainer.state.log_history if "loss" in row]
    finally:
        loaded.close()
    return losses, cut


def _collated(tokenizer: Any) -> Any:
    """A collate function: rows padded on the right."""
    pad = pad_token(tokenizer)

    def collate(batch: Sequence[Any]) -> dict[str, Any]:
        return padded([row["input_ids"] for row in batch], [row["labels"] for row in batch], pad)

    return collate
