"""From a conversation to the tokens a model reads, and from its raw words to reasoning and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safewright.errors import BadInput
from safewright.types import Chat

THINK = {"open": "<think>", "close": "</think>"}
"""The markers most reasoning models use, assumed where nothing else is declared."""


def render(tokenizer: Any, chat: Chat) -> str:
    """The text of a conversation as the model's own template writes it, up to the answer's start.

    A tokenizer without a template gets the turns' contents joined by newlines: a base model's prompt.

    Raises:
        BadInput: The template refuses the conversation (for example a system turn it does not know).
    """
    messages = [dict(message) for message in chat]
    if not tokenizer.chat_template:
        return "\n".join(message["content"] for message in messages)
    import jinja2

    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise BadInput(
            f"The model's chat template refuses a conversation of the turns {roles}: {error}.",
            fix="Change the rows (many templates want user and assistant in turn), or the template.",
        ) from error
    return text


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """A rendered prompt's token ids. Templates write special tokens themselves: none is added twice."""
    ids: list[int] = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    return ids


def encode(tokenizer: Any, chat: Chat) -> list[int]:
    """The token ids of a conversation's prompt; see `render`."""
    return tokenize(tokenizer, render(tokenizer, chat))


def declared_markers(template: str | None) -> dict[str, str]:
    """The reasoning markers a chat template declares by writing them; empty when it has none."""
    if template and THINK["close"] in template:
        return dict(THINK)
    return {}


def split_reasoning(
    raw: str,
    visible: Mapping[str, str] | None = None,
    *,
    opened: bool = False,
    prompt_known: bool = False,
) -> tuple[str, str, bool]:
    """Raw output as (reasoning, answer, closed).

    Args:
        raw: What the model wrote after the prompt.
        visible: ``{"open": marker, "close": marker}``; `THINK` where None or empty.
        opened: Whether the prompt itself already opened the block, as some templates do.
        prompt_known: Whether ``opened`` was read off the prompt. If it was not (a server renders it
            unseen), a closing marker without an opening one ends a block that the template opened.

    Returns:
        The text inside the blocks, the text outside them, and whether every block was closed. Words
        before a block are part of the answer, because a reader sees them. With an unclosed block there
        is no answer: nobody knows what it would have been.
    """
    start, end = (visible or THINK)["open"], (visible or THINK)["close"]
    first_open, first_close = raw.find(start), raw.find(end)
    closes_first = first_close >= 0 and (first_open < 0 or first_close < first_open)
    inside = opened or (closes_first and not prompt_known)
    reasoning: list[str] = []
    answer: list[str] = []
    rest = raw.lstrip().removeprefix(start) if opened else raw
    while True:
        text, found, rest = rest.partition(end if inside else start)
        (reasoning if inside else answer).append(text.strip())
        if not found:
            break
        inside = not inside
    thought = "\n".join(part for part in reasoning if part)
    if inside:
        return thought, "", False
    return thought, "\n".join(part for part in answer if part), True


def opens_reasoning(prompt: str, visible: Mapping[str, str] | None = None) -> bool:
    """Whether a rendered prompt ends inside a reasoning block that the model has to close."""
    markers = visible or THINK
    _, found, tail = prompt.rpartition(markers["open"])
    return bool(found) and not tail.strip()
