"""Losses against their closed forms, in float64 on random logits; checks 5 and 6 of the method."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from safewright.training import losses
from safewright.training.losses import Answers

V = 23


def number(x: torch.Tensor) -> float:
    """A scalar as Python's float."""
    return float(x.detach())


def batch(
    seed: int = 0, *, size: int = 3, width: int = 7, grad: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random float64 logits (B, T, V) and labels whose rows begin at different places."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, width, V, generator=draw, dtype=torch.float64)
    labels = torch.randint(V, (size, width), generator=draw)
    for row in range(size):
        labels[row, : row + 1] = losses.IGNORED
    return logits.requires_grad_(grad), labels


def other(seed: int = 1) -> torch.Tensor:
    return batch(seed, grad=False)[0]


def grad_of(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> list[list[float]]:
    """-log p of every supervised token of every row, position by position."""
    logp = logits.detach().log_softmax(-1)
    return [
        [-number(logp[row, t - 1, labels[row, t]]) for t in range(1, labels.shape[1]) if labels[row, t] >= 0]
        for row in range(len(labels))
    ]


def test_positions_are_shifted_once_and_flat() -> None:
    logits, labels = batch()
    found = losses.answers(logits, labels)
    wanted = by_hand(logits, labels)
    assert found.lengths().tolist() == [len(row) for row in wanted] == [6, 5, 4]
    flat = [value for row in wanted for value in row]
    assert losses.token_nll(found).tolist() == pytest.approx(flat, abs=1e-12)
    assert number(losses.cross_entropy(found)) == pytest.approx(sum(flat), abs=1e-9)
    assert losses.sequence_nll(found).tolist() == pytest.approx([sum(row) for row in wanted], abs=1e-9)
    assert losses.without_first(found).lengths().tolist() == [5, 4, 3]
    assert losses.token_nll(losses.without_first(found)).tolist() == pytest.approx(
        [value for row in wanted for value in row[1:]], abs=1e-12
    )


def test_a_row_without_an_answer_counts_nothing() -> None:
    logits, labels = batch()
    labels[1] = losses.IGNORED
    found = losses.answers(logits, labels)
    assert found.lengths().tolist() == [6, 0, 4]
    assert losses.sequence_nll(found)[1] == 0
    lengths = found.lengths()
    loss = losses.simnpo(losses.sequence_nll(found), lengths, 4.5, 0.0)
    assert math.isfinite(number(loss))
    assert bool(grad_of(loss, logits).isfinite().all())


def test_05_kl_is_zero_with_zero_gradient_at_the_reference() -> None:
    logits, labels = batch()
    found = losses.answers(logits, labels)
    for direction in ("forward", "reverse"):
        loss = losses.kl(found.logits, found.logits.detach(), direction)
        assert abs(number(loss)) < 1e-9
        assert number(grad_of(loss, logits).abs().max()) < 1e-9


def test_05_npo_at_the_reference_and_its_limit() -> None:
    logits, labels = batch()
    nll = losses.sequence_nll(losses.answers(logits, labels))
    at_reference = number(losses.npo(nll, nll.detach(), 0.1)) / len(nll)
    assert at_reference == pytest.approx(13.862943611198906, abs=1e-9)
    assert 2 / 0.1 * math.log(2) == pytest.approx(at_reference, abs=1e-9)
    reference = losses.sequence_nll(losses.answers(other(), labels))
    limit = grad_of(losses.npo(nll, reference, 1e-4), logits)
    ascent = -grad_of(nll.sum(), logits)
    assert number((limit - ascent).norm() / ascent.norm()) < 1e-3


def test_05_simnpo_is_npo_with_a_uniform_reference_on_one_token() -> None:
    logits, labels = batch()
    labels[:, :-1] = losses.IGNORED
    found = losses.answers(logits, labels)
    nll = losses.sequence_nll(found)
    assert found.lengths().tolist() == [1, 1, 1]
    uniform = torch.full_like(nll, math.log(V))
    ours = losses.simnpo(nll, found.lengths(), 0.7, math.log(V))
    assert number(ours) == pytest.approx(number(losses.npo(nll, uniform, 0.7)), abs=1e-9)


def test_05_weighted_ascents_without_weights_are_plain_ascent() -> None:
    logits, labels = batch()
    found = losses.answers(logits, labels)
    plain, beyond = losses.ascent(found)
    assert int(beyond) == 0
    assert number(plain) == pytest.approx(-number(losses.cross_entropy(found)), abs=1e-12)
    for loss in (losses.wga(found, 0.0), losses.satimp(found, 0.0, 0.0)):
        assert number(loss) == pytest.approx(number(plain), abs=1e-9)
        assert torch.allclose(grad_of(loss, logits), grad_of(plain, logits), atol=1e-9)
    # With weights: by hand, the weight constant.
    each = [value for row in by_hand(logits, labels) for value in row]
    wanted = -sum(math.exp(-v) ** 5 * (1 - math.exp(-v)) * v for v in each)
    assert number(losses.satimp(found, 5.0, 1.0)) == pytest.approx(wanted, abs=1e-9)
    weighted = grad_of(losses.wga(found, 1.0), found.logits)
    constant = (-losses.token_nll(found)).exp().detach()
    assert torch.allclose(weighted, constant[:, None] * grad_of(plain, found.logits), atol=1e-12)


def test_ascent_stops_pulling_beyond_its_bound() -> None:
    logits, labels = batch()
    found = losses.answers(logits, labels)
    each = losses.token_nll(found)
    bound = number(each.median())
    loss, beyond = losses.ascent(found, bound)
    assert int(beyond) == int((each > bound).sum()) > 0
    assert number(loss) == pytest.approx(-number(each.clamp(max=bound).sum()), abs=1e-12)
    moved = grad_of(loss, found.logits).abs().amax(-1)
    assert bool(((moved > 0) == (each <= bound)).all())


def test_05_undial_with_itself_as_teacher_has_zero_gradient() -> None:
    logits, labels = batch()
    found = losses.answers(logits, labels)
    loss = losses.undial(found, found.logits.detach(), 0.0)
    assert number(grad_of(loss, logits).abs().max()) < 1e-9
    # With beta, the label's probability is aimed lower: p' = p e^-beta / (1 - p + p e^-beta).
    p = (-losses.token_nll(found)).exp().detach()
    aimed = p * math.exp(-10) / (1 - p + p * math.exp(-10))
    grad = grad_of(losses.undial(found, found.logits.detach(), 10.0), found.logits)
    label = grad.gather(1, found.targets[:, None]).squeeze(1)
    assert torch.allclose(label, p - aimed, atol=1e-9)


def test_05_ceu_pushes_the_label_by_its_probability() -> None:
    logits, labels = batch()
    found = losses.answers(logits, labels)
    grad = grad_of(losses.ceu(found), found.logits)
    p = found.logits.detach().softmax(-1)
    label = grad.gather(1, found.targets[:, None]).squeeze(1)
    assert torch.allclose(label, p.gather(1, found.targets[:, None]).squeeze(1), atol=1e-9)
    assert bool((label > 0).all())
    # Everything else is pulled towards itself without the label.
    aim = p.scatter(1, found.targets[:, None], 0.0)
    aim = aim / aim.sum(-1, keepdim=True)
    assert torch.allclose(grad, p - aim, atol=1e-9)


def test_05_dpo_against_its_formula() -> None:
    draw = torch.Generator().manual_seed(3)
    w, r, rw, rr = (torch.rand(4, 5, generator=draw, dtype=torch.float64) * 9).unbind()
    wanted = sum(
        2 / 0.3 * math.log1p(math.exp(-0.3 * ((d - a) - (e - b))))
        for a, b, d, e in zip(w.tolist(), r.tolist(), rw.tolist(), rr.tolist(), strict=True)
    )
    assert number(losses.dpo(w, r, rw, rr, 0.3)) == pytest.approx(wanted, abs=1e-9)
    assert number(losses.dpo(w, r, w, r, 0.1)) / 5 == pytest.approx(2 / 0.1 * math.log(2), abs=1e-9)


def test_flat_logits_have_no_flatness_to_lose() -> None:
    found = Answers(torch.ones(4, V), torch.zeros(4, dtype=torch.long), torch.arange(4), 4)
    assert number(losses.flatness(found)) == 0
    z = torch.tensor([[1.0, 2.0, 6.0]])
    assert number(losses.flatness(Answers(z, torch.zeros(1).long(), torch.zeros(1).long(), 1))) == 9.0


def test_distance_is_a_token_mean_of_each_row() -> None:
    hidden = torch.arange(24.0).reshape(2, 3, 4)
    kept = torch.tensor([[True, False, True], [False, True, False]])
    aim = torch.zeros(4)
    each = hidden.square().mean(-1)
    wanted = (each[0, 0] + each[0, 2]) / 2 + each[1, 1]
    assert number(losses.distance(hidden, aim, kept)) == pytest.approx(number(wanted))
    assert number(losses.distance(hidden, aim, torch.zeros_like(kept))) == 0


def test_06_directions_differ_and_swap_when_models_are_exchanged() -> None:
    logits, labels = batch()
    ours, theirs = losses.answers(logits, labels).logits, losses.answers(other(), labels).logits
    forward, reverse = (number(losses.kl(ours, theirs, d)) for d in ("forward", "reverse"))
    assert abs(forward - reverse) > 1e-3
    assert number(losses.kl(theirs, ours, "reverse")) == pytest.approx(forward, abs=1e-9)
    assert number(losses.kl(theirs, ours, "forward")) == pytest.approx(reverse, abs=1e-9)
    q, p = theirs.softmax(-1), ours.softmax(-1)
    assert forward == pytest.approx(number((q * (q.log() - p.log())).sum()), abs=1e-9)


def padded(
    logits: torch.Tensor, labels: torch.Tensor, left: int, right: int, seed: int = 9
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batch between columns of padding whose logits are noise, and its mask."""
    draw = torch.Generator().manual_seed(seed)
    noise = [torch.randn(len(labels), n, V, generator=draw, dtype=logits.dtype) for n in (left, right)]
    ignored = [torch.full((len(labels), n), losses.IGNORED) for n in (left, right)]
    real = torch.ones_like(labels)
    mask = torch.cat([torch.zeros(len(labels), left), real, torch.zeros(len(labels), right)], 1).long()
    return torch.cat([noise[0], logits, noise[1]], 1), torch.cat([ignored[0], labels, ignored[1]], 1), mask


def mean_kl(ours: Any, theirs: Any, labels: Any, mask: Any, positions: Any) -> float:
    where = losses.kl_where(labels, mask, positions)
    return number(losses.kl(ours[where], theirs[where]) / where.sum())


def test_06_kl_positions() -> None:
    (ours, labels), theirs = batch(grad=False), other()
    found: dict[str, list[float]] = {"answer": [], "nonpad": [], "all_positions": []}
    for left, right in ((5, 0), (0, 5), (11, 2)):
        a, padded_labels, mask = padded(ours, labels, left, right, seed=left)
        b, _, _ = padded(theirs, labels, left, right, seed=left + 50)
        for positions, values in found.items():
            values.append(mean_kl(a, b, padded_labels, mask, positions))
        # The released code: F.kl_div(current, reference, log_target=True).sum(-1).mean() over B x T.
        current, wanted = a.log_softmax(-1), b.log_softmax(-1)
        official = (wanted.exp() * (wanted - current)).sum(-1).mean()
        assert found["all_positions"][-1] == pytest.approx(number(official), abs=1e-9)
    assert max(found["answer"]) - min(found["answer"]) < 1e-9
    assert max(found["nonpad"]) - min(found["nonpad"]) < 1e-9
    assert max(found["all_positions"]) - min(found["all_positions"]) > 1e-3
    apart = [found[a][0] - found[b][0] for a, b in (("answer", "nonpad"), ("answer", "all_positions"))]
    assert min(map(abs, apart)) > 1e-3
    assert abs(found["nonpad"][0] - found["all_positions"][0]) > 1e-3
    # What the logits of the prompt are does not matter to the answer's.
    changed = ours.clone()
    changed[~losses.supervised(labels)] += 3
    mask = torch.ones_like(labels)
    assert mean_kl(changed, theirs, labels, mask, "answer") == pytest.approx(found["answer"][0], abs=1e-12)
    assert (
        abs(mean_kl(changed, theirs, labels, mask, "nonpad") - found["nonpad"][0]) < 1e-9
    )  # a constant shift
    changed[~losses.supervised(labels)] *= 2
    assert abs(mean_kl(changed, theirs, labels, mask, "nonpad") - found["nonpad"][0]) > 1e-3


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_08_cached_top_is_a_lower_bound_and_exact_at_the_vocabulary(direction: Any) -> None:
    logits, labels = batch()
    ours, theirs = losses.answers(logits, labels).logits, losses.answers(other(), labels).logits
    exact = losses.kl(ours, theirs, direction)
    values = [number(losses.kl_top(ours, losses.top(theirs, k), direction)) for k in (1, 4, 12, V - 1, V, 99)]
    assert values == sorted(values)
    assert values[-2] == values[-1] == pytest.approx(number(exact), abs=1e-9)
    assert all(0 <= value <= number(exact) + 1e-12 for value in values)
    whole = losses.kl_top(ours, losses.top(theirs, V), direction)
    assert torch.allclose(grad_of(whole, logits), grad_of(exact, logits), atol=1e-9)
    part = losses.kl_top(ours, losses.top(theirs, 4), direction)
    assert bool(grad_of(part, logits).isfinite().all())
    # A reference at the model itself: zero, with zero gradient.
    same = losses.kl_top(ours, losses.top(ours.detach(), 4), direction)
    assert abs(number(same)) < 1e-9
    assert number(grad_of(same, logits).abs().max()) < 1e-9


def test_08_top_64_is_close_only_where_the_tail_is_small() -> None:
    """At V = 4096: within 1e-3 nats where the tail holds at most 1e-3; far off for flat logits."""
    draw = torch.Generator().manual_seed(0)
    width, k = 4096, 64
    flat, near = torch.randn(2, 8, width, generator=draw).unbind()
    near = flat + 0.5 * near
    cut = losses.top(flat, k)
    assert number(cut.tail.exp().min()) > 0.1
    gap = (losses.kl(near, flat) - losses.kl_top(near, cut)) / 8
    assert number(gap) > 0.05
    sharp = flat.clone()
    sharp[:, :k] += 14
    moved = sharp + near - flat
    cut = losses.top(sharp, k)
    assert number(cut.tail.exp().max()) <= 1e-3
    gap = (losses.kl(moved, sharp) - losses.kl_top(moved, cut)) / 8
    assert 0 <= number(gap) <= 1e-3


def test_ties_go_to_the_lowest_id() -> None:
    assert losses.top(torch.zeros(1, 6), 2).ids.tolist() == [[0, 1]]


def test_half_precision_is_widened() -> None:
    logits, labels = batch(grad=False)
    half = losses.answers(logits.to(torch.bfloat16), labels)
    assert losses.token_nll(half).dtype == torch.float32
    assert losses.token_nll(losses.answers(logits, labels)).dtype == torch.float64
    assert losses.kl(half.logits, half.logits).dtype == torch.float32
