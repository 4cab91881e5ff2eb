"""Supervised fine-tuning by TRL's SFTTrainer, behind one function: on one process or several, and after a kill.

The loss of an optimiser step is the mean over the learned tokens of its rows, over all micro-batches and all
processes: how the rows are split does not matter.
"""

from __future__ import annotations

import math
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


EVALUATIONS = 10
"""How often held-out rows are read in a training."""


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
    held: Sequence[Example] = (),
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
        held: Examples that are not learned. Their NLL (the mean over rows of a row's mean per token) is looked at
            ten times and at the end; where it has risen twice in a row training stops, and the weights of the least
            one are kept. Checkpoints are then made as often, whatever ``save_every`` says.
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
    trl: Any = untyped
    count = processes.world_size()
    if held and folder is None and count > 1:
        raise ValueError("held-out rows on several processes need a folder that all of them see")
    steps = options.planned(len(examples))
    rows = _dataset(examples)
    if order is not None:
        if len(order) != steps * options.batch:
            raise ValueError(f"{len(order)} places for {steps} steps of {options.batch} rows")
        rows = rows.select(order)
    with ExitStack() as stack:
        home = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="safewright-sft-")))
        keeps = folder is not None and options.save_every is not None
        every = max(2, math.ceil(steps / EVALUATIONS))
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
            **(_looked_at(every) if held else {}),
        )
        callbacks = [watching(progress or silent, steps, what)]
        if held:
            callbacks.append(_stopping())
        if keeps or held:
            callbacks.append(marking(count))
        trainer = trl.SFTTrainer(
            model=model,
            args=asked,
            train_dataset=rows,
            eval_dataset=_dataset(held) if held else None,
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
        seen_of = looked(trainer.state.log_history)
    end = seen_of[-1]["step"] if rising([line["nll"] for line in seen_of]) else steps
    # A training that was killed right after it had stopped makes one step more, and keeps the same weights.
    return trained, History(int(end), [line for line in losses if line["step"] <= end], seen_of)


def looked(log: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """The NLL of held-out rows by step, of a trainer's log."""
    return [{"step": row["step"], "nll": row["eval_loss"]} for row in log if "eval_loss" in row]


def rising(values: Sequence[float]) -> bool:
    """Whether the last two of some values each lie above the one before."""
    return len(values) > 2 and values[-3] < values[-2] < values[-1]


def _looked_at(every: int) -> dict[str, Any]:
    """Arguments of a trainer that looks at held-out rows, one at a time: so their number on a process is no matter."""
    return {
        "eval_strategy": "steps",
        "eval_steps": every,
        "per_device_eval_batch_size": 1,
        "save_strategy": "steps",
        "save_steps": every,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }


def _stopping() -> Any:
    """A callback that ends a training whose held-out NLL has risen twice; it reads the log, which outlives a kill."""
    import transformers

    class Stopping(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step >= state.max_steps:
                control.should_evaluate = True  # the last weights are to be compared, too

        def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.on_train_begin(args, state, control)

        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if rising([line["nll"] for line in looked(state.log_history)]):
                control.should_training_stop = True

    return Stopping()


def _dataset(examples: Sequence[Example]) -> Any:
    """Examples as TRL reads them."""
    import datasets

    return datasets.Dataset.from_list(
        [{"input_ids": list(each.ids), "labels": each.labels} for each in examples]
    )


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
