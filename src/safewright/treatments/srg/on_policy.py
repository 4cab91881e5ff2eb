"""On-policy context distillation: the student says what it would say, and each token is drawn to what the frozen
student before says where it is shown the guidelines.

With ``x`` a request, ``C`` the guidelines, ``z`` drawn from the student given ``x`` alone, the loss of a request is

    1/|z| sum_t KL( p_theta(. | x, z_<t)  ||  p_theta0(. | C, x, z_<t) )

over the whole vocabulary at every token of ``z``. How ``z`` was drawn is not differentiated. No teacher and no
record's answer is read: traces come from the student's own distribution, which keeps what it is able to do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from safewright.errors import BadInput
from safewright.training import losses
from safewright.training.encoding import Example, collate
from safewright.training.forward import inputs_of, logits_at
from safewright.training.loop import SHARDED, Summed
from safewright.training.losses import wide
from safewright.training.references import Live, frozen

PROMPT, GUIDED, ON_POLICY = "prompt", "guided", "on_policy"

Draw = Callable[[], float]
"""The next number of a stream, in [0, 1)."""


def stream(seed: int, name: str, step: int) -> Draw:
    """The numbers by which a request's answer is drawn at a step: they depend on nothing else, so neither the
    number of processes nor what stands beside a request changes what is said to it."""
    return random.Random(f"on policy {seed} {name} {step}").random


def chosen(logits: Tensor, draws: Sequence[float], temperature: float) -> Tensor:
    """A token of each row (B,) from logits (B, V) by inverting the distribution at the numbers ``draws``."""
    if temperature == 0:
        return logits.argmax(-1)
    mass = (logits.double() / temperature).softmax(-1).cumsum(-1)
    at = torch.tensor(draws, dtype=torch.float64, device=logits.device)[:, None] * mass[:, -1:]
    return torch.searchsorted(mass, at, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    draws: Sequence[Draw],
    *,
    stops: frozenset[int],
    pad: int,
    new_tokens: int,
    temperature: float = 1.0,
) -> list[list[int]]:
    """What a model says to prompts, token ids with the one that ends them, where one does.

    Args:
        model: A plain transformers or PEFT model.
        prompts: Token ids of each.
        draws: The stream of each.
        stops: Tokens that end an answer.
        pad: What fills up prompts, on the left.
        new_tokens: Most tokens of an answer.
        temperature: Of the draws; 0 takes the likeliest token.
    """
    device = next(model.parameters()).device
    examples = [Example("", tuple(prompt), len(prompt)) for prompt in prompts]
    part = {name: value.to(device) for name, value in collate(examples, pad, "left").items()}
    said: list[list[int]] = [[] for _ in prompts]
    mask = part["attention_mask"]
    inputs, past = {**inputs_of(model, part), "use_cache": True}, None
    with frozen(model):
        for _ in range(new_tokens):
            found = model(**inputs, past_key_values=past)
            past = found.past_key_values
            tokens = chosen(found.logits[:, -1], [draw() for draw in draws], temperature)
            for line, token in zip(said, tokens.tolist(), strict=True):
                if not line or line[-1] not in stops:
                    line.append(token)
            if all(line[-1] in stops for line in said):
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            inputs = {**inputs, "input_ids": tokens[:, None], "attention_mask": mask}
            if "position_ids" in inputs:
                inputs["position_ids"] = mask.sum(1, keepdim=True) - 1
    return said


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """``KL(model || reference)`` at each position, (N,), from logits (N, V) of both."""
    ours, theirs = wide(logits).log_softmax(-1), wide(reference).log_softmax(-1)
    return functional.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1)


class OnPolicy:
    """The objective: the mean over requests of their mean divergence per token.

    Args:
        prompts: The requests as the student is asked: ids alone, nothing of them is learned.
        guided: The same requests below the guidelines.
        reference: The student before.
        stops: Tokens that end an answer.
        pad: The token that fills up rows.
        new_tokens: Most tokens of an answer; one that does not end is learned from all the same.
        temperature: Of the draws.
        seed: Of the draws.
    """

    parts = (ON_POLICY,)

    def __init__(
        self,
        prompts: Sequence[Example],
        guided: Sequence[Example],
        reference: Live,
        *,
        stops: frozenset[int],
        pad: int,
        new_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.prompts, self.guided, self.reference = prompts, guided, reference
        self.stops, self.pad, self.new_tokens = stops, pad, new_tokens
        self.temperature, self.seed = temperature, seed
        self.step = 0
        self.unended = self.drawn = 0

    def counts(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Requests of a micro-batch: they are known before anything is drawn."""
        return {"requests": float(len(batch["index"][PROMPT]))}

    def part(self, acc: Any, model: Any, batch: Mapping[str, Any], part: str) -> Summed:
        """Draw an answer to each request of a micro-batch, and sum their mean divergences.

        Raises:
            BadInput: Parameters are split over processes: no one of them could draw alone.
        """
        plain = model
        if acc is not None:
            _refuse_sharded(acc.distributed_type.name)
            plain = acc.unwrap_model(model)
        places = [int(place) for place in batch["index"][PROMPT]]
        device = next(plain.parameters()).device
        said = sample(
            plain,
            [self.prompts[place].ids for place in places],
            [stream(self.seed, self.prompts[place].id, self.step) for place in places],
            stops=self.stops,
            pad=self.pad,
            new_tokens=self.new_tokens,
            temperature=self.temperature,
        )
        own, shown = (
            {
                name: value.to(device)
                for name, value in collate(
                    [followed(rows[place], line) for place, line in zip(places, said, strict=True)], self.pad
                ).items()
            }
            for rows in (self.prompts, self.guided)
        )
        # The reference first: switching an adapter off must not happen between a run and its backward pass.
        before = self.reference.logits(plain, {GUIDED: shown}, {GUIDED: losses.supervised(shown["labels"])})
        each = divergence(logits_at(model, own, losses.supervised(own["labels"])), before[GUIDED])  # type: ignore[arg-type]
        lengths = torch.tensor([len(line) for line in said], device=device)
        weights = (1.0 / lengths.to(each.dtype)).repeat_interleave(lengths)
        ended = torch.tensor([line[-1] in self.stops for line in said])
        self.drawn += len(said)
        self.unended += int((~ended).sum())
        told = {"drawn_tokens": lengths.sum().double(), "ended": ended.sum().double()}
        return Summed((each * weights).sum(), "requests", told)

    def after_step(self, told: Mapping[str, float]) -> None:
        """The next step draws anew."""
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        """The step, and how many answers did not end."""
        return {"step": self.step, "drawn": self.drawn, "unended": self.unended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.step = int(state["step"])
        self.drawn, self.unended = int(state["drawn"]), int(state["unended"])


def followed(prompt: Example, said: Sequence[int]) -> Example:
    """A prompt with what was said to it, of which every token is learned."""
    return Example(prompt.id, (*prompt.ids, *said), len(prompt.ids))


def _refuse_sharded(kind: str) -> None:
    """Pass where every process has the whole model.

    Raises:
        BadInput: Each has a part.
    """
    if kind in SHARDED:
        raise BadInput(
            f"on_policy_kl does not run under {SHARDED[kind]}.",
            why="Every process draws answers of its own length, and each would hold a part of every tensor.",
            fix="Use --launch multi_gpu, or another objective.",
        )
