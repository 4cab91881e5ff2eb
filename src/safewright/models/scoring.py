"""What a model makes of given answers, token by token: log-probabilities, hits, moments, gradients."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, NumericalFailure
from safewright.models import chat as chats_
from safewright.types import Chat

if TYPE_CHECKING:
    import torch

    from safewright.models.hf import HfModel


NUMBERS_AT_ONCE = 2**24
"""Logits that `token_statistics` works on at a time."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and of the answer after it, without the tokens that end a turn.

    ``cut`` counts the answer's last tokens that the context had no room for.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    cut: int = 0


@dataclass(frozen=True)
class AnswerScores:
    """One answer's tokens under teacher forcing, in order.

    ``logprobs`` are log p of the tokens (nats); ``hits`` say whether the token is the most likely one (in
    float32; of equals the lowest id); ``means`` and ``variances`` are the moments of log p under p at its place.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    hits: tuple[bool, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]


@dataclass(frozen=True)
class Candidates:
    """The likeliest tokens at the places of an answer's first tokens, with their mass; ``entropy`` in nats."""

    tokens: tuple[tuple[int, ...], ...]
    masses: tuple[tuple[float, ...], ...]
    entropy: tuple[float, ...]


def white_box(loaded: Any) -> HfModel:
    """The model itself behind what `safewright.models.load` or a plan of a measure gives."""
    found: HfModel = getattr(loaded, "opened", loaded)
    return found


def encode_answer(tokenizer: Any, chat: Chat, answer: str, *, limit: int | None = None) -> Encoded:
    """A conversation and its answer as the model was taught to see them, up to the answer's last word.

    Tokens that a template puts between the prompt and the answer belong to the prompt; what it writes after the
    answer (end of turn, newline) is left out. Of a line longer than ``limit`` the answer's end is cut off.

    Raises:
        BadInput: The template writes the prompt in another way once an answer follows, or the text is no UTF-8.
    """
    if not tokenizer.chat_template:
        prompt = chats_.encode(tokenizer, chat)
        own = chats_.token_ids(tokenizer, answer, special=False)
    else:
        whole, start = chats_.encode_answered(tokenizer, chat, answer)
        first, end = _span(tokenizer, chat, answer, whole, start)
        prompt, own = whole[:first], whole[first:end]
    room = len(own) if limit is None else max(0, min(len(own), limit - len(prompt)))
    return Encoded(tuple(prompt), tuple(own[:room]), len(own) - room)


def _span(tokenizer: Any, chat: Chat, answer: str, whole: Sequence[int], start: int) -> tuple[int, int]:
    """Where the answer's own tokens begin and end in an answered conversation."""
    words = answer.strip()
    if not words:
        return start, start
    if tokenizer.is_fast:
        turns = [*(dict(message) for message in chat), {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = found["offset_mapping"]
        begin = text.find(words, places[start - 1][1] if start else 0)
        if list(found["input_ids"][: len(whole)]) == list(whole) and begin >= 0:
            last = begin + len(words)
            inside = [i for i in range(start, len(whole)) if places[i][1] > begin and places[i][0] < last]
            return (inside[0], inside[-1] + 1) if inside else (start, start)
    # Without places in the text: what is certainly no word of the answer is taken off its end.
    end, ends = len(whole), set(tokenizer.all_special_ids)
    while end > start and (whole[end - 1] in ends or not tokenizer.decode([whole[end - 1]]).strip()):
        end -= 1
    return start, end


def stream_scores(
    loaded: Any, items: Sequence[Encoded], *, done: frozenset[int] = frozenset()
) -> Generator[list[tuple[int, AnswerScores]]]:
    """`AnswerScores` of each item with its index, as batches of like length get ready.

    Raises:
        BadInput: An item that does not fit the model; see `HfModel.supervised`.
        NumericalFailure: Logits are not numbers.
    """
    return white_box(loaded).supervised(_pairs(items), token_statistics, done=done)


def stream_candidates(
    loaded: Any, items: Sequence[Encoded], *, first: int, top: int, done: frozenset[int] = frozenset()
) -> Generator[list[tuple[int, Candidates]]]:
    """The ``top`` candidates at the places of each answer's ``first`` tokens (fewer where it is shorter)."""

    def likeliest(logits: torch.Tensor, ids: Sequence[int]) -> Candidates:
        return candidates(logits[:first], top)

    return white_box(loaded).supervised(_pairs(items), likeliest, done=done)


def _pairs(items: Sequence[Encoded]) -> list[tuple[Sequence[int], Sequence[int]]]:
    return [(item.prompt, item.answer) for item in items]


def token_statistics(logits: torch.Tensor, ids: Sequence[int]) -> AnswerScores:
    """The statistics of tokens ``ids`` (n) under ``logits`` (n, vocabulary); moments in float64.

    mu = sum_v p_v log p_v and sigma^2 = sum_v p_v (log p_v - mu)^2, with 0 log 0 = 0.
    """
    import torch

    targets = torch.tensor(ids, device=logits.device, dtype=torch.long)
    # Some at a time: several float64 copies of a long answer's logits would be many times the model's own.
    size = max(1, NUMBERS_AT_ONCE // logits.shape[-1])
    parts = [_statistics(logits[i : i + size], targets[i : i + size]) for i in range(0, len(ids), size)]
    picked, hits, means, variances = (
        tuple(value for part in parts for value in part[place].tolist()) for place in range(4)
    )
    return AnswerScores(tuple(ids), picked, hits, means, variances)


def _statistics(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Log-probabilities, hits, means and variances; see `token_statistics`."""
    import torch

    # torch documents that of equal maxima argmax gives the first, on every device.
    hits = logits.float().argmax(dim=-1) == targets
    logs = torch.log_softmax(logits.double(), dim=-1)
    p = logs.exp()
    means = -torch.special.entr(p).sum(dim=-1)
    spread = torch.where(p > 0, logs - means[:, None], torch.zeros_like(logs))
    variances = (p * spread**2).sum(dim=-1)
    return logs.gather(1, targets[:, None]).flatten(), hits, means, variances


def candidates(logits: torch.Tensor, top: int) -> Candidates:
    """The ``top`` likeliest tokens under each row of ``logits`` (n, vocabulary); of equals the lower id first."""
    import torch

    p = torch.softmax(logits.double(), dim=-1)
    # topk promises no order among equals, a stable sort does.
    masses, tokens = (part[:, :top] for part in torch.sort(p, dim=-1, descending=True, stable=True))
    return Candidates(
        tuple(map(tuple, tokens.tolist())),
        tuple(map(tuple, masses.tolist())),
        tuple(torch.special.entr(p).sum(dim=-1).tolist()),
    )


def stream_gradient_norms(
    loaded: Any, items: Sequence[Encoded], *, done: frozenset[int] = frozenset()
) -> Generator[tuple[int, float]]:
    """The mean over tensors of the 2-norm of the gradient of each answer's mean loss, one item at a time.

    In evaluation mode (no dropout), over every floating tensor that the loss depends on, an adapter's base
    included. Gradients that the model's owner holds are left alone.

    Raises:
        BadInput: An item does not fit the model, or its gradients do not fit the device.
        NumericalFailure: A gradient is not a number.
    """
    import torch

    model = white_box(loaded)
    model.check_lines([[*item.prompt, *item.answer] for item in items], [len(item.prompt) for item in items])
    for place, item in enumerate(items):
        if place in done:
            continue
        try:
            norm = _gradient_norm(model, item)
        except torch.OutOfMemoryError as error:
            raise BadInput(
                f"The device {model.model.device} has no memory for the gradients of {model.ref.where}.",
                why="They take as much as its weights once more, and the layers' values besides.",
                fix="Leave them out (--set gradient_norm=false), or use --dtype bfloat16 or another device.",
            ) from error
        if not math.isfinite(norm):
            raise NumericalFailure(
                f"A gradient of {model.ref.where} is not a number (NaN or infinity), in {model.ref.dtype}.",
                fix="Use --dtype float32, or leave gradients out (--set gradient_norm=false).",
            )
        yield place, norm


def _gradient_norm(model: HfModel, item: Encoded) -> float:
    import torch

    with model.evaluating(), _all_trainable(model.model) as tensors, torch.enable_grad():
        logits = model.model(
            input_ids=torch.tensor([[*item.prompt, *item.answer]], device=model.model.device)
        ).logits[0]
        own = logits[-len(item.answer) - 1 : -1].float()
        targets = torch.tensor(item.answer, device=own.device)
        loss = torch.nn.functional.cross_entropy(own, targets)
        gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    norms = [
        float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
        for gradient in gradients
        if gradient is not None
    ]
    return sum(norms) / len(norms)


@contextmanager
def _all_trainable(model: Any) -> Iterator[list[torch.Tensor]]:
    """The model's floating tensors, all asking for gradients; afterwards those that did before."""
    tensors = [tensor for tensor in model.parameters() if tensor.is_floating_point()]
    asked = [tensor.requires_grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        yield tensors
    finally:
        for tensor, was in zip(tensors, asked, strict=True):
            tensor.requires_grad_(was)
