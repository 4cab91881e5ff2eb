"""Logits of the positions that matter, from padded or packed batches: the vocabulary is never multiplied in vain.

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
    """Logits (N, V) at the positions ``where`` (B, T), sequence by sequence.

    Columns without any such position are not multiplied with the vocabulary, where the architecture can leave
    them out (``logits_to_keep``).
    """
    inputs = inputs_of(model, part)
    if "logits_to_keep" not in _takes(model):
        logits: Tensor = model(**inputs).logits
        return logits[where]
    columns = where.any(0).nonzero().flatten()
    logits = model(**inputs, logits_to_keep=columns).logits
    return logits[where[:, columns]]


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


def joined(parts: Sequence[Part], pad: int) -> dict[str, Tensor]:
    """Padded parts below each other as one, so that a model is run once for all of them."""
    width = max(part["input_ids"].shape[1] for part in parts)
    fill = {"input_ids": pad, "labels": IGNORED, "attention_mask": 0}

    def stretched(part: Part, key: str) -> Tensor:
        lacking = width - part[key].shape[1]
        return torch.nn.functional.pad(part[key], (0, lacking), value=fill[key]) if lacking else part[key]

    return {key: torch.cat([stretched(part, key) for part in parts]) for key in fill}


def logits_together(model: Any, parts: Sequence[Part], where: Sequence[Tensor], pad: int) -> list[Tensor]:
    """`logits_at` of several padded parts, in one run of the model."""
    if len(parts) == 1:
        return [logits_at(model, parts[0], where[0])]
    whole = joined(parts, pad)
    width = whole["input_ids"].shape[1]
    wide = torch.cat([torch.nn.functional.pad(w, (0, width - w.shape[1]), value=False) for w in where])
    return list(torch.split(logits_at(model, whole, wide), [int(w.sum()) for w in where]))


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
