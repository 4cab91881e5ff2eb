"""What the pipeline will ask of its model, before it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safewright.data import LoadedData
from safewright.judges.entities import extraction_prompt
from safewright.models.estimate import estimate as estimate_model
from safewright.models.estimate import tokens
from safewright.treatments.asking import filled, user
from safewright.treatments.relearn.augmenting.config import AugmentOptions, options_of
from safewright.treatments.relearn.augmenting.items import Item, asks_entities, items_of
from safewright.treatments.relearn.augmenting.writing import chunks
from safewright.types import Chat, ModelRef

VERDICT_TOKENS = 20
"""Tokens of a verdict, about."""


def estimate(models: Mapping[str, ModelRef], data: Mapping[str, LoadedData], config: Any) -> dict[str, float]:
    """Calls and tokens of the augmenter, its memory and time where it runs here, and money at the given prices.

    ``calls`` is what is asked if every first reply can be used, ``calls_at_most`` if none can. Tokens are those of
    ``calls``; with texts that are not written yet counted as long as the ones they come from. Empty where no model
    is asked.
    """
    options = options_of(config)
    if "augmenter" not in models or "forget" not in data:
        return {}
    chats, replies, most = first_calls(items_of(data["forget"].rows), options)
    if not chats:
        return {}
    found = estimate_model(models["augmenter"], chats, max(1, sum(replies) // len(replies)), options.at_once)
    said: dict[str, float] = {
        "calls": float(len(chats)),
        "calls_at_most": float(most),
        "prompt_tokens": float(found.prompt_tokens),
        "new_tokens": float(sum(replies)),
    }
    if options.price_in is not None or options.price_out is not None:
        paid = found.prompt_tokens * (options.price_in or 0.0) + sum(replies) * (options.price_out or 0.0)
        said["cost"] = paid / 1e6
        said["cost_at_most"] = said["cost"] * most / len(chats)
    if found.memory_bytes:
        said["memory_bytes"] = float(found.memory_bytes)
    if found.seconds is not None:
        said["seconds"] = found.seconds
    return said


def first_calls(items: Sequence[Item], options: AugmentOptions) -> tuple[list[Chat], list[int], int]:
    """The first calls of every step, the tokens of their replies, and the number of all calls at most."""
    chats: list[Chat] = []
    replies: list[int] = []
    most = 0

    def add(name: str, reply: int, times: int, **material: Any) -> None:
        ask(filled(name, **material), reply, times)

    def ask(prompt: str, reply: int, times: int) -> None:
        nonlocal most
        chats.append([user(prompt)])
        replies.append(reply)
        most += times

    for item in items:
        asked, answered = item.question, item.answer
        if asks_entities(item, options.entities):
            ask(extraction_prompt(asked, answered), tokens(answered), options.verify_tries)
        kinds = options.kinds if item.wordings is None else ()
        if kinds and options.one_call:
            reply = len(kinds) * tokens(asked)
            add("relearn_variants", reply, options.answer_rounds, question=asked, kinds=list(kinds))
        for kind in () if options.one_call else kinds:
            add(f"relearn_variant_{kind}", tokens(asked), options.answer_rounds, question=asked)
        if item.vague is not None:
            continue
        wordings = len(kinds) if item.wordings is None else len(item.wordings) if options.kinds else 0
        for piece in chunks(answered, options.chunk):
            for _ in range(wordings + options.original):
                add("relearn_answer", tokens(piece), options.answer_rounds, question=asked, answer=piece)
                if options.verify:
                    times = options.answer_rounds * options.verify_tries
                    material = {"question": asked, "answer": piece, "text": piece}
                    add("relearn_verify", VERDICT_TOKENS, times, **material)
    return chats, replies, most
