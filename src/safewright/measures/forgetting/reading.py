"""What other models make of the answers: perplexity under a fixed fluency model, ratings by a rubric."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, NumericalFailure
from safewright.measures.behaviour import answer_status
from safewright.measures.forgetting.config import ForgettingConfig
from safewright.measures.forgetting.scoring import READ, quality_of, with_readings
from safewright.models import Loaded
from safewright.runs import Run, digest_json, run_sync
from safewright.runs.calls import FIELDS
from safewright.runs.progress import Progress
from safewright.types import Question, Record

if TYPE_CHECKING:
    from safewright.judges.rating import Aspect

FLUENCY, RUBRIC = "fluency", "rubric"
"""The roles of the models that perplexity is taken under, and that rate."""
PPL = "ppl"
TOGETHER = 64
"""Answers read in one journalled step."""
LARGEST = 1e100
"""Perplexities above this are written as this: their mean must stay a number."""

Read = dict[str, Any]
"""``{"value": float | None, "status": str, "why": str}``."""


def read(
    records: list[Record],
    models: Mapping[str, Loaded],
    run: Run,
    progress: Progress,
    config: ForgettingConfig,
) -> list[Record]:
    """The plain records with their perplexity and ratings, where models are given for them."""
    places = [place for place, record in enumerate(records) if not record.meta.get("attack")]
    result = list(records)
    for role, of in ((FLUENCY, _fluency), (RUBRIC, _rated)):
        if role not in models:
            continue
        open_ = [place for place in places if answer_status(records[place])[0] == "ok"]
        found = of([records[place] for place in open_], models, run, progress, config)
        said = dict(zip(open_, found, strict=True))
        for place in places:
            status, _ = answer_status(records[place])
            silent = {"value": None, "status": status, "why": "", **_reader(role, models)}
            about = said.get(place) or dict.fromkeys(_names(role, records[place], config), silent)
            result[place] = _kept(result[place], about)
    return result


def calls(questions: Sequence[Question], config: ForgettingConfig) -> dict[str, int]:
    """How many answers each role reads, at most."""
    plain = [question for question in questions if not question.meta.get("attack")]
    return {FLUENCY: len(plain), RUBRIC: len(plain) * (1 if config.ratings == "writing" else 2)}


def _reader(role: str, models: Mapping[str, Loaded]) -> dict[str, Any]:
    """Who read an answer, or would have read it had there been one."""
    digest = models[role].ref.digest
    return {"model": digest, "is_target": digest == models["target"].ref.digest}


def _aspects(record: Record, config: ForgettingConfig) -> tuple[Aspect, ...]:
    """What is rated about a record."""
    if config.ratings == "writing":
        return ("writing",)
    return ("writing", "forgetting" if quality_of(record) == "forgotten" else "retention")


def _names(role: str, record: Record, config: ForgettingConfig) -> list[str]:
    """The readings that a role takes of a record."""
    from safewright.judges.rating import SCORES

    return [PPL] if role == FLUENCY else [n for aspect in _aspects(record, config) for n in SCORES[aspect]]


def _kept(record: Record, about: Mapping[str, Read]) -> Record:
    """The record with some readings as scores, and in its meta."""
    readings = {**(record.meta.get(READ) or {}), **about}
    marked = dataclasses.replace(record, meta={**record.meta, READ: dict(about)})
    return dataclasses.replace(with_readings(marked), meta={**record.meta, READ: readings})


def _rated(
    records: Sequence[Record],
    models: Mapping[str, Loaded],
    run: Run,
    progress: Progress,
    config: ForgettingConfig,
) -> list[dict[str, Read]]:
    """The ratings of each record; every reply is written down as it arrives."""
    from safewright.judges.rating import RatingItem, RatingJudge

    judge = RatingJudge(models[RUBRIC])
    (model,) = judge.models
    found: list[dict[str, Read]] = [{} for _ in records]
    items = [
        (place, RatingItem(_question(record), _answer(record), aspect, record.reference))
        for place, record in enumerate(records)
        for aspect in _aspects(record, config)
    ]
    release = model.calls.attach(run.rows("calls", FIELDS), lambda row: run.append("calls", row))
    try:
        for begin in range(0, len(items), TOGETHER):
            part = items[begin : begin + TOGETHER]
            ratings = run_sync(judge.rate([item for _, item in part]))
            for (place, _), rating in zip(part, ratings, strict=True):
                for name, value in rating.scores.items():
                    found[place][name] = {
                        "value": None if value is None else float(value),
                        "status": rating.status,
                        "why": "" if rating.status == "ok" else f"{name}: {rating.why}",
                        "model": model.ref.digest,
                    }
            progress("rating", min(begin + TOGETHER, len(items)), len(items))
    finally:
        release()
    return found


def _fluency(
    records: Sequence[Record],
    models: Mapping[str, Loaded],
    run: Run,
    progress: Progress,
    config: ForgettingConfig,
) -> list[dict[str, Read]]:
    """The perplexity of each record's answer."""
    loaded, own = models[FLUENCY], _reader(FLUENCY, models)
    found: list[dict[str, Read]] = []
    for begin in range(0, len(records), TOGETHER):
        said = run.step(*_step(loaded, records[begin : begin + TOGETHER]))
        found += [{PPL: {**about, **own}} for about in said]
        progress("reading", len(found), len(records))
    return found


def _step(loaded: Loaded, records: Sequence[Record]) -> tuple[dict[str, Any], Callable[[], list[Read]]]:
    """The key of reading some answers, and the work."""
    texts = [(_question(record), _answer(record)) for record in records]
    key = {"step": "perplexity", "version": "1", "model": loaded.ref.digest, "texts": digest_json(texts)}
    return key, lambda: perplexities(loaded, texts)


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
