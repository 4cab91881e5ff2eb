"""The model before: the adapter switched off, a frozen copy, or its log-probabilities taken once and kept.

All of them answer in evaluation mode and without gradients, so dropout never enters a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from safewright.errors import BadInput
from safewright.training import losses
from safewright.training.encoding import Example, collate
from safewright.training.forward import answers_of
from safewright.training.losses import Answers, Top
from safewright.training.references import Live, Wanted, adapter_off, arithmetic, frozen

__all__ = ["Cached", "Live", "Reference", "adapter_off", "frozen", "kept_tokens", "kl_to", "teacher"]

EXACT_UP_TO = 8192
"""The largest vocabulary of which a cached reference keeps every log-probability unless told otherwise."""

TOP = 64
"""Tokens kept per position of larger vocabularies; what lies outside is one number."""


class Reference(Protocol):
    """What the model before says about parts of a batch."""

    def logits(self, model: Any, batch: Mapping[str, Any], wanted: Wanted) -> dict[str, Tensor | Top]:
        """By part, its logits (N, V) at the wanted positions, or its likeliest tokens there.

        Args:
            model: The model that is trained, plain.
            batch: The whole batch; ``batch["index"]`` has the places of its examples.
            wanted: By part.
        """
        ...

    def nll(self, model: Any, batch: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Tensor]:
        """By part, the summed NLL of its sequences, (B,)."""
        ...


@dataclass
class Cached:
    """What the model before said of every example: of ``sums`` its summed NLL, of ``tops`` its likeliest tokens.

    It is taken before the first step (`take`), so that no second model is kept. With ``k`` below the
    vocabulary a KL to it is a lower bound of the exact one.
    """

    k: int
    sums: dict[str, Tensor] = field(default_factory=dict)
    tops: dict[str, list[Top]] = field(default_factory=dict)

    def take(
        self,
        model: Any,
        examples: Mapping[str, Sequence[Example]],
        *,
        tops: Sequence[str],
        pad: int,
        batch: int,
        progress: Any,
        bf16: bool = False,
    ) -> None:
        """Run the model over examples by part, in batches of about one length.

        Args:
            model: As it is before training.
            examples: By part.
            tops: Parts of which token distributions are wanted, not only sums.
            pad: The token that fills up rows.
            batch: Rows at once.
            progress: Told every batch.
            bf16: Whether the training will be in mixed arithmetic.
        """
        total, done = sum(map(len, examples.values())), 0
        device = next(model.parameters()).device
        with frozen(model), arithmetic(model, bf16):
            for part, rows in examples.items():
                order = sorted(range(len(rows)), key=lambda place: len(rows[place].ids))
                sums = torch.zeros(len(rows), dtype=torch.float64)
                kept: list[Any] = [None] * len(rows)
                for start in range(0, len(order), batch):
                    places = order[start : start + batch]
                    tensors = {
                        key: value.to(device)
                        for key, value in collate([rows[place] for place in places], pad).items()
                    }
                    found = answers_of(model, tensors)
                    sums[places] = losses.sequence_nll(found).double().cpu()
                    if part in tops:
                        for spot, place in enumerate(places):
                            kept[place] = losses.top(found.logits[found.rows == spot], self.k)
                            kept[place] = Top(*(part_.cpu() for part_ in _parts(kept[place])))
                    done += len(places)
                    progress("reference", done, total)
                self.sums[part] = sums
                if part in tops:
                    self.tops[part] = kept

    def logits(self, model: Any, batch: Mapping[str, Any], wanted: Wanted) -> dict[str, Tensor | Top]:
        return {part: self._top(batch, part) for part in wanted}

    def _top(self, batch: Mapping[str, Any], part: str) -> Top:
        device = batch[part]["input_ids"].device
        rows = [_parts(self.tops[part][int(place)]) for place in batch["index"][part]]
        ids, logp, tail = (torch.cat(column).to(device) for column in zip(*rows, strict=True))
        return Top(ids, logp, tail)

    def nll(self, model: Any, batch: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Tensor]:
        return {
            part: self.sums[part][batch["index"][part].cpu()].to(batch[part]["input_ids"].device)
            for part in parts
        }


def _parts(found: Top) -> tuple[Tensor, Tensor, Tensor]:
    return found.ids, found.logp, found.tail


def kept_tokens(vocabulary: int, asked: int | None) -> int:
    """How many tokens a cached reference keeps per position."""
    if asked is not None:
        return min(asked, vocabulary)
    return vocabulary if vocabulary <= EXACT_UP_TO else TOP


def kl_to(found: Answers | Tensor, reference: Tensor | Top, direction: losses.Direction) -> Tensor:
    """`losses.kl` to whatever a reference gave."""
    logits = found.logits if isinstance(found, Answers) else found
    if isinstance(reference, Top):
        return losses.kl_top(logits, reference, direction)
    return losses.kl(logits, reference, direction)


def teacher(reference: Tensor | Top, vocabulary: int) -> Tensor:
    """A reference's logits (N, V), from all its log-probabilities where those were kept.

    Raises:
        BadInput: Only the likeliest tokens were kept.
    """
    if not isinstance(reference, Top):
        return reference
    if reference.ids.shape[-1] < vocabulary:
        raise BadInput(
            f"undial needs the reference's whole distribution, and {reference.ids.shape[-1]} of {vocabulary} "
            f"tokens were kept.",
            fix=f"Use reference_top={vocabulary}, or reference=model.",
        )
    return torch.full_like(reference.logp, -math.inf).scatter(-1, reference.ids, reference.logp)
