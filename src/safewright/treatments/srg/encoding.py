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

PLACE = "zanswerz"
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
            if _bare(self.written(marker)) != _bare(marker):
                raise BadInput(
                    f"The student's tokenizer cannot write the marker {marker!r}.",
                    why="The reasoning could never be told from the answer.",
                    fix="Add it to the vocabulary, or choose others: --set think_open=… --set think_close=…",
                )

    @cached_property
    def ending(self) -> list[int]:
        """The tokens that end an answer: those of the template, up to one that stops the model.

        Raises:
            BadInput: The template does not write the text of an answer.
        """
        text = self.rendered(({"role": "user", "content": "question"},), PLACE)
        if text.count(PLACE) != 1:
            raise BadInput(
                f"The student's chat template does not write what is said (rendered: {text[-160:]!r}).",
                why="It may be one for turns of several parts (images), which are not trained here.",
                fix="Give the student a template for plain text (chat_template.jinja beside the weights).",
            )
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

    def require_known(self, texts: Sequence[str], what: str) -> None:
        """Pass when the tokenizer knows every word of some texts.

        Raises:
            BadInput: It reads one as unknown.
        """
        unknown = self.tokenizer.unk_token_id
        for text in texts:
            if unknown is not None and unknown in self._ids(text):
                raise BadInput(
                    f"The student's tokenizer does not know all words of {what} {text!r}.",
                    why="What it would read is not what is meant.",
                    fix="Word it in the student's own words.",
                )

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
        return _bare(self.written(text)) in _bare(self.learned(example))

    def rendered(self, messages: Sequence[Message], answer: str) -> str:
        """The template's rendering of an answered conversation.

        Raises:
            BadInput: It refuses the conversation.
        """
        turns: list[Any] = [*map(dict, messages), {"role": "assistant", "content": answer}]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        except Exception as error:  # a template is the model's own program, and raises what it likes
            raise BadInput(
                f"The student's chat template refuses an answered conversation: {type(error).__name__}: {error}.",
                fix="Change the rows (many templates want user and assistant in turn), or the template.",
            ) from error

    def answered(self, messages: Sequence[Message], answer: str) -> str:
        """The same as the model would read it: tokenised, and decoded."""
        return self._decode(tokenize(self.tokenizer, self.rendered(messages, answer)))

    def written(self, text: str) -> str:
        """A text as this tokenizer writes it."""
        return self._decode(self._ids(text))

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
    """Whether the template writes the trace of an answered conversation, once, in one block."""
    whole = _whole(student, record)
    said, trace = _bare(student.answered(record.messages, whole)), _bare(student.written(whole))
    return trace in said and _bare(student.written(student.config.think_open)) + trace not in said


def _whole(student: Student, record: Reasoned) -> str:
    return build_rows(record, "srg", markers=student.config.markers).completion


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` places out of ``count``, evenly over all."""
    return [place * count // min(most, count) for place in range(min(most, count))]


def _bare(text: str) -> str:
    """A text without white space, which tokenizers write in ways of their own."""
    return "".join(text.split())
