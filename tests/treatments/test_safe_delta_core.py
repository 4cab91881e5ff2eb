"""Safe Delta's mathematics, check by check as its specification numbers them (section 10)."""

from __future__ import annotations

import math

import pytest
import torch
from benchmarks import release_reference
from hypothesis import given, settings
from hypothesis import strategies as st

from safewright.errors import BadInput, NumericalFailure
from safewright.treatments.safe_delta.budget import Budget
from safewright.treatments.safe_delta.core import (
    admit_prefix,
    edit_factor,
    edit_matrix,
    energies,
)
from safewright.treatments.safe_delta.curvature import Curvature
from tests.treatments.matrices import curvature, damped, loss, one_shot, pair, solved

MODES = ("official", "paper", "exact", "soft")


# 2: Theorem 4.1


@pytest.mark.parametrize("seed", range(5))
def test_02_theorem_one_forced_entry(seed: int) -> None:
    width, draw = 12, torch.Generator().manual_seed(seed)
    H = curvature(width, seed=seed)
    d = torch.linalg.inv(H).diagonal()
    m, delta = seed % width, 0.7
    edit = torch.linalg.inv(H)[:, m] * delta / d[m]
    assert edit[m] == pytest.approx(delta, abs=1e-10)
    force = H @ edit
    force[m] = 0.0
    assert float(force.abs().max()) <= 1e-10
    best = 0.5 * float(edit @ H @ edit)
    assert best == pytest.approx(delta**2 / (2 * float(d[m])), abs=1e-10)
    for _ in range(100):
        other = edit + 0.1 * torch.randn(width, generator=draw, dtype=torch.float64)
        other[m] = delta
        assert 0.5 * float(other @ H @ other) >= best


def test_02_theorem_is_what_paper_mode_computes() -> None:
    """With one admitted entry and no damping, equation 10 is the theorem's compensation."""
    width = 10
    H = curvature(width)
    inverse = torch.linalg.inv(H)
    m = int(inverse.diagonal().argmax())
    aligned = torch.zeros(1, width, dtype=torch.float64)
    tuned = aligned.clone()
    tuned[0, m] = 0.3
    new, info = edit_matrix(aligned, tuned, H, mode="paper", s=1e6, percdamp=0.0)
    assert bool(info["mask"][0, m])
    # Entries with no step of their own are admitted as they are; the rest compensate.
    expected = torch.where(info["mask"][0], tuned[0], inverse[:, m] * 0.3 / inverse[m, m])
    assert torch.allclose(new[0], expected, atol=1e-12)


# 3: parity with the release


@pytest.mark.parametrize("kind", ["rotated", "dead", "outlier", "ar"])
@pytest.mark.parametrize(("rows", "width", "block"), [(24, 32, 2048), (16, 40, 16), (48, 20, 2048)])
@pytest.mark.parametrize("s", [0.1, 3.0, 30.0, 1000.0])
def test_03_parity_with_the_release(kind: str, rows: int, width: int, block: int, s: float) -> None:
    H = curvature(width, kind=kind, seed=rows).float()
    aligned, tuned = (w.float() for w in pair(rows, width, seed=width))
    expected, mask = release_reference.adjust(aligned, tuned, release_reference.factor(H), s, blocksize=block)
    new, info = edit_matrix(aligned, tuned, H, mode="official", s=s, blocksize=block)
    assert torch.equal(info["mask"], mask)
    assert float((new - expected).abs().max()) <= 1e-6


def test_03_parity_admits_some_and_not_all() -> None:
    """The parity cases are not decided by an empty or a full selection."""
    shares = []
    for s in (0.1, 3.0, 30.0, 1000.0):
        aligned, tuned = (w.float() for w in pair(24, 32, seed=32))
        H = curvature(32, seed=24).float()
        _, info = edit_matrix(aligned, tuned, H, mode="official", s=s)
        shares.append(float(info["mask"].float().mean()))
    assert shares == sorted(shares)
    assert any(0.05 < share < 0.8 for share in shares)


@pytest.mark.parametrize("s", [30.0, 1000.0])
def test_03_parity_without_compensation(s: float) -> None:
    H = curvature(32, seed=3).float()
    aligned, tuned = (w.float() for w in pair(24, 32))
    expected, mask = release_reference.adjust(
        aligned, tuned, release_reference.factor(H), s, compensation=False
    )
    new, info = edit_matrix(aligned, tuned, H, mode="official", s=s, compensation=False)
    assert torch.equal(info["mask"], mask)
    assert torch.equal(new, expected)
    assert torch.equal(new, torch.where(mask, tuned, aligned))


@pytest.mark.parametrize("s", [0.5, 2.0, 5.0])
def test_03_parity_where_the_budget_binds(s: float) -> None:
    """At 512 columns: the boundary column, and entries of it, are the reference's."""
    H = curvature(512, seed=4, tokens=1024).float()
    aligned, tuned = (0.05 * w.float() for w in pair(256, 512, size=0.04))
    expected, mask = release_reference.adjust(aligned, tuned, release_reference.factor(H), s, by_rows=True)
    new, info = edit_matrix(aligned, tuned, H, mode="official", s=s)
    assert 0.02 < float(mask.float().mean()) < 0.84
    assert torch.equal(info["mask"], mask)
    assert float((new - expected).abs().max()) <= 1e-6


def test_03_parity_holds_for_the_release_s_own_flattening() -> None:
    """Where no two columns tie, it does not matter which way the reference flattens."""
    H = curvature(40, seed=9).float()
    aligned, tuned = (w.float() for w in pair(30, 40))
    expected, mask = release_reference.adjust(aligned, tuned, release_reference.factor(H), 30.0, by_rows=True)
    new, info = edit_matrix(aligned, tuned, H, mode="official", s=30.0)
    assert torch.equal(info["mask"], mask)
    assert float((new - expected).abs().max()) <= 1e-6


def test_03_parity_of_many_columns() -> None:
    """More columns than a panel, and a short last block."""
    H = curvature(300, seed=5).float()
    aligned, tuned = (w.float() for w in pair(40, 300))
    expected, mask = release_reference.adjust(
        aligned, tuned, release_reference.factor(H), 20.0, blocksize=210
    )
    new, info = edit_matrix(aligned, tuned, H, mode="official", s=20.0, blocksize=210)
    assert torch.equal(info["mask"], mask)
    assert float((new - expected).abs().max()) <= 1e-6


def test_03_parity_as_released_differs_only_at_the_cut() -> None:
    """The released sort is not stable: other entries of the boundary column may be chosen, none elsewhere."""
    H = curvature(20, seed=1).float()
    aligned, tuned = (w.float() for w in pair(48, 20))
    _, stable = release_reference.adjust(aligned, tuned, release_reference.factor(H), 20.0)
    salience = 1.0 / release_reference.factor(H).diagonal() ** 2
    cost = (tuned - aligned) ** 2 * salience
    shuffled = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    order = torch.argsort(salience.expand(48, 20)[shuffled].flatten())[: -int(0.15 * cost.numel())]
    chosen = cost[shuffled].flatten()[order].cumsum(0) <= salience.mean() * 10.0 * 48 / 4096
    other = torch.zeros(48 * 20, dtype=torch.bool)
    other[order[chosen]] = True
    other = other.reshape(48, 20)[torch.argsort(shuffled)]
    differing = (other != stable).any(0)
    assert int(differing.sum()) <= 2  # the boundary column, and the one at the 85 % cut


# 4: limits


@pytest.mark.parametrize("mode", MODES)
def test_04_limits_no_budget_gives_the_aligned_weights(mode: str) -> None:
    aligned, tuned = pair(12, 16)
    new, info = edit_matrix(aligned, tuned, curvature(16), mode=mode, s=0.0)  # type: ignore[arg-type]
    assert torch.equal(new, aligned)
    assert info["loss"] == 0.0


@pytest.mark.parametrize("mode", ["exact", "soft"])
@pytest.mark.parametrize("kind", ["rotated", "dead"])
def test_04_limits_a_large_budget_gives_the_tuned_weights(mode: str, kind: str) -> None:
    aligned, tuned = pair(12, 16)
    H = curvature(16, kind=kind)
    new, info = edit_matrix(aligned, tuned, H, mode=mode, rms_tol=10.0)  # type: ignore[arg-type]
    assert torch.equal(new, tuned)
    assert info["loss"] == info["loss_full"] == pytest.approx(loss(tuned - aligned, H))
    barely = loss(tuned - aligned, H) * (1 + 1e-9)
    tolerance = math.sqrt(barely / _unit(H, 12 * 16))
    again, _ = edit_matrix(aligned, tuned, H, mode=mode, rms_tol=tolerance)  # type: ignore[arg-type]
    assert torch.equal(again, tuned)


def _unit(H: torch.Tensor, numel: int) -> float:
    """epsilon at rms_tol = 1."""
    live = H.diagonal() > 0
    d = torch.linalg.inv(damped(H[live][:, live])).diagonal()
    return numel * float((0.5 / d).sum()) / H.shape[0]


def test_04_limits_official_never_admits_the_last_15_per_cent() -> None:
    aligned, tuned = pair(24, 32)
    _, info = edit_matrix(aligned, tuned, curvature(32), mode="official", s=1e4 * 4096)
    assert int(info["mask"].sum()) == 24 * 32 - int(0.15 * 24 * 32)


def test_04_limits_a_tiny_matrix_admits_nothing_in_official() -> None:
    aligned, tuned = pair(2, 3)
    new, info = edit_matrix(aligned, tuned, curvature(3), mode="official", s=1e9)
    assert not bool(info["mask"].any())
    assert torch.equal(new, aligned)


@pytest.mark.parametrize("mode", ["exact", "soft"])
@pytest.mark.parametrize("seed", range(60))
def test_04_limits_no_price_keeps_the_whole_step(mode: str, seed: int) -> None:
    kind = ("rotated", "dead", "outlier", "ar", "diagonal")[seed % 5]
    rows, width = 1 + seed % 9, 4 + seed % 13
    aligned, tuned = pair(rows, width, seed=seed)
    new, info = edit_matrix(aligned, tuned, curvature(width, kind=kind, seed=seed), mode=mode, mu=0.0)  # type: ignore[arg-type]
    assert torch.equal(new, tuned)
    assert info["loss"] == info["loss_full"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["rotated", "dead"])
def test_04_limits_no_step_changes_nothing(mode: str, kind: str) -> None:
    aligned, _ = pair(12, 16)
    new, info = edit_matrix(aligned, aligned.clone(), curvature(16, kind=kind), mode=mode)  # type: ignore[arg-type]
    assert torch.equal(new, aligned)
    assert info["loss"] == info["loss_full"] == 0.0


# 5: the prefix curve


@pytest.mark.parametrize("kind", ["rotated", "outlier", "dead"])
def test_05_prefix_curve_is_the_loss_of_every_prefix(kind: str) -> None:
    rows, width = 9, 14
    H = curvature(width, kind=kind)
    aligned, tuned = pair(rows, width)
    delta = tuned - aligned
    _, info = edit_matrix(aligned, tuned, H, mode="exact", rms_tol=1e-2)
    curve, order = info["curve"], info["order"]
    dead = int((H.diagonal() == 0).sum())
    live = (H.diagonal() > 0).nonzero().flatten()
    Hd = damped(H)[live][:, live]
    assert len(curve) == width + 1
    assert bool((curve.diff() >= 0).all())
    for k in range(width + 1):
        mask = torch.zeros(rows, width, dtype=torch.bool)
        mask[:, order[: max(k, dead)]] = True
        direct = loss(solved(delta[:, live], Hd, mask[:, live]), Hd)
        assert float(curve[k]) == pytest.approx(direct, rel=1e-10, abs=1e-14)
    assert float(curve[-1]) == pytest.approx(loss(delta[:, live], Hd), rel=1e-10)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-2, 2e-2, 5e-2])
def test_05_prefix_curve_the_chosen_prefix_is_the_longest_that_fits(tolerance: float) -> None:
    H = curvature(20)
    aligned, tuned = pair(9, 20)
    new, info = edit_matrix(aligned, tuned, H, mode="exact", rms_tol=tolerance)
    k, curve = info["k"], info["curve"]
    epsilon = tolerance**2 * _unit(H, 9 * 20)
    assert info["epsilon"] == pytest.approx(epsilon, rel=1e-10)
    if info["loss_full"] > epsilon:
        assert float(curve[k]) <= epsilon < float(curve[k + 1])
        mask = torch.zeros(9, 20, dtype=torch.bool)
        mask[:, info["order"][:k]] = True
        edit = solved(tuned - aligned, damped(H), mask)
        assert torch.allclose(new, aligned + edit, atol=1e-12)
    assert torch.equal(new[:, info["order"][:k]], tuned[:, info["order"][:k]])
    assert info["loss"] == pytest.approx(loss(new - aligned, H), rel=1e-9, abs=1e-15)


# 6: dominance


@pytest.mark.parametrize("seed", range(100))
def test_06_dominance_over_every_other_compensation_of_the_same_mask(seed: int) -> None:
    rows, width = 6, 16
    H = curvature(width, seed=seed)
    aligned, tuned = pair(rows, width, seed=seed)
    delta = tuned - aligned
    new, info = edit_matrix(aligned, tuned, H, mode="exact", rms_tol=8e-3)
    mask = torch.zeros(rows, width, dtype=torch.bool)
    mask[:, info["order"][: info["k"]]] = True
    Hd = damped(H)
    inverse = torch.linalg.inv(Hd)
    U = torch.linalg.cholesky(inverse, upper=True)
    swept, _ = release_reference.adjust(aligned, tuned, U, 0.0, mask=mask)
    others = (one_shot(delta, Hd, mask), swept - aligned, mask * delta)
    assert loss(new - aligned, Hd) <= min(loss(edit, Hd) for edit in others) + 1e-9


def test_06_dominance_over_the_sweep_where_neighbours_correlate() -> None:
    """AR .99, 30 % of the columns kept: the release's groups of four cost more than ten times the loss."""
    rows, width = 32, 128
    H = curvature(width, kind="ar")
    aligned, tuned = pair(rows, width)
    kept = torch.randperm(width, generator=torch.Generator().manual_seed(0))[: int(0.3 * width)]
    # Whole groups of four neighbours, as a sorted saliency of smooth channels selects them.
    kept = torch.cat([torch.arange(4 * g, 4 * g + 4) for g in range(0, 32, 3)])[: int(0.3 * width)]
    mask = torch.zeros(rows, width, dtype=torch.bool)
    mask[:, kept] = True
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    swept, _ = release_reference.adjust(aligned, tuned, U, 0.0, mask=mask)
    exact = loss(solved(tuned - aligned, H, mask), H)
    assert loss(swept - aligned, H) / exact >= 10


def test_06_dominance_nothing_to_compensate_without_correlation() -> None:
    H = curvature(16, kind="diagonal")
    aligned, tuned = pair(8, 16)
    new, info = edit_matrix(aligned, tuned, H, mode="exact", rms_tol=1e-2)
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[:, info["order"][: info["k"]]] = True
    assert 0 < info["k"] < 16
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    swept, _ = release_reference.adjust(aligned, tuned, U, 0.0, mask=mask)
    for edit in (one_shot(tuned - aligned, H, mask), swept - aligned, mask * (tuned - aligned)):
        assert torch.allclose(new - aligned, edit, atol=1e-7)


# 7: the soft optimum


@pytest.mark.parametrize("kind", ["rotated", "outlier", "dead", "ar"])
@pytest.mark.parametrize("mu", [0.1, 1.0, 10.0])
def test_07_soft_solves_its_equation(kind: str, mu: float) -> None:
    H = curvature(18, kind=kind)
    aligned, tuned = pair(7, 18)
    new, info = edit_matrix(aligned, tuned, H, mode="soft", mu=mu)
    live = H.diagonal() > 0
    factor = mu / float(H.diagonal()[live].mean())
    edit = new - aligned
    back = edit @ (torch.eye(18, dtype=torch.float64) + factor * H)
    assert float((back - (tuned - aligned)).abs().max()) <= 1e-10
    assert info["mu"] == pytest.approx(mu)
    assert info["loss"] == pytest.approx(loss(edit, H), rel=1e-8)


@pytest.mark.parametrize("tolerance", [1e-5, 1e-3, 1e-2])
@pytest.mark.parametrize("kind", ["rotated", "outlier", "dead"])
def test_07_soft_spends_its_budget(kind: str, tolerance: float) -> None:
    H = curvature(18, kind=kind)
    aligned, tuned = pair(7, 18)
    new, info = edit_matrix(aligned, tuned, H, mode="soft", rms_tol=tolerance)
    epsilon = tolerance**2 * _unit(H, 7 * 18)
    assert info["loss_full"] > epsilon
    assert abs(loss(new - aligned, H) - epsilon) / epsilon <= 1e-6
    assert info["loss"] == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_07_soft_is_closest_to_the_tuned_weights_at_its_loss(seed: int) -> None:
    H = curvature(18, seed=seed)
    aligned, tuned = pair(7, 18, seed=seed)
    for mode, s in (("official", 3000.0), ("paper", 1e-4), ("exact", 1000.0)):
        masked, _ = edit_matrix(aligned, tuned, H, mode=mode, s=s)  # type: ignore[arg-type]
        cost = loss(masked - aligned, H)
        if cost == 0 or cost >= loss(tuned - aligned, H):
            continue
        soft, info = edit_matrix(aligned, tuned, H, rms_tol=math.sqrt(cost / _unit(H, 7 * 18)))
        assert info["loss"] == pytest.approx(cost, rel=1e-6)
        assert float((soft - tuned).norm()) <= float((masked - tuned).norm()) * (1 + 1e-6)


def test_07_soft_without_limit_tends_to_the_null_space() -> None:
    H = curvature(18, tokens=9)
    aligned, tuned = pair(7, 18)
    values, vectors = torch.linalg.eigh(H)
    null = vectors[:, values < 1e-9]
    new, _ = edit_matrix(aligned, tuned, H, mu=1e9)
    assert torch.allclose(new - aligned, (tuned - aligned) @ null @ null.T, atol=1e-6)


def test_07_soft_reports_its_distance() -> None:
    H = curvature(18)
    aligned, tuned = pair(7, 18)
    new, info = edit_matrix(aligned, tuned, H, mu=1.0)
    known = Curvature(H)
    found = energies(tuned - aligned, known, "spectrum")
    strength = info["mu"] * known.mu_unit * known.spectrum[0]
    expected = float((found * (strength / (1 + strength)) ** 2).sum())
    assert float(((new - tuned) ** 2).sum()) == pytest.approx(expected, rel=1e-9)
    assert info["distance"] == pytest.approx(expected / float(((tuned - aligned) ** 2).sum()), rel=1e-9)


def test_07_soft_with_the_task_metric_solves_its_equation() -> None:
    H, G = curvature(18, seed=1), curvature(18, kind="outlier", seed=2)
    aligned, tuned = pair(7, 18)
    new, info = edit_matrix(aligned, tuned, H, mu=1.0, G=G)
    Gd = damped(G)
    factor = float(Gd.diagonal().mean() / H.diagonal().mean())
    back = (new - aligned) @ (Gd + factor * H)
    wanted = (tuned - aligned) @ Gd
    assert float((back - wanted).abs().max()) <= 1e-10 * float(wanted.abs().max())
    assert info["loss"] == pytest.approx(loss(new - aligned, H), rel=1e-8)


def test_07_soft_with_the_identity_as_metric_is_plain_soft() -> None:
    H = curvature(18)
    aligned, tuned = pair(7, 18)
    plain, _ = edit_matrix(aligned, tuned, H, mu=0.7)
    metric, _ = edit_matrix(aligned, tuned, H, mu=0.7, G=3.0 * torch.eye(18, dtype=torch.float64))
    assert torch.allclose(plain, metric, atol=1e-12)


def test_07_soft_with_the_task_metric_keeps_more_of_the_task_at_the_same_loss() -> None:
    H, G = curvature(18, seed=1), curvature(18, seed=2)
    aligned, tuned = pair(7, 18)
    plain, info = edit_matrix(aligned, tuned, H, mu=1.0)
    tolerance = math.sqrt(info["loss"] / _unit(H, 7 * 18))
    metric, again = edit_matrix(aligned, tuned, H, rms_tol=tolerance, G=G)
    assert again["loss"] == pytest.approx(info["loss"], rel=1e-6)
    assert loss(metric - tuned, G) < loss(plain - tuned, G)


# 8: invariances


@pytest.mark.parametrize("mode", ["exact", "soft"])
@pytest.mark.parametrize("kind", ["rotated", "dead"])
def test_08_invariances_under_a_permutation_of_the_inputs(mode: str, kind: str) -> None:
    H = curvature(24, kind=kind)
    aligned, tuned = pair(10, 24)
    p = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    new, _ = edit_matrix(aligned, tuned, H, mode=mode, rms_tol=1e-2)  # type: ignore[arg-type]
    moved, _ = edit_matrix(aligned[:, p], tuned[:, p], H[p][:, p], mode=mode, rms_tol=1e-2)  # type: ignore[arg-type]
    assert float((moved - new[:, p]).abs().max()) <= 1e-10


def test_08_invariances_official_depends_on_the_order_of_the_inputs() -> None:
    """The release's causal sweep: documented, and the reason why it is not the default."""
    H = curvature(64)
    aligned, tuned = pair(32, 64)
    p = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    new, info = edit_matrix(aligned, tuned, H, mode="official", s=100.0)
    moved, _ = edit_matrix(aligned[:, p], tuned[:, p], H[p][:, p], mode="official", s=100.0)
    assert 0.04 < float(info["mask"].double().mean()) < 0.85
    assert float((moved - new[:, p]).norm() / (new - aligned).norm()) > 0.5


@pytest.mark.parametrize("mode", ["exact", "soft"])
@pytest.mark.parametrize("budget", [{"s": 30.0}, {"mu": 1.0}])
def test_08_invariances_under_the_scale_of_the_inputs(mode: str, budget: dict[str, float]) -> None:
    H = curvature(24).float()
    aligned, tuned = (w.float() for w in pair(10, 24))
    new, _ = edit_matrix(aligned, tuned, H, mode=mode, **budget)  # type: ignore[arg-type]
    scaled, _ = edit_matrix(aligned, tuned, H * 49.0, mode=mode, **budget)  # type: ignore[arg-type]
    assert float((scaled - new).abs().max()) <= 1e-6


@pytest.mark.parametrize("mode", ["exact", "soft"])
def test_08_invariances_under_a_rotation_of_the_outputs(mode: str) -> None:
    H = curvature(24)
    aligned, tuned = pair(10, 24)
    Q = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[
        0
    ]
    new, _ = edit_matrix(aligned, tuned, H, mode=mode, rms_tol=1e-2)  # type: ignore[arg-type]
    turned, _ = edit_matrix(Q @ aligned, Q @ tuned, H, mode=mode, rms_tol=1e-2)  # type: ignore[arg-type]
    assert torch.allclose(turned, Q @ new, atol=1e-10)


@pytest.mark.parametrize("mode", ["paper", "exact", "soft"])
def test_08_invariances_dead_channels_keep_the_whole_step(mode: str) -> None:
    H = curvature(24, kind="dead")
    aligned, tuned = pair(10, 24)
    for s in (0.0, 1e-3, 100.0):
        new, _ = edit_matrix(aligned, tuned, H, mode=mode, s=s)  # type: ignore[arg-type]
        assert torch.equal(new[:, [1, 22]], tuned[:, [1, 22]])


# 9: low rank


@pytest.mark.parametrize("mode", ["exact", "soft"])
@pytest.mark.parametrize("budget", [{"mu": 1.0}, {"rms_tol": 1e-2}])
@pytest.mark.parametrize("kind", ["rotated", "dead"])
def test_09_lora_factor_gives_the_edit_of_the_merged_step(
    mode: str, budget: dict[str, float], kind: str
) -> None:
    H = curvature(24, kind=kind)
    draw = torch.Generator().manual_seed(0)
    aligned, _ = pair(16, 24)
    B = torch.randn(16, 4, generator=draw, dtype=torch.float64)
    A = 0.02 * torch.randn(4, 24, generator=draw, dtype=torch.float64)
    merged, _ = edit_matrix(aligned, aligned + B @ A, H, mode=mode, **budget)  # type: ignore[arg-type]
    new_A, decision = edit_factor(A, B.T @ B, 16, mode, Budget.of(mode, **budget), Curvature(H))  # type: ignore[arg-type]
    assert decision.loss < decision.loss_full
    assert new_A.shape == A.shape
    assert float((aligned + B @ new_A - merged).abs().max()) <= 1e-10
    assert int(torch.linalg.matrix_rank(merged - aligned)) <= 4


def test_09_lora_rank_is_not_kept_by_the_release() -> None:
    H = curvature(24)
    draw = torch.Generator().manual_seed(0)
    aligned, _ = pair(64, 24)
    step = torch.randn(64, 4, generator=draw, dtype=torch.float64) @ torch.randn(
        4, 24, generator=draw, dtype=torch.float64
    )
    ranks = []
    for s in (3.0, 10.0, 30.0, 60.0, 100.0):
        new, _ = edit_matrix(aligned, aligned + 1e-2 * step, H, mode="official", s=s)
        ranks.append(int(torch.linalg.matrix_rank(new - aligned, atol=1e-6)))
    assert max(ranks) > 4


# damping, float32, budgets, bad input


def test_damping_by_channel_survives_an_outlier_channel() -> None:
    """1 % of the mean diagonal would drown every other channel; the compensated loss shows it."""
    H = curvature(64, seed=2)
    gain = torch.ones(64, dtype=torch.float64)
    gain[5] = 1000.0
    H = gain[:, None] * H * gain[None, :]
    aligned, tuned = pair(32, 64)
    tuned = aligned + (tuned - aligned) / gain
    kept = {}
    for damping in ("channel", "mean"):
        known = Curvature(H, damping=damping)  # type: ignore[arg-type]
        Z = energies(tuned - aligned, known, "prefix")
        half = first_half(known, Z, tuned - aligned)
        kept[damping] = loss(half, H)
    assert kept["channel"] < 0.8 * kept["mean"]


def first_half(known: Curvature, Z: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """The exact edit of the first half of the channels."""
    mask = torch.zeros(delta.shape, dtype=torch.bool)
    mask[:, known.order[: delta.shape[1] // 2]] = True
    _, added, _ = known.damped
    return solved(delta, known.H + torch.diag(added), mask)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_come_back_as_they_came(mode: str, dtype: torch.dtype) -> None:
    H = curvature(24)
    aligned, tuned = pair(10, 24)
    low, high = aligned.to(dtype), tuned.to(dtype)
    new, info = edit_matrix(low, high, H, mode=mode, s=10.0)  # type: ignore[arg-type]
    assert new.dtype == dtype
    exact, _ = edit_matrix(low.double(), high.double(), H, mode=mode, s=10.0)  # type: ignore[arg-type]
    assert torch.allclose(new.double(), exact, atol=1e-6 if dtype == torch.float32 else 2e-2)
    if "mask" in info:
        assert torch.equal(new[info["mask"]], high[info["mask"]])


def test_the_default_of_exact_spends_what_soft_would() -> None:
    H = curvature(24)
    aligned, tuned = pair(10, 24)
    _, soft = edit_matrix(aligned, tuned, H)
    _, exact = edit_matrix(aligned, tuned, H, mode="exact")
    assert exact["epsilon"] == pytest.approx(soft["loss"], rel=1e-9)
    assert float(exact["curve"][exact["k"]]) <= soft["loss"]


def test_s_outside_the_release_is_an_rms_tolerance() -> None:
    assert Budget.of("soft", s=0.1).rms_tol == pytest.approx(7.72e-5, rel=1e-3)
    assert Budget.of("official", rms_tol=math.sqrt(0.1) / 4096).s == pytest.approx(0.1)
    assert (Budget.of("soft").mu, Budget.of("exact").mu, Budget.of("official").s) == (1.0, 1.0, 0.1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mu": 1.0, "s": 0.1}, "mu and s are given together"),
        ({"s": -1.0}, "s is -1.0"),
        ({"rms_tol": math.nan}, "rms_tol is nan"),
        ({"mode": "sotf"}, "Did you mean 'soft'?"),
        ({"mode": "official", "mu": 1.0}, "has no mu"),
        ({"damping": "median"}, "Unknown damping 'median'"),
        ({"percdamp": -1.0}, "percdamp is -1.0"),
        ({"mode": "official", "blocksize": 0}, "blocksize is 0"),
        ({"mode": "exact", "G": torch.eye(8)}, "has no task metric G"),
        ({"mode": "soft", "compensation": False}, "is its compensation"),
        ({"H": Curvature(torch.eye(8)), "damping": "mean"}, "has its own damping"),
        ({"H": Curvature(torch.eye(8)), "G": torch.eye(8)}, "has its own damping"),
        ({"H": -torch.eye(8)}, "H has a negative diagonal"),
        ({"H": torch.eye(8) + torch.ones(8, 8).triu()}, "H is not symmetric"),
        ({"H": [[1.0]]}, "H is a list, not a tensor"),
    ],
)
def test_11_bad_settings_are_named(given: dict[str, object], said: str) -> None:
    aligned, tuned = pair(4, 8)
    with pytest.raises(BadInput) as caught:
        edit_matrix(aligned, tuned, **{"H": curvature(8), **given})  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_11_bad_shapes_and_numbers_are_named() -> None:
    aligned, tuned = pair(4, 8)
    with pytest.raises(BadInput, match="shapes do not fit"):
        edit_matrix(aligned, tuned[:, :7], curvature(8))
    with pytest.raises(BadInput, match=r"not \(in, in\)"):
        edit_matrix(aligned, tuned, torch.ones(8, 7))
    with pytest.raises(BadInput, match="Dequantise"):
        edit_matrix(aligned.to(torch.int8), tuned, curvature(8))
    tuned[2, 3] = math.nan
    with pytest.raises(NumericalFailure, match="w_tuned holds 1 non-finite"):
        edit_matrix(aligned, tuned, curvature(8))
    H = curvature(8)
    H[0, 0] = math.inf
    with pytest.raises(NumericalFailure, match="H holds 1 non-finite"):
        edit_matrix(aligned, aligned, H)


def test_parameters_come_back_without_their_gradient() -> None:
    aligned, tuned = (torch.nn.Parameter(w) for w in pair(4, 8))
    new, _ = edit_matrix(aligned, tuned, curvature(8))
    assert not new.requires_grad


def test_official_may_be_damped_by_channel() -> None:
    H = curvature(16, kind="outlier")
    aligned, tuned = pair(8, 16)
    by_mean, _ = edit_matrix(aligned, tuned, H, mode="official", s=30.0)
    by_channel, _ = edit_matrix(aligned, tuned, H, mode="official", s=30.0, damping="channel")
    assert not torch.equal(by_mean, by_channel)


def test_11_a_singular_curvature_is_damped_more_and_says_so() -> None:
    H = curvature(24, tokens=5)
    aligned, tuned = pair(10, 24)
    new, info = edit_matrix(aligned, tuned, H, mode="exact", rms_tol=1e-3, percdamp=0.0)
    assert info["percdamp"] > 0
    assert bool(torch.isfinite(new).all())


def test_11_an_indefinite_curvature_is_refused() -> None:
    aligned, tuned = pair(4, 8)
    H = curvature(8)
    H[0, 1] = H[1, 0] = 1e6
    with pytest.raises(NumericalFailure, match="no Cholesky factor"):
        edit_matrix(aligned, tuned, H, mode="exact", rms_tol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    width=st.integers(1, 6),
    keep=st.integers(0, 36),
    threshold=st.floats(0, 20, allow_nan=False),
    seed=st.integers(0, 999),
)
def test_admitting_a_prefix_equals_one_long_sort(
    rows: int, width: int, keep: int, threshold: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    cost = torch.rand(rows, width, generator=draw, dtype=torch.float64)
    ranked = torch.randperm(width, generator=draw)
    entries = [(int(c), r) for c in ranked for r in range(rows)][:keep]
    expected = torch.zeros(rows, width, dtype=torch.bool)
    spent = 0.0
    for column, row in entries:
        spent += float(cost[row, column])
        if spent > threshold:
            break
        expected[row, column] = True
    assert torch.equal(admit_prefix(cost, ranked, threshold, min(keep, rows * width)), expected)
