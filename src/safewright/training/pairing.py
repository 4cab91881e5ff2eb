"""Which rows stand together in a step: the same on one process or many, and again after a kill."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from safewright.errors import BadInput
from safewright.training.encoding import Example, collate

Item = dict[str, Any]
"""One place of a batch: an `Example` by part, and under ``index`` its place in that part's examples."""


class Pairs:
    """Examples to be learned or unlearned, each beside a retained one.

    Item ``i`` of epoch ``e`` is a pure function of (seed, e, i): no random state is kept, so neither the
    number of processes or workers nor a kill changes which rows meet.

    Args:
        forget: The leading examples; an epoch is one pass over them.
        retain: The examples beside them; none gives batches without that part.
        pairing: ``shuffle`` takes retained examples in shuffled passes over all of them that go on from epoch
            to epoch, so that each is seen equally often (to one). ``cycle`` gives the i-th leading example the
            retained one at ``i mod len(retain)``, in every epoch the same, as the release of ReLearn does.
        seed: Of both orders.
        beside: Further parts that belong to the leading examples, one for each: ``{"rejected": […]}``.
        lead: The name of the leading part.
        shuffle: Whether the leading examples come in a new order each epoch.
    """

    def __init__(
        self,
        forget: Sequence[Example],
        retain: Sequence[Example] = (),
        pairing: Literal["shuffle", "cycle"] = "shuffle",
        seed: int = 0,
        *,
        beside: Mapping[str, Sequence[Example]] | None = None,
        lead: str = "forget",
        shuffle: bool = True,
    ) -> None:
        if not forget:
            raise BadInput(f"There is nothing to train on: no {lead} rows are left.")
        if pairing not in ("shuffle", "cycle"):
            raise BadInput(f"pairing is {pairing!r}.", fix="Valid names: cycle, shuffle.")
        self.parts: dict[str, Sequence[Example]] = {lead: forget, **(beside or {})}
        for name, examples in self.parts.items():
            if len(examples) != len(forget):
                raise ValueError(f"{len(examples)} {name} examples beside {len(forget)} {lead} ones")
        if retain:
            self.parts["retain"] = retain
        self.lead, self.pairing, self.seed, self.shuffle = lead, pairing, seed, shuffle
        self.epoch = 0
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def __len__(self) -> int:
        return len(self.parts[self.lead])

    def set_epoch(self, epoch: int) -> None:
        """Which epoch ``[i]`` is about. The loop says so as an epoch begins (`safewright.training.loop`)."""
        self.epoch = epoch

    def __getitem__(self, place: int) -> Item:
        return self.item(self.epoch, place)

    def item(self, epoch: int, place: int) -> Item:
        """Item ``place`` of an epoch."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        first = self._order(self.lead, epoch, len(self))[place] if self.shuffle else place
        index = {name: first for name in self.parts if name != "retain"}
        if "retain" in self.parts:
            count = len(self.parts["retain"])
            if self.pairing == "cycle":
                index["retain"] = first % count
            else:
                turn, spot = divmod(epoch * len(self) + place, count)
                index["retain"] = self._order("retain", turn, count)[spot]
        return {**{name: self.parts[name][at] for name, at in index.items()}, "index": index}

    def names(self, index: Mapping[str, Any]) -> list[str]:
        """The ids of a batch's rows, as ``part:id``, from its ``index``."""
        return [
            f"{part}:{self.parts[part][int(place)].id}" for part, places in index.items() for place in places
        ]

    def _order(self, what: str, turn: int, count: int) -> list[int]:
        """The order of a pass: the last one is kept, as items are asked for one after another."""
        if self._orders.get(what, (-1, []))[0] != turn:
            order = list(range(count))
            random.Random(f"{what} order {self.seed} {turn}").shuffle(order)
            self._orders[what] = (turn, order)
        return self._orders[what][1]


def collate_pairs(
    pad: int, side: str = "right", *, width: int = 0
) -> Callable[[Sequence[Item]], dict[str, Any]]:
    """The collate function of `Pairs`: ``{part: tensors of `collate`, "index": {part: places}}``."""

    def collated(items: Sequence[Item]) -> dict[str, Any]:
        import torch

        parts = [name for name in items[0] if name != "index"]
        batch: dict[str, Any] = {
            part: collate([item[part] for item in items], pad, side, width=width) for part in parts
        }
        batch["index"] = {part: torch.tensor([item["index"][part] for item in items]) for part in parts}
        return batch

    return collated
