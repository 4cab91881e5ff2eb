"""Safe Delta on one matrix: how much of a fine-tuning step can be kept at a given safety loss.

Pure mathematics on tensors. Notation of arXiv 2505.12038: weights are (out, in); ``D = w_tuned - w_aligned``;
``H = 2/N sum x x^T`` over the calibration's inputs, shared by all rows; an edit ``E = w_new - w_aligned``
costs the safety loss ``L(E) = 1/2 tr(E H E^T)``.

* ``official``: the released code's numbers (a GPTQ-like causal sweep).
* ``paper``: equations 5 to 10 as printed.
* ``exact``: whole input channels, admitted by their true compensated loss, jointly compensated.
* ``soft``: ``E = D (I + mu H)^-1``, the minimum of ``|E - D|^2 + mu tr(E H E^T)``; no edit of the same
  safety loss is closer to the fine-tuned weights.

`exact` and `soft` multiply from the right, so a low-rank step keeps its rank (`edit_factor`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from safewright.errors import BadInput, NumericalFailure, nearest
from safewright.treatments.safe_delta.budget import MODES, Budget, Mode
from safewright.treatments.safe_delta.curvature import Curvature, Damping, require_finite

Basis = Literal["spectrum", "prefix", "price"]

OFFICIAL_TAIL, PAPER_TAIL = 0.15, 0.10
"""Share of entries the release (15 %) and the paper (10 %) never admit."""

PANEL, SUB = 128, 4
"""Columns updated together in `official`; the release treats each group of 4 as independent."""

TRIANGLE = 128
"""Columns of a triangular product that are multiplied together; what lies below is not read."""


@dataclass(frozen=True)
class Decision:
    """What the whole matrix decided, before any row is edited.

    ``whole``: the fine-tuned matrix fits the budget as it is. ``none``: nothing may be spent. ``k``: live
    channels admitted by `exact`; ``factor``: per eigenvector, how much of the step `soft` takes away, None where
    it works without them. Losses are then None: nothing needs to know them before the edit.
    """

    mode: Mode
    epsilon: float | None
    loss_full: float | None
    loss: float | None
    whole: bool = False
    none: bool = False
    k: int | None = None
    mu: float | None = None
    factor: torch.Tensor | None = None
    curve: torch.Tensor | None = None


def coefficients(
    delta: torch.Tensor, curvature: Curvature, basis: Basis, budget: Budget | None = None
) -> torch.Tensor:
    """``delta`` (rows, in) in a basis.

    ``spectrum`` gives D Q; ``prefix`` gives Z = D V, V in admission order; ``price`` gives D R, whose squares
    sum to twice the loss that `soft` would have at the budget's mu. Without eigenvectors it gives what `soft`
    would keep instead: rounding leaves H of few tokens without a factor R.
    """
    if basis == "spectrum":
        return delta @ curvature.cast("left", delta.dtype)
    if basis == "price":
        if budget is None or budget.mu is None:
            raise TypeError("the basis price needs a budget in mu")
        if not curvature.spectral:
            return delta - delta @ curvature.taken(budget.mu, delta.dtype)
        factor = curvature.priced(budget.mu, delta.dtype)
    else:
        factor = curvature.cast("upper", delta.dtype)
    return times_upper(delta.index_select(1, curvature.order[len(curvature.dead) :]), factor)


def times_upper(X: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """``X V`` for an upper triangular V, panel by panel: what lies below the diagonal is not read."""
    product = torch.empty_like(X)
    for start in range(0, V.shape[0], TRIANGLE):
        stop = start + TRIANGLE
        product[:, start:stop] = X[:, :stop] @ V[:stop, start:stop]
    return product


def energies(
    delta: torch.Tensor, curvature: Curvature, basis: Basis, budget: Budget | None = None
) -> torch.Tensor:
    """Sum over rows of the squared `coefficients`, float64 (n,)."""
    Z = coefficients(delta, curvature, basis, budget)
    return _energy(Z, Z, curvature, basis)


def _energy(Z: torch.Tensor, W: torch.Tensor, curvature: Curvature, basis: Basis) -> torch.Tensor:
    """Sum over rows of ``Z W``, or of ``Z H W`` where `coefficients` gave an edit; float64 (n,)."""
    if basis == "price" and not curvature.spectral:
        Z = Z @ curvature.cast("H", Z.dtype)
    return (Z * W).sum(0).double()


def needed_bases(mode: Mode, budget: Budget, curvature: Curvature) -> tuple[Basis, ...]:
    """The bases whose `energies` `decide` reads."""
    if mode == "soft":
        # A price says by itself what is taken away; a loss to be met has to be searched for.
        return () if budget.mu is not None and not curvature.spectral else ("spectrum",)
    return ("prefix", "price") if budget.mu is not None else ("prefix",)


def soft_loss(values: torch.Tensor, energy: torch.Tensor, mu: float) -> float:
    """L(mu) = 1/2 sum lambda_j |D q_j|^2 / (1 + mu lambda_j)^2."""
    return float(0.5 * (values * energy / (1 + mu * values) ** 2).sum())


def allowed_loss(
    budget: Budget, curvature: Curvature, numel: int, found: Mapping[Basis, torch.Tensor]
) -> float:
    """epsilon: the loss a budget allows; for ``mu`` from the energies of the spectrum, or of the price."""
    if budget.mu is not None and "price" in found:
        return max(0.0, 0.5 * float(found["price"].sum()))
    if budget.mu is not None:
        return soft_loss(curvature.spectrum[0], found["spectrum"], budget.mu * curvature.mu_unit)
    tolerance = budget.rms_tol if budget.rms_tol is not None else math.sqrt(budget.s or 0.0) / 4096.0
    # Dead channels count as zero in the mean: moving them costs nothing.
    mean = float((0.5 / curvature.inverse_diagonal).sum()) / curvature.width
    return tolerance**2 * numel * mean


def decide(
    mode: Mode,
    budget: Budget,
    curvature: Curvature,
    found: Mapping[Basis, torch.Tensor],
    *,
    numel: int,
    squares: torch.Tensor,
) -> Decision:
    """How much of the step is kept.

    Args:
        found: `energies` of the whole matrix in the `needed_bases`.
        numel: Entries of the whole matrix.
        squares: (in,), sums over rows of the squared step.

    Raises:
        BadInput: The mode is not `exact` or `soft`.
        NumericalFailure: No edit is as cheap as the budget asks.
    """
    if mode not in ("exact", "soft"):
        raise BadInput(f"The mode {mode!r} decides entry by entry.", fix="Use exact or soft.")
    if not all(bool(torch.isfinite(energy).all()) for energy in (*found.values(), squares)):
        raise NumericalFailure(
            "The fine-tuning step holds numbers that are not finite.",
            fix="Train or download that model again.",
        )
    if mode == "soft" and "spectrum" not in found:
        whole = budget.mu == 0.0
        return Decision(
            mode, None, None, None, whole=whole, mu=budget.mu, k=len(curvature.live) if whole else None
        )
    epsilon = allowed_loss(budget, curvature, numel, found)
    curve = None
    loss_full = 0.0
    if mode == "exact":
        curve = 0.5 * torch.cat([found["prefix"].new_zeros(1), found["prefix"]]).cumsum(0)
        # What damping added to the diagonal is not safety loss.
        _, added, _ = curvature.damped
        loss_full = max(0.0, float(curve[-1]) - 0.5 * float(added.double() @ squares[curvature.live]))
    if mode == "soft":
        loss_full = soft_loss(curvature.spectrum[0], found["spectrum"], 0.0)
    known = Decision(mode, epsilon, loss_full, loss_full, curve=curve)
    # At no price the whole step is kept, whatever rounding says of two losses that are the same.
    if loss_full <= epsilon or budget.mu == 0.0:
        return dataclasses.replace(known, whole=True, mu=0.0, k=len(curvature.live))
    if epsilon == 0.0:
        return dataclasses.replace(known, none=True, loss=0.0, mu=math.inf, k=0)
    if curve is not None:
        k = int((curve <= epsilon).nonzero().max())
        return dataclasses.replace(known, loss=float(curve[k]), none=k == 0, k=k)
    values, energy = curvature.spectrum[0], found["spectrum"]
    given = budget.mu is not None
    mu = (budget.mu or 0.0) * curvature.mu_unit if given else _solve_mu(values, energy, epsilon)
    factor = mu * values / (1 + mu * values)
    return dataclasses.replace(
        known, loss=soft_loss(values, energy, mu), mu=mu / curvature.mu_unit, factor=factor
    )


def _solve_mu(values: torch.Tensor, energy: torch.Tensor, epsilon: float) -> float:
    """The mu whose soft edit costs exactly epsilon; L falls monotonically in it."""
    from scipy.optimize import brentq

    def gap(log_mu: float) -> float:
        return soft_loss(values, energy, math.exp(log_mu)) / epsilon - 1.0

    top = float(values.max())
    low, high = math.log(1e-12 / top), math.log(1e3 / top)
    while gap(high) > 0:
        high += math.log(1e3)
        if high > 600:
            raise NumericalFailure(
                f"No edit costs as little as {epsilon:g}.",
                fix="Give a larger budget, or 0 for none of the step.",
            )
    while gap(low) < 0:
        low -= math.log(1e3)
    return math.exp(float(brentq(gap, low, high, xtol=1e-13, rtol=1e-14, maxiter=500)))


def edit_rows(
    aligned: torch.Tensor,
    tuned: torch.Tensor,
    decision: Decision,
    curvature: Curvature,
    dtype: torch.dtype,
    known: Mapping[Basis, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The edited rows (n, in) in the arithmetic's dtype.

    Rows do not see each other, so they may come in any number; entries that keep the whole step equal
    ``tuned``, entries that keep nothing equal ``aligned``.

    Args:
        known: `coefficients` of these rows' step, where they were computed already.
    """
    aligned, tuned = aligned.to(dtype), tuned.to(dtype)
    if decision.whole:
        return tuned.clone()
    if decision.none:
        new = aligned.clone()
        new[:, curvature.dead] = tuned[:, curvature.dead]
        return new
    if decision.mode == "soft" and decision.factor is None:
        assert decision.mu is not None
        return tuned - (tuned - aligned) @ curvature.taken(decision.mu, dtype)
    basis: Basis = "spectrum" if decision.mode == "soft" else "prefix"
    Z = known[basis] if known and basis in known else coefficients(tuned - aligned, curvature, basis)
    if decision.mode == "soft":
        assert decision.factor is not None
        new = tuned - (Z * decision.factor.to(dtype)) @ curvature.cast("right", dtype).T
        if curvature.G is None and len(curvature.dead):
            new[:, curvature.dead] = tuned[:, curvature.dead]
        return new
    # Free channels get D_F - Z_F V_FF^-1, which is -D_S V_SF V_FF^-1; the others are copied.
    k = decision.k or 0
    ranked = tuned.index_select(1, curvature.order)
    ranked[:, len(curvature.dead) + k :] -= times_upper(
        Z[:, k:], curvature.cast("upper_inverse", dtype)[k:, k:]
    )
    return ranked.index_select(1, curvature.place)


def edit_factor(
    A: torch.Tensor, gram: torch.Tensor, rows: int, mode: Mode, budget: Budget, curvature: Curvature
) -> tuple[torch.Tensor, Decision]:
    """The new A (rank, in) of a low-rank step ``B A``, and what was decided; the step is never formed.

    Args:
        gram: (rank, rank), ``B^T B`` with the scaling in B.
        rows: Rows of B.
    """
    dtype = torch.float64 if A.dtype == torch.float64 else torch.float32
    step, gram = A.to(dtype), gram.to(dtype)
    bases = needed_bases(mode, budget, curvature)
    Z = {basis: coefficients(step, curvature, basis, budget) for basis in bases}

    found = {basis: _energy(held, gram @ held, curvature, basis) for basis, held in Z.items()}
    # Rounding must not make a square less than nothing; what an edit costs channel by channel may be.
    found = {basis: e if basis == "price" else e.clamp_min(0) for basis, e in found.items()}
    squares = (step * (gram @ step)).sum(0).double().clamp_min(0)
    numel = rows * A.shape[1]
    decision = decide(mode, budget, curvature, found, numel=numel, squares=squares)
    return edit_rows(torch.zeros_like(step), step, decision, curvature, dtype, Z).to(A.dtype), decision


def edit_matrix(
    w_aligned: torch.Tensor,
    w_tuned: torch.Tensor,
    H: torch.Tensor | Curvature,
    *,
    mode: Mode = "soft",
    mu: float | None = None,
    rms_tol: float | None = None,
    s: float | None = None,
    damping: Damping | None = None,
    percdamp: float = 0.01,
    blocksize: int = 2048,
    G: torch.Tensor | None = None,
    compensation: bool = True,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The edited matrix and what was decided.

    Args:
        w_aligned: (out, in), the aligned model's weights.
        w_tuned: (out, in), the fine-tuned model's weights.
        H: (in, in), undamped, or a `Curvature` whose factors are reused.
        mode: ``official``, ``paper``, ``exact`` or ``soft``.
        mu: See `Budget`; exactly one of ``mu``, ``rms_tol`` and ``s``, or none for the mode's default.
        rms_tol: See `Budget`.
        s: See `Budget`.
        damping: ``channel`` or ``mean``; default ``mean`` for `official`, ``channel`` otherwise.
        percdamp: Share of the diagonal that damping adds.
        blocksize: Columns of a block in `official`.
        G: (in, in), the task's second moments; `soft` only.
        compensation: False leaves entries that were not admitted as they were (`official`, `paper`).

    Returns:
        The new matrix in ``w_tuned``'s dtype (admitted entries bit-equal to ``w_tuned``) and ``info``:
        ``loss`` = L(E) and ``loss_full`` = L(D) on the undamped H, ``distance`` = |E - D|^2 / |D|^2; ``mask``
        (out, in) for `official` and `paper`; ``order`` and ``k`` (channels admitted, dead ones included)
        and ``curve`` (loss of every such k on the damped H, in + 1 numbers) for `exact`; ``mu`` in the
        argument's unit for `soft`; ``epsilon``, ``percdamp`` as used.

    Raises:
        BadInput: Shapes or settings do not fit.
        NumericalFailure: Non-finite weights, or H cannot be factorised.
    """
    if mode not in MODES:
        raise BadInput(f"Unknown mode {mode!r}.", fix=nearest(str(mode), MODES))
    budget = Budget.of(mode, mu, rms_tol, s)
    if not compensation and mode not in ("official", "paper"):
        raise BadInput(f"The mode {mode!r} is its compensation.", fix="Leave compensation out.")
    if isinstance(H, Curvature):
        if G is not None or damping is not None or percdamp != 0.01:
            raise BadInput(
                "H is a Curvature, which has its own damping, percdamp and G.", fix="Give them to Curvature."
            )
        curvature = H
    else:
        damping = damping or ("mean" if mode == "official" else "channel")
        curvature = Curvature(_tensor(H), damping=damping, percdamp=percdamp, G=G)
    w_aligned, w_tuned = _tensor(w_aligned, "w_aligned").detach(), _tensor(w_tuned, "w_tuned").detach()
    _check(w_aligned, w_tuned, curvature)
    if curvature.G is not None and mode != "soft":
        raise BadInput(f"The mode {mode!r} has no task metric G.", fix="Use soft, or leave G out.")
    dtype = torch.float64 if torch.float64 in (w_aligned.dtype, w_tuned.dtype) else torch.float32
    aligned, tuned = w_aligned.to(dtype), w_tuned.to(dtype)
    if mode == "official":
        new, mask = _official(aligned, tuned, curvature, budget, blocksize, compensation)
        info: dict[str, Any] = {"mask": mask}
    elif mode == "paper":
        new, mask, epsilon = _paper(aligned, tuned, curvature, budget, compensation)
        info = {"mask": mask, "epsilon": epsilon}
    else:
        return _edit_columns(aligned, tuned, w_tuned.dtype, curvature, mode, budget)
    info |= {"loss": loss(new - aligned, curvature.H), "loss_full": loss(tuned - aligned, curvature.H)}
    step = float(_squares(tuned - aligned).sum())
    return _finish(new, tuned, step, w_tuned.dtype, info)


def _edit_columns(
    aligned: torch.Tensor,
    tuned: torch.Tensor,
    given: torch.dtype,
    curvature: Curvature,
    mode: Mode,
    budget: Budget,
) -> tuple[torch.Tensor, dict[str, Any]]:
    delta = tuned - aligned
    # The product that shows what every prefix costs is also what the edit is made of.
    bases = needed_bases(mode, budget, curvature)
    Z = {basis: coefficients(delta, curvature, basis, budget) for basis in bases}
    found = {basis: _energy(held, held, curvature, basis) for basis, held in Z.items()}
    squares = _squares(delta)
    decision = decide(mode, budget, curvature, found, numel=delta.numel(), squares=squares)
    new = edit_rows(aligned, tuned, decision, curvature, delta.dtype, Z)
    info: dict[str, Any] = {
        "loss": decision.loss,
        "loss_full": decision.loss_full,
        "epsilon": decision.epsilon,
        "percdamp": curvature.used,
    }
    if mode == "soft":
        if decision.loss is None:
            spent = loss(new - aligned, curvature.H)
            info |= {"loss": spent, "epsilon": spent, "loss_full": loss(delta, curvature.H)}
        return _finish(new, tuned, float(squares.sum()), given, info | {"mu": decision.mu})
    assert decision.curve is not None
    assert decision.loss is not None
    _, added, share = curvature.damped
    if not decision.whole:
        excess = 0.5 * float(added.double() @ _squares(new - aligned)[curvature.live])
        info["loss"] = max(0.0, decision.loss - excess)
    info |= {
        "order": curvature.order,
        "k": (decision.k or 0) + len(curvature.dead),
        "curve": torch.cat([decision.curve.new_zeros(len(curvature.dead)), decision.curve]),
        "percdamp": share,
    }
    return _finish(new, tuned, float(squares.sum()), given, info)


def _squares(matrix: torch.Tensor) -> torch.Tensor:
    """Sums of squares over rows, float64; summed pairwise in the matrix's own dtype."""
    return (matrix * matrix).sum(0).double()


def loss(edit: torch.Tensor, H: torch.Tensor) -> float:
    """L(E) = 1/2 tr(E H E^T), accumulated in float64."""
    return 0.5 * float(((edit @ H.to(edit.dtype)) * edit).sum(dtype=torch.float64))


def _finish(
    new: torch.Tensor, tuned: torch.Tensor, step: float, dtype: torch.dtype, info: dict[str, Any]
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The result in its dtype, with its distance; ``step`` is |D|^2."""
    info["distance"] = float(_squares(new - tuned).sum()) / step if step else 0.0
    return new.to(dtype), info


def _official(
    W: torch.Tensor,
    tuned: torch.Tensor,
    curvature: Curvature,
    budget: Budget,
    blocksize: int,
    compensation: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The release's numbers without its loops: one stable sort of the columns, lazy panel updates."""
    if blocksize < 1:
        raise BadInput(f"blocksize is {blocksize}.", fix="It must be at least 1.")
    U = curvature.official_upper(W.dtype)
    diagonal = U.diagonal()
    rows, width = W.shape
    W = W.clone()
    mask = torch.zeros(rows, width, dtype=torch.bool, device=W.device)
    for start in range(0, width, blocksize):
        stop = min(start + blocksize, width)
        salience = 1.0 / diagonal[start:stop] ** 2
        threshold = salience.mean() * (budget.s or 0.0) / 2 * (rows / 4096)
        cost = (tuned[:, start:stop] - W[:, start:stop]) ** 2 * salience
        ranked = torch.argsort(salience, stable=True)
        keep = rows * (stop - start) - int(OFFICIAL_TAIL * rows * (stop - start))
        if int(OFFICIAL_TAIL * rows * (stop - start)) == 0:
            keep = 0  # the release's slice [0:-0] is empty: a tiny block admits nothing
        mask[:, start:stop] = admit_prefix(cost, ranked, threshold, keep)
        if not compensation:
            W[:, start:stop] = torch.where(mask[:, start:stop], tuned[:, start:stop], W[:, start:stop])
            continue
        for left in range(start, stop, PANEL):
            _sweep_panel(W, tuned, mask, U, left, min(left + PANEL, stop))
    return W, mask


def _sweep_panel(
    W: torch.Tensor, tuned: torch.Tensor, mask: torch.Tensor, U: torch.Tensor, left: int, right: int
) -> None:
    """Force the admitted entries of columns [left, right) and let all later columns compensate."""
    errors = torch.zeros(W.shape[0], right - left, dtype=W.dtype, device=W.device)
    touched = mask[:, left:right].any(0).tolist()
    for first in range(left, right, SUB):
        last = min(first + SUB, right)
        if not any(touched[first - left : last - left]):
            continue
        here = W[:, first:last]
        forced = torch.where(mask[:, first:last], tuned[:, first:last], here)
        error = (here - forced) / U.diagonal()[first:last]
        W[:, first:last] = forced
        W[:, last:right] -= error @ U[first:last, last:right]
        errors[:, first - left : last - left] = error
    if any(touched):
        W[:, right:] -= errors @ U[left:right, right:]


def admit_prefix(
    cost: torch.Tensor, ranked: torch.Tensor, threshold: torch.Tensor | float, keep: int
) -> torch.Tensor:
    """The entries admitted when all entries are taken in the order (rank of column, row).

    Args:
        cost: (rows, columns), what each entry costs.
        ranked: Columns, cheapest rank first.
        threshold: Entries are admitted while the running cost is at most this.
        keep: Entries considered at all: the first so many.

    Returns:
        The mask (rows, columns). Only the boundary column needs a running sum.
    """
    rows, width = cost.shape
    mask = torch.zeros(rows, width, dtype=torch.bool, device=cost.device)
    # As torch sums float32: in float64, rounded at every comparison.
    before = torch.cat(
        [cost.new_zeros(1, dtype=torch.float64), cost.sum(0, dtype=torch.float64)[ranked]]
    ).cumsum(0)
    limit = torch.as_tensor(threshold, dtype=cost.dtype, device=cost.device)
    fits = (before.to(cost.dtype)[1:] <= limit).long()
    whole = int(fits.cumprod(0).sum())
    whole = min(whole, keep // rows if rows else 0)
    mask[:, ranked[:whole]] = True
    if whole < width:
        column = ranked[whole]
        running = (before[whole] + cost[:, column].cumsum(0, dtype=torch.float64)).to(cost.dtype)
        admitted = running <= limit
        admitted[max(0, keep - whole * rows) :] = False
        mask[:, column] = admitted
    return mask


def _paper(
    aligned: torch.Tensor, tuned: torch.Tensor, curvature: Curvature, budget: Budget, compensation: bool
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Equations 5 to 10: admit by r = 2d under the additive budget, compensate the rest at once."""
    delta = tuned - aligned
    rows, width = delta.shape
    lower, _, _ = curvature.damped
    inverse = torch.cholesky_inverse(lower).double()
    d = inverse.diagonal()
    epsilon = (budget.s or 0.0) * float((0.5 / d).sum()) / width
    live = curvature.live
    ranked = torch.argsort(d, descending=True, stable=True)
    cost = delta[:, live].double() ** 2 / (2 * d)
    keep = rows * len(live) - int(PAPER_TAIL * rows * len(live))
    chosen = admit_prefix(cost, ranked, epsilon, keep)
    mask = torch.ones(rows, width, dtype=torch.bool, device=delta.device)
    mask[:, live] = chosen
    new = torch.where(mask, tuned, aligned)
    if compensation:
        pull = (chosen * delta[:, live].double() / d) @ inverse
        new[:, live] += torch.where(chosen, 0.0, pull).to(delta.dtype)
    return new, mask, epsilon


def _check(aligned: torch.Tensor, tuned: torch.Tensor, curvature: Curvature) -> None:
    for name, weight in (("w_aligned", aligned), ("w_tuned", tuned)):
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point() or weight.ndim != 2:
            raise BadInput(f"{name} is not a matrix of floating-point numbers.", fix="Dequantise it first.")
        require_finite(name, weight)
    if aligned.shape != tuned.shape or aligned.shape[1] != curvature.width:
        raise BadInput(
            f"The shapes do not fit: aligned {tuple(aligned.shape)}, tuned {tuple(tuned.shape)}, "
            f"H of {curvature.width} channels.",
            fix="Weights are (out, in), H is (in, in).",
        )


def _tensor(matrix: Any, name: str = "H") -> torch.Tensor:
    if not isinstance(matrix, torch.Tensor):
        raise BadInput(
            f"{name} is a {type(matrix).__name__}, not a tensor.", fix=f"Give torch.as_tensor({name})."
        )
    return matrix
