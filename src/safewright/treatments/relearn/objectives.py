"""Every method of `relearn` as one objective over the shared loop: a forget part, and what is kept beside it.

The parts: ``forget`` (the rows to be forgotten, or for ReLearn the vague answers that are learned), ``retain``
(the NLL, or RMU's distance of activations) and ``kl``. Model and reference run once per batch for all parts
together; under a gradient rule once per part, since each is differentiated alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from safewright.errors import NumericalFailure
from safewright.training import losses
from safewright.training.forward import (
    Part,
    answers_at,
    logits_at,
    logits_together,
    real,
    size_of,
)
from safewright.training.loop import Summed
from safewright.training.losses import Answers
from safewright.treatments.relearn.config import Resolved
from safewright.treatments.relearn.references import Live, Reference, kl_to, teacher
from safewright.treatments.relearn.soft import SoftOpenings

FORGET, RETAIN, KL, OPENING = "forget", "retain", "kl", "opening"
BY_ROW = frozenset({"npo", "simnpo", "dpo", "rmu"})
"""Losses that are means over sequences; the others are means over tokens."""


@dataclass
class _Held:
    """What was computed of one batch, until every part has had its share of it."""

    batch: Mapping[str, Any]
    left: set[str]
    logits: dict[str, Tensor] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)


class Unlearning:
    """The objective of a training's settings; see `safewright.training.loop.Objective`.

    Args:
        settings: What is trained, and how.
        pad: The token that fills up rows.
        vocabulary: Number of tokens; ascent is bounded by twice its logarithm.
        reference: The model before, for methods that compare with it.
        beside: The part that stands beside ``forget`` in pairs: ``chosen`` or ``rejected``.
        together: Whether one run of the model may serve all parts.
        steps_per_epoch: For PDU's warm-up.
        misled: RMU's layer and aim.
        soft: Openings that are sought while training, for a part of their own, ``opening``.
    """

    def __init__(
        self,
        settings: Resolved,
        *,
        pad: int,
        vocabulary: int,
        reference: Reference | None = None,
        beside: str | None = None,
        together: bool = True,
        steps_per_epoch: float = 1.0,
        misled: Misled | None = None,
        soft: SoftOpenings | None = None,
    ) -> None:
        self.settings, self.pad, self.vocabulary = settings, pad, vocabulary
        self.soft = soft
        self.reference, self.beside, self.misled = reference, beside, misled
        self.together = together and misled is None
        self.bound = 2 * math.log(vocabulary)
        self.warm_steps = settings.pdu_warmup * steps_per_epoch
        keeps = set(settings.keeps)
        self.parts = (
            FORGET,
            *([RETAIN] if keeps & {"nll", "embed_diff"} else []),
            *([KL] if "kl" in keeps else []),
            *([OPENING] if soft is not None else []),
        )
        self.dual = settings.alpha
        self.steps = self.clamped_steps = 0
        self.most_clamped = 0.0
        self._held: _Held | None = None

    # What the loop asks for -------------------------------------------------------------------------------

    def counts(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Tokens and rows of a micro-batch that sums are divided by."""
        forget = batch[FORGET]
        tokens = int(self._forgotten(forget).sum())
        found = {"forget_tokens": float(tokens), "forget_rows": float(size_of(forget))}
        if self.settings.loss == "ceu":
            # The first token of every answer is left out.
            answered = losses.supervised(forget["labels"])
            found["forget_tokens"] = float(tokens - int(answered.any(1).sum()))
        if RETAIN in self.parts:
            found["retain_tokens"] = float(losses.supervised(batch[RETAIN]["labels"]).sum())
            found["retain_rows"] = float(size_of(batch[RETAIN]))
        if KL in self.parts:
            found["kl_positions"] = float(self._kl_where(batch[RETAIN]).sum())
        if self.soft is not None:
            found["opening_tokens"] = self.soft.counts(batch)
        return found

    def part(self, acc: Any, model: Any, batch: Mapping[str, Any], part: str) -> Summed:
        """A part's weighted sum, and the name of its count."""
        if self.misled is not None:
            return self._misled(acc, model, batch, part)
        if part == OPENING and self.soft is not None:
            return self.soft.part(model, batch, "opening_tokens")
        held = self._run(acc, model, batch, part)
        if part == FORGET:
            found = self._forget(held)
        elif part == RETAIN:
            nll = losses.cross_entropy(self._answers(held, RETAIN))
            weight = self.dual if self.settings.loss == "pdu" else self.settings.alpha
            found = Summed(weight * nll, "retain_tokens", {"retain_ce": nll.detach()})
        else:
            where = self._kl_where(batch[RETAIN])
            logits = self._at(held, RETAIN, where)
            gap = kl_to(logits, held.reference[KL], self.settings.kl_direction)
            found = Summed(self.settings.alpha_kl * gap, "kl_positions", {"kl_nats": gap.detach()})
        held.left.discard(part)
        if not held.left:
            self._held = None
        return found

    def after_step(self, told: Mapping[str, float]) -> None:
        """Move PDU's dual variable by the step's retain loss, and watch how far ascent has gone.

        Raises:
            NumericalFailure: Ascent is beyond its bound, and was to stop there.
        """
        self.steps += 1
        settings = self.settings
        if settings.loss == "pdu" and self.steps > self.warm_steps:
            step = settings.pdu_eta * (told["retain_ce"] - settings.pdu_epsilon)
            self.dual = max(0.0, self.dual + step)
        if settings.loss != "ascent":
            return
        share = told["forget_beyond"]
        self.clamped_steps += share > 0
        self.most_clamped = max(self.most_clamped, share)
        if settings.ascent == "stop" and told["forget_ce"] > self.bound:
            raise NumericalFailure(
                f"The forget loss reached {told['forget_ce']:.4g} nats a token at step {self.steps}, beyond "
                f"2 ln V = {self.bound:.4g}.",
                why="A model that guesses at random has ln V: nothing is left to forget, only to break.",
                fix="Train fewer steps, lower lr, or use ascent=clamp.",
            )

    def state_dict(self) -> dict[str, Any]:
        """The dual variable, and what was watched."""
        return {
            "dual": self.dual,
            "steps": self.steps,
            "clamped_steps": self.clamped_steps,
            "most_clamped": self.most_clamped,
            **({"soft": self.soft.state_dict()} if self.soft is not None else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.dual, self.steps = float(state["dual"]), int(state["steps"])
        self.clamped_steps, self.most_clamped = int(state["clamped_steps"]), float(state["most_clamped"])
        if self.soft is not None:
            self.soft.load_state_dict(state["soft"])

    # The parts ------------------------------------------------------------------------------------------------

    def _forget(self, held: _Held) -> Summed:
        settings, gamma = self.settings, self.settings.gamma
        if settings.loss == "dpo":
            return self._preferred(held)
        if settings.loss == "pdu" and settings.parity:
            where = self._forgotten(held.batch[FORGET])
            logits = self._at(held, FORGET, where)
            none = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
            loss = losses.flatness(Answers(logits, none, none, 1))
            return Summed(gamma * loss, "forget_tokens", {})
        found = self._answers(held, FORGET)
        tokens = losses.token_nll(found)
        told: dict[str, Any] = {"forget_ce": tokens.detach().sum()}
        if settings.loss in BY_ROW:
            nll = losses.sequence_nll(found, tokens)
            told = {"forget_sequence_nll": tokens.detach().sum()}
            if settings.loss == "npo":
                loss = losses.npo(nll, held.reference["nll"][FORGET], settings.beta)
            else:
                loss = losses.simnpo(nll, found.lengths(), settings.beta, settings.delta)
            return Summed(gamma * loss, "forget_rows", told)
        if settings.loss == "nll":
            loss = tokens.sum()
        elif settings.loss == "ascent":
            loss, beyond = losses.ascent(found, self.bound)
            told["forget_beyond"] = beyond.to(loss.dtype)
            if settings.ascent != "clamp":
                loss = -tokens.sum()
        elif settings.loss == "undial":
            before = teacher(held.reference["teacher"], self.vocabulary)
            loss = losses.undial(found, before, settings.beta)
        elif settings.loss == "wga":
            loss = losses.wga(found, settings.beta)
        elif settings.loss == "satimp":
            loss = losses.satimp(found, settings.beta1, settings.beta2)
        elif settings.loss == "ceu":
            loss, told = losses.ceu(losses.without_first(found)), {}
        else:
            loss = losses.flatness(found)
        return Summed(gamma * loss, "forget_tokens", told)

    def _preferred(self, held: _Held) -> Summed:
        """DPO: the rows to be forgotten against what is said instead, or against what was said before."""
        assert self.beside is not None
        before = held.reference["nll"]
        nll: dict[str, Tensor] = {}
        reference: dict[str, Tensor] = {}
        for part in (FORGET, self.beside):
            found = self._answers(held, part)
            divisor = found.lengths().clamp(min=1) if self.settings.length_normalised else 1
            nll[part] = losses.sequence_nll(found) / divisor
            reference[part] = before[part] / divisor
        chosen, rejected = (FORGET, self.beside) if self.beside == "rejected" else (self.beside, FORGET)
        loss = losses.dpo(
            nll[chosen], nll[rejected], reference[chosen], reference[rejected], self.settings.beta
        )
        told = {
            "chosen_sequence_nll": nll[chosen].detach().sum(),
            "rejected_sequence_nll": nll[rejected].detach().sum(),
        }
        return Summed(self.settings.gamma * loss, "forget_rows", told)

    def _misled(self, acc: Any, model: Any, batch: Mapping[str, Any], part: str) -> Summed:
        """RMU: activations of one layer, led astray on forget rows and held on retain rows."""
        assert self.misled is not None
        settings = self.settings
        if part == RETAIN and "nll" in settings.keeps:
            where = losses.supervised(batch[RETAIN]["labels"])
            logits = logits_together(model, [batch[RETAIN]], [where], self.pad)[0]
            nll = losses.cross_entropy(answers_at(batch[RETAIN], where, logits))
            return Summed(settings.alpha * nll, "retain_tokens", {"retain_ce": nll.detach()})
        tensors = batch[part]
        kept = tensors["labels"] != losses.IGNORED
        if part == FORGET:
            hidden = self.misled.hidden(model, tensors)
            loss = losses.distance(hidden, self.misled.aim.to(hidden.device), kept)
            return Summed(settings.gamma * loss, "forget_rows", {})
        assert isinstance(self.reference, Live)
        with self.reference.opened(_plain(acc, model)) as before:
            aim = self.misled.hidden(before, tensors)
        loss = losses.distance(self.misled.hidden(model, tensors), aim, kept)
        return Summed(settings.alpha * loss, "retain_rows", {})

    # Running model and reference ------------------------------------------------------------------------------

    def _run(self, acc: Any, model: Any, batch: Mapping[str, Any], part: str) -> _Held:
        """The logits a part needs: those of all parts at once where that is allowed, each computed once."""
        held = self._held
        if held is not None and held.batch is batch and part in held.left:
            return held
        # Behind an opening that is sought first, the model runs by itself.
        every = tuple(name for name in self.parts if name != OPENING)
        wanted = every if self.together else (part,)
        held = _Held(batch, set(wanted))
        # Before the model's own run: switching an adapter off and on must not happen between run and backward.
        held.reference = self._before(acc, model, batch, wanted)
        names = [FORGET, *([self.beside] if self.beside else [])] if FORGET in wanted else []
        names += [RETAIN] if {RETAIN, KL} & set(wanted) else []
        where = [self._where(batch, name) for name in names]
        logits = logits_together(model, [batch[name] for name in names], where, self.pad)
        held.logits = dict(zip(names, logits, strict=True))
        self._held = held if self.together else None
        return held

    def _before(
        self, acc: Any, model: Any, batch: Mapping[str, Any], wanted: tuple[str, ...]
    ) -> dict[str, Any]:
        """What the reference says of the parts that are compared with it."""
        if self.reference is None:
            return {}
        plain, found, positions = _plain(acc, model), dict[str, Any](), dict[str, Tensor]()
        loss = self.settings.loss
        if FORGET in wanted and loss in ("npo", "dpo"):
            names = [FORGET, *([self.beside] if self.beside else [])]
            found["nll"] = self.reference.nll(plain, batch, names)
        if FORGET in wanted and loss == "undial":
            positions[FORGET] = losses.supervised(batch[FORGET]["labels"])
        if KL in wanted:
            positions[RETAIN] = self._kl_where(batch[RETAIN])
        if positions:
            logits = self.reference.logits(plain, batch, positions)
            found |= {("teacher" if name == FORGET else KL): value for name, value in logits.items()}
        return found

    def _where(self, batch: Mapping[str, Any], name: str) -> Tensor:
        """The positions (B, T) of a part whose logits are needed."""
        part = batch[name]
        if name == FORGET:
            return self._forgotten(part)
        if name == RETAIN and KL in self.parts:
            return self._kl_where(part)  # which holds the answers' positions
        return losses.supervised(part["labels"])

    def _forgotten(self, part: Part) -> Tensor:
        """The positions of the forget loss; the peer's PDU looks at labels without shifting them."""
        if self.settings.loss == "pdu" and self.settings.parity:
            return part["labels"] != losses.IGNORED
        return losses.supervised(part["labels"])

    def _kl_where(self, part: Part) -> Tensor:
        return losses.kl_where(part["labels"], real(part), self.settings.kl_positions)

    def _answers(self, held: _Held, name: str) -> Answers:
        return answers_at(held.batch[name], self._where(held.batch, name), held.logits[name])

    def _at(self, held: _Held, name: str, where: Tensor) -> Tensor:
        """Logits at some of the positions that were computed."""
        there = self._where(held.batch, name)
        return held.logits[name] if torch.equal(where, there) else held.logits[name][where[there]]


@dataclass(frozen=True)
class Misled:
    """RMU's layer, and the activations (d,) it is led to: ``scale`` times a random unit vector."""

    layer: int
    aim: Tensor

    def hidden(self, model: Any, part: Part) -> Tensor:
        """The layer's output (B, T, d)."""
        from safewright.models.blocks import decoder_blocks
        from safewright.training.forward import bare

        caught: list[Tensor] = []
        block = decoder_blocks(bare(model))[1][self.layer]
        handle = block.register_forward_hook(
            lambda module, given, out: caught.append(out[0] if isinstance(out, tuple) else out)
        )
        try:
            logits_at(model, part, torch.zeros_like(part["labels"], dtype=torch.bool))
        finally:
            handle.remove()
        return caught[0]


def mislead(width: int, layer: int, scale: float, kind: str, seed: int) -> Misled:
    """RMU's aim: uniform numbers of [0, 1) or normal ones, brought to length ``scale``."""
    draw = torch.Generator().manual_seed(seed)
    aim = torch.rand(width, generator=draw) if kind == "uniform" else torch.randn(width, generator=draw)
    return Misled(layer, scale * aim / aim.norm())


def _plain(acc: Any, model: Any) -> Any:
    return model if acc is None else acc.unwrap_model(model)
