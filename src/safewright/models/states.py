"""Hidden states after every layer at the last token of given token ids, as batches get ready."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from safewright.models.scoring import white_box

if TYPE_CHECKING:
    import torch


def depth_of(loaded: Any) -> tuple[int, int]:
    """How many layers a model has, and the dimensions of its states."""
    config = white_box(loaded).model.config.get_text_config()
    return int(config.num_hidden_layers), int(config.hidden_size)


def stream_states(loaded: Any, lines: Sequence[Sequence[int]]) -> Generator[list[tuple[int, torch.Tensor]]]:
    """The states at each line's last token, (layer, hidden) in float32 on the CPU, with the line's index.

    Row l - 1 is the residual stream after layer l; the last one is, as transformers gives it, after the final
    norm. The embedding is left out: at the end of a prompt it is the template's, whatever was asked. Memory is
    bounded by one batch.

    Args:
        loaded: A model of the hf engine.
        lines: Token ids.

    Raises:
        BadInput: A line is empty, has a token the model does not know, or does not fit its context.
        NumericalFailure: States are not numbers.
    """
    import torch

    model = white_box(loaded)
    known = [list(line) for line in lines]
    model.check_lines(known)
    kept = {"logits_to_keep": 1} if model._accepts("logits_to_keep") else {}
    for group in model._groups([len(line) for line in known]):
        width = max(len(known[i]) for i in group)
        states = model._forward([known[i] for i in group], output_hidden_states=True, **kept).hidden_states[
            1:
        ]
        start = states[0].shape[1] - width  # a prompt-tuning adapter's own come first
        ready = []
        for place, index in enumerate(group):
            own = torch.stack([layer[place, start + len(known[index]) - 1].float() for layer in states])
            if not bool(torch.isfinite(own).all()):
                raise model._not_numbers("hidden states", index)
            ready.append((index, own.cpu()))
        yield ready
