"""The model before, run beside the one that is trained: its adapter switched off, or a frozen copy.

It answers in evaluation mode and without gradients, so dropout never enters a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safewright.training import losses
from safewright.training.forward import answers_of, logits_together
from safewright.training.losses import Top

Wanted = Mapping[str, Tensor]
"""Positions (B, T) by the name of a part."""


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Evaluation mode and no gradients, with every module's own mode put back afterwards."""
    modes = [(module, module.training) for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def arithmetic(model: Any, bf16: bool) -> Any:
    """A context of mixed arithmetic, as training under ``precision=bf16`` has it: what a model would say in
    float32 differs from what it says in training, and the difference would be unlearned."""
    return torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=bf16)


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """The model without its adapter. PEFT's own context also examines every module, which takes longer than a
    small model does."""
    model.base_model.disable_adapter_layers()
    try:
        yield
    finally:
        model.base_model.enable_adapter_layers()


@dataclass(frozen=True)
class Live:
    """A reference that is run beside the model: ``copy``, or where that is None the model's adapter switched off.

    A copy is in mixed arithmetic where ``bf16`` says that the model is.
    """

    pad: int
    copy: Any = None
    bf16: bool = False

    @contextmanager
    def opened(self, model: Any) -> Iterator[Any]:
        """The reference as a model, frozen."""
        if self.copy is not None:
            with frozen(self.copy), arithmetic(self.copy, self.bf16):
                yield self.copy
            return
        with frozen(model), adapter_off(model):
            yield model

    def logits(self, model: Any, batch: Mapping[str, Any], wanted: Wanted) -> dict[str, Tensor | Top]:
        with self.opened(model) as reference:
            found = logits_together(
                reference, [batch[part] for part in wanted], list(wanted.values()), self.pad
            )
        return dict(zip(wanted, found, strict=True))

    def nll(self, model: Any, batch: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Tensor]:
        with self.opened(model) as reference:
            return {part: losses.sequence_nll(answers_of(reference, batch[part])) for part in parts}
