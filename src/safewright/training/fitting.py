"""Fitting a model to an objective: what a user chooses, checkpoints to go on from, and what was seen."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from safewright.errors import BadInput, Missing, NumericalFailure, need_extra
from safewright.models.weights import read_json
from safewright.runs import write_json
from safewright.runs.progress import Progress, silent
from safewright.training import processes
from safewright.training.loop import SHARDED, GradientRule, Normalise, Objective, StepRule, make_trainer
from safewright.types import Check

WHOLE = "whole.json"
"""Written into a checkpoint last, once every process has written its share."""

OPTIMISERS = {"adamw": "adamw_torch_fused", "sgd": "sgd", "paged_adamw": "paged_adamw_32bit"}
"""Optimisers by transformers' names."""


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    ``batch`` rows make one optimiser step, over all processes and all ``accumulation`` micro-batches of each.
    ``steps`` wins over ``epochs``. ``warmup`` is the share of the steps spent rising to ``lr``; None takes as
    many steps as one pass over the rows. ``clip`` is the largest gradient norm, 0 for none. ``precision`` is
    ``auto`` (arithmetic in the weights' own dtype) or ``bf16`` (mixed). ``normalise``: parts are divided by
    counts over the whole step (``global``) or each micro-batch by its own (``batch``). ``stop_above`` is the
    largest absolute value that a part's loss may take.
    """

    steps: int | None = None
    epochs: float = 1.0
    batch: int = 16
    accumulation: int = 1
    lr: float = 1e-5
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float | None = 0.0
    weight_decay: float = 0.01
    clip: float = 1.0
    optimiser: Literal["adamw", "sgd", "paged_adamw"] = "adamw"
    precision: Literal["auto", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    save_every: int | None = None
    normalise: Normalise = "global"
    stop_above: float | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "accumulation"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}.", fix="It must be at least 1.")
        for name in ("steps", "save_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}.", fix="It must be at least 1.")
        for name, low, high in (
            ("epochs", 1e-9, 1e6),
            ("lr", 1e-12, 1e3),
            ("warmup", 0, 1),
            ("weight_decay", 0, 1e3),
            ("clip", 0, 1e12),
            ("stop_above", 0, math.inf),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise BadInput(f"{name} is {value}.", fix=f"It must lie in [{low:g}, {high:g}].")

    def planned(self, rows: int) -> int:
        """Optimiser steps for so many rows in a pass."""
        return self.steps or math.ceil(self.epochs * rows / self.batch)

    def rising(self, rows: int) -> int:
        """Steps of the warm-up."""
        if self.warmup is None:
            return math.ceil(rows / self.batch)
        return math.ceil(self.warmup * self.planned(rows))

    def per_process(self, count: int) -> int:
        """Rows of a micro-batch on one of ``count`` processes.

        Raises:
            BadInput: A step's rows cannot be split so.
        """
        if self.batch % (count * self.accumulation):
            raise BadInput(
                f"A batch of {self.batch} rows cannot be split over {count} processes and {self.accumulation} "
                f"micro-batches each.",
                why="batch counts the rows of one optimiser step, over all processes.",
                fix=f"Make batch a multiple of {count * self.accumulation}, or change accumulation.",
            )
        return self.batch // (count * self.accumulation)


@dataclass(frozen=True)
class History:
    """What was seen: of each step its loss, its parts' losses, gradient norm and learning rate.

    ``held`` has the ``nll`` of rows that were held out, by ``step``; the weights of its least one were kept.
    """

    steps: int
    losses: list[dict[str, float]] = field(default_factory=list)
    held: list[dict[str, float]] = field(default_factory=list)

    def values(self, name: str = "loss") -> list[float]:
        """One of the quantities, step by step."""
        return [line[name] for line in self.losses]


class Examples(Protocol):
    """What can be fitted: `safewright.training.pairing.Pairs`, or anything like it."""

    def __len__(self) -> int:
        """Items of one pass."""

    def item(self, epoch: int, place: int) -> Any:
        """An item, a pure function of its place."""


class _Passes:
    """Items of pass after pass, as many as the steps need: no step is short, and no item is left out."""

    def __init__(self, source: Examples, count: int) -> None:
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Any:
        if not 0 <= place < self.count:
            raise IndexError(place)
        return self.source.item(*divmod(place, len(self.source)))


def fit(
    model: Any,
    dataset: Examples,
    collate: Callable[[Sequence[Any]], Any],
    objective: Objective,
    options: FitOptions,
    *,
    folder: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    gradient_rule: GradientRule | None = None,
    step_rule: StepRule | None = None,
    what: str = "training",
) -> History:
    """Train ``model`` in place, on this process or as one of several.

    On a CPU in float32 the same call gives the same bytes, also where a kill came in between.

    Args:
        model: A transformers or PEFT model; parameters with ``requires_grad`` are trained.
        dataset: Items by epoch and place.
        collate: Makes a micro-batch of items.
        objective: The loss.
        options: See `FitOptions`.
        folder: Where checkpoints lie; None keeps none.
        seed: Of dropout. Orders and pairs have the dataset's own.
        device: ``cpu`` or ``cuda``.
        progress: Told every step.
        gradient_rule, step_rule: See `safewright.training.loop`.
        what: What the progress is called.

    Raises:
        BadInput: A batch that cannot be split, a rule under split parameters, more than one GPU in one
            process, or an optimiser that needs a GPU where there is none.
        Missing: An optimiser's package is not installed.
        NumericalFailure: A loss or gradient is no number (with step and rows), or beyond ``stop_above``; a
            weight is none at the end.
    """
    count = processes.world_size()
    rows, steps = len(dataset), options.planned(len(dataset))
    with ExitStack() as stack:
        home = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="safewright-fit-")))
        keeps = folder is not None and options.save_every is not None
        asked = arguments(options, home, steps, rows, count, seed, device, keeps)
        callbacks = [watching(progress or silent, steps, what)]
        if keeps:
            callbacks.append(marking(count))
        trainer = make_trainer(
            model,
            asked,
            _Passes(dataset, steps * options.batch),
            collate,
            objective,
            gradient_rule=gradient_rule,
            step_rule=step_rule,
            normalise=options.normalise,
            stop_above=options.stop_above,
            names=getattr(dataset, "names", None),
            callbacks=callbacks,
        )
        quiet(trainer)
        checkpoint = agreed(trainer, home, count) if keeps else None
        if checkpoint:
            trainer.take_up(checkpoint)
        if options.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            stack.callback(model.gradient_checkpointing_disable)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        model.eval()
        if trainer.accelerator.distributed_type.name not in SHARDED:
            require_finite(model)
        losses = [seen(row) for row in trainer.state.log_history if "loss" in row]
        if trainer.accelerator.distributed_type.name not in SHARDED:
            trainer.optimizer.state.clear()  # twice the weights, and the trainer waits for the collector
    return History(steps, losses)


def require_finite(model: Any) -> None:
    """Pass when every trained weight is a number: what the last step did, no loss has seen.

    Raises:
        NumericalFailure: One is none.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(parameter.isfinite().all()):
            raise NumericalFailure(
                f"{name} holds numbers that are none after the last step.",
                why="The model would be of no use.",
                fix="Lower the learning rate (lr), or clip gradients (clip).",
            )


def seen(row: Mapping[str, Any]) -> dict[str, float]:
    """A line of the history from one of a trainer's log."""
    return {name: value for name, value in row.items() if name != "epoch"}


def arguments(
    options: FitOptions,
    home: Path,
    steps: int,
    rows: int,
    count: int,
    seed: int,
    device: str,
    keeps: bool,
    make: Callable[..., Any] | None = None,
    **more: Any,
) -> Any:
    """The arguments of a trainer for a fit: transformers' own, or what ``make`` makes of them and ``more``."""
    try:
        import transformers
    except ImportError as error:
        raise need_extra("transformers", "train") from error
    on_cpu = device == "cpu"
    if options.optimiser == "paged_adamw":
        _require_paged(on_cpu)
    rising = options.rising(rows)
    schedule: str = options.schedule
    if schedule == "constant" and rising:
        schedule = "constant_with_warmup"
    given: dict[str, Any] = {
        "output_dir": str(home),
        "max_steps": steps,
        "per_device_train_batch_size": options.per_process(count),
        "gradient_accumulation_steps": options.accumulation,
        "learning_rate": options.lr,
        "lr_scheduler_type": schedule,
        "warmup_steps": rising,
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.clip,
        "optim": OPTIMISERS[options.optimiser],
        "bf16": options.precision == "bf16",
        "use_cpu": on_cpu,
        # In a single process gloo would be asked to reduce, and fails.
        "ddp_backend": "gloo" if on_cpu and count > 1 else None,
        "report_to": [],
        "logging_steps": 1,
        # The trainer would log a mean in the place of a loss that is no number.
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "save_strategy": "steps" if keeps else "no",
        "save_steps": options.save_every if keeps and options.save_every else steps,
        "seed": seed,
        "data_seed": seed,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not on_cpu,
        "dataloader_drop_last": True,
    }
    made = (make or transformers.TrainingArguments)(**{**given, **more})
    if made.n_gpu > 1:
        raise BadInput(
            f"One process sees {made.n_gpu} GPUs.",
            why="transformers would split every batch among them by threads, and give other results.",
            fix="Use --launch multi_gpu, or choose one: CUDA_VISIBLE_DEVICES=0.",
        )
    return made


def _require_paged(on_cpu: bool) -> None:
    """Pass where paged AdamW can run.

    Raises:
        BadInput: There is no GPU.
        Missing: bitsandbytes is not installed.
    """
    if on_cpu:
        raise BadInput(
            "optimiser is paged_adamw on a CPU.",
            why="It pages the optimiser's moments out of a GPU's memory.",
            fix="Use optimiser=adamw, which makes the same steps.",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Missing(
            "The package 'bitsandbytes' is not installed.",
            why="paged_adamw is made there.",
            fix="Install it (pip install bitsandbytes), or use optimiser=adamw, which makes the same steps.",
        )


def quiet(trainer: Any) -> None:
    """Let a trainer print nothing."""
    import transformers

    for callback in (transformers.PrinterCallback, transformers.ProgressCallback):
        trainer.remove_callback(callback)


def watching(progress: Progress, steps: int, what: str = "training") -> Any:
    """A callback of transformers that tells the progress, and ends at the first loss that is no number."""
    import transformers

    class Watching(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
            value = (logs or {}).get("loss")
            if value is not None and not math.isfinite(value):
                raise NumericalFailure(
                    f"The loss is {value} at step {state.global_step}.", fix="Lower the learning rate (lr)."
                )
            if state.is_world_process_zero:
                progress(what, state.global_step, steps)

    return Watching()


def marking(count: int) -> Any:
    """A callback that marks a checkpoint as whole, and only then deletes the older ones."""
    import transformers

    class Marking(transformers.TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            processes.barrier()
            if not state.is_world_process_zero:
                return
            home = Path(args.output_dir)
            newest = home / f"checkpoint-{state.global_step}"
            best = Path(state.best_model_checkpoint or newest)
            write_json(newest / WHOLE, {"processes": count, "step": state.global_step})
            for older in home.glob("checkpoint-*"):
                if older.name not in (newest.name, best.name):
                    shutil.rmtree(older)

    return Marking()


def agreed(trainer: Any, home: Path, count: int) -> str | None:
    """The checkpoint that all processes go on from."""
    found = [last_whole(home, WHOLE) if processes.is_main() else None]
    if count > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    if found[0] is not None:
        made_by = read_json(Path(found[0]) / WHOLE).get("processes")
        if made_by != count:
            raise BadInput(
                f"The checkpoint {found[0]} was made by {made_by} processes, and there are {count} now.",
                why="Each process has random state of its own.",
                fix="Use as many processes, or --overwrite to start anew.",
            )
    return found[0]


def last_whole(folder: Path, mark: str = "trainer_state.json") -> str | None:
    """The trainer's newest checkpoint that is whole; what a kill left half-written is deleted.

    Args:
        folder: Where checkpoints lie.
        mark: The file that is written last; transformers' own trainer writes its state last.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    for checkpoint in found:
        try:
            json.loads((checkpoint / mark).read_text("utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
        else:
            return str(checkpoint)
    return None


def with_lora(
    model: Any,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all-linear",
    *,
    seed: int = 0,
) -> Any:
    """The model under a new LoRA adapter, the only thing that is trained; with the adapter off it is the base.

    Args:
        model: A plain transformers model.
        rank: Of the adapter.
        alpha: Its scaling times ``rank``.
        dropout: On the adapter's input.
        targets: Modules it changes; ``all-linear`` leaves out the head.
        seed: Of its random half.

    Raises:
        BadInput: The model has no such modules, or none that an adapter fits.
    """
    try:
        import peft
    except ImportError as error:
        raise need_extra("peft", "train") from error
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            lora_dropout=dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            said = targets if isinstance(targets, str) else ", ".join(targets)
            raise BadInput(
                f"No adapter fits the modules {said}.",
                why=str(error).splitlines()[0],
                fix="Name linear modules of the model, such as q_proj,v_proj, or take all-linear.",
            ) from error


def save_trained(model: Any, tokenizer: Any, folder: Path) -> str:
    """Write a trained model or adapter with its tokenizer, on the main process alone; its kind.

    Every process must call it: where parameters are split, each gives its share.

    Returns:
        ``adapter`` or ``weights``.
    """
    adapted = hasattr(model, "peft_config")
    with _gathered(model) as more:
        if processes.is_main():
            model.save_pretrained(folder, **more)
            if adapted:
                sort_sets(folder / "adapter_config.json")
            tokenizer.save_pretrained(folder)
    return "adapter" if adapted else "weights"


@contextmanager
def _gathered(model: Any) -> Iterator[dict[str, Any]]:
    """What ``save_pretrained`` needs besides to write whole tensors of a model whose parameters are split."""
    parameters = list(model.parameters())
    if any(hasattr(parameter, "full_tensor") for parameter in parameters):  # fsdp2
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        yield {"state_dict": get_model_state_dict(model, options=whole)}
    elif any(hasattr(parameter, "ds_id") for parameter in parameters):  # zero3
        import deepspeed  # type: ignore[import-not-found, unused-ignore]

        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=None):
            yield {}
    else:
        yield {}


def sort_sets(file: Path) -> None:
    """Give an adapter's configuration one order: PEFT writes its sets as they happen to lie."""
    found = read_json(file)
    for key in ("target_modules", "exclude_modules"):
        if isinstance(found.get(key), list):
            found[key] = sorted(found[key])
    write_json(file, found)


def fell(losses: Sequence[float]) -> Check:
    """Whether the last tenth of the steps had a lower mean loss than the first: single batches vary."""
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    detail = f"mean over {tenth} steps {first:.4g} to {last:.4g}"
    return Check("the loss fell", len(losses) < 2 or last <= first, detail)
