"""Rows as the token ids a student sees: the template writes the prompt, and what is learned is the completion with
the token that ends it, exactly.

The completion is not given to the chat template but written behind the generation prompt, as the model itself will
write it. So no template can put it in other words. Whether the template keeps reasoning in a conversation that is
answered is examined nevertheless (`require_kept`): with one that does not, every other program that renders these
rows, and this model's own next training, would silently leave the reasoning out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from safewright.errors import BadInput
from safewright.models import chat as chats
from safewright.models.chat import opens_reasoning, render, token_ids, tokenize
from safewright.training.encoding import Example
from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.records import Reasoned
from safewright.treatments.srg.rows import Built, build_rows
from safewright.types import Message

EXAMINED = 32
"""Rows whose rendering is examined."""

PLACE = "answer"
"""What stands for an answer where a template is asked how it ends one."""


@dataclass(frozen=True)
class Student:
    """A tokenizer with what the rows of a training have in common.

    ``stops`` are the tokens that end an answer of the model; ``context`` is the text kept in the prompts.
    """

    tokenizer: Any
    config: SRGConfig
    stops: frozenset[int]
    context: str | None = None

    def __post_init__(self) -> None:
        """Pass when the tokenizer can write these rows.

        Raises:
            BadInput: It has no chat template, no token that ends an answer, or cannot write the markers.
        """
        if not self.tokenizer.chat_template:
            raise BadInput(
                "The student's tokenizer has no chat template.",
                why="Requests are trained in the form in which they will be asked.",
                fix="Put a chat_template.jinja beside the weights; many programs read it from there.",
            )
        if self.tokenizer.eos_token_id is None:
            raise BadInput(
                "The student's tokenizer has no end token.", fix="Set eos_token in tokenizer_config.json."
            )
        for marker in self.config.markers.values():
            if _bare(self._decode(self._ids(marker))) != _bare(marker):
                raise BadInput(
                    f"The student's tokenizer cannot write the marker {marker!r}.",
                    why="The reasoning could never be told from the answer.",
                    fix="Add it to the vocabulary, or choose others: --set think_open=… --set think_close=…",
                )

    @cached_property
    def ending(self) -> list[int]:
        """The tokens that end an answer: those of the template, up to one that stops the model."""
        turns: list[Any] = [{"role": "user", "content": PLACE}, {"role": "assistant", "content": PLACE}]
        text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        ids = self._ids(text.rpartition(PLACE)[2].rstrip())
        for place, token in enumerate(ids):
            if token in self.stops:
                return ids[: place + 1]
        return [*ids, int(self.tokenizer.eos_token_id)]

    def built(self, record: Reasoned, *, opening: str | None = None, target: str | None = None) -> Built:
        """The row of a record, as `build_rows` makes it for this student.

        ``target`` in the place of the configuration's; benign rows have no reasoning where only harmful ones have.
        """
        config = self.config
        wanted = target or config.target
        if config.reason_on == "harmful" and not record.harmful:
            wanted = "rt"
        return build_rows(
            record,
            wanted,
            context=self.context,
            opening=opening,
            opened=opening is None and self.opened(record.messages),
            markers=config.markers,
            count=lambda text: len(self._ids(text)),
            filler=config.filler_word,
        )

    def example(self, name: str, built: Built) -> Example:
        """A row as token ids, of which the completion and the tokens that end it are learned."""
        before = self.prompt(built.prompt, built.given)
        learned = [*self._ids(built.completion), *self.ending]
        return Example(name, (*before, *learned), len(before))

    def prompt(self, messages: Sequence[Message], given: str = "") -> list[int]:
        """The token ids that the model is shown, up to what it has to say."""
        if given:
            return chats.encode(self.tokenizer, chats.start(messages, given))
        return tokenize(self.tokenizer, render(self.tokenizer, messages))

    def opened(self, messages: Sequence[Message]) -> bool:
        """Whether the template opens the block itself, at the end of a prompt."""
        return opens_reasoning(render(self.tokenizer, messages), self.config.markers)

    def learned(self, example: Example) -> str:
        """The text of what is learned of an example."""
        return self._decode(list(example.ids[example.start :]))

    def says(self, example: Example, text: str) -> bool:
        """Whether a text is among what is learned, as far as this tokenizer can write it."""
        return _bare(self._decode(self._ids(text))) in _bare(self.learned(example))

    def answered(self, messages: Sequence[Message], answer: str) -> str:
        """What stands behind the prompt in the template's rendering of an answered conversation."""
        turns: list[Any] = [*map(dict, messages), {"role": "assistant", "content": answer}]
        text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        return self._decode(tokenize(self.tokenizer, text))

    def _ids(self, text: str) -> list[int]:
        return token_ids(self.tokenizer, text, special=False)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def require_kept(student: Student, records: Sequence[Reasoned], examples: Sequence[Example]) -> int:
    """How many of (at most 32) rows were examined: their reasoning is learned, and the template keeps it.

    Args:
        student: See `Student`.
        records: With reasoning that is learned.
        examples: What is learned of each of them.

    Raises:
        BadInput: The template leaves reasoning out, repeats it, or something else is learned.
    """
    chosen = spread(len(records), EXAMINED)
    lost, first = 0, ""
    for place in chosen:
        record, example = records[place], examples[place]
        built = student.built(record)
        if not student.says(example, built.completion):
            raise BadInput(
                f"What is learned of the row {record.id} is not its completion: {student.learned(example)!r:.200}.",
                fix="The tokenizer changes text in a way that is not understood; use another one.",
            )
        if not keeps(student, record):
            lost += 1
            first = first or student.answered(record.messages, _whole(student, record))
    if lost:
        raise BadInput(
            f"The student's chat template leaves the reasoning out of {lost} of {len(chosen)} rows "
            f"(rendered: {first[-160:]!r}).",
            why="Trained on what such a template writes, a model learns refusals and no reasoning, without a word.",
            fix="Give the student a template that keeps it (chat_template.jinja beside the weights; TRL's *_training "
            "templates do, except deepseekv3_training).",
        )
    return len(chosen)


def keeps(student: Student, record: Reasoned) -> bool:
    """Whether the template writes reasoning and answer of an answered conversation, each once."""
    said = _bare(student.answered(record.messages, _whole(student, record)))
    parts = [_bare(student._decode(student._ids(text))) for text in (record.reasoning, record.answer)]
    return all(part in said for part in parts)


def _whole(student: Student, record: Reasoned) -> str:
    return build_rows(record, "srg", markers=student.config.markers).completion


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` places out of ``count``, evenly over all."""
    return [place * count // min(most, count) for place in range(min(most, count))]


def _bare(text: str) -> str:
    """A text without white space, which tokenizers write in ways of their own."""
    return "".join(text.split())
