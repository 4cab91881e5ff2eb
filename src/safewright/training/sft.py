"""Supervised fine-tuning by TRL's SFTTrainer, behind one function: on one process or several, and after a kill.

The loss of an optimiser step is the mean over the learned tokens of its rows, over all micro-batches and all
processes: how the rows are split does not matter.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safewright.errors import need_extra
from safewright.runs.progress import Progress, silent
from safewright.training import processes
from safewright.training.encoding import Example, pad_token, padded
from safewright.training.fitting import (
    FitOptions,
    History,
    agreed,
    arguments,
    marking,
    quiet,
    require_finite,
    seen,
    watching,
)
from safewright.training.loop import SHARDED

KEPT = ("loss", "grad_norm", "learning_rate", "step")
"""What of TRL's log is the same on any number of processes, and after a kill."""


def passes(count: int, length: int, seed: int) -> list[int]:
    """Places of ``count`` examples in shuffled passes, as many as make ``length``.

    The order of a pass depends on the seed and its number alone, not on how many processes read it.
    """
    found: list[int] = []
    turn = 0
    while len(found) < length:
        order = list(range(count))
        random.Random(f"rows order {seed} {turn}").shuffle(order)
        found += order
        turn += 1
    return found[:length]


def train_sft(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    options: FitOptions,
    *,
    order: Sequence[int] | None = None,
    lora: Any = None,
    folder: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    what: str = "training",
) -> tuple[Any, History]:
    """Train a model on examples, on this process or as one of several; the trained model and what was seen.

    On a CPU in float32 the same call gives the same bytes, also where a kill came in between.

    Args:
        model: A transformers model, or a PEFT model whose adapter is trained.
        tokenizer: Its own.
        examples: What is learned, as token ids.
        options: See `FitOptions`; parts and their normalisation are no matter here.
        order: Places of examples, ``steps * batch`` of them, read one after another; None leaves the order to
            the trainer, which is another one on several processes.
        lora: A PEFT configuration of an adapter to be put on the model and trained.
        folder: Where checkpoints lie; None keeps none.
        seed: Of the trainer's order, of dropout, and of a new adapter.
        device: ``cpu`` or ``cuda``.
        progress: Told every step.
        what: What the progress is called.

    Raises:
        Missing: TRL is not installed.
        BadInput: A batch that cannot be split over the processes.
        NumericalFailure: A loss is no number, or a weight is none at the end.
    """
    try:
        import trl as untyped
    except ImportError as error:
        raise need_extra("trl", "train") from error
    import datasets

    trl: Any = untyped
    count = processes.world_size()
    steps = options.planned(len(examples))
    rows = datasets.Dataset.from_list(
        [{"input_ids": list(each.ids), "labels": each.labels} for each in examples]
    )
    if order is not None:
        if len(order) != steps * options.batch:
            raise ValueError(f"{len(order)} places for {steps} steps of {options.batch} rows")
        rows = rows.select(order)
    with ExitStack() as stack:
        home = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="safewright-sft-")))
        keeps = folder is not None and options.save_every is not None
        asked = arguments(
            options,
            home,
            steps,
            len(examples),
            count,
            seed,
            device,
            keeps,
            trl.SFTConfig,
            # Rows come as token ids, cut or dropped by whoever made them: nothing is rendered or packed here.
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="random" if order is None else "sequential",
            dataloader_drop_last=False,
            average_tokens_across_devices=True,
            **_checkpointing(trl.SFTConfig, options.gradient_checkpointing),
        )
        callbacks = [watching(progress or silent, steps, what)]
        if keeps:
            callbacks.append(marking(count))
        trainer = trl.SFTTrainer(
            model=model,
            args=asked,
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=_collated(tokenizer),
            peft_config=lora,
            callbacks=callbacks,
        )
        quiet(trainer)
        checkpoint = agreed(trainer, home, count) if keeps else None
        trainer.train(resume_from_checkpoint=checkpoint)
        trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        trained.eval()
        if trainer.accelerator.distributed_type.name not in SHARDED:
            require_finite(trained)
            trainer.optimizer.state.clear()  # twice the weights, and the trainer waits for the collector
        losses = [seen(row) for row in trainer.state.log_history if "loss" in row]
        losses = [{name: line[name] for name in KEPT if name in line} for line in losses]
    return trained, History(steps, losses)


def _checkpointing(config: Any, wanted: bool) -> dict[str, Any]:
    """Whether activations are computed again, under the name that this version of TRL has for it: it does by
    default."""
    known = "activation_checkpointing" in config.__dataclass_fields__
    name = "activation_checkpointing" if known else "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False} if wanted else None}


def _collated(tokenizer: Any) -> Any:
    """A collate function: rows padded on the right."""
    pad = pad_token(tokenizer)

    def collate(batch: Sequence[Any]) -> dict[str, Any]:
        return padded([row["input_ids"] for row in batch], [row["labels"] for row in batch], pad)

    return collate
