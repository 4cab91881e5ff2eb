"""Rows as token ids, and token ids as tensors: padded on either side, or packed into one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safewright.errors import BadInput
from safewright.models.chat import encode_answered
from safewright.types import Row

IGNORED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True)
class Example:
    """A row's token ids; those from place ``start`` on are learned: its answer with the end-of-turn token."""

    id: str
    ids: tuple[int, ...]
    start: int

    @property
    def supervised(self) -> int:
        """How many of its tokens are predicted and learned. The first token of a row never is."""
        return max(0, len(self.ids) - max(self.start, 1))

    @property
    def labels(self) -> list[int]:
        """Its ids with `IGNORED` where nothing is learned; not shifted."""
        first = max(self.start, 1)
        return [IGNORED] * min(first, len(self.ids)) + list(self.ids[first:])


@dataclass(frozen=True)
class Encoded:
    """Rows as examples; ``dropped`` are the ids of rows of which no answer token is left, ``cut`` of the others
    that lost their end."""

    examples: tuple[Example, ...]
    dropped: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def encode(tokenizer: Any, rows: Sequence[Row], *, max_length: int, strict: bool = False) -> Encoded:
    """Rows with their answers as examples, each cut after ``max_length`` tokens.

    Args:
        tokenizer: Of the model to be trained; its chat template writes the conversation.
        rows: Each with a reference: the answer to learn.
        max_length: Longest example in tokens.
        strict: Whether a row that loses its whole answer is an error instead of being dropped.

    Raises:
        BadInput: A row has no answer; none is left of any row after cutting, or of one in strict mode.
    """
    if max_length < 2:
        raise BadInput(f"max_length is {max_length}.", fix="It must be at least 2.")
    lacking = [row.id for row in rows if not (row.reference or "").strip()]
    if lacking:
        raise BadInput(
            f"{len(lacking)} of {len(rows)} rows have no answer (first: {lacking[0]}).",
            fix="Each row needs response, output, or a last assistant turn.",
        )
    kept: list[Example] = []
    dropped: list[str] = []
    cut: list[str] = []
    for row in rows:
        ids, start = encode_answered(tokenizer, row.prompt, row.reference or "")
        example = Example(row.id, tuple(ids[:max_length]), start)
        if not example.supervised:
            dropped.append(row.id)
            continue
        if len(ids) > max_length:
            cut.append(row.id)
        kept.append(example)
    if dropped and (strict or not kept):
        which = f"{len(rows)} rows" if not kept else f"{len(dropped)} of {len(rows)} rows"
        raise BadInput(
            f"No answer is left of {which} after cutting them at {max_length} tokens (first: {dropped[0]}).",
            why="There would be nothing to learn from them.",
            fix="Raise max_length, or shorten their prompts.",
        )
    return Encoded(tuple(kept), tuple(dropped), tuple(cut))


def pad_token(tokenizer: Any) -> int:
    """The id that fills up rows: the tokenizer's pad token, else its end token, else 0 (it is never read)."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def collate(examples: Sequence[Example], pad: int, side: str = "right", *, width: int = 0) -> dict[str, Any]:
    """Examples as tensors; see `padded`."""
    ids, labels = [example.ids for example in examples], [example.labels for example in examples]
    return padded(ids, labels, pad, side, width=width)


def padded(
    ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    pad: int,
    side: str = "right",
    *,
    width: int = 0,
) -> dict[str, Any]:
    """Rows as tensors ``input_ids``, ``labels`` and ``attention_mask``, each (rows, longest).

    Padding on the left comes with ``position_ids`` that begin with 0 at each row's first own token: a model
    with learned positions reads a row as if it stood alone. The mask says what is padding by length, so an
    end token that serves as the pad token keeps its place in the rows.

    Args:
        ids: Token ids of each row.
        labels: As long; `IGNORED` where nothing is learned, not shifted.
        pad: What fills up shorter rows.
        side: ``right`` or ``left``.
        width: Least width.
    """
    import torch

    if side not in ("right", "left"):
        raise ValueError(f"side is {side!r}: right or left")
    longest = max(width, max(len(row) for row in ids))

    def filled(rows: Sequence[Sequence[int]], value: int) -> Any:
        lines = []
        for row in rows:
            rest = [value] * (longest - len(row))
            lines.append([*rest, *row] if side == "left" else [*row, *rest])
        return torch.tensor(lines, dtype=torch.long)

    batch = {
        "input_ids": filled(ids, pad),
        "labels": filled(labels, IGNORED),
        "attention_mask": filled([[1] * len(row) for row in ids], 0),
    }
    if side == "left":
        batch["position_ids"] = filled([range(len(row)) for row in ids], 0)
    return batch


def pack(examples: Sequence[Example]) -> dict[str, Any]:
    """Examples behind one another in one row: ``input_ids``, ``labels``, ``position_ids``, ``segments``, each (1, T).

    ``position_ids`` begin anew with every example, and there is no attention mask: from exactly these two
    facts transformers keeps the examples apart (call the model with ``use_cache=False``). A mask of ones
    beside them would let each example see those before it, without a word. ``segments`` number the examples;
    they are not for the model.
    """
    import torch

    def joined(rows: Sequence[Sequence[int]]) -> Any:
        return torch.tensor([[value for row in rows for value in row]], dtype=torch.long)

    return {
        "input_ids": joined([example.ids for example in examples]),
        "labels": joined([example.labels for example in examples]),
        "position_ids": joined([range(len(example.ids)) for example in examples]),
        "segments": joined([[place] * len(example.ids) for place, example in enumerate(examples)]),
    }


FED = ("input_ids", "attention_mask", "position_ids")
"""What of a collated part a model is given."""


def fed(part: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a model's forward pass for a collated part: everything but what only losses read."""
    return {name: part[name] for name in FED if name in part} | {"use_cache": False}
