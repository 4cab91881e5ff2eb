"""From a conversation to the tokens a model reads, and from its raw words to reasoning and answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safewright.errors import BadInput
from safewright.types import Chat, Message

THINK = {"open": "<think>", "close": "</think>"}
"""The markers most reasoning models use, assumed where nothing else is declared."""


STARTED = "started"
"""The mark of an assistant's turn that is the beginning of the answer asked for, and is to be gone on with."""


def start(chat: Sequence[Message], opening: str) -> tuple[Message, ...]:
    """The conversation with the opening of its answer, which the model has to go on with."""
    return (*chat, {"role": "assistant", "content": opening, STARTED: "yes"})


def started(chat: Chat) -> str | None:
    """The opening of the answer that a conversation ends with; None where the answer is not begun."""
    last = chat[-1] if len(chat) else None
    return last["content"] if isinstance(last, Mapping) and last.get(STARTED) else None


def folded(chat: Chat) -> tuple[Message, ...]:
    """The conversation with the opening of its answer at the end of the question: for models behind a wire that
    cannot go on with a turn of their own."""
    opening = started(chat)
    if opening is None:
        return tuple(chat)
    asked = chat[-2]
    return (*chat[:-2], {**asked, "content": f"{asked['content']}\n\n{opening}"})


def render(tokenizer: Any, chat: Chat) -> str:
    """The text of a conversation as the model's own template writes it, up to the answer's start.

    A tokenizer without a template gets the turns' contents joined by newlines: a base model's prompt. The
    opening of an answer that is `started` ends the text, without the end of its turn.

    Raises:
        BadInput: The template refuses the conversation (for example a system turn it does not know).
    """
    opening = started(chat)
    messages = _messages(chat)
    if not tokenizer.chat_template:
        return "\n".join(message["content"] for message in messages)
    how = {"add_generation_prompt": True} if opening is None else {"continue_final_message": True}
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **how)
    except Exception as error:  # a template is the model's own program, and raises what it likes
        roles = ", ".join(message["role"] for message in messages)
        raise BadInput(
            f"The model's chat template refuses a conversation of the turns {roles}: "
            f"{type(error).__name__}: {error}.",
            fix="Change the rows (many templates want user and assistant in turn), or the template.",
        ) from error
    if opening is not None and not text.endswith(opening.strip()):
        raise BadInput(
            "The model's chat template does not end with the opening of an answer it was given.",
            why="What the model would go on with is not what was meant.",
            fix="Leave out what opens answers (the attack prefix), or mend the template.",
        )
    return str(text)


def _messages(chat: Chat) -> list[dict[str, Any]]:
    """A conversation's turns as a template takes them."""
    messages = [dict(message) for message in chat if isinstance(message, Mapping)]
    for message in messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise BadInput(
                f"A turn of a conversation is {message!r:.200}.", fix="It needs role and content, both text."
            )
    if isinstance(chat, str) or len(messages) != len(chat):
        raise BadInput(f"A conversation is {chat!r:.200}.", fix='Write [{"role": "user", "content": TEXT}].')
    return messages


def with_system(prompt: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """A conversation under another system prompt; unchanged where ``system`` is None."""
    if system is None:
        return prompt
    turns = tuple(message for message in prompt if message["role"] != "system")
    return ({"role": "system", "content": system}, *turns)


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """A rendered prompt's token ids. Templates write special tokens themselves: none is added twice.

    A tokenizer that ends every text with its end token does so for training: a prompt goes on.
    """
    ids = token_ids(tokenizer, text, special=not tokenizer.chat_template)
    end = tokenizer.eos_token
    if ids and ids[-1] == tokenizer.eos_token_id and not text.rstrip().endswith(end):
        return ids[:-1]
    return ids


def token_ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """A text's token ids, with or without the tokens that a tokenizer puts around texts.

    Raises:
        BadInput: The text cannot be written as UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"A text holds half a character (a lone surrogate) at place {error.start}.",
            fix="Mend the row: it was cut inside a character, or escaped wrongly.",
        ) from error
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def encode(tokenizer: Any, chat: Chat) -> list[int]:
    """The token ids of a conversation's prompt; see `render`.

    Without a template an opening follows its question as answers do in training (`encode_answered`).
    """
    opening = started(chat)
    if opening is None or tokenizer.chat_template:
        return tokenize(tokenizer, render(tokenizer, chat))
    return tokenize(tokenizer, render(tokenizer, chat[:-1])) + token_ids(tokenizer, opening, special=False)


def encode_answered(tokenizer: Any, chat: Chat, answer: str) -> tuple[list[int], int]:
    """Token ids of a conversation with its answer and end-of-turn token, and where the answer begins.

    Raises:
        BadInput: The template writes the prompt in another way once an answer follows: a model trained on
            it would be asked in a form it never saw.
    """
    prompt = encode(tokenizer, chat)
    if not tokenizer.chat_template:
        own = tokenizer(answer, add_special_tokens=False)["input_ids"]
        return [*prompt, *own, tokenizer.eos_token_id], len(prompt)
    turns = [*(dict(message) for message in chat), {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
    whole = tokenize(tokenizer, text)
    if whole[: len(prompt)] != prompt or len(whole) <= len(prompt):
        raise BadInput(
            "The chat template writes a conversation's prompt in another way once the answer follows.",
            why="Which tokens are the answer cannot be told.",
            fix="Make the template end the generation prompt where the assistant's text begins.",
        )
    return whole, len(prompt)


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


def opens_reasoning(
    prompt: str, visible: Mapping[str, str] | None = None, *, opening: str | None = None
) -> bool:
    """Whether a rendered prompt ends inside a reasoning block that the model has to close.

    Args:
        prompt: What the model goes on with.
        visible: Markers; `THINK` where None or empty.
        opening: The opening of the answer that ends the prompt (see `started`): a block may begin in it too.
    """
    if opening is not None:
        words = opening.strip()
        before = opens_reasoning(prompt[: prompt.rindex(words)], visible)
        return not split_reasoning(words, visible, opened=before, prompt_known=True)[2]
    markers = visible or THINK
    _, found, tail = prompt.rpartition(markers["open"])
    return bool(found) and not tail.strip()
