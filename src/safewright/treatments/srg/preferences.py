"""DPO on rejected candidates: the kept trace of a request is preferred to the candidates its filter rejected.

The loss of a pair is ``-log sigma(beta [(l_w^ref - l_w) - (l_l^ref - l_l)])`` with ``l`` the summed negative
log-likelihood of a completion, ``w`` the kept and ``l`` the rejected one, and the reference the student before.
Beside the pairs all rows are learned as ever, so that the student also learns the format, and those rows count
of which no candidate was rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safewright.training import losses
from safewright.training.encoding import Example
from safewright.training.forward import answers_at, answers_of, logits_together, size_of
from safewright.training.loop import Summed
from safewright.training.pairing import Item, Pairs
from safewright.training.references import Live

ROWS, CHOSEN, REJECTED, PAIRS = "rows", "chosen", "rejected", "pairs"


class Preferring:
    """The objective: the mean over pairs of DPO's loss, and ``learned`` times the mean over tokens of the NLL.

    Args:
        reference: The student before.
        pad: The token that fills up rows.
        beta: How sharply the two completions are told apart.
        learned: Weight of the rows that are learned as ever; 0 leaves them out.
    """

    def __init__(self, reference: Live, *, pad: int, beta: float, learned: float = 1.0) -> None:
        self.reference, self.pad, self.beta, self.learned = reference, pad, beta, learned
        # Pairs first: switching an adapter off and on must not happen between a run and its backward pass.
        self.parts = (PAIRS, ROWS) if learned else (PAIRS,)

    def counts(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Pairs and learned tokens of a micro-batch."""
        found = {"pairs": float(size_of(batch[CHOSEN]))}
        if ROWS in self.parts:
            found["learned_tokens"] = float(losses.supervised(batch[ROWS]["labels"]).sum())
        return found

    def part(self, acc: Any, model: Any, batch: Mapping[str, Any], part: str) -> Summed:
        """A part's sum over a micro-batch, with the margin and how often it is on the right side."""
        if part == ROWS:
            nll = losses.cross_entropy(answers_of(model, batch[ROWS]))
            return Summed(self.learned * nll, "learned_tokens", {"learned_ce": nll.detach()})
        plain = model if acc is None else acc.unwrap_model(model)
        names = (CHOSEN, REJECTED)
        before = self.reference.nll(plain, batch, names)
        where = [losses.supervised(batch[name]["labels"]) for name in names]
        logits = logits_together(model, [batch[name] for name in names], where, self.pad)
        by_name = {
            name: losses.sequence_nll(answers_at(batch[name], there, found))
            for name, there, found in zip(names, where, logits, strict=True)
        }
        kept, other = by_name[CHOSEN], by_name[REJECTED]
        loss = losses.dpo(kept, other, before[CHOSEN], before[REJECTED], self.beta)
        margin = ((before[CHOSEN] - kept) - (before[REJECTED] - other)).detach()
        told = {
            "margin_nats": margin.sum(),
            "kept_preferred": (margin > 0).sum().to(margin.dtype),
            "chosen_nll": kept.detach().sum(),
            "rejected_nll": other.detach().sum(),
        }
        # The house's DPO is the sharper by 2 / beta, as NPO is; published DPO is the plain logarithm.
        return Summed(self.beta / 2 * loss, "pairs", told)

    def state_dict(self) -> dict[str, Any]:
        """Nothing changes from step to step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from."""


class Preferences:
    """Rows to be learned, each beside a pair: an epoch is a pass over all rows, and pairs come round in passes of
    their own, so that each is seen equally often (to one).

    Item ``i`` of epoch ``e`` is a pure function of (seed, e, i).

    Args:
        rows: All rows; none leaves pairs alone, an epoch being one pass over them.
        chosen: The kept completion of each pair.
        rejected: The rejected one, in the same order.
        seed: Of the orders.
    """

    def __init__(
        self, rows: Sequence[Example], chosen: Sequence[Example], rejected: Sequence[Example], seed: int = 0
    ) -> None:
        self.pairs = Pairs(chosen, beside={REJECTED: rejected}, lead=CHOSEN, seed=seed)
        self.rows = Pairs(rows, lead=ROWS, seed=seed) if rows else None
        self.parts = {**(self.rows.parts if self.rows else {}), **self.pairs.parts}

    def __len__(self) -> int:
        return len(self.rows or self.pairs)

    def item(self, epoch: int, place: int) -> Item:
        """Item ``place`` of an epoch."""
        if self.rows is None:
            return self.pairs.item(epoch, place)
        row = self.rows.item(epoch, place)
        pair = self.pairs.item(*divmod(epoch * len(self) + place, len(self.pairs)))
        return {**row, **pair, "index": {**row["index"], **pair["index"]}}

    def names(self, index: Mapping[str, Any]) -> list[str]:
        """The ids of a batch's rows, as ``part:id``."""
        return [
            f"{part}:{self.parts[part][int(place)].id}" for part, places in index.items() for place in places
        ]
