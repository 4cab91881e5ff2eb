"""Logits of the positions that matter, from padded or packed batches: nothing is multiplied in vain.

A *part* of a batch is a mapping of tensors: ``input_ids`` and ``labels`` (B, T) with ``attention_mask`` (B, T)
where it is padded on either side, or (1, S) with ``position_ids`` that restart at 0 and no mask where its
sequences are packed one after the other.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from safewright.training.losses import IGNORED, Answers, supervised

Part = Mapping[str, Tensor]


def answers_of(model: Any, part: Part) -> Answers:
    """The supervised positions of a part with the model's logits there."""
    where = supervised(part["labels"])
    return answers_at(part, where, logits_at(model, part, where))


def answers_at(part: Part, where: Tensor, logits: Tensor) -> Answers:
    """The supervised positions of a part, from the logits (N, V) at ``where`` (B, T), which may hold more."""
    learned = supervised(part["labels"])
    if not torch.equal(learned, where):
        logits = logits[learned[where]]
    targets = part["labels"].roll(-1, 1)[learned]
    sequences = sequence_of(part)
    return Answers(logits, targets, sequences[learned], size_of(part))


def sequence_of(part: Part) -> Tensor:
    """Which sequence each place of a part belongs to, (B, T)."""
    ids = part["input_ids"]
    if packed(part):
        return (part["position_ids"] == 0).long().cumsum(-1) - 1
    return torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)


def size_of(part: Part) -> int:
    """How many sequences a part has."""
    return int((part["position_ids"] == 0).sum()) if packed(part) else len(part["input_ids"])


def packed(part: Part) -> bool:
    """Whether a part's sequences stand one after the other, without a mask."""
    return "attention_mask" not in part and "position_ids" in part


def real(part: Part) -> Tensor:
    """Which places hold a token, (B, T)."""
    return torch.ones_like(part["input_ids"]) if packed(part) else part["attention_mask"]


def logits_at(model: Any, part: Part, where: Tensor) -> Tensor:
    """Logits (N, V) at the positions ``where`` (B, T), sequence by sequence."""
    return _at(model, inputs_of(model, part), where.flatten().nonzero().flatten())


def _at(model: Any, inputs: Mapping[str, Any], index: Tensor) -> Tensor:
    """Logits (N, V) at places of the flattened (B, T).

    The head is given these places alone: it is the largest matrix of a small model, and its logits the largest
    tensor of any. The model calls it as ever, so that scaling and caps of logits stay its own.
    """
    head = bare(model).get_output_embeddings()
    places = inputs["input_ids"].numel()
    chosen: list[bool] = []

    def choose(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = given[0] if given else None
        fits = isinstance(hidden, Tensor) and hidden.ndim == 3 and hidden.shape[:2].numel() == places
        chosen.append(fits)
        return (hidden.flatten(0, 1)[index][None], *given[1:]) if fits else None  # type: ignore[union-attr]

    handle = head.register_forward_pre_hook(choose) if head is not None else None
    try:
        logits: Tensor = model(**inputs).logits
    finally:
        if handle is not None:
            handle.remove()
    return logits[0] if chosen == [True] else logits.flatten(0, 1)[index]


def inputs_of(model: Any, part: Part) -> dict[str, Any]:
    """What a model is given of a part: positions count real tokens alone, on whichever side the padding is."""
    takes = _takes(model)
    inputs: dict[str, Any] = {"input_ids": part["input_ids"]}
    if not packed(part):
        inputs["attention_mask"] = part["attention_mask"]
    if "position_ids" in takes:
        inputs["position_ids"] = (
            part["position_ids"] if packed(part) else (part["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        )
    if "use_cache" in takes:
        inputs["use_cache"] = False
    return inputs


def logits_together(model: Any, parts: Sequence[Part], where: Sequence[Tensor], pad: int) -> list[Tensor]:
    """`logits_at` of several padded parts, in one run of the model.

    Their sequences stand one after the other in lines without padding where the architecture keeps such apart
    (`PACKS`), and below each other, padded to the longest, where it does not.
    """
    counts = [int(w.sum()) for w in where]
    if all(map(packed, parts)):
        return [logits_at(model, part, w) for part, w in zip(parts, where, strict=True)]
    if packs(model) and not any(bool((w & ~real(p).bool()).any()) for p, w in zip(parts, where, strict=True)):
        inputs, index = _in_lines(model, parts, where, pad)
    else:
        whole = joined(parts, pad)
        width = whole["input_ids"].shape[1]
        wide = torch.cat([torch.nn.functional.pad(w, (0, width - w.shape[1]), value=False) for w in where])
        inputs, index = inputs_of(model, whole), wide.flatten().nonzero().flatten()
    return list(torch.split(_at(model, inputs, index), counts))


def joined(parts: Sequence[Part], pad: int) -> dict[str, Tensor]:
    """Padded parts below each other as one."""
    width = max(part["input_ids"].shape[1] for part in parts)
    fill = {"input_ids": pad, "labels": IGNORED, "attention_mask": 0}

    def stretched(part: Part, key: str) -> Tensor:
        lacking = width - part[key].shape[1]
        return torch.nn.functional.pad(part[key], (0, lacking), value=fill[key]) if lacking else part[key]

    return {key: torch.cat([stretched(part, key) for part in parts]) for key in fill}


PACKS = frozenset(
    {
        "llama",
        "gpt2",
        "gpt_neox",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "phi3",
        "olmo2",
    }
)
"""Model types whose sequences are kept apart by positions that begin anew; each is tested. Others (recurrent ones
among them) would let one sequence see the one before it, without a word."""


def packs(model: Any) -> bool:
    """Whether sequences may stand in one line, several lines at once."""
    config = bare(model).config
    return config.model_type in PACKS and config._attn_implementation in ("sdpa", "eager")


def _in_lines(
    model: Any, parts: Sequence[Part], where: Sequence[Tensor], pad: int
) -> tuple[dict[str, Any], Tensor]:
    """Sequences in lines of about equal width, and the places of ``where`` in them."""
    masks = [real(part).bool() for part in parts]
    lengths = [int(n) for mask in masks for n in mask.sum(1)]
    starts, count, width = _layout(lengths, bare(model).config.get_text_config().hidden_size)
    device = parts[0]["input_ids"].device
    ids = torch.full((count * width,), pad, device=device)
    positions = torch.zeros(count * width, dtype=torch.long, device=device)
    index, first = [], 0
    for part, mask, wanted in zip(parts, masks, where, strict=True):
        own = torch.tensor(starts[first : first + len(mask)], device=device)
        first += len(mask)
        place = mask.long().cumsum(1) - 1
        target = own[:, None] + place
        ids[target[mask]] = part["input_ids"][mask]
        positions[target[mask]] = place[mask]
        index.append(target[wanted])
    inputs = {"input_ids": ids.view(count, width), "position_ids": positions.view(count, width)}
    return {**inputs, "use_cache": False}, torch.cat(index)


def _layout(lengths: Sequence[int], hidden: int) -> tuple[list[int], int, int]:
    """The cheapest number of lines: many waste room at their ends, few attend to other sequences in vain.

    A token costs about ``24 hidden^2`` a layer in matrices and ``4 hidden`` times the width of its line in
    attention. Returns what `_lines` does.
    """
    rest = sum(lengths) - max(lengths)
    if rest <= hidden // 4:
        return _lines(lengths, 1)  # attention over the others costs less than 1/24 of the matrices
    counts = sorted({max(1, round(len(lengths) / share)) for share in range(1, 25)})
    found = [_lines(lengths, count) for count in counts]
    return min(found, key=lambda line: line[1] * line[2] * (6 * hidden + line[2]))


def _lines(lengths: Sequence[int], count: int) -> tuple[list[int], int, int]:
    """Where each sequence begins in ``count`` lines laid end to end, their number, and their width: longest first,
    each into the line that is filled least."""
    filled = [0] * count
    spots: dict[int, tuple[int, int]] = {}
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        line = filled.index(min(filled))
        spots[place] = (line, filled[line])
        filled[line] += lengths[place]
    width = max(filled)
    return [spots[i][0] * width + spots[i][1] for i in range(len(lengths))], count, width


def bare(model: Any) -> Any:
    """The transformers model inside what PEFT and data-parallel training put around it."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _takes(model: Any) -> frozenset[str]:
    kind: type = type(bare(model))
    return _parameters(kind)


@functools.cache
def _parameters(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]
