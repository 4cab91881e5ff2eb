"""What is known about one layer's input: H, its factors and its spectrum, each computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal, get_args

import torch

from safewright.errors import BadInput, NumericalFailure, nearest

Damping = Literal["channel", "mean"]

FP64_WIDTH = 4096
"""Widest input that is factorised in float64; wider ones in float32, with a residual check."""

RESIDUAL = 1e-4
"""Largest relative residual of a float32 factorisation."""

PROBES = 8
"""Vectors on which the inverse of a wide matrix is tried: the whole product would cost more than the inverse."""

DAMPING_TRIES = 3
"""How often the damping is raised tenfold before a factorisation is given up."""


class Curvature:
    """H of one layer input, with everything that is derived from it: each computed once, when asked.

    Args:
        H: (in, in), symmetric, undamped.
        damping: ``channel`` adds ``percdamp`` of each diagonal entry to itself (equivariant under a
            scaling of channels), ``mean`` adds ``percdamp`` of the mean diagonal to all.
        percdamp: The share.
        G: (in, in), the task's second moments, for `soft` in the metric of the task's outputs.
        eigen: Eigenvalues and eigenvectors of H over its live channels, where they are known.
        spectral: Whether `soft` works in eigenvectors. Where not, each price costs one Cholesky factor, and the
            eigenvectors are computed only if something else asks. Default: where they are known or H is no wider
            than `FP64_WIDTH`; with G always.

    Raises:
        BadInput: H is not a square matrix, or a setting is out of range.
        NumericalFailure: H holds non-finite numbers.
    """

    def __init__(
        self,
        H: torch.Tensor,
        *,
        damping: Damping = "channel",
        percdamp: float = 0.01,
        G: torch.Tensor | None = None,
        eigen: tuple[torch.Tensor, torch.Tensor] | None = None,
        spectral: bool | None = None,
    ) -> None:
        if damping not in get_args(Damping):
            raise BadInput(f"Unknown damping {damping!r}.", fix=nearest(damping, get_args(Damping)))
        if not 0 <= percdamp < math.inf:
            raise BadInput(f"percdamp is {percdamp}.", fix="It must be a number of at least 0.")
        for name, matrix in (("H", H), ("G", G)):
            if matrix is None:
                continue
            if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] != H.shape[0]:
                raise BadInput(f"{name} has the shape {tuple(matrix.shape)}, not (in, in).")
            require_finite(name, matrix)
            _require_moments(name, matrix)
        self.H, self.G, self.damping, self.percdamp = H, G, damping, percdamp
        self.width = H.shape[0]
        self.used = percdamp
        """The share of damping that was needed; more than asked where H had no Cholesky factor."""
        self._eigen = eigen
        known = eigen is not None or self.width <= FP64_WIDTH
        self.spectral = G is not None or (known if spectral is None else spectral)
        self._cast: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    @cached_property
    def live(self) -> torch.Tensor:
        """Indexes of the channels that calibration ever reached; others may change at no cost."""
        return (self.H.diagonal() > 0).nonzero().flatten()

    @cached_property
    def dead(self) -> torch.Tensor:
        """Indexes of the channels that are always zero: they keep the whole fine-tuning step."""
        return (self.H.diagonal() <= 0).nonzero().flatten()

    @cached_property
    def scale(self) -> float:
        """Mean diagonal of H over live channels: the unit of 1/mu."""
        return float(self.H.diagonal()[self.live].double().mean()) if len(self.live) else 1.0

    @cached_property
    def damped(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Lower Cholesky factor of the damped live H, what was added to its diagonal, and the share used."""
        wide = torch.float64 if self.width <= FP64_WIDTH else torch.float32
        shares = [self.percdamp, *(max(self.percdamp, 1e-8) * 10.0**t for t in range(1, DAMPING_TRIES + 1))]
        tries = [(torch.float64, share) for share in shares]
        if wide == torch.float32:
            tries.insert(0, (wide, self.percdamp))
        for dtype, share in tries:
            H = self._live_block(dtype)
            diagonal = H.diagonal()
            added = share * (diagonal if self.damping == "channel" else diagonal.mean().expand_as(diagonal))
            A = H + torch.diag(added)
            lower, info = torch.linalg.cholesky_ex(A)
            if int(info) == 0 and (dtype == torch.float64 or _residual(lower, A) < RESIDUAL):
                self.used = share
                return lower, added, share
        raise NumericalFailure(
            f"H of {self.width} channels has no Cholesky factor, even with {shares[-1]:g} of its diagonal added.",
            why="Its directions cannot be told apart.",
            fix="Give more calibration rows, or raise percdamp.",
        )

    @cached_property
    def inverse_diagonal(self) -> torch.Tensor:
        """``d``: the diagonal of the inverse of the damped H over live channels, float64."""
        lower, _, _ = self.damped
        inverse: torch.Tensor = torch.cholesky_inverse(lower)
        return inverse.diagonal().double()

    @cached_property
    def ranked(self) -> torch.Tensor:
        """Places among the live channels, by descending d."""
        return torch.argsort(self.inverse_diagonal, descending=True, stable=True)

    @cached_property
    def order(self) -> torch.Tensor:
        """All channels in the order in which `exact` admits them: dead ones first, then descending d."""
        return torch.cat([self.dead, self.live[self.ranked]])

    @cached_property
    def upper(self) -> torch.Tensor:
        """V, upper triangular, with the damped live H in admission order = V V^T."""
        _, added, _ = self.damped
        A = self._live_block(added.dtype) + torch.diag(added)
        A = A[self.ranked][:, self.ranked]
        lower: torch.Tensor = torch.linalg.cholesky(A.flip(0, 1))
        return lower.flip(0, 1)

    @cached_property
    def upper_inverse(self) -> torch.Tensor:
        """V^-1. The inverse of a trailing block of V is the trailing block of this."""
        identity = torch.eye(len(self.live), dtype=self.upper.dtype, device=self.upper.device)
        inverse: torch.Tensor = torch.linalg.solve_triangular(self.upper, identity, upper=True)
        return inverse

    @cached_property
    def place(self) -> torch.Tensor:
        """Where each channel stands in `order`."""
        return torch.argsort(self.order)

    @cached_property
    def spectrum(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Eigenvalues and the (in, n) bases ``left``, ``right`` with ``(I + mu H)^-1 = left f(eig) right^T``.

        Without G both are the eigenvectors of H. With G, ``G (G + mu H)^-1`` has the same form in the
        generalised eigenvectors; eigenvalues are then those of ``G^-1 H``.
        """
        if self.G is not None:
            return self._generalised(self.G)
        if self._eigen is not None:
            values, vectors = self._eigen
        else:
            wide = torch.float64 if self.width <= FP64_WIDTH else torch.float32
            values, vectors = torch.linalg.eigh(self._live_block(wide))
        values = values.double().clamp_min(0)
        if len(self.dead):
            full = vectors.new_zeros(self.width, vectors.shape[1])
            full[self.live] = vectors
            vectors = full
        return values, vectors, vectors

    def _generalised(self, G: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        lower = torch.linalg.cholesky(self.damped_metric(G))
        inner = torch.linalg.solve_triangular(lower, self.H.double(), upper=False)
        inner = torch.linalg.solve_triangular(lower, inner.T, upper=False)
        values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
        right = torch.linalg.solve_triangular(lower.T, vectors, upper=True)
        return values.clamp_min(0), lower @ vectors, right

    def damped_metric(self, G: torch.Tensor) -> torch.Tensor:
        """G made positive definite: damped like H; channels the task never used get the mean's share."""
        G = G.double()
        mean = G.diagonal()[G.diagonal() > 0].mean() if bool((G.diagonal() > 0).any()) else G.new_tensor(1.0)
        share = max(self.percdamp, 1e-6)
        added = share * (G.diagonal() if self.damping == "channel" else mean.expand(self.width))
        return G + torch.diag(torch.where(G.diagonal() > 0, added, share * mean))

    @cached_property
    def mu_unit(self) -> float:
        """What ``mu=1`` is as a factor of H: 1 / mean diagonal of H (times that of G where there is one)."""
        metric = 1.0 if self.G is None else float(self.damped_metric(self.G).diagonal().mean())
        return metric / self.scale

    def cast(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A derived matrix (``upper``, ``upper_inverse``, ``left``, ``right``) in the arithmetic's dtype."""
        key = (name, dtype)
        if key not in self._cast:
            if name in ("left", "right"):
                source = self.spectrum[1 if name == "left" else 2]
            else:
                source = getattr(self, name)
            self._cast[key] = source.to(dtype).contiguous()
        return self._cast[key]

    def taken(self, mu: float, dtype: torch.dtype) -> torch.Tensor:
        """``I - (I + mu H)^-1`` (in, in), ``mu`` in its unit: what `soft` takes away of a step, without eigenvectors.

        Rows and columns of dead channels are zero.

        Raises:
            NumericalFailure: It cannot be computed.
        """
        return self._for_price("taken", mu, dtype, self._taken)

    def _taken(self, mu: float) -> torch.Tensor:
        inverse = -self._shrunk(mu * self.mu_unit)
        inverse.diagonal().add_(1.0)
        if not len(self.dead):
            return inverse
        full = inverse.new_zeros(self.width, self.width)
        full[self.live[:, None], self.live] = inverse
        return full

    def _shrunk(self, factor: float) -> torch.Tensor:
        """``(I + factor H)^-1`` over live channels, by Cholesky; in float32 where H is wide and that is enough."""
        wide = torch.float64 if self.width <= FP64_WIDTH else torch.float32
        for dtype in dict.fromkeys((wide, torch.float64)):
            A = self._live_block(dtype) * factor
            A.diagonal().add_(1.0)
            lower, info = torch.linalg.cholesky_ex(A)
            if int(info):
                continue
            inverse: torch.Tensor = torch.cholesky_inverse(lower)
            if dtype == torch.float64 or _inverts(A, inverse):
                return inverse
        raise NumericalFailure(
            f"I + mu H of {self.width} channels has no Cholesky factor.",
            why="H must be a sum of x x^T; rounding it makes very high prices impossible to compute.",
            fix="Lower mu, prepare with store=float64 or spectrum=always, or run the stage prepare again.",
        )

    def priced(self, mu: float, dtype: torch.dtype) -> torch.Tensor:
        """R, upper triangular in admission order, with R R^T = T H T for T = (I + mu H)^-1.

        ``1/2 |D R|^2`` is the loss that `soft` would have at ``mu`` (in its unit): half the work of D Q. It is
        made of eigenvectors.
        """
        return self._for_price("price", mu, dtype, self._priced)

    def _priced(self, mu: float) -> torch.Tensor:
        factor = mu * self.mu_unit
        values, _, vectors = self.spectrum
        ranked = vectors[self.order[len(self.dead) :]].double()
        root = ranked * (values.sqrt() / (1 + factor * values))
        # F = L O by the QR of its transpose, with both orders turned round: L then is the upper factor.
        upper: torch.Tensor = torch.linalg.qr(root.flip(0).T, mode="r").R
        return upper.T.flip(0, 1)

    def _for_price(
        self, kind: str, mu: float, dtype: torch.dtype, make: Callable[[float], torch.Tensor]
    ) -> torch.Tensor:
        """What was made for a price, in a dtype; only the last price is kept."""
        key = (f"{kind} {mu!r}", dtype)
        if key not in self._cast:
            self._cast = {k: held for k, held in self._cast.items() if not k[0].startswith(f"{kind} ")}
            self._cast[key] = make(mu).to(dtype).contiguous()
        return self._cast[key]

    def official_upper(self, dtype: torch.dtype) -> torch.Tensor:
        """The release's U: dead diagonal entries set to 1, damped, inverse = U^T U; the release has float32.

        Raises:
            NumericalFailure: The factorisation does not exist, even damped a thousand times more.
        """
        if ("official", dtype) in self._cast:
            return self._cast["official", dtype]
        H = self.H.to(dtype, copy=True)
        diagonal = H.diagonal()
        diagonal[diagonal == 0] = 1.0
        unit = diagonal.clone() if self.damping == "channel" else diagonal.mean().expand(self.width)
        for factor in (1.0, *(10.0**t for t in range(1, DAMPING_TRIES + 1))):
            A = H + torch.diag(factor * self.percdamp * unit)
            lower, first = torch.linalg.cholesky_ex(A)
            if int(first) == 0:
                U: torch.Tensor
                U, second = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
                if int(second) == 0:
                    self.used = factor * self.percdamp
                    self._cast["official", dtype] = U
                    return U
        raise NumericalFailure(
            f"H of {self.width} channels has no Cholesky factor.",
            fix="Give more calibration rows, raise percdamp, or use the mode soft.",
        )

    def rank(self) -> int:
        """Numerical rank of H: eigenvalues above the largest times width times float32's epsilon.

        It computes the eigenvalues where they are not known.
        """
        values = self.spectrum[0] if self.G is None else torch.linalg.eigvalsh(self.H.double())
        if not len(values):
            return 0
        return int((values > values.max() * self.width * torch.finfo(torch.float32).eps).sum())

    def _live_block(self, dtype: torch.dtype) -> torch.Tensor:
        H = self.H.to(dtype)
        return (
            H if not len(self.dead) else H[self.live][:, self.live]
        )  # H itself, not a copy, where nothing is dead


def require_finite(name: str, matrix: torch.Tensor) -> None:
    """Raise NumericalFailure, with the count, unless every number of a matrix is finite."""
    # One sum is ten times as fast as a count, and finite only if every number is.
    if bool(torch.isfinite(matrix.sum())):
        return
    bad = int((~torch.isfinite(matrix)).sum())
    if bad:
        raise NumericalFailure(
            f"{name} holds {bad} non-finite numbers.",
            why="Every result would be one.",
            fix="Repair it first.",
        )


def _residual(lower: torch.Tensor, A: torch.Tensor) -> float:
    return float(torch.linalg.matrix_norm(lower @ lower.T - A) / torch.linalg.matrix_norm(A))


def _inverts(A: torch.Tensor, inverse: torch.Tensor) -> bool:
    """Whether a matrix is the inverse of another, as far as some fixed vectors show."""
    draw = torch.Generator().manual_seed(0)
    probes = torch.randn(A.shape[0], PROBES, generator=draw).to(A)
    return bool((A @ (inverse @ probes) - probes).norm() < RESIDUAL * probes.norm())


def _require_moments(name: str, matrix: torch.Tensor) -> None:
    """Raise BadInput unless a matrix can be one of second moments: symmetric, no negative diagonal."""
    if bool((matrix.diagonal() < 0).any()):
        raise BadInput(f"{name} has a negative diagonal.", fix="It is a sum of x x^T: give that.")
    size = float(matrix.abs().max()) if matrix.numel() else 0.0
    # Halves summed apart differ by rounding; a matrix of something else by far more.
    if float((matrix - matrix.T).abs().max() if matrix.numel() else 0.0) > 1e-3 * size:
        raise BadInput(f"{name} is not symmetric.", fix="It is a sum of x x^T: give that.")
