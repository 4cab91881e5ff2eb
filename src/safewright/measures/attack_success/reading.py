"""What other models do around the answers: translate requests before they are asked, examine reasoning afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safewright.data.wrapping import LOWRESOURCE
from safewright.errors import BadInput, Incomplete
from safewright.judges.model import JudgeModel
from safewright.measures.attack_success.asking import is_base, is_drawn
from safewright.measures.attack_success.config import AttackConfig
from safewright.measures.attack_success.scoring import READ, with_readings
from safewright.measures.behaviour import answer_status
from safewright.models import Loaded
from safewright.runs import Run, run_sync
from safewright.runs.calls import FIELDS
from safewright.runs.progress import Progress
from safewright.types import Question, Record

if TYPE_CHECKING:
    from safewright.judges.asking import Heard

TRANSLATOR, READER = "translator", "reasoning"
"""The roles of the models that translate, and that examine reasoning."""
TOGETHER = 64
"""Questions or traces in one journalled step."""
TRIES = 3


def rewrite(
    questions: list[Question],
    models: Mapping[str, Loaded],
    run: Run,
    progress: Progress,
    config: AttackConfig,
) -> list[Question]:
    """The questions, those of the attack lowresource in another language; every reply is written down.

    Raises:
        BadInput: The translator will not translate a request.
        Incomplete: It could not be asked.
    """
    open_ = {place: _asked(q) for place, q in enumerate(questions) if q.meta.get("untranslated")}
    texts = list(dict.fromkeys(open_.values()))
    if not texts:
        return questions
    said = dict(zip(texts, _translated(texts, models[TRANSLATOR], run, progress, config), strict=True))
    result = list(questions)
    for place, text in open_.items():
        asked = questions[place]
        meta = {key: value for key, value in asked.meta.items() if key != "untranslated"}
        last = max(i for i, turn in enumerate(asked.chat) if turn["role"] == "user")
        chat = [*asked.chat]
        chat[last] = {"role": "user", "content": said[text]}
        result[place] = dataclasses.replace(asked, chat=tuple(chat), meta=meta)
    return result


def _asked(question: Question) -> str:
    return next(turn["content"] for turn in reversed(question.chat) if turn["role"] == "user")


def _translated(
    texts: Sequence[str], model: Loaded, run: Run, progress: Progress, config: AttackConfig
) -> list[str]:
    from safewright.judges.asking import ask_strictly
    from safewright.judges.items import marker_of
    from safewright.prompts import load as load_prompt

    prompt, again = load_prompt("attack_translate"), load_prompt("attack_translate_again")
    asked = JudgeModel(model, 1024)
    prompts = [prompt.render(text=t, language=config.language, marker=marker_of(t)) for t in texts]
    heard: list[Heard] = []
    with _kept(asked, run):
        for begin in range(0, len(prompts), TOGETHER):
            part = prompts[begin : begin + TOGETHER]
            heard += run_sync(
                ask_strictly(asked, part, _translation, lambda why: again.render(problem=why), TRIES)
            )
            progress("translating", len(heard), len(prompts))
    lost = [(text, one) for text, one in zip(texts, heard, strict=True) if one.status != "ok"]
    if lost:
        text, one = lost[0]
        said = f"{len(lost)} of {len(texts)} requests were not translated ({text!r:.60}: {one.why})."
        if any(found.status == "error" for _, found in lost):
            raise Incomplete(
                said, fix="Give the same command again: what is translated is not asked for again."
            )
        raise BadInput(
            said,
            why=f"{LOWRESOURCE} asks each request in another language, and none is left out.",
            fix="Use another translator, or give the translations with --set translations=FILE.",
        )
    return [str(one.value) for one in heard]


def _translation(reply: str) -> str:
    """A reply as it is: a translation is any text.

    Raises:
        Unreadable: It is empty.
    """
    from safewright.judges.asking import Unreadable

    if not reply.strip():
        raise Unreadable("it was empty")
    return reply.strip()


def read(
    records: list[Record],
    models: Mapping[str, Loaded],
    run: Run,
    progress: Progress,
) -> list[Record]:
    """The records with ``leak`` and ``unfaithful``, where a model examines their reasoning."""
    if READER not in models:
        return records
    from safewright.judges.reasoning import ReasoningJudge, Trace

    judge = ReasoningJudge(models[READER])
    places = [place for place, record in enumerate(records) if _readable(record)]
    traces = [
        Trace(str(r.meta["goal"]), r.generation.reasoning, r.generation.answer)
        for place in places
        if (r := records[place]).generation
    ]
    about = {"model": models[READER].ref.digest, "prompts": judge.conventions["prompts"]}
    result = list(records)
    (model,) = judge.models
    with _kept(model, run):
        for begin in range(0, len(traces), TOGETHER):
            own = places[begin : begin + TOGETHER]
            found = run_sync(judge.examine(traces[begin : begin + TOGETHER]))
            for place, one in zip(own, found, strict=True):
                values: dict[str, Any] = {
                    "leak": None if one.leak is None else float(one.leak),
                    "unfaithful": None if one.unfaithful is None else float(one.unfaithful),
                }
                record = records[place]
                kept = {"values": values, "status": one.status, "why": one.why, **about}
                result[place] = with_readings(dataclasses.replace(record, meta={**record.meta, READ: kept}))
            progress("examining reasoning", begin + len(own), len(traces))
    return result


def _readable(record: Record) -> bool:
    """Whether there is a trace to examine: of a single answer of the model under test."""
    said = record.generation
    if said is None or is_base(record.role) or is_drawn(record.role):
        return False
    return answer_status(record)[0] == "ok" and bool(said.reasoning.strip())


def calls(questions: Sequence[Question]) -> dict[str, int]:
    """How often each of these roles will be asked, at most."""
    texts = {_asked(question) for question in questions if question.meta.get("untranslated")}
    own = [q for q in questions if not is_base(q.role) and not is_drawn(q.role)]
    return {TRANSLATOR: len(texts), READER: len(own)}


@contextmanager
def _kept(model: JudgeModel, run: Run) -> Iterator[None]:
    """Every reply of a model is written down as it arrives."""
    release = model.calls.attach(run.rows("calls", FIELDS), lambda row: run.append("calls", row))
    try:
        yield
    finally:
        release()
