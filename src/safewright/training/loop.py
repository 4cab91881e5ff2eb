"""The loop for losses of our own: the one subclass of transformers' Trainer, by public overrides only.

The loss of an optimiser step is, for every part of an objective, a sum over all its rows or tokens divided by
their count, where both run over all micro-batches and all processes. So it does not matter how the rows of a
step are split: with world size W, ``W * sum / count`` of each micro-batch accumulates, and averaging over
processes takes the W away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from safewright.errors import BadInput, NumericalFailure

if TYPE_CHECKING:
    import torch

Batch = Mapping[str, Any]
Counts = Mapping[str, float]


class Summed(NamedTuple):
    """What `Objective.part` may return in the place of a plain pair.

    ``told`` are further sums for the history, divided by the same count and never differentiated; their names
    must differ from those of parts.
    """

    total: torch.Tensor
    by: str
    told: Mapping[str, Any] = {}


class Objective(Protocol):
    """A loss as a sum of parts. It knows no Trainer, and is the same on every process.

    An objective may also have ``after_step(losses: dict[str, float])``: called on every process after each
    optimiser step with the step's parts (and what was told) over all processes, for dual variables.
    """

    parts: tuple[str, ...]

    def counts(self, batch: Batch) -> dict[str, float]:
        """What sums are divided by, for this micro-batch; added up over micro-batches and processes. Always
        the same keys."""

    def part(self, acc: Any, model: Any, batch: Batch, part: str) -> tuple[torch.Tensor, str] | Summed:
        """A part's weighted sum over this micro-batch (a scalar with a gradient) and the name of its count.

        Args:
            acc: The accelerator; ``acc.unwrap_model(model)`` is the plain model, for passes without gradient.
            model: To be called for what is differentiated; wrapped where there are several processes.
            batch: A micro-batch on the device.
            part: One of ``parts``. They are asked for in order, all of one batch before the next batch.
        """

    def state_dict(self) -> dict[str, Any]:
        """What changes from step to step (dual variables, counters): plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class GradientRule(Protocol):
    """What is made of each part's gradient, reduced over processes and micro-batches, before clipping.

    A rule may also have ``state_dict`` and ``load_state_dict``.
    """

    def __call__(
        self, by_part: dict[str, list[torch.Tensor]], params: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """The gradient of the step, one tensor per parameter, from those of the parts."""

    def after_step(self, params: list[torch.Tensor]) -> None:
        """Called after the optimiser's step, for example to put masked rows back bit by bit."""


class StepRule(Protocol):
    """A step of several passes (sharpness, perturbation). It does its own backward passes."""

    def __call__(self, trainer: Any, model: Any, batch: Batch, counts: Counts) -> torch.Tensor:
        """Leave the gradient of a micro-batch in ``p.grad``, added to what is there; returns the loss.

        Passes whose gradient is not the step's run under ``trainer.accelerator.no_sync(model)``;
        ``trainer.gradient`` gives a part's gradient.
        """

    def state_dict(self) -> dict[str, Any]:
        """Sampler and random state; each process keeps its own."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


Normalise = Literal["global", "batch"]
STATE = "objective"
"""The files ``objective_RANK.pt`` of a checkpoint: states of objective and rules."""

SHARDED = {"FSDP": "fsdp2", "DEEPSPEED": "zero3", "MEGATRON_LM": "Megatron-LM"}
"""Ways of training that split parameters, by accelerate's names: no rule has been shown to work there."""


def refuse_sharded(kind: str, *rules: Any) -> None:
    """Pass where no rule would see split parameters.

    Raises:
        BadInput: One would, with its name.
    """
    for rule in rules:
        if rule is not None and kind in SHARDED:
            name = getattr(rule, "name", type(rule).__name__)
            raise BadInput(
                f"{name} does not run under {SHARDED[kind]}.",
                why="It reads whole gradients, and each process would hold a part of every tensor.",
                fix="Use --launch multi_gpu, or train without it.",
            )


@cache
def loss_trainer() -> Any:
    """The class ``LossTrainer``, made where transformers is first needed."""
    import torch
    import transformers as untyped

    transformers: Any = untyped

    class After(transformers.TrainerCallback):  # type: ignore[misc]
        """What has to happen between the Trainer's own steps."""

        def __init__(self, trainer: Any) -> None:
            self.trainer = trainer

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            # Neither the Trainer nor accelerate tells a dataset its epoch on more than one process.
            dataset = self.trainer.train_dataset
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(int((state.epoch or 0.0) + 1e-6))

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.trainer.stepped()

    class LossTrainer(transformers.Trainer):  # type: ignore[misc]
        """transformers' Trainer for an `Objective`, with a `GradientRule` or a `StepRule` where there is one."""

        loss_is_scaled_for_ga = True

        def __init__(
            self,
            *given: Any,
            objective: Objective,
            gradient_rule: GradientRule | None = None,
            step_rule: StepRule | None = None,
            normalise: Normalise = "global",
            stop_above: float | None = None,
            names: Callable[[Any], Sequence[str]] | None = None,
            **more: Any,
        ) -> None:
            super().__init__(*given, **more)
            if gradient_rule is not None and step_rule is not None:
                raise BadInput("A gradient rule and a step rule cannot both make the gradient.")
            refuse_sharded(self.accelerator.distributed_type.name, gradient_rule, step_rule)
            self.objective, self.gradient_rule, self.step_rule = objective, gradient_rule, step_rule
            self.normalise, self.stop_above, self.names = normalise, stop_above, names
            self.add_callback(After(self))
            self._held: dict[str, list[torch.Tensor]] = {}
            self._sums: dict[str, torch.Tensor] = {}
            self._seen: list[tuple[torch.Tensor, Any]] = []
            self._micro = 1
            self._told: dict[str, float] = {}

        # What the Trainer asks for ------------------------------------------------------------------

        def get_train_dataloader(self) -> Any:
            """The rows in the dataset's own order, which is the same on any number of processes."""
            loader = torch.utils.data.DataLoader(
                self.train_dataset,
                batch_size=self.args.train_batch_size,
                collate_fn=self.data_collator,
                drop_last=True,
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
            )
            return self.accelerator.prepare(loader)

        def get_batch_samples(
            self, epoch_iterator: Any, num_batches: int, device: Any
        ) -> tuple[list[Any], Any]:
            """The micro-batches of a step, and the counts of all of them on all processes."""
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            if not batches:
                return batches, None
            self._micro = len(batches)
            self._sums, self._seen, self._held = {}, [], {}
            return batches, self.reduced(_added(self.objective.counts(batch) for batch in batches))

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """The loss of a micro-batch, its share of the step's; in evaluation (no counts) over its own rows."""
            total = sum(self.share(model, inputs, part, num_items_in_batch) for part in self.objective.parts)
            return (total, None) if return_outputs else total

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            """Gradients of a micro-batch; after a step's last one the rule, and the end where a loss is no number."""
            loss: torch.Tensor
            if self.gradient_rule is None and self.step_rule is None:
                loss = super().training_step(model, inputs, num_items_in_batch)
            else:
                from accelerate.utils import send_to_device

                model.train()
                inputs = send_to_device(inputs, self.args.device)
                if self.step_rule is not None:
                    loss = self.step_rule(self, model, inputs, num_items_in_batch).detach()
                    self._sums = {"loss": self._sums.get("loss", 0.0) + loss / self.accelerator.num_processes}
                else:
                    loss = self._part_by_part(model, inputs, num_items_in_batch)
            self._seen.append((loss.detach(), inputs.get("index")))
            if self.accelerator.sync_gradients:
                self._told = self.reduced(self._sums)
                self._require_numbers()
                if self.gradient_rule is not None:
                    made = self.gradient_rule(self._held, self.trained)
                    for parameter, gradient in zip(self.trained, made, strict=True):
                        parameter.grad = gradient
                    self._held = {}
            return loss

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            """The model, with the states of objective and rules beside it."""
            super().save_model(output_dir, _internal_call)
            if output_dir is not None and _internal_call:
                from pathlib import Path

                Path(output_dir).mkdir(parents=True, exist_ok=True)
                states = {name: thing.state_dict() for name, thing in self._stateful()}
                torch.save(states, Path(output_dir) / f"{STATE}_{self.args.process_index}.pt")

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            """The Trainer's own line of history with the step's parts in it; ends at a gradient that is no number."""
            if "loss" in logs:
                logs |= {name: value for name, value in self._told.items() if name != "loss"}
            norm = logs.get("grad_norm")
            if norm is not None and not math.isfinite(norm):
                raise NumericalFailure(
                    f"The gradient's norm is {norm} at step {self.state.global_step}.",
                    fix="Lower the learning rate (lr), or train in float32.",
                )
            super().log(logs, start_time)

        def floating_point_ops(self, inputs: Any) -> int:
            """0: batches of several parts are not what the Trainer's estimate is for."""
            return 0

        # What rules ask for -------------------------------------------------------------------------

        @property
        def trained(self) -> list[Any]:
            """The parameters that are trained, in the model's order."""
            return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

        @property
        def trained_names(self) -> list[str]:
            """Their names."""
            return [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]

        def gradient(
            self,
            model: Any,
            batch: Batch,
            part: str,
            counts: Counts | None,
            into: Sequence[Any] | None = None,
        ) -> tuple[torch.Tensor, list[torch.Tensor]]:
            """A part's loss on a micro-batch and its gradient, added to ``into``.

            ``p.grad`` is left None: nothing of it reaches the optimiser by itself. Inside ``no_sync`` the
            gradient is this process's own; outside, the average over processes of it with ``into``.
            """
            parameters = self.trained
            for place, parameter in enumerate(parameters):
                parameter.grad = None if into is None else into[place]
            loss = self.share(model, batch, part, counts)
            self.accelerator.backward(loss)
            taken = []
            for parameter in parameters:
                taken.append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
                parameter.grad = None
            return loss.detach(), taken

        def share(self, model: Any, batch: Batch, part: str, counts: Counts | None) -> torch.Tensor:
            """A micro-batch's share of a part's loss: what is differentiated.

            Raises:
                NumericalFailure: The part is divided by a count of 0.
            """
            found = self.objective.part(self.accelerator, model, batch, part)
            total: torch.Tensor = found[0]
            name: str = found[1]
            evaluating = counts is None
            local = evaluating or self.normalise == "batch"
            divisor = (self.objective.counts(batch) if local else counts)[name]  # type: ignore[index]
            if not divisor > 0:
                raise NumericalFailure(
                    f"The {part} part has {divisor:g} {name} to be divided by at step {self.state.global_step + 1}.",
                    fix="Check the rows of that part: each needs at least one token to learn.",
                )
            if local and not evaluating:
                divisor *= self._micro * self.accelerator.num_processes
            if not evaluating:
                self._note(part, total / divisor)
                for key, value in (found[2] if len(found) > 2 else {}).items():
                    self._note(key, value / divisor)
            return total * ((1 if evaluating else self.accelerator.num_processes) / divisor)

        def reduced(self, values: Mapping[str, Any]) -> dict[str, float]:
            """Numbers by name, added up over processes."""
            names = sorted(values)
            line = torch.tensor([float(values[name]) for name in names], dtype=torch.float64)
            if self.accelerator.num_processes > 1:
                line = self.accelerator.reduce(line.to(self.args.device), reduction="sum").cpu()
            return dict(zip(names, line.tolist(), strict=True))

        def stepped(self) -> None:
            """Tell rule and objective that the optimiser has made its step."""
            if self.gradient_rule is not None:
                self.gradient_rule.after_step(self.trained)
            if hasattr(self.objective, "after_step"):
                self.objective.after_step(dict(self._told))

        def take_up(self, checkpoint: str) -> None:
            """Give objective and rules the states of a checkpoint."""
            from pathlib import Path

            file = Path(checkpoint) / f"{STATE}_{self.args.process_index}.pt"
            states = torch.load(file, weights_only=True)
            for name, thing in self._stateful():
                if name in states:
                    thing.load_state_dict(states[name])

        # Inside -------------------------------------------------------------------------------------

        def _stateful(self) -> list[tuple[str, Any]]:
            things = {
                "objective": self.objective,
                "gradient_rule": self.gradient_rule,
                "step_rule": self.step_rule,
            }
            return [(name, thing) for name, thing in things.items() if hasattr(thing, "state_dict")]

        def _part_by_part(self, model: Any, inputs: Any, counts: Any) -> torch.Tensor:
            """Every part's gradient, each added up over the micro-batches on its own."""
            losses = []
            for part in self.objective.parts:
                loss, taken = self.gradient(model, inputs, part, counts, self._held.get(part))
                self._held[part] = taken
                losses.append(loss)
            return torch.stack(losses).sum()

        def _note(self, name: str, value: Any) -> None:
            found = value.detach().double() if hasattr(value, "detach") else torch.tensor(float(value))
            self._sums[name] = self._sums[name] + found if name in self._sums else found

        def _require_numbers(self) -> None:
            """Pass when all parts of the step are numbers within the bound; all processes find the same.

            Raises:
                NumericalFailure: With the step, and the rows of the micro-batches it came from.
            """
            step = self.state.global_step + 1
            bad = {name: value for name, value in self._told.items() if not math.isfinite(value)}
            if bad:
                rows = self._gathered(lambda loss: not math.isfinite(loss))
                name, value = next(iter(bad.items()))
                what = "loss" if name == "loss" else f"{name} loss"
                raise NumericalFailure(
                    f"The {what} is {value} at step {step} ({_some(rows)}).",
                    why="Going on would make every weight one.",
                    fix="Lower the learning rate (lr), or look at these rows.",
                )
            bound = self.stop_above
            above = {n: v for n, v in self._told.items() if bound is not None and abs(v) > bound}
            if above:
                name, value = next(iter(above.items()))
                raise NumericalFailure(
                    f"The {name} loss is {value:.4g} at step {step}, beyond the bound of {bound:g}.",
                    why="Training was asked to end there.",
                    fix="Lower the learning rate (lr) or the steps, or raise stop_above.",
                )

        def _gathered(self, chosen: Callable[[float], bool]) -> list[str]:
            """The ids of rows in micro-batches chosen by their loss, of all processes."""
            mine = [index for loss, index in self._seen if index is not None and chosen(float(loss))]
            plain = [
                {part: [int(place) for place in places] for part, places in each.items()} for each in mine
            ]
            if self.accelerator.num_processes > 1:
                from accelerate.utils import gather_object

                plain = gather_object(plain)
            names = self.names or _plain_names
            return [name for each in plain for name in names(each)]

    return LossTrainer


def make_trainer(
    model: Any,
    arguments: Any,
    dataset: Any,
    collate: Callable[[Sequence[Any]], Any],
    objective: Objective,
    **more: Any,
) -> Any:
    """A ``LossTrainer``.

    Args:
        model: To be trained in place.
        arguments: transformers' TrainingArguments.
        dataset: With a length and items; see `safewright.training.pairing.Pairs`.
        collate: Makes a batch of items; its ``index`` names rows in errors.
        objective: The loss.
        gradient_rule, step_rule: What makes the gradient, where it is not the loss's own.
        normalise: ``global``, or ``batch``: each micro-batch divides by its own counts, and they are averaged.
        stop_above: The largest absolute value a part may take.
        names: Row ids of an ``index``.
        callbacks: Of transformers.
    """
    return loss_trainer()(
        model=model, args=arguments, train_dataset=dataset, data_collator=collate, objective=objective, **more
    )


def _added(counts: Any) -> dict[str, float]:
    """Counts of several micro-batches, added up by name."""
    total: dict[str, float] = {}
    for each in counts:
        for name, value in each.items():
            total[name] = total.get(name, 0.0) + float(value)
    return total


def _plain_names(index: Mapping[str, Sequence[int]]) -> list[str]:
    return [f"{part}:{place}" for part, places in index.items() for place in places]


def _some(rows: Sequence[str]) -> str:
    if not rows:
        return "the rows are not known"
    more = f" and {len(rows) - 12} more" if len(rows) > 12 else ""
    return f"rows {', '.join(rows[:12])}{more}"
