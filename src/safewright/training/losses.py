"""Losses on the supervised positions of a batch: pure mathematics on tensors, in float32 or wider.

Everything is a **sum** over positions or sequences; who trains divides by a count of the whole step, so that
splitting a batch changes nothing. Labels are -100 where nothing is learned; the position ``t`` of the logits
predicts the label ``t + 1``, and that shift is made here, once (`answers`).

Signs: ``l`` is the summed negative log-likelihood of an answer, ``n`` its length, ``p`` a token's probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""The label of a position that is not learned."""

Direction = Literal["forward", "reverse"]
Positions = Literal["answer", "nonpad", "all_positions"]


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or in the wider type it has."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Answers:
    """The supervised positions of ``size`` sequences, one after the other.

    ``logits`` (N, V) predict ``targets`` (N,); ``rows`` (N,), rising, says whose sequence a position is.
    """

    logits: Tensor
    targets: Tensor
    rows: Tensor
    size: int

    def lengths(self) -> Tensor:
        """Supervised positions of every sequence, (size,)."""
        return torch.bincount(self.rows, minlength=self.size)

    def take(self, kept: Tensor) -> Answers:
        """The positions where ``kept`` (N,) is true."""
        return Answers(self.logits[kept], self.targets[kept], self.rows[kept], self.size)


def supervised(labels: Tensor) -> Tensor:
    """Which positions of the logits predict a label, (B, T); the last predicts nothing."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    found[:, :-1] = labels[:, 1:] != IGNORED
    return found


def answers(logits: Tensor, labels: Tensor) -> Answers:
    """The supervised positions of logits (B, T, V) under labels (B, T)."""
    where = supervised(labels)
    rows, places = where.nonzero(as_tuple=True)
    return Answers(logits[rows, places], labels[rows, places + 1], rows, len(labels))


def token_nll(found: Answers) -> Tensor:
    """``-log p`` of every supervised token, (N,)."""
    return functional.cross_entropy(wide(found.logits), found.targets, reduction="none")


def cross_entropy(found: Answers) -> Tensor:
    """``sum -log p`` over supervised tokens."""
    return token_nll(found).sum()


def sequence_nll(found: Answers, tokens: Tensor | None = None) -> Tensor:
    """``l`` of every sequence, (size,); 0 where one has no supervised token.

    Args:
        found: The positions.
        tokens: Their `token_nll`, where it is known.
    """
    each = token_nll(found) if tokens is None else tokens
    return torch.zeros(found.size, dtype=each.dtype, device=each.device).index_add(0, found.rows, each)


def without_first(found: Answers) -> Answers:
    """The positions apart from the first of every sequence."""
    first = torch.ones_like(found.rows, dtype=torch.bool)
    first[1:] = found.rows[1:] != found.rows[:-1]
    return found.take(~first)


# What is forgotten by pushing down -------------------------------------------------------------------------


def ascent(found: Answers, bound: float | None = None) -> tuple[Tensor, Tensor]:
    """``-sum CE``, and how many tokens have a CE beyond ``bound`` (nats).

    Such tokens count as ``-bound``, and pull no further: without that the loss has no lower end.
    """
    each = token_nll(found)
    if bound is None:
        return -each.sum(), torch.zeros((), dtype=torch.long, device=each.device)
    return -each.clamp(max=bound).sum(), (each.detach() > bound).sum()


def npo(nll: Tensor, reference: Tensor, beta: float) -> Tensor:
    """``sum -2/beta log sigma(beta (l - l_ref))`` over sequences; (B,) and (B,)."""
    return -2 / beta * functional.logsigmoid(beta * (nll - reference)).sum()


def simnpo(nll: Tensor, lengths: Tensor, beta: float, delta: float) -> Tensor:
    """``sum -2/beta log sigma(beta (l/n - delta))`` over sequences that have an answer."""
    kept = lengths > 0
    return -2 / beta * functional.logsigmoid(beta * (nll[kept] / lengths[kept] - delta)).sum()


def dpo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float) -> Tensor:
    """``sum -2/beta log sigma(beta [(l_w^ref - l_w) - (l_l^ref - l_l)])`` over pairs; all (B,)."""
    margin = (ref_chosen - chosen) - (ref_rejected - rejected)
    return -2 / beta * functional.logsigmoid(beta * margin).sum()


def wga(found: Answers, beta: float) -> Tensor:
    """``-sum sg(p^beta) (-log p)``: ascent that fades where a token is forgotten."""
    each = token_nll(found)
    return -((-beta * each).exp().detach() * each).sum()


def satimp(found: Answers, beta1: float, beta2: float) -> Tensor:
    """``-sum sg(p^beta1 (1-p)^beta2) (-log p)``."""
    each = token_nll(found)
    p = (-each).exp().detach()
    return -(p**beta1 * (1 - p) ** beta2 * each).sum()


# What is forgotten by aiming at something else ---------------------------------------------------------------


def undial(found: Answers, teacher: Tensor, beta: float) -> Tensor:
    """``sum CE(softmax(z_teacher - beta e_y), p)``: the teacher's own answer with the label made less likely.

    ``teacher`` (N, V) are the reference's logits at the same positions.
    """
    aimed = wide(teacher).scatter_add(
        1, found.targets[:, None], torch.full_like(found.targets[:, None], -beta, dtype=wide(teacher).dtype)
    )
    return -(aimed.softmax(-1).detach() * wide(found.logits).log_softmax(-1)).sum()


def ceu(found: Answers) -> Tensor:
    """``sum CE(softmax(sg(z) with z_y = -inf), p)``: the model's own answer without the label.

    The gradient of the label's logit is ``p_y``: it is pushed down, however likely it was.
    """
    z = wide(found.logits)
    aimed = z.detach().scatter(1, found.targets[:, None], -torch.inf).softmax(-1)
    return -(aimed * z.log_softmax(-1)).sum()


def flatness(found: Answers) -> Tensor:
    """``sum (max z - mean z)^2`` over positions (PDU): 0 where the logits are flat."""
    z = wide(found.logits)
    return (z.amax(-1) - z.mean(-1)).square().sum()


def distance(hidden: Tensor, aim: Tensor, kept: Tensor) -> Tensor:
    """``sum over rows of the token mean of mean_d (h - aim)^2`` (RMU, embed_diff).

    Args:
        hidden: Activations (B, T, d).
        aim: (d,), or activations of the same shape.
        kept: Tokens that count, (B, T); rows without one count as 0.
    """
    each = (wide(hidden) - wide(aim)).square().mean(-1) * kept
    return (each.sum(-1) / kept.sum(-1).clamp(min=1)).sum()


# What is kept ------------------------------------------------------------------------------------------------


def kl(logits: Tensor, reference: Tensor, direction: Direction = "forward") -> Tensor:
    """``sum KL`` over positions between a model's and a reference's distributions, both logits (N, V).

    ``forward``: ``KL(reference || model)``, as the released code; ``reverse``: ``KL(model || reference)``.
    """
    ours, theirs = wide(logits).log_softmax(-1), wide(reference).log_softmax(-1)
    if direction == "reverse":
        ours, theirs = theirs, ours
    return functional.kl_div(ours, theirs, reduction="sum", log_target=True)


def kl_where(labels: Tensor, mask: Tensor, positions: Positions) -> Tensor:
    """The positions (B, T) of the logits a KL term covers.

    ``answer``: those that predict a label; ``nonpad``: all real tokens; ``all_positions``: all, padding too,
    which depends on how a batch is padded (the released code).
    """
    if positions == "answer":
        return supervised(labels)
    return mask.bool() if positions == "nonpad" else torch.ones_like(labels, dtype=torch.bool)


@dataclass(frozen=True)
class Top:
    """A reference's ``k`` likeliest tokens at N positions, and what is left for all others together.

    ``ids`` and ``logp`` are (N, k); ``tail`` (N,) is the log of the rest, -inf where k is the vocabulary.
    """

    ids: Tensor
    logp: Tensor
    tail: Tensor

    def __getitem__(self, kept: Tensor | slice) -> Top:
        return Top(self.ids[kept], self.logp[kept], self.tail[kept])


def top(logits: Tensor, k: int) -> Top:
    """The ``k`` likeliest tokens of logits (N, V), ties to the lowest id; all of them where k >= V."""
    logp = wide(logits).log_softmax(-1)
    width = logp.shape[-1]
    if k >= width:
        ids = torch.arange(width, device=logp.device).expand(len(logp), width)
        return Top(ids, logp, logp.new_full((len(logp),), -torch.inf))
    ids = logp.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return Top(ids, logp.gather(-1, ids), _outside(logp, ids))


def kl_top(logits: Tensor, reference: Top, direction: Direction = "forward") -> Tensor:
    """`kl` with every token outside the reference's top merged into one.

    By the log-sum inequality never more than the exact KL, and equal to it at k = V.
    """
    logp = wide(logits).log_softmax(-1)
    ours, theirs = logp.gather(-1, reference.ids), wide(reference.logp)
    if reference.ids.shape[-1] < logp.shape[-1]:
        ours = torch.cat([ours, _outside(logp, reference.ids)[:, None]], -1)
        theirs = torch.cat([theirs, wide(reference.tail)[:, None]], -1)
    if direction == "reverse":
        ours, theirs = theirs, ours
    return functional.kl_div(ours, theirs, reduction="sum", log_target=True)


def _outside(logp: Tensor, ids: Tensor) -> Tensor:
    """``log sum p`` over the tokens that are not in ``ids``, (N,)."""
    return logp.scatter(-1, ids, -torch.inf).logsumexp(-1)
