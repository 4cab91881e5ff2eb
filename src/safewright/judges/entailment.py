"""Does one text contradict another? A classifier of natural language inference, or any chat model.

Only "is it a contradiction" is used by those who ask; entailment and neutral are equal to them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safewright.errors import BadInput
from safewright.judges.asking import Unreadable, ask_strictly, one_object
from safewright.judges.encoder import JudgeEncoder
from safewright.judges.items import marker_of
from safewright.judges.model import JudgeModel
from safewright.prompts import digests as prompt_digests
from safewright.prompts import load as load_prompt
from safewright.types import JudgementStatus, ModelRef

PROMPTS = ("coverage_relation", "coverage_relation_again")
CONTRADICTION = "contradiction"
RELATIONS = ("entailment", "neutral", CONTRADICTION)


@dataclass(frozen=True)
class Relation:
    """What was found of one pair: one of `RELATIONS`, None unless ``status`` is ``ok``.

    ``cut``: the pair was too long for the classifier, which did not see its end.
    """

    label: str | None
    status: JudgementStatus
    why: str = ""
    tokens: int = 0
    cut: bool = False


class Entailment:
    """The relation of premises to hypotheses.

    A model folder whose architecture is a sequence classifier labels the pairs, with the labels of its own
    ``id2label``; any other model (a chat model, also a served one) is asked in words.

    Args:
        model: A reference, a loaded model, or an object with ``classify`` and ``labels``.
        tries: How often a chat model is asked before its reply counts as unparsed.
        max_new_tokens: Room for its reply.
    """

    def __init__(self, model: Any, *, tries: int = 3, max_new_tokens: int = 512) -> None:
        self._given, self._tries = model, tries
        self._asked = JudgeModel(model, max_new_tokens)

    @functools.cached_property
    def model(self) -> JudgeModel | JudgeEncoder:
        """The model, once it is known which of the two kinds it is.

        Raises:
            BadInput: Not a model.
            Missing: The hub or the server cannot be reached.
        """
        if hasattr(self._given, "classify"):
            return JudgeEncoder(self._given, _open_classifier)
        from safewright.models.encoders import is_classifier

        loaded = hasattr(self._given, "generate")
        if not loaded and is_classifier(self._asked.ref):
            return JudgeEncoder(self._asked.ref, _open_classifier)
        return self._asked

    def conventions(self) -> dict[str, Any]:
        """Which model of which kind, and its prompts where it is asked in words."""
        if isinstance(self.model, JudgeEncoder):
            return {"kind": "classifier", **self.model.conventions()}
        return {
            "kind": "chat model",
            "prompts": prompt_digests(PROMPTS),
            "tries": self._tries,
            **self.model.conventions(),
        }

    async def relate(self, pairs: Sequence[tuple[str, str]]) -> list[Relation]:
        """The relation of each ``(premise, hypothesis)``, in order.

        Raises:
            BadInput: The classifier's labels are not those of natural language inference.
        """
        import asyncio

        if not pairs:
            return []
        model = self.model
        if isinstance(model, JudgeEncoder):
            return await asyncio.to_thread(_classified, model, pairs)

        def again(problem: str) -> str:
            return load_prompt("coverage_relation_again").render(problem=problem)

        heard = await ask_strictly(model, [_prompt(*pair) for pair in pairs], _parse, again, self._tries)
        return [Relation(found.value, found.status, found.why, found.tokens) for found in heard]

    def close(self) -> None:
        """Let go of the model."""
        self.model.close()


def relations(labels: Sequence[str]) -> Mapping[str, str]:
    """A classifier's labels as `RELATIONS`, by their own names.

    Raises:
        BadInput: One of them is another word, or none is contradiction.
    """
    found = {label: label.strip().casefold() for label in labels}
    unknown = [label for label, name in found.items() if name not in RELATIONS]
    if unknown or CONTRADICTION not in found.values() or len(set(found.values())) != len(labels):
        raise BadInput(
            f"The classifier's labels are {', '.join(labels) or 'none'}.",
            why="Which of them means contradiction cannot be told.",
            fix=f"Its config.json must name {', '.join(RELATIONS)} in id2label.",
        )
    return found


def _open_classifier(ref: ModelRef) -> Any:
    from safewright.models.encoders import PairClassifier

    return PairClassifier(ref)


def _classified(model: JudgeEncoder, pairs: Sequence[tuple[str, str]]) -> list[Relation]:
    names = relations(model.opened().labels)
    return [Relation(names[label.name], "ok", cut=label.cut) for label in model.classify(pairs)]


def _prompt(premise: str, hypothesis: str) -> str:
    return load_prompt("coverage_relation").render(
        marker=marker_of(premise, hypothesis), premise=premise, hypothesis=hypothesis
    )


def _parse(reply: str) -> str:
    word = one_object(reply, "relation")["relation"]
    if word not in RELATIONS:
        raise Unreadable(f"its relation was not one of {', '.join(RELATIONS)}")
    return str(word)
