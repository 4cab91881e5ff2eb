"""What the models make of every answer, each written down once: scores, gradient norms, generations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from safewright.errors import BadInput, NumericalFailure
from safewright.measures.journal import Key, journal_rows, journalled
from safewright.measures.memorisation import core
from safewright.measures.memorisation.config import (
    FORGET,
    KNOWN_FORGET,
    KNOWN_RETAIN,
    MemorisationConfig,
)
from safewright.models import with_recipe
from safewright.models.scoring import (
    AnswerScores,
    Encoded,
    encode_answer,
    stream_gradient_norms,
    stream_scores,
    white_box,
)
from safewright.runs import Run, digest_json
from safewright.types import Chat, Decoding, Generation, Row

ANSWER, PARAPHRASE, FIRST_WRONG = 0, 1, 2
"""Numbers of a row's texts within the journal's key; wrong answers follow from the last."""


@dataclass(frozen=True)
class Facts:
    """What one model makes of one answer; ``tokens`` 0: nothing was left of it, and all else is None.

    ``ids`` is a digest of the tokens scored, ``cut`` counts those that the context had no room for.
    """

    tokens: int
    cut: int = 0
    ids: str = ""
    loss: float | None = None
    exact: float | None = None
    extraction: float | None = None
    zlib: float | None = None
    min_k: float | None = None
    min_k_plus: float | None = None


@dataclass(frozen=True)
class Text:
    """One answer to be scored by one model."""

    key: Key
    chat: Chat
    answer: str


@dataclass
class Heard:
    """Everything the models said, by (role, row's id, number of the text)."""

    facts: dict[Key, Facts] = field(default_factory=dict)
    gradients: dict[Key, float] = field(default_factory=dict)
    generations: dict[Key, Generation] = field(default_factory=dict)
    decoding: Decoding | None = None

    def losses(self, role: str, row: Row) -> tuple[float, list[float]] | None:
        """The losses of a row's right answer (paraphrased where it has one) and of its wrong ones, where known."""
        right = self.facts.get((role, row.id, PARAPHRASE)) or self.facts.get((role, row.id, ANSWER))
        wrong = [self.facts.get((role, row.id, FIRST_WRONG + i)) for i in range(len(wrong_of(row)))]
        known = [found.loss for found in wrong if found is not None and found.loss is not None]
        if right is None or right.loss is None or not known or len(known) < len(wrong):
            return None
        return right.loss, known


def wrong_of(row: Row) -> list[str]:
    """The wrong answers a row brings.

    Raises:
        BadInput: They are neither a text nor a list of texts.
    """
    found = row.meta.get("wrong")
    texts = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise BadInput(
            f"The row {row.id} has the wrong answers {found!r:.100}.",
            why="Its truth ratio is over all of them.",
            fix='Give a list of texts as "wrong" (TOFU: "perturbed_answer"), or leave it out.',
        )
    return list(texts)


def paraphrase_of(row: Row) -> str | None:
    """The other wording of a row's right answer; None where it has none.

    Raises:
        BadInput: It is no text.
    """
    found = row.meta.get("paraphrased_answer")
    if found is not None and not isinstance(found, str):
        raise BadInput(
            f"The row {row.id} has the paraphrased answer {found!r:.100}.",
            fix="Give one text, or leave it out.",
        )
    return found


def texts_of(role: str, rows: Sequence[Row], *, options: bool) -> list[Text]:
    """The answers of rows that a model in a role scores; with their paraphrase and wrong ones by ``options``."""
    found = []
    for row in rows:
        found.append(Text((role, row.id, ANSWER), row.prompt, row.reference or ""))
        if not options:
            continue
        paraphrase = paraphrase_of(row)
        if paraphrase is not None:
            found.append(Text((role, row.id, PARAPHRASE), row.prompt, paraphrase))
        for number, text in enumerate(wrong_of(row)):
            found.append(Text((role, row.id, FIRST_WRONG + number), row.prompt, text))
    return found


def score_texts(
    heard: Heard, model: Any, texts: Sequence[Text], run: Run, config: MemorisationConfig
) -> None:
    """Score all texts of one model that the run's journal does not have."""
    for key, row in journal_rows(run, "scored", ("facts",)).items():
        heard.facts.setdefault(key, journalled(Facts, row["facts"], "scored"))
    if all(text.key in heard.facts for text in texts):
        return
    items = _encoded(model, texts)
    for text, item in zip(texts, items, strict=True):
        if not item.answer:
            heard.facts[text.key] = Facts(0, item.cut)
    places = [place for place, item in enumerate(items) if item.answer]
    done = frozenset(i for i, place in enumerate(places) if texts[place].key in heard.facts)
    with closing(stream_scores(model, [items[place] for place in places], done=done)) as stream:
        for ready in stream:
            for index, scores in ready:
                key, item = texts[places[index]].key, items[places[index]]
                said = texts[places[index]].answer
                if item.cut:
                    said = white_box(model).tokenizer.decode(item.answer, skip_special_tokens=True)
                if not all(map(math.isfinite, scores.logprobs)):
                    raise NumericalFailure(
                        f"The {key[0]} model gives a token of an answer of {key[1]} no probability at all.",
                        why="Its loss is infinite, and so is every mean over it.",
                        fix="Use --dtype float32; where that is no help, leave the row out.",
                    )
                heard.facts[key] = _facts(scores, said, item.cut, config.min_k)
                run.append("scored", {"key": key, "facts": heard.facts[key]})


def _encoded(model: Any, texts: Sequence[Text]) -> list[Encoded]:
    inner = white_box(model)
    return [
        encode_answer(inner.tokenizer, text.chat, text.answer, limit=inner.limit)
        if text.answer.strip()
        # No words, no tokens: some templates would write their own.
        else Encoded((), ())
        for text in texts
    ]


def _facts(scores: AnswerScores, text: str, cut: int, share: float) -> Facts:
    loss = core.loss_of(scores.logprobs)
    return Facts(
        tokens=len(scores.tokens),
        cut=cut,
        ids=digest_json(list(scores.tokens)).removeprefix("sha256:")[:16],
        loss=loss,
        exact=core.exact_memorisation(scores.hits),
        extraction=core.extraction_strength(scores.hits),
        zlib=core.zlib_score(loss, text),
        min_k=core.min_k(scores.logprobs, share),
        min_k_plus=core.min_k_plus(scores.logprobs, scores.means, scores.variances, share),
    )


def take_gradients(heard: Heard, model: Any, texts: Sequence[Text], run: Run) -> None:
    """The gradient norm of each answer that has tokens, one backward pass a row."""
    for key, row in journal_rows(run, "gradients", ("norm",)).items():
        heard.gradients[key] = float(row["norm"])
    if all(text.key in heard.gradients or not heard.facts[text.key].tokens for text in texts):
        return
    texts = [text for text in texts if heard.facts[text.key].tokens]
    items = _encoded(model, texts)
    done = frozenset(place for place, text in enumerate(texts) if text.key in heard.gradients)
    with closing(stream_gradient_norms(model, items, done=done)) as stream:
        for place, norm in stream:
            heard.gradients[texts[place].key] = norm
            run.append("gradients", {"key": texts[place].key, "norm": norm})


def generate(
    heard: Heard,
    model: Any,
    rows: Sequence[Row],
    examples: Sequence[Row],
    run: Run,
    config: MemorisationConfig,
) -> None:
    """Greedy answers to the rows' questions; those about knowledge have the examples before them."""
    how = with_recipe(Decoding(max_new_tokens=128), model.ref, config.chosen())
    heard.decoding = how
    for key, row in journal_rows(run, "generations", ("generation",)).items():
        heard.generations[key] = journalled(Generation, row["generation"], "generations")
    keys: list[Key] = [("target", row.id, ANSWER) for row in rows]
    done = frozenset(place for place, key in enumerate(keys) if key in heard.generations)
    if len(done) == len(keys):
        return
    chats = [_asked(row, examples) for row in rows]
    with closing(model.stream(chats, how, done=done)) as stream:
        for ready in stream:
            for place, said in ready:
                heard.generations[keys[place]] = said
                if said.stop != "error":  # a failure is not an answer: the next run asks again
                    run.append("generations", {"key": keys[place], "generation": said})


def _asked(row: Row, examples: Sequence[Row]) -> Chat:
    if row.meta.get("set") not in (KNOWN_FORGET, KNOWN_RETAIN):
        return row.prompt
    before = [
        turn
        for example in examples
        for turn in (*example.prompt, {"role": "assistant", "content": example.reference or ""})
    ]
    system = [turn for turn in row.prompt if turn["role"] == "system"]
    rest = [turn for turn in row.prompt if turn["role"] != "system"]
    return (*system, *before, *rest)


def by_set(rows: Sequence[Row], roles: Sequence[str]) -> dict[str, list[Row]]:
    """Rows by their role, in the order of ``roles``; only roles that have rows."""
    found: Mapping[str, list[Row]] = {
        role: [row for row in rows if row.meta.get("set", FORGET) == role] for role in roles
    }
    return {role: own for role, own in found.items() if own}
