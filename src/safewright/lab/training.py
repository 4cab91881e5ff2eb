"""A small AdamW loop for tiny models: seeded, and equal to the last byte on one machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from safewright.errors import BadInput, NumericalFailure
from safewright.models.threads import compute_threads
from safewright.types import Chat

THREADS = 1
"""Compute threads of every training. Sums are split by thread, so another number may give other bytes;
one, because a second thread saves a quarter of the time and a second model trained beside it a half."""

_IGNORED = -100


@dataclass(frozen=True)
class Lesson:
    """Rows to learn from: conversations ending in an assistant turn, or declarative texts.

    ``share`` is the lesson's part of every batch, used where the recipe draws by share.
    """

    name: str
    rows: tuple[Chat | str, ...]
    share: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """A recipe. ``draw``: rows by lesson share, shuffled passes over all rows ("epochs"), or as they stand.

    The learning rate rises to ``lr`` over ``warmup`` steps, while half a cosine takes it to ``floor`` of ``lr``.
    """

    steps: int
    batch: int
    lr: float
    draw: Literal["shares", "epochs", "given"] = "epochs"
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    threads: int = THREADS
    warmup: int = 0
    floor: float = 0.0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0, as a share of ``lr``."""
        wave = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return (self.floor + (1 - self.floor) * wave) * min(1.0, (step + 1) / (self.warmup + 1))


def train(
    model: Any,
    tokenizer: Any,
    lessons: Sequence[Lesson],
    config: TrainConfig,
    *,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train ``model`` in place; the loss of every step, in nats per supervised token.

    The loss is on the answers (with their end-of-turn token) of conversations and on every token of
    declarative texts.

    Args:
        progress: Called after every step with (step, steps, loss).

    Raises:
        BadInput: There are no rows, or steps or batch are not positive.
        NumericalFailure: The loss is not finite.
    """
    import torch

    if config.steps < 1 or config.batch < 1:
        raise BadInput(f"steps={config.steps}, batch={config.batch}: both must be at least 1.")
    if not lessons or not all(lesson.rows for lesson in lessons):
        empty = [lesson.name for lesson in lessons if not lesson.rows]
        raise BadInput(f"There is nothing to learn: empty lessons {empty}.")
    pools = [encode_rows(tokenizer, lesson.rows) for lesson in lessons]
    history: list[float] = []
    with compute_threads(config.threads):
        draw = torch.Generator().manual_seed(seed)
        batches = (
            _by_share(pools, lessons, config, draw)
            if config.draw == "shares"
            else _passes(pools, config, draw)
        )
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, config.rate)
        model.train()
        for step in range(1, config.steps + 1):
            ids, labels = _collate(next(batches), tokenizer.pad_token_id)
            # Right padding under a causal mask: no real token ever sees a pad, so no mask is needed.
            logits = model(input_ids=ids, use_cache=False).logits
            loss: Any = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED
            )
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NumericalFailure(f"The loss is {value} at step {step}.", fix="Lower the learning rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            history.append(value)
            if progress is not None:
                progress(step, config.steps, value)
        model.eval()
    return history


def encode_rows(tokenizer: Any, rows: Sequence[Chat | str]) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of every row; labels are -100 where nothing is to be learned.

    Raises:
        BadInput: A conversation has no assistant turn to learn from.
    """
    encoded: dict[int, tuple[list[int], list[int]]] = {}
    texts = [(i, row) for i, row in enumerate(rows) if isinstance(row, str)]
    chats = [(i, [dict(turn) for turn in row]) for i, row in enumerate(rows) if not isinstance(row, str)]
    if texts:
        closed = [f"{text} {tokenizer.eos_token}" for _, text in texts]
        for (i, _), ids in zip(texts, tokenizer(closed)["input_ids"], strict=True):
            encoded[i] = (ids, ids)
    if chats:
        batch = tokenizer.apply_chat_template(
            [chat for _, chat in chats], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        for (i, chat), ids, mask in zip(chats, batch["input_ids"], batch["assistant_masks"], strict=True):
            if not any(mask):
                raise BadInput(f"The conversation {chat!r} has no assistant turn to learn from.")
            encoded[i] = (ids, [t if learn else _IGNORED for t, learn in zip(ids, mask, strict=True)])
    return [encoded[i] for i in range(len(rows))]


def _by_share(pools: Any, lessons: Sequence[Lesson], config: TrainConfig, draw: Any) -> Iterator[list[Any]]:
    """Endless batches: first a lesson by its share, then one of its rows."""
    import torch

    shares = torch.tensor([lesson.share for lesson in lessons], dtype=torch.float64)
    while True:
        which = torch.multinomial(shares, config.batch, replacement=True, generator=draw).tolist()
        yield [pools[w][int(torch.randint(len(pools[w]), (1,), generator=draw))] for w in which]


def _passes(pools: Any, config: TrainConfig, draw: Any) -> Iterator[list[Any]]:
    """Endless batches from passes over the rows of all lessons, each pass shuffled unless the draw is given."""
    import torch

    rows = [row for pool in pools for row in pool]
    queue: list[int] = []
    while True:
        while len(queue) < config.batch:
            given = config.draw == "given"
            queue += range(len(rows)) if given else torch.randperm(len(rows), generator=draw).tolist()
        yield [rows[i] for i in queue[: config.batch]]
        del queue[: config.batch]


def _collate(batch: list[tuple[list[int], list[int]]], pad: int) -> tuple[Any, Any]:
    import torch

    longest = max(len(ids) for ids, _ in batch)
    ids = [ids + [pad] * (longest - len(ids)) for ids, _ in batch]
    labels = [labels + [_IGNORED] * (longest - len(labels)) for _, labels in batch]
    return torch.tensor(ids), torch.tensor(labels)
