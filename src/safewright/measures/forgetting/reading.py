"""What other models make of the answers: perplexity under a fixed fluency model, ratings by a rubric."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safewright.errors import BadInput, NumericalFailure
from safewright.measures.behaviour import answer_status
from safewright.measures.forgetting.scoring import READ, with_readings
from safewright.models import Loaded
from safewright.runs import Run, digest_json
from safewright.runs.progress import Progress
from safewright.types import Record

FLUENCY = "fluency"
"""The role of the model that perplexity is taken under."""
PPL = "ppl"
TOGETHER = 64
"""Answers read in one journalled step."""
LARGEST = 1e100
"""Perplexities above this are written as this: their mean must stay a number."""

Read = dict[str, Any]
"""``{"value": float | None, "status": str, "why": str}``."""


def read(records: list[Record], models: Mapping[str, Loaded], run: Run, progress: Progress) -> list[Record]:
    """The plain records with their perplexity, where a fluency model is given."""
    loaded = models.get(FLUENCY)
    if loaded is None:
        return records
    places = [place for place, record in enumerate(records) if not record.meta.get("attack")]
    open_ = [place for place in places if answer_status(records[place])[0] == "ok"]
    own = {
        "model": loaded.ref.digest,
        "is_target": loaded.ref.digest == models["target"].ref.digest,
    }
    said: dict[int, Read] = {}
    for begin in range(0, len(open_), TOGETHER):
        part = open_[begin : begin + TOGETHER]
        found = run.step(*_step(loaded, [records[place] for place in part]))
        said.update(zip(part, found, strict=True))
        progress("reading", len(said), len(open_))
    result = list(records)
    for place in places:
        status, _ = answer_status(records[place])
        about = said.get(place, {"value": None, "status": status, "why": ""})
        result[place] = _kept(records[place], PPL, {**about, **own})
    return result


def _step(loaded: Loaded, records: Sequence[Record]) -> tuple[dict[str, Any], Callable[[], list[Read]]]:
    """The key of reading some answers, and the work."""
    texts = [(_question(record), _answer(record)) for record in records]
    key = {"step": "perplexity", "version": "1", "model": loaded.ref.digest, "texts": digest_json(texts)}
    return key, lambda: perplexities(loaded, texts)


def _kept(record: Record, name: str, about: Read) -> Record:
    readings = {**(record.meta.get(READ) or {}), name: about}
    marked = dataclasses.replace(record, meta={**record.meta, READ: {name: about}})
    found = with_readings(marked)
    return dataclasses.replace(found, meta={**record.meta, READ: readings})


def _question(record: Record) -> str:
    return str(record.meta["question"])


def _answer(record: Record) -> str:
    return record.generation.answer if record.generation else ""


def perplexities(loaded: Loaded, texts: Sequence[tuple[str, str]]) -> list[Read]:
    """exp of the mean negative log-likelihood of each answer's tokens after its bare question.

    No chat template is used; question and answer are turned into tokens apart. A perplexity that is not a
    number, or an answer that does not fit the model's context, is ``unparsed``: excluded, and counted.

    Args:
        loaded: The fluency model.
        texts: Questions and answers.
    """
    bare = without_template(loaded)
    found: list[Read] = [{"value": None, "status": "ok", "why": ""} for _ in texts]
    fitting: list[int] = []
    for place, (question, answer) in enumerate(texts):
        length = len(bare.tokenizer(question)["input_ids"])
        own = len(bare.tokenizer(answer, add_special_tokens=False)["input_ids"])
        if not own or not length:
            found[place] |= {"status": "unparsed", "why": "nothing to read for the fluency model"}
        elif bare.limit is not None and length + own > bare.limit:
            found[place] |= {
                "status": "unparsed",
                "why": f"{length + own} tokens do not fit the fluency model",
            }
        else:
            fitting.append(place)
    for place, value in zip(fitting, _values(bare, [texts[place] for place in fitting]), strict=True):
        if value is None:
            found[place] |= {"status": "unparsed", "why": "the perplexity is not a number"}
        else:
            found[place] |= {"value": value}
    return found


def _values(bare: Any, texts: Sequence[tuple[str, str]]) -> list[float | None]:
    """Perplexities, None where they are not numbers."""
    if not texts:
        return []
    try:
        scores = bare.logprobs([[{"role": "user", "content": q}] for q, _ in texts], [a for _, a in texts])
    except NumericalFailure:
        if len(texts) == 1:
            return [None]
        return [value for text in texts for value in _values(bare, [text])]
    return [_perplexity(found.logprobs) for found in scores]


def _perplexity(logprobs: Sequence[float]) -> float | None:
    mean = -math.fsum(logprobs) / len(logprobs)
    if math.isnan(mean):
        return None
    return min(math.exp(min(mean, 700.0)), LARGEST)


def without_template(loaded: Loaded) -> Any:
    """The same model, asked in plain text.

    Raises:
        BadInput: It is not run here.
    """
    from safewright.models.hf import HfModel

    opened: Any = getattr(loaded, "opened", loaded)
    tokenizer = getattr(opened, "tokenizer", None)
    if tokenizer is None or "logprobs" not in opened.able:
        raise BadInput(
            f"The fluency model {loaded.ref.where} does not offer log-probabilities of given answers.",
            fix="Give a model's folder: --model-role fluency=FOLDER",
        )
    plain = copy.copy(tokenizer)
    plain.chat_template = None
    return HfModel(opened.model, plain, opened.ref, opened.batch_size)
