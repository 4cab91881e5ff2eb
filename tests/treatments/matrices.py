"""Matrices with known structure, and slow oracles that follow the equations one by one."""

from __future__ import annotations

from typing import Any

import torch


def curvature(width: int, *, kind: str = "rotated", seed: int = 0, tokens: int | None = None) -> torch.Tensor:
    """An (in, in) second-moment matrix in float64: ``rotated`` (spectrum 1/j), ``ar`` (neighbouring
    channels correlate by .99), ``diagonal``, ``dead`` (two channels never active), ``outlier`` (one channel
    of gain 1000)."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    if kind == "diagonal":
        return torch.diag(0.5 + normal(width) ** 2)
    if kind == "ar":
        place = torch.arange(width, dtype=torch.float64)
        return 0.99 ** (place[:, None] - place[None, :]).abs()
    X = normal(width, tokens or 6 * width)
    if kind == "rotated":
        X = X / torch.arange(1, width + 1, dtype=torch.float64)[:, None].sqrt()
        X = torch.linalg.qr(normal(width, width))[0] @ X
    elif kind == "dead":
        X[[1, width - 2]] = 0.0
    elif kind == "outlier":
        X[width // 2] *= 1000.0
    return 2.0 / 8 * X @ X.T


def pair(rows: int, width: int, *, seed: int = 0, size: float = 0.02) -> tuple[torch.Tensor, torch.Tensor]:
    """Aligned and fine-tuned weights in float64."""
    draw = torch.Generator().manual_seed(1000 + seed)
    aligned = torch.randn(rows, width, generator=draw, dtype=torch.float64)
    return aligned, aligned + size * torch.randn(rows, width, generator=draw, dtype=torch.float64)


def damped(H: torch.Tensor, share: float = 0.01) -> torch.Tensor:
    """H with every diagonal entry raised by a share of itself."""
    return H + share * torch.diag(H.diagonal())


def loss(edit: torch.Tensor, H: torch.Tensor) -> float:
    """1/2 tr(E H E^T)."""
    return 0.5 * float(torch.trace(edit @ H @ edit.T))


def solved(delta: torch.Tensor, H: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Per row, the edit of least loss whose admitted entries have their fine-tuned value."""
    edit = torch.zeros_like(delta)
    for row in range(delta.shape[0]):
        S = mask[row]
        edit[row, S] = delta[row, S]
        if bool((~S).any()) and bool(S.any()):
            pull = H[~S][:, S] @ delta[row, S]
            edit[row, ~S] = -torch.linalg.solve(H[~S][:, ~S], pull)
    return edit


def one_shot(delta: torch.Tensor, H: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Equation 10 with a given mask: compensations of single entries, added up."""
    inverse = torch.linalg.inv(H)
    pull = (mask * delta / inverse.diagonal()) @ inverse
    return torch.where(mask, delta, pull)


def decode(module: Any, names: list[str]) -> dict[str, torch.Tensor]:
    """Named parameters of a module, detached."""
    found = dict(module.named_parameters())
    return {name: found[name].detach().clone() for name in names}
