"""The logit lens: what a model would say if it stopped after each layer.

p_l = softmax(W_U norm(h_l)) at the last token of a prompt, with the model's own final norm and head.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput
from safewright.models.scoring import white_box

if TYPE_CHECKING:
    import torch

NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
"""What architectures call the norm between their last layer and their head."""

TOLERANCE = {"float64": 1e-6, "float32": 1e-3}
"""How far the logits made here may be from the model's own, as a share of the largest; 0.05 in half precision."""


@dataclass(frozen=True)
class LayerReading:
    """What one layer would say: the likeliest tokens with their mass.

    ``kl`` is sum_v p_L (log p_L - log p_l) against the last layer (nats, 0 for the last itself), ``entropy``
    that of the layer's own distribution.
    """

    kl: float
    entropy: float
    tokens: tuple[int, ...]
    masses: tuple[float, ...]


Layers = tuple[LayerReading, ...]
"""From the embedding (0) to the last layer (as many as the model has)."""


def stream_layers(
    loaded: Any, prompts: Sequence[Sequence[int]], *, top: int = 5, done: frozenset[int] = frozenset()
) -> Generator[list[tuple[int, Layers]]]:
    """What every layer would say after each prompt, with the prompt's index, as batches get ready.

    Args:
        loaded: A model of the hf engine.
        prompts: Token ids.
        top: Tokens that are kept per layer.
        done: Prompts that are not asked for; what is found for a prompt does not depend on it.

    Raises:
        BadInput: The architecture's final norm is not known, or its head does more than a norm and a matrix: the
            logits made here would not be the model's.
        NumericalFailure: Hidden states are not numbers.
    """
    import torch

    model = white_box(loaded)
    head = _head(model)
    lines = [list(prompt) for prompt in prompts]
    model.check_lines(lines)
    for group in model._groups([len(line) for line in lines]):
        if done.issuperset(group):
            continue
        width, shortest = max(len(lines[i]) for i in group), min(len(lines[i]) for i in group)
        kept = {"logits_to_keep": width - shortest + 1} if model._accepts("logits_to_keep") else {}
        with _entering(head.norm) as entered:
            said = model._forward([lines[i] for i in group], output_hidden_states=True, **kept)
        states, ready = said.hidden_states[:-1], []
        start = states[0].shape[1] - width  # a prompt-tuning adapter's own come first
        for line, index in enumerate(group):
            end = len(lines[index]) - 1
            own = said.logits[line, said.logits.shape[1] - width + end]
            with torch.inference_mode():
                head.check(entered[-1][line, start + end], own, model)
                logits = [head.logits(state[line, start + end]).to(own.device) for state in states]
            stacked = torch.stack([*logits, own])
            if not bool((stacked < float("inf")).all()):
                raise model._not_numbers("hidden states", index)
            if index not in done:
                ready.append((index, readings(stacked, top)))
        yield ready


def readings(logits: torch.Tensor, top: int) -> Layers:
    """A reading per row of ``logits`` (layer, vocabulary); the last row is the model's own."""
    import torch

    logs = torch.log_softmax(logits.double(), dim=-1)
    p = logs.exp()
    last, of_last = logs[-1], p[-1]
    kl = torch.where(of_last > 0, of_last * (last - logs), torch.zeros_like(logs)).sum(dim=-1)
    entropy = torch.special.entr(p).sum(dim=-1)
    masses, tokens = (part[:, :top] for part in torch.sort(p, dim=-1, descending=True, stable=True))
    return tuple(
        # Rounding can leave a divergence of equals a little below zero.
        LayerReading(max(0.0, float(k)), float(h), tuple(ids), tuple(shares))
        for k, h, ids, shares in zip(kl, entropy, tokens.tolist(), masses.tolist(), strict=True)
    )


@dataclass(frozen=True)
class _Head:
    """The way from a hidden state to logits."""

    norm: Any
    logits: Callable[[torch.Tensor], torch.Tensor]

    def check(self, last: torch.Tensor, own: torch.Tensor, model: Any) -> None:
        """Pass when this head gives the model's own logits from its last layer's state."""
        made = self.logits(last).to(own.device)
        off = float((made.double() - own.double()).abs().max() / own.double().abs().max().clamp_min(1e-9))
        if not off <= TOLERANCE.get(str(own.dtype).removeprefix("torch."), 0.05):
            raise BadInput(
                f"The logits of {model.ref.where} are not its final norm and head applied to its last layer"
                f" (off by {off:.1e} of the largest).",
                why="What its other layers would say cannot be told.",
                fix="This architecture has no logit lens here; leave the measure out.",
            )


def _head(model: Any) -> _Head:
    inner = model.model.get_base_model() if hasattr(model.model, "get_base_model") else model.model
    config, matrix = inner.config.get_text_config(), inner.get_output_embeddings()
    found = [
        module
        for name, module in inner.named_modules()
        # One inside a layer has the layer's number in its name.
        if name.rpartition(".")[2] in NORMS and not any(part.isdigit() for part in name.split("."))
    ]
    if matrix is None or len(found) != 1:
        raise BadInput(
            f"{model.ref.where} ({type(inner).__name__}) has {len(found)} modules named"
            f" {', '.join(NORMS)} outside its layers.",
            why="Which is its final norm cannot be told.",
            fix="This architecture has no logit lens here; leave the measure out.",
        )
    norm, cap = found[0], getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)

    def logits(state: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = matrix(norm(state)) * scale
        return cap * (said / cap).tanh() if cap else said

    return _Head(norm, logits)


@contextmanager
def _entering(module: Any) -> Iterator[list[torch.Tensor]]:
    """The tensors that go into a module while this is open."""
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()
