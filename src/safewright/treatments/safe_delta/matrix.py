"""Safe Delta on one matrix of a model: read by tiles, edited, and accounted for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from safewright.errors import BadInput
from safewright.models.blocks import Matrix
from safewright.treatments.editing import Put, tiles
from safewright.treatments.safe_delta.budget import Budget
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.core import (
    Basis,
    Decision,
    decide,
    edit_factor,
    edit_matrix,
    edit_rows,
    energies,
    loss,
    needed_bases,
)
from safewright.treatments.safe_delta.curvature import Curvature
from safewright.treatments.safe_delta.prepared import Group, Prepared
from safewright.treatments.sources import fill

HELD = ("loss", "loss_full", "held_loss", "held_loss_full")
"""Safety losses of a layer's report: of the edit and of the whole step, on calibration and held-out rows."""

Rows = Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]
"""Rows start to stop of the aligned and of the fine-tuned matrix, both (out, in)."""


@dataclass
class Losses:
    """Sums over the rows of one matrix, tile by tile: what an edit costs, and what it keeps."""

    H: torch.Tensor
    held: torch.Tensor | None
    loss: float = 0.0
    loss_full: float = 0.0
    held_loss: float = 0.0
    held_loss_full: float = 0.0
    step: float = 0.0
    edit: float = 0.0
    gap: float = 0.0
    rounding: float = 0.0
    held_rounding: float = 0.0
    base: float = 0.0
    along: float = 0.0

    def add(self, edit: torch.Tensor, delta: torch.Tensor, rounding: torch.Tensor | None = None) -> None:
        """Add the rows of a tile: the edit as it was written, the whole step, and what writing rounded."""
        parts = {"loss": edit, "loss_full": delta} | ({} if rounding is None else {"rounding": rounding})
        for H, prefix in ((self.H, ""), (self.held, "held_")):
            if H is None:
                continue
            for name, rows in parts.items():
                setattr(self, prefix + name, getattr(self, prefix + name) + loss(rows, H))
        for name, rows in (("step", delta), ("edit", edit), ("gap", edit - delta)):
            setattr(self, name, getattr(self, name) + float((rows * rows).sum(dtype=torch.float64)))

    def compare(self, aligned: torch.Tensor, delta: torch.Tensor) -> None:
        """Add the rows of a tile to what tells a fine-tune from another model."""
        self.base += float((aligned * aligned).sum(dtype=torch.float64))
        self.along += float((aligned * delta).sum(dtype=torch.float64))

    def report(self) -> dict[str, Any]:
        """Losses, kept energy |E|^2 / |D|^2 and distance |E - D|^2 / |D|^2."""
        found: dict[str, Any] = {name: getattr(self, name) for name in HELD}
        if self.held is None:
            found |= {"held_loss": None, "held_loss_full": None}
        kept = self.edit / self.step if self.step else 1.0
        return found | {
            "step": self.step,
            "kept": kept,
            "distance": self.gap / self.step if self.step else 0.0,
            "base": self.base,
            "along": self.along,
            "rounding": self.rounding,
            "held_rounding": None if self.held is None else self.held_rounding,
        }


def edit_one(
    matrix: Matrix,
    rows: Rows,
    shape: tuple[int, int],
    prepared: Prepared,
    config: SafeDeltaConfig,
    *,
    work: torch.dtype,
    dtype: torch.dtype,
    device: str,
    put: Put,
) -> dict[str, Any]:
    """Put every row of the new matrix; its line of the layer report.

    Args:
        work: The dtype it is computed in.
        dtype: The dtype it is put in; losses are those of the numbers as they are written.
        device: Where it is computed.
    """
    group = prepared.group(matrix.module)
    if shape[1] != group.width:
        raise BadInput(f"{matrix.tensor} has {shape[1]} inputs, its H {group.width}.")
    curvature = prepared.curvature(group, config, device)
    losses = Losses(curvature.H, prepared.held(group, device))
    if config.mode in ("official", "paper"):
        info = _whole(rows, shape[0], curvature, config, losses, work, dtype, put)
    else:
        info = _tiled(rows, shape, curvature, config, losses, work, dtype, device, put)
    return {
        "module": matrix.module,
        "layer": matrix.layer,
        "shape": list(shape),
        "rank": group.rank,
        **borrowed(group),
        **losses.report(),
        **info,
    }


def _tiled(
    rows: Rows,
    shape: tuple[int, int],
    curvature: Curvature,
    config: SafeDeltaConfig,
    losses: Losses,
    work: torch.dtype,
    dtype: torch.dtype,
    device: str,
    put: Put,
) -> dict[str, Any]:
    """Two passes over the rows: what the whole matrix decides, then the edit."""
    count, width = shape
    budget = Budget.of(config.mode, config.mu, config.rms_tol, config.s)
    found: dict[Basis, torch.Tensor] = {}
    squares = torch.zeros(width, dtype=torch.float64, device=device)
    bases = needed_bases(config.mode, budget, curvature)
    for start, stop in tiles(count) if bases else ():
        aligned, tuned = (fill(part, work) for part in rows(start, stop))
        delta = tuned - aligned
        squares += (delta * delta).sum(0, dtype=torch.float64)
        for basis in bases:
            energy = energies(delta, curvature, basis, budget)
            found[basis] = found[basis] + energy if basis in found else energy
    decision = decide(config.mode, budget, curvature, found, numel=count * width, squares=squares)
    for start, stop in tiles(count):
        aligned, tuned = (fill(part, work) for part in rows(start, stop))
        exact = edit_rows(aligned, tuned, decision, curvature, work)
        new = exact[: stop - start].to(dtype)
        written = fill(new, work)
        losses.add(written - aligned, tuned - aligned, None if dtype == work else written - exact)
        losses.compare(aligned, tuned - aligned)
        put(start, new.cpu())
    return described(decision, curvature, losses.loss)


def _whole(
    rows: Rows,
    count: int,
    curvature: Curvature,
    config: SafeDeltaConfig,
    losses: Losses,
    work: torch.dtype,
    dtype: torch.dtype,
    put: Put,
) -> dict[str, Any]:
    """The modes that decide entry by entry need the whole matrix at once."""
    aligned, tuned = (part.to(work) for part in rows(0, count))
    exact, info = edit_matrix(
        aligned,
        tuned,
        curvature,
        mode=config.mode,
        s=config.s,
        rms_tol=config.rms_tol,
        blocksize=config.blocksize,
        compensation=config.compensation,
    )
    for start, stop in tiles(count):
        new = exact[start:stop].to(dtype)
        base, written = fill(aligned[start:stop], work), fill(new, work)
        rounding = None if dtype == work else written - fill(exact[start:stop], work)
        delta = fill(tuned[start:stop], work) - base
        losses.add(written - base, delta, rounding)
        losses.compare(base, delta)
        put(start, new.cpu())
    return {"admitted": float(info["mask"].double().mean()), "percdamp": curvature.used}


def edit_step(
    A: torch.Tensor,
    B: torch.Tensor,
    scaling: float,
    module: str,
    prepared: Prepared,
    config: SafeDeltaConfig,
    device: str = "cpu",
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The new A of a low-rank step ``scaling B A``, and its report; the step is never formed."""
    group = prepared.group(module)
    curvature = prepared.curvature(group, config, device)
    if A.shape[1] != group.width:
        raise BadInput(f"The adapter's factor of {module} has {A.shape[1]} inputs, its H {group.width}.")
    wide = torch.float64 if A.dtype == torch.float64 else torch.float32
    old = A.to(device, wide)
    scaled = scaling * B.to(device, wide)
    gram = scaled.T @ scaled
    budget = Budget.of(config.mode, config.mu, config.rms_tol, config.s)
    rows = B.shape[0]
    exact, decision = edit_factor(old, gram, rows, config.mode, budget, curvature)
    new_A = exact.to(A.dtype).cpu()
    edited = new_A.to(device, wide)
    rounding = None if A.dtype == wide else edited - exact
    held = prepared.held(group, device)

    def cost(H: torch.Tensor | None, factor: torch.Tensor | None) -> float | None:
        if H is None or factor is None:
            return None if H is None else 0.0
        return 0.5 * float((gram * (factor @ H.to(wide) @ factor.T)).sum(dtype=torch.float64))

    def size(factor: torch.Tensor) -> float:
        return float((factor * (gram @ factor)).sum(dtype=torch.float64))

    step = size(old)
    report = {
        "module": module,
        "shape": [rows, A.shape[1]],
        "rank": group.rank,
        **borrowed(group),
        "loss": cost(curvature.H, edited),
        "loss_full": cost(curvature.H, old),
        "held_loss": cost(held, edited),
        "held_loss_full": cost(held, old),
        "rounding": cost(curvature.H, rounding),
        "held_rounding": cost(held, rounding),
        "step": step,
        "kept": size(edited) / step if step else 1.0,
        "distance": size(edited - old) / step if step else 0.0,
        **described(decision, curvature, cost(curvature.H, exact)),
    }
    return new_A, report


def borrowed(group: Group) -> dict[str, Any]:
    """What a layer's report says of H that is not an expert's own; nothing of others."""
    return {"pooled": True} if group.pooled else {}


def step_squares(A: torch.Tensor, B: torch.Tensor, scaling: float) -> float:
    """``|scaling B A|^2`` of a low-rank step, in float64, without forming it."""
    A, B = A.double(), B.double()
    return scaling**2 * float((A * (B.T @ B @ A)).sum())


def described(decision: Decision, curvature: Curvature, spent: float | None) -> dict[str, Any]:
    """What a report says about a decision; ``mu`` is None where nothing of the step is kept.

    Args:
        spent: The edit's loss: what a price alone allows.
    """
    return {
        "k": decision.k if decision.mode == "exact" else None,
        "mu": decision.mu if decision.mode == "soft" and math.isfinite(decision.mu or 0.0) else None,
        "epsilon": spent if decision.epsilon is None else decision.epsilon,
        "percdamp": curvature.used,
    }
