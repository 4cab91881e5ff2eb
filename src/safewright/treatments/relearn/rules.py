"""Gradient rules: which weights a step may move. Both see each part's whole gradient, before clipping.

**SURE**: rows of all trained tensors whose forget gradient is among the largest percentile move; all others
stay, bit for bit. **MemFlex**: tensors whose forget gradient is large and unlike the retain gradient move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from safewright.errors import BadInput
from safewright.training.losses import wide

FORGET = "forget"


def rows_of(tensor: Tensor) -> Tensor:
    """A tensor as (rows, rest): a matrix as it is, a vector as rows of one number."""
    return tensor.reshape(tensor.shape[0], -1) if tensor.ndim else tensor.reshape(1, 1)


def row_norms(gradients: Sequence[Tensor]) -> Tensor:
    """The norms of all rows of all tensors, in order."""
    return torch.cat([torch.linalg.vector_norm(rows_of(wide(g)), dim=1) for g in gradients])


def kept_count(rows: int, threshold: float) -> int:
    """How many of so many rows lie at or above the ``threshold`` percentile (linear between ranks).

    At 99 that is one in a hundred, rounded up; at 0 all.
    """
    return rows - math.ceil(round(threshold * (rows - 1) / 100, 9))


def kept_rows(gradients: Sequence[Tensor], threshold: float) -> list[Tensor]:
    """By tensor, which rows are at or above the percentile over the rows of all tensors; ties are kept."""
    norms = row_norms(gradients)
    count = kept_count(len(norms), threshold)
    least = norms.kthvalue(len(norms) - count + 1).values
    return list(torch.split(norms >= least, [rows_of(g).shape[0] for g in gradients]))


def summed(by_part: Mapping[str, Sequence[Tensor]], names: Sequence[str]) -> list[Tensor]:
    """The gradients of several parts together."""
    found = [list(by_part[name]) for name in names]
    return [sum(each[1:], each[0]) for each in zip(*found, strict=True)]


class Sure:
    """Only rows with a large forget gradient move.

    A zero gradient is not a zero step under AdamW (momentum, weight decay), so the other rows are put back
    after it; their moments are left as the optimiser has them.
    """

    name = "sure"

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.kept: list[Tensor] = []
        self._before: list[Tensor] = []
        self.moved = self.rows = 0

    def __call__(self, by_part: dict[str, list[Tensor]], params: list[Tensor]) -> list[Tensor]:
        self.kept = kept_rows(by_part[FORGET], self.threshold)
        whole = summed(by_part, list(by_part))
        self.moved = int(sum(int(kept.sum()) for kept in self.kept))
        self.rows = sum(len(kept) for kept in self.kept)
        if self.moved == self.rows:
            self._before = []
            return whole
        self._before = [parameter.detach().clone() for parameter in params]
        return [gradient * _over(kept, gradient) for gradient, kept in zip(whole, self.kept, strict=True)]

    def after_step(self, params: list[Tensor]) -> None:
        """Put masked rows back, bit for bit."""
        with torch.no_grad():
            for parameter, before, kept in zip(params, self._before, self.kept, strict=False):
                parameter.copy_(torch.where(_over(kept, parameter), parameter, before))
        self._before = []


def _over(kept: Tensor, tensor: Tensor) -> Tensor:
    """A mask of rows in a shape that spreads over the tensor."""
    return kept.reshape(-1, *([1] * (tensor.ndim - 1))) if tensor.ndim else kept.reshape(())


class MemFlex:
    """Only tensors move whose forget gradient is large, and points elsewhere than the retain gradient.

    ``gamma`` is the weight the forget gradient carries: sizes are compared without it.
    """

    name = "memflex"

    def __init__(self, cosine: float, magnitude: float, gamma: float) -> None:
        self.cosine, self.magnitude, self.gamma = cosine, magnitude, gamma
        self.kept: list[bool] = []
        self._before: list[Tensor] = []

    def __call__(self, by_part: dict[str, list[Tensor]], params: list[Tensor]) -> list[Tensor]:
        others = [name for name in by_part if name != FORGET]
        if not others:
            raise BadInput("memflex compares forget with retain gradients, and nothing is kept.")
        forget, retain = by_part[FORGET], summed(by_part, others)
        self.kept = [self._moves(f, r) for f, r in zip(forget, retain, strict=True)]
        self._before = [
            parameter.detach().clone() if not kept else parameter
            for parameter, kept in zip(params, self.kept, strict=True)
        ]
        return [
            f + r if kept else torch.zeros_like(f)
            for f, r, kept in zip(forget, retain, self.kept, strict=True)
        ]

    def _moves(self, forget: Tensor, retain: Tensor) -> bool:
        f, r = forget.flatten().float(), retain.flatten().float()
        alike = float(torch.nn.functional.cosine_similarity(f, r, dim=0))
        size = float(f.abs().mean()) / self.gamma if self.gamma else 0.0
        return alike < self.cosine and size > self.magnitude

    def after_step(self, params: list[Tensor]) -> None:
        """Put the tensors that had no gradient back, bit for bit."""
        with torch.no_grad():
            for parameter, before, kept in zip(params, self._before, self.kept, strict=False):
                if not kept:
                    parameter.copy_(before)
        self._before = []


def rule_of(settings: Any) -> Sure | MemFlex | None:
    """The gradient rule of a training's settings (`config.Resolved`); None where all weights move freely."""
    if settings.modifier == "sure":
        return Sure(settings.sure_threshold)
    if settings.modifier == "memflex":
        return MemFlex(settings.memflex_cosine, settings.memflex_magnitude, settings.gamma)
    return None
