"""Prompts answered together: batches of like length, and what prompts share is computed once.

Prompts that begin alike (the verdicts on two answers to one instruction) need the keys and values of their
common prefix only once. A batch whose prompts share enough is run in two steps: the distinct prefixes, then
every prompt from its own copy of their cache on. A batch keeps the layout it has without: padded on the left.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

LEAST_SHARED, PART_SHARED = 64, 0.5
"""Tokens that two prompts must have in common, and their part of the shorter one, to share them."""
WORTH = 0.9
"""The most of a batch's positions that may be left to compute, for a second step to be worth its start."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts answered together: their indexes, and how many tokens each may write."""

    indexes: tuple[int, ...]
    new_tokens: int


def plan_batches(
    lengths: Sequence[int],
    size: int,
    new_tokens: int,
    limit: int | None,
    *,
    pad: bool = True,
    least_room: int = 1,
    families: Iterable[Sequence[int]] = (),
) -> list[Batch]:
    """Batches of prompts of like length, longest first, so that an out-of-memory shows at once.

    Prompts that leave less room than ``new_tokens`` in the context (``limit``) are batched only with
    prompts of the same room, so that an answer's length does not depend on its neighbours. Prompts
    that leave less than ``least_room`` (or ``new_tokens``, where that is less), or have no tokens, are
    left out. Without ``pad`` all prompts of a batch have one length. ``families`` are groups of prompts
    (see `related`) that stay together, in batches of their own.
    """
    room = [new_tokens if limit is None else min(new_tokens, limit - length) for length in lengths]
    least = min(least_room, new_tokens)
    fits = {i for i, r in enumerate(room) if r >= least and lengths[i] > 0}

    def longest_first(indexes: Iterable[int]) -> list[int]:
        return sorted(indexes, key=lambda i: (-lengths[i], i))

    units: list[list[int]] = []
    for group in families:
        by_room: dict[int, list[int]] = {}
        for index in fits.intersection(group):
            by_room.setdefault(room[index], []).append(index)
        for members in map(longest_first, by_room.values()):
            if min(len(members), size) > 1:
                units += [members[at : at + size] for at in range(0, len(members), size)]
    alone = longest_first(fits.difference(*units))
    batches: list[list[int]] = []
    for kind in (sorted(units, key=lambda unit: (-lengths[unit[0]], unit)), [[i] for i in alone]):
        begun = len(batches)
        for unit in kind:
            first = batches[-1][0] if len(batches) > begun else unit[0]
            alike = room[first] == room[unit[0]] and (pad or lengths[first] == lengths[unit[0]])
            if len(batches) > begun and len(batches[-1]) + len(unit) <= size and alike:
                batches[-1] += unit
            else:
                batches.append(list(unit))
    batches.sort(key=lambda batch: -max(lengths[i] for i in batch))
    return [Batch(tuple(batch), room[batch[0]]) for batch in batches]


def _common(first: Sequence[int], second: Sequence[int], part: float) -> int:
    """How many tokens two prompts share from the start, 0 where too few; never the whole of one."""
    shorter = min(len(first), len(second))
    low, high = 0, shorter - 1  # the last token of a prompt is always run: it says the first word
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low if low >= max(LEAST_SHARED, part * shorter) else 0


def _order(prompts: Sequence[list[int]], part: float) -> tuple[list[int], list[int], list[int]]:
    """Places sorted by tokens (like beginnings are neighbours), what each shares with the next, and at most."""
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    shared = [_common(prompts[a], prompts[b], part) for a, b in pairwise(order)]
    most = [max(pair) for pair in zip([0, *shared], [*shared, 0], strict=True)]
    return order, shared, most


def related(prompts: Sequence[list[int]]) -> list[tuple[int, ...]]:
    """The groups of prompts that share a long beginning, each by its indexes.

    A prompt goes with those it shares most with: pairs stay pairs, although all may begin with one header.
    """
    order, shared, most = _order(prompts, PART_SHARED)
    groups: list[list[int]] = []
    for place, index in enumerate(order):
        if place and shared[place - 1] and shared[place - 1] >= min(most[place - 1], most[place]):
            groups[-1].append(index)
        else:
            groups.append([index])
    return [tuple(sorted(group)) for group in groups if len(group) > 1]


@dataclasses.dataclass(frozen=True)
class Split:
    """A batch in two steps: first ``prefixes``, then the last ``rest`` positions of every line.

    ``kept[i]`` is the prefix whose cache line ``i`` goes on from, and how many of its tokens.
    """

    prefixes: list[list[int]]
    kept: list[tuple[int, int]]
    rest: int


def split(lines: Sequence[list[int]], *, part: float = PART_SHARED) -> Split | None:
    """How lines that are padded on the left are run in two steps; None where that saves too little.

    ``part`` is what two lines must share of the shorter one. For prefixes it is 0: that they share their own
    beginning only has to save something.
    """
    order, _, most = _order(lines, part)
    rest = max(len(lines[i]) - m for i, m in zip(order, most, strict=True))
    width = max(map(len, lines))
    # All lines go on at one column: one that shares more than the others runs the end of it again.
    kept = [max(0, len(line) - rest) for line in lines]
    owned = [line[:count] for line, count in zip(lines, kept, strict=True)]
    prefixes: list[list[int]] = []
    source = [0] * len(lines)
    for index in sorted(range(len(lines)), key=lambda i: owned[i], reverse=True):
        # Sorted, what begins any other begins its neighbour.
        own = owned[index]
        if own and (not prefixes or prefixes[-1][: len(own)] != own):
            prefixes.append(own)
        source[index] = max(0, len(prefixes) - 1)
    if not prefixes:
        return None
    columns = max(map(len, prefixes)) * len(prefixes) + rest * len(lines)
    if columns > WORTH * width * len(lines):
        return None
    return Split(prefixes, list(zip(source, kept, strict=True)), rest)


def spread(cache: Any, plan: Split) -> Any:
    """The cache of a split's prefixes as one of its lines, both padded on the left; takes ``cache`` over."""
    width = max(kept for _, kept in plan.kept)
    for layer in cache.layers:  # one at a time: the old keys and values go before the next are made
        for name in ("keys", "values"):
            old = getattr(layer, name)
            new = old.new_zeros((len(plan.kept), old.shape[1], width, old.shape[3]))
            first = max(map(len, plan.prefixes))
            for line, (source, kept) in enumerate(plan.kept):
                start = first - len(plan.prefixes[source])
                new[line, :, width - kept :] = old[source, :, start : start + kept]
            setattr(layer, name, new)
    return cache


def holds_all(cache: Any, rows: int, columns: int) -> bool:
    """Whether a cache keeps the keys and values of every column in every layer, and nothing else."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if type(cache) is not DynamicCache or not cache.layers:
        return False
    return all(
        type(layer) is DynamicLayer
        and layer.is_initialized
        and layer.keys is not None
        and layer.values is not None
        and layer.keys.dim() == layer.values.dim() == 4
        and layer.keys.shape[::2] == layer.values.shape[::2] == (rows, columns)
        for layer in cache.layers
    )


SHIFTING_ROPE = frozenset({"dynamic", "longrope"})
"""Rotary embeddings whose angles depend on how long the whole text is: a prefix alone gets others."""


def shares_prefixes(model: Any) -> bool:
    """Whether a prefix's cache is all that a model needs to go on, and the same in every longer text.

    That is so where every layer attends to all that stands before, and keeps its keys and values. It is not
    with sliding windows, recurrent states, layers that borrow another's keys, an encoder, tokens that an
    adapter puts before the prompt, or rotary angles that change with the length.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    adapters = getattr(model, "peft_config", None)
    if isinstance(adapters, dict) and any(adapter.is_prompt_learning for adapter in adapters.values()):
        return False
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner = getattr(inner, "_orig_mod", inner)  # what torch.compile wraps
    if (
        model.config.is_encoder_decoder
        or "past_key_values" not in inspect.signature(inner.forward).parameters
    ):
        return False
    config = model.config.get_text_config()
    if SHIFTING_ROPE.intersection(_rope_types(getattr(config, "rope_parameters", None))):
        return False
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _rope_types(parameters: Any) -> set[str]:
    """The kinds of rotary embedding a configuration names, for all layers or for each kind of layer."""
    if not isinstance(parameters, Mapping):
        return set()
    found = {str(parameters["rope_type"])} if "rope_type" in parameters else set()
    return found.union(*(_rope_types(value) for value in parameters.values()))
