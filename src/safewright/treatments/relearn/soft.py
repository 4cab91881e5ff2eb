"""Soft openings: beginnings of answers that nobody wrote, sought against the model while it unlearns.

Vague answers teach a model how to begin, not how to go on: with the opening of its old answer put into its mouth it
still says the secret. Rows that go on vaguely from written openings close those openings and no others. So
openings are sought. Between question and answer stand k free vectors e (k, d); before each step they are moved up
the gradient of log p(secret | question, e), and the model then learns to go on vaguely behind them:

    L_soft = mean over tokens of -log p(vague | question, e),  e from T steps of Adam on log p(secret | question, e).

Each forget row keeps its own vectors from step to step, so they follow what the model still gives away. No
opening of an answer is ever shown. The idea is that of latent adversarial training (arXiv 2407.15549).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safewright.data.mentions import first_mention
from safewright.errors import BadInput
from safewright.models.scoring import encode_answer
from safewright.training import losses
from safewright.training.encoding import Example
from safewright.training.encoding import encode as encode_rows
from safewright.training.forward import Part, answers_at, bare
from safewright.training.loop import Summed
from safewright.treatments.relearn.augmenting.spelling import rules
from safewright.types import Row

SECRET, VAGUE = "secret", "vague"
"""Parts of a batch: question and secret, question and what is said in its place; the opening stands between."""
SHORTEST = 3
"""Least vectors of an opening, where the most are not fewer."""
FARTHEST = 2.0
"""Longest vector, in mean lengths of the model's own token vectors."""
DECAYS = (0.9, 0.99)
"""Adam's decays, for the vectors."""


@dataclass(frozen=True)
class SoftRows:
    """Per leading example a question with its secret, the same with a vague end, and which vectors it uses."""

    secret: tuple[Example, ...]
    vague: tuple[Example, ...]
    slots: tuple[int, ...]
    without: tuple[str, ...]
    """Forget rows in whose answers no secret was found."""


def soft_rows(
    tokenizer: Any,
    forget: Sequence[Row],
    asked: Sequence[Row],
    count: int,
    slots: int,
    *,
    max_length: int,
    seed: int,
) -> SoftRows:
    """As many rows as there are leading examples, every wording of every forget row in turn.

    Args:
        tokenizer: Of the model.
        forget: The rows to be forgotten; their meta may bring ``tails``, vague ends of an opened answer.
        asked: Rows that ask in other wordings and answer vaguely; ``source_id`` names the forget row.
        count: Leading examples.
        slots: Openings per forget row.
        max_length: Longest example in tokens.
        seed: Of the order and of the tails.

    Raises:
        BadInput: No wording belongs to a forget row with a secret, or none fits into ``max_length``.
    """
    secrets = {row.id: found for row in forget if (found := secret_of(row))}
    places = {name: place for place, name in enumerate(secrets)}
    tails = {row.id: list(row.meta.get("tails") or ()) for row in forget}
    asked = [row for row in asked if row.meta.get("source_id") in secrets]
    if not asked:
        raise BadInput(
            "soft_openings has no question to begin an answer to.",
            why="No augmented row of kind qa names a forget row with a secret as its source.",
            fix="Let the rows be made here, give `entities` in the forget rows, or use soft_openings=0.",
        )
    draw = random.Random(f"soft openings {seed}")
    order: list[tuple[Row, int]] = []
    while len(order) < count:
        every = [(row, slot) for row in asked for slot in range(slots)]
        order += draw.sample(every, len(every))
    ends: list[Row] = []
    hidden: list[Row] = []
    for place, (row, _) in enumerate(order[:count]):
        source = row.meta["source_id"]
        end = draw.choice(tails[source]) if tails[source] else row.reference or ""
        ends.append(Row(str(place), row.prompt, end))
        hidden.append(Row(str(place), row.prompt, secrets[source]))
    vague = encode_rows(tokenizer, ends, max_length=max_length, strict=True).examples
    secret = tuple(_hidden(tokenizer, row, max_length) for row in hidden)
    numbers = tuple(places[row.meta["source_id"]] * slots + slot for row, slot in order[:count])
    without = tuple(row.id for row in forget if row.id not in secrets)
    return SoftRows(secret, vague, numbers, without)


def _hidden(tokenizer: Any, row: Row, max_length: int) -> Example:
    """A question with its secret. The end of the turn is none: openings are sought that lead to the secret itself.

    Raises:
        BadInput: The question alone fills ``max_length``.
    """
    found = encode_answer(tokenizer, row.prompt, row.reference or "", limit=max_length)
    if not found.answer:
        raise BadInput(
            f"No secret is left of a forget row after cutting it at {max_length} tokens.",
            fix="Raise max_length, or shorten its prompt.",
        )
    return Example(row.id, (*found.prompt, *found.answer), len(found.prompt))


def secret_of(row: Row) -> str:
    """A row's answer from its first secret on; empty where none is found."""
    question, answer = row.prompt[-1]["content"], row.reference or ""
    given = row.meta.get("entities")
    place = first_mention(answer, given if given is not None else rules(question, answer)[0])
    return answer[place:].strip() if place is not None else ""


def token_vectors(model: Any) -> Tensor:
    """The vectors (V, d) a model's first layer is given for its tokens; some models scale their weights first."""
    embed = model.get_input_embeddings()
    with torch.no_grad():
        found: Tensor = embed(torch.arange(embed.weight.shape[0], device=embed.weight.device))
    return found


class SoftOpenings:
    """The vectors, and the part of a loss that is taken behind them.

    Args:
        slots: Per leading example the number of its vectors.
        longest: Most vectors of an opening.
        steps: Steps of Adam before each use.
        lr: Its learning rate, in root mean squares of the coordinates of the model's own token vectors.
        weight: Of the part.
        embedding: The model's token vectors (V, d).
        special: Ids of tokens that no vector begins as.
        seed: Of lengths and beginnings.
    """

    def __init__(
        self,
        slots: Sequence[int],
        *,
        longest: int,
        steps: int,
        lr: float,
        weight: float,
        embedding: Tensor,
        special: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self.slots, self.steps, self.weight = tuple(slots), steps, weight
        vectors = embedding.detach().float()
        length = float(vectors.norm(dim=1).mean())
        self.step, self.reach = lr * length / vectors.shape[1] ** 0.5, FARTHEST * length
        usable = torch.tensor(sorted(set(range(len(vectors))) - set(special)))
        draw = torch.Generator().manual_seed(seed)
        shortest = min(SHORTEST, longest)
        self.vectors: list[Tensor] = []
        for _ in range(max(self.slots) + 1):
            k = int(torch.randint(shortest, longest + 1, (1,), generator=draw))
            chosen = usable[torch.randint(len(usable), (k,), generator=draw)]
            self.vectors.append(vectors[chosen.to(vectors.device)].clone())
        self.moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in self.vectors]
        self.moved = [0] * len(self.vectors)

    def counts(self, batch: Mapping[str, Any]) -> float:
        """Tokens of a micro-batch's vague ends."""
        return float(losses.supervised(batch[VAGUE]["labels"]).sum())

    def part(self, model: Any, batch: Mapping[str, Any], by: str) -> Summed:
        """The sum over tokens of the vague ends' NLL behind openings sought now."""
        slots = [self.slots[int(place)] for place in batch["index"][VAGUE]]
        self._seek(model, batch[SECRET], slots)
        nll = self._nll(model, batch[VAGUE], [self.vectors[slot] for slot in slots])
        return Summed(self.weight * nll, by, {"opening_ce": nll.detach()})

    def _seek(self, model: Any, part: Part, slots: Sequence[int]) -> None:
        """Move the vectors towards saying the secrets."""
        for _ in range(self.steps):
            vectors = [self.vectors[slot].clone().requires_grad_(True) for slot in slots]
            with torch.enable_grad():
                nll = self._nll(model, part, vectors)
                gradients = torch.autograd.grad(nll, vectors)
            for slot, gradient in zip(slots, gradients, strict=True):
                self._move(slot, gradient.float())

    def _move(self, slot: int, gradient: Tensor) -> None:
        """One step of Adam down the NLL, and back into reach."""
        first, second = self.moments[slot]
        self.moved[slot] += 1
        count = self.moved[slot]
        first.mul_(DECAYS[0]).add_(gradient, alpha=1 - DECAYS[0])
        second.mul_(DECAYS[1]).addcmul_(gradient, gradient, value=1 - DECAYS[1])
        along = (first / (1 - DECAYS[0] ** count)) / ((second / (1 - DECAYS[1] ** count)).sqrt() + 1e-8)
        moved = self.vectors[slot] - self.step * along
        self.vectors[slot] = moved * (self.reach / moved.norm(dim=1, keepdim=True)).clamp(max=1.0)

    def _nll(self, model: Any, part: Part, vectors: Sequence[Tensor]) -> Tensor:
        """The sum of the NLL of a part's supervised tokens behind the openings."""
        spliced, inputs = opened(model, part, vectors)
        where = losses.supervised(spliced["labels"])
        logits = model(**inputs).logits[where]
        return losses.cross_entropy(answers_at(spliced, where, logits))

    def state_dict(self) -> dict[str, Any]:
        """The vectors and their moments."""
        return {
            "vectors": [v.cpu().clone() for v in self.vectors],
            "moments": [(a.cpu().clone(), b.cpu().clone()) for a, b in self.moments],
            "moved": list(self.moved),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        device = self.vectors[0].device
        self.vectors = [v.to(device).clone() for v in state["vectors"]]
        self.moments = [(a.to(device).clone(), b.to(device).clone()) for a, b in state["moments"]]
        self.moved = list(state["moved"])


def opened(model: Any, part: Part, vectors: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A part padded on either side with vectors before each row's first supervised token.

    Returns:
        The part, now padded on the right and wider, with the pad id in the vectors' places, for the losses;
        and what the model is given in its stead, as ``inputs_embeds`` (B, T, d).
    """
    embed = bare(model).get_input_embeddings()
    rows, ids, labels = [], [], []
    for line, label, mask, own in zip(
        part["input_ids"], part["labels"], part["attention_mask"].bool(), vectors, strict=True
    ):
        line, label = line[mask], label[mask]
        at = int((label != losses.IGNORED).nonzero()[0])
        token = embed(line)
        gap = len(own)
        rows.append(torch.cat([token[:at], own.to(token.dtype).to(token.device), token[at:]]))
        ids.append(torch.cat([line[:at], line.new_zeros(gap), line[at:]]))
        labels.append(torch.cat([label[:at], label.new_full((gap,), losses.IGNORED), label[at:]]))
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = torch.tensor([len(row) for row in ids], device=part["input_ids"].device)
    mask = (torch.arange(int(lengths.max()), device=lengths.device)[None] < lengths[:, None]).long()
    spliced = {
        "input_ids": pad(ids, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=losses.IGNORED),
        "attention_mask": mask,
    }
    given = {
        "inputs_embeds": pad(rows, batch_first=True),
        "attention_mask": mask,
        "use_cache": False,
    }
    return spliced, given
