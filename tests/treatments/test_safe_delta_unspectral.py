"""Safe Delta without eigenvectors, as wide inputs have it: the same numbers by one Cholesky factor."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safewright.errors import NumericalFailure
from safewright.treatments.safe_delta import curvature as module
from safewright.treatments.safe_delta.budget import Budget
from safewright.treatments.safe_delta.core import edit_factor, edit_matrix
from safewright.treatments.safe_delta.curvature import Curvature
from tests.treatments.matrices import curvature, loss, pair

KINDS = ("rotated", "ar", "diagonal", "dead", "outlier")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["soft", "exact"])
@pytest.mark.parametrize("mu", [0.01, 1.0, 100.0])
def test_the_same_edit(kind: str, mode: Any, mu: float) -> None:
    H, (aligned, tuned) = curvature(24, kind=kind), pair(10, 24)
    expected, there = edit_matrix(aligned, tuned, Curvature(H), mode=mode, mu=mu)
    new, here = edit_matrix(aligned, tuned, Curvature(H, spectral=False), mode=mode, mu=mu)
    assert float((new - expected).abs().max()) <= 1e-9 * float((tuned - aligned).abs().max())
    for name in ("loss", "loss_full", "epsilon", "distance"):
        assert here[name] == pytest.approx(there[name], rel=1e-6, abs=1e-12 * there["loss_full"]), name
    assert here["loss"] == pytest.approx(loss(new - aligned, H), rel=1e-6)
    if mode == "exact":
        assert here["k"] == there["k"]


def test_more_tokens_than_channels_are_not_needed() -> None:
    """H of few tokens is singular, and what no token reached is kept whole."""
    H = curvature(24, tokens=5)
    aligned, tuned = pair(10, 24)
    for mode in ("soft", "exact"):
        expected, _ = edit_matrix(aligned, tuned, Curvature(H), mode=mode, mu=1.0)  # type: ignore[arg-type]
        new, _ = edit_matrix(aligned, tuned, Curvature(H, spectral=False), mode=mode, mu=1.0)  # type: ignore[arg-type]
        assert float((new - expected).abs().max()) <= 1e-8


@pytest.mark.parametrize("mu", [0.01, 1.0, 100.0])
def test_few_tokens_kept_in_float32(mu: float) -> None:
    """Rounding gives H of few tokens eigenvalues below zero: it has no factor, and its price is known all the same."""
    scales = torch.logspace(0, 2, 64, dtype=torch.float64)
    X = torch.randn(20, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * scales
    H = (X.T @ X / 5).float()
    assert float(torch.linalg.eigvalsh(H.double()).min()) < 0
    aligned, tuned = pair(10, 64)
    expected, there = edit_matrix(aligned, tuned, Curvature(H), mode="exact", mu=mu)
    new, here = edit_matrix(aligned, tuned, Curvature(H, spectral=False), mode="exact", mu=mu)
    assert here["k"] == there["k"]
    assert torch.equal(new, expected)
    assert here["epsilon"] == pytest.approx(there["epsilon"], rel=1e-3)
    A, B = (tuned - aligned)[:4], torch.eye(10, 4, dtype=torch.float64)
    factor, decision = edit_factor(
        A, B.T @ B, 10, "exact", Budget.of("exact", mu, None, None), Curvature(H, spectral=False)
    )
    whole, info = edit_matrix(torch.zeros_like(aligned), B @ A, Curvature(H), mode="exact", mu=mu)
    assert float((B @ factor - whole).abs().max()) <= 1e-9
    assert decision.epsilon == pytest.approx(info["epsilon"], rel=1e-3)


def test_an_input_that_is_always_zero_keeps_the_step() -> None:
    aligned, tuned = pair(10, 24)
    for mode in ("soft", "exact"):
        own = Curvature(torch.zeros(24, 24), spectral=False)
        assert torch.equal(edit_matrix(aligned, tuned, own, mode=mode, mu=1.0)[0], tuned)  # type: ignore[arg-type]


def test_limits() -> None:
    H, (aligned, tuned) = curvature(24, kind="dead"), pair(10, 24)
    own = Curvature(H, spectral=False)
    assert torch.equal(edit_matrix(aligned, tuned, own, mu=0.0)[0], tuned)
    assert torch.equal(edit_matrix(aligned, aligned, own, mu=1.0)[0], aligned)
    new, _ = edit_matrix(aligned, tuned, own, mu=1e9)
    dead = own.dead
    assert len(dead) == 2
    assert torch.equal(new[:, dead], tuned[:, dead])
    assert loss(new - aligned, H) <= 1e-9 * loss(tuned - aligned, H)


@pytest.mark.parametrize("mode", ["soft", "exact"])
def test_a_factor_is_edited_as_its_matrix(mode: Any) -> None:
    H, draw = curvature(24), torch.Generator().manual_seed(3)
    A = torch.randn(4, 24, generator=draw, dtype=torch.float64)
    B = torch.randn(10, 4, generator=draw, dtype=torch.float64)
    own = Curvature(H, spectral=False)
    new_A, decision = edit_factor(A, B.T @ B, 10, mode, Budget.of(mode, 1.0, None, None), own)
    whole, _ = edit_matrix(torch.zeros(10, 24, dtype=torch.float64), B @ A, own, mode=mode, mu=1.0)
    assert float((B @ new_A - whole).abs().max()) <= 1e-9
    assert decision.mode == mode


def test_a_loss_to_be_met_computes_the_eigenvectors() -> None:
    H, (aligned, tuned) = curvature(24), pair(10, 24)
    own = Curvature(H, spectral=False)
    expected, _ = edit_matrix(aligned, tuned, Curvature(H), rms_tol=1e-3)
    new, info = edit_matrix(aligned, tuned, own, rms_tol=1e-3)
    assert torch.equal(new, expected)
    assert "spectrum" in own.__dict__
    assert info["loss"] == pytest.approx(info["epsilon"], rel=1e-9)


def test_wide_inputs_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wider than the limit: float32, tried on vectors, and float64 where that is not enough."""
    monkeypatch.setattr(module, "FP64_WIDTH", 16)
    H, (aligned, tuned) = curvature(24).float(), tuple(w.float() for w in pair(10, 24))
    own = Curvature(H)
    assert not own.spectral
    expected, _ = edit_matrix(aligned.double(), tuned.double(), Curvature(H.double(), spectral=True), mu=1.0)
    new, _ = edit_matrix(aligned, tuned, own, mu=1.0)
    assert float((new - expected).abs().max()) <= 1e-6
    assert "spectrum" not in own.__dict__
    tried: list[torch.dtype] = []

    def never(A: torch.Tensor, inverse: torch.Tensor) -> bool:
        tried.append(A.dtype)
        return False

    monkeypatch.setattr(module, "_inverts", never)
    again, _ = edit_matrix(aligned, tuned, Curvature(H), mu=1.0)
    assert tried == [torch.float32]
    assert float((again - expected).abs().max()) <= 1e-6
    assert Curvature(H, G=H).spectral


def test_the_probes_tell_an_inverse_from_another_matrix() -> None:
    A = curvature(24) + torch.eye(24, dtype=torch.float64)
    inverse = torch.linalg.inv(A)
    assert module._inverts(A, inverse)
    wrong = inverse.clone()
    wrong[3, 4] += 0.01
    assert not module._inverts(A, wrong)


def test_what_is_no_sum_of_squares_is_refused() -> None:
    """Symmetric with a positive diagonal, but not positive: it passes the first checks, and not the factor."""
    H = torch.tensor([[1.0, 3.0], [3.0, 1.0]], dtype=torch.float64)
    with pytest.raises(NumericalFailure, match="no Cholesky factor"):
        Curvature(H, spectral=False).taken(1.0, torch.float64)
