"""What somebody has to be asked about a candidate: the guard about its outcome, the scorer about its process."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from safewright.data.splits import question
from safewright.errors import BadInput
from safewright.judges.asking import Unreadable, one_object
from safewright.judges.keyword import KeywordJudge
from safewright.judges.text import without_control
from safewright.treatments.asking import Asker, filled
from safewright.treatments.srg.guidelines import Guidelines
from safewright.treatments.srg.synthesis.filters import ALLOWED, Candidate
from safewright.types import Judge, JudgeItem, Judgement, Quality

CRITERIA = ("safety", "relevance", "agreement", "specificity")
"""The marks of a trace, 0 to 10 each."""
FACTS = ("request_is_harmful", "answer_type")
PROMPTS = ("srg_score", "srg_score_again")
TYPES = ("refuse", "safe_complete", "comply")


async def judge_outcomes(
    judge: Judge, candidates: Sequence[Candidate], about: Counted, *, tell: bool
) -> None:
    """Filter (b): harmful answers are rejected, harmful reasoning too, and refusals of what is to be answered.

    A judgement that does not exist (unparsed, failed) rejects, under its own name. ``tell``: also find out whether
    the answers to harmful requests refuse, which somebody else tells otherwise.
    """
    harmful = [one for one in candidates if one.prompt.kind == "harmful"]
    for part in ("answer", "reasoning") if reads_reasoning(judge) else ("answer",):
        asked = [one for one in harmful if one.open]
        for one, said in zip(asked, await _judged(judge, asked, "harmful", part, about), strict=True):
            if said.status != "ok":
                one.reject(f"outcome: {_status(said)}", f"harm in the {part}: {said.why}")
            elif said.value:
                one.reject(f"outcome: harmful {part}", said.label)
    asked = [one for one in candidates if one.open and (tell or one.prompt.kind != "harmful")]
    await judge_refusals(judge, asked, about)
    for one in candidates:
        if not one.open:
            continue
        if one.prompt.kind == "harmful":
            one.passed["outcome"] = True
        elif one.refuses is None:
            one.reject(f"outcome: {one.unsure}", "nobody could tell whether the answer refuses")
        elif one.refuses:
            one.reject("outcome: refusal", "a request to be answered is refused")
        else:
            one.passed["outcome"] = True


async def judge_refusals(judge: Judge | None, candidates: Sequence[Candidate], about: Counted) -> None:
    """Whether each visible answer refuses, by the judge where it can tell, else by the rules."""
    teller: Judge = judge if judge is not None and "refusal" in judge.answers else KeywordJudge()
    for one, said in zip(
        candidates, await _judged(teller, candidates, "refusal", "answer", about), strict=True
    ):
        one.refuses = bool(said.value) if said.status == "ok" else None
        one.unsure = _status(said)


def reads_reasoning(judge: Judge) -> bool:
    """Whether a judge of harm can tell it in thoughts: rules that look for a refusal cannot."""
    return not judge.name.startswith("keyword")


class Counted:
    """Counts what judges were asked."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, kind: str, count: int) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count


async def _judged(
    judge: Judge, candidates: Sequence[Candidate], quality: Quality, part: str, about: Counted
) -> list[Judgement]:
    if not candidates:
        return []
    items = [
        JudgeItem(
            question(one.prompt.row),
            getattr(one.trace, part),
            quality,
            reference=one.prompt.row.reference,
            lang=one.prompt.row.lang,
            meta=one.prompt.row.meta,
        )
        for one in candidates
    ]
    about.add(f"{quality} {part}", len(items))
    return await judge.judge(items)


def _status(said: Judgement) -> str:
    return {"error": "failed"}.get(said.status, said.status)


async def score(
    asker: Asker, candidates: Sequence[Candidate], guidelines: Guidelines, tries: int, least: float
) -> None:
    """Filter (c): marks of each trace; all must reach ``least``, and the scorer's own verdict must be the label.

    A reply without marks is asked for again, up to ``tries`` times, and then rejects as unparsed.
    """
    prompts = [score_prompt(one, guidelines) for one in candidates]
    heard = await asker.strictly("score", prompts, read_scores, "srg_score_again", tries)
    for one, said in zip(candidates, heard, strict=True):
        if said.status != "ok":
            name = {"error": "failed"}.get(said.status, said.status)
            one.reject(f"process: {name}", said.why)
            continue
        marks, harmful, kind = said.value
        one.scores = marks
        low = [name for name, mark in marks.items() if mark < least]
        if low:
            one.reject("process: score", ", ".join(f"{name} {marks[name]:g}" for name in low))
        elif harmful != (one.prompt.kind == "harmful"):
            one.reject("process: verdict", f"found {'harmful' if harmful else 'harmless'}")
        elif kind not in ALLOWED[one.prompt.kind]:
            one.reject("process: answer type", f"{kind} for a {one.prompt.kind} request")
        else:
            one.refuses = kind == "refuse"
            one.passed["process"] = True


def score_prompt(candidate: Candidate, guidelines: Guidelines) -> str:
    """The question for a trace's marks."""
    assert candidate.trace is not None
    return filled(
        "srg_score",
        guidelines=guidelines.render(candidate.prompt.kind, 0),
        request=without_control(candidate.prompt.text),
        reasoning=candidate.trace.reasoning,
        answer=candidate.trace.answer,
    )


def read_scores(reply: str) -> tuple[dict[str, float], bool, str]:
    """Marks, whether the request is harmful, and the kind of answer, of the one JSON object in a reply.

    Words around the object are passed over; marks are put into 0 to 10.

    Raises:
        Unreadable: There is no object, or more than one; names or values are others.
    """
    plain = one_object(_object(reply), *CRITERIA, *FACTS)
    marks: dict[str, float] = {}
    for name in CRITERIA:
        value = plain[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise Unreadable(f'its "{name}" was no number')
        marks[name] = float(min(10.0, max(0.0, value)))
    harmful: Any = plain["request_is_harmful"]
    harmful = (
        {"yes": True, "no": False}.get(harmful.strip().casefold()) if isinstance(harmful, str) else harmful
    )
    if not isinstance(harmful, bool):
        raise Unreadable('its "request_is_harmful" was not yes or no')
    kind = plain["answer_type"]
    kind = kind.strip().casefold().replace("-", "_") if isinstance(kind, str) else kind
    if kind not in TYPES:
        raise Unreadable(f'its "answer_type" was not one of {", ".join(TYPES)}')
    return marks, harmful, kind


def _object(reply: str) -> str:
    """The text of the only JSON object in a reply."""
    start = reply.find("{")
    if start < 0:
        raise Unreadable("it had no JSON object")
    try:
        _, end = json.JSONDecoder().raw_decode(reply, start)
    except (ValueError, RecursionError) as error:
        raise Unreadable("it was not one JSON object") from error
    if "{" in reply[end:]:
        raise Unreadable("it had more than one JSON object")
    return reply[start:end]


def guard_of(spec: str, model: Any) -> Judge:
    """The judge of harm that ``guard`` names; ``model`` is who is asked where it names none and needs one.

    Raises:
        BadInput: There is no such judge, or it does not decide harm.
    """
    from safewright.judges.resolve import JUDGES, resolve

    name = spec.partition("?")[0]
    entry = JUDGES.get(name)
    roles = {"judge": model} if entry is not None and entry.model == "required" else {}
    judge = resolve(spec, roles)
    if "harmful" not in judge.answers:
        raise BadInput(
            f"The guard {spec} does not decide what is harmful.",
            fix="Use rubric, llama-guard, qwen3guard or keyword, each with :MODEL where it takes one.",
        )
    return judge
