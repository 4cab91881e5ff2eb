"""What is told about a synthesis: records with where they come from, yield by category, reasons, lengths, warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from safewright.data.splits import count_words
from safewright.judges.model import refuses
from safewright.models.estimate import tokens
from safewright.stats import wilson
from safewright.treatments.srg.guidelines import Guidelines
from safewright.treatments.srg.records import OWN, Reasoned, Rejected
from safewright.treatments.srg.synthesis.config import SynthesisOptions
from safewright.treatments.srg.synthesis.filters import Candidate, first_sentence, flat, read_decision
from safewright.treatments.srg.synthesis.pool import UNNAMED, Prompt, PromptPool
from safewright.treatments.srg.synthesis.voices import Voices

if TYPE_CHECKING:
    from safewright.treatments.srg.synthesis.pipeline import State

COLLAPSE = 0.01
"""Share of records with the reasoning of another one from which templates are suspected."""
MOST_UNPARSED = 0.02
"""Share of judged candidates that may be lost to unreadable judgements without a word about it."""
STEPS = ("format", "outcome", "process", "agree", "leak")
"""The filters in their order."""
UNDECIDED = ("failed", "unparsed", "refused")
"""Ends of reasons that say nothing about a candidate: it is no worse than one that was kept."""

Made = tuple[Prompt, Candidate, Reasoned]


def record_of(
    prompt: Prompt,
    best: Candidate,
    candidates: Sequence[Candidate],
    guidelines: Guidelines,
    speakers: Voices,
    options: SynthesisOptions,
    *,
    draft: str | None = None,
) -> Reasoned:
    """The training record of a request: the guidelines and all that the teacher was told are not in it."""
    assert best.trace is not None
    row, model = prompt.row, speakers.teachers[best.teacher].model
    decision, _ = read_decision(best.trace.reasoning, guidelines.verdict)
    # Without the reason that stands behind it: the arms that learn the verdict alone are to learn no reasoning.
    verdict = f"{guidelines.verdict.line} {guidelines.verdict.words[decision]}." if decision else None
    own = [one for one in candidates if one is not best and one.trace is not None and not one.open]
    passed = sum(one.open for one in candidates)
    named = flat(best.trace.reasoning)
    meta = {
        **{key: value for key, value in row.meta.items() if key not in OWN},
        "guideline_set": prompt.kind,
        "guideline_version": guidelines.version,
        "guideline_hash": guidelines.hash,
        "categories": list(prompt.categories) or [one for one in guidelines.categories if flat(one) in named],
        "teacher": model.ref.where if model.remote else model.ref.digest,
        "teacher_role": best.teacher,
        "teacher_params": {
            "temperature": options.temperature,
            "top_p": options.top_p,
            "max_tokens": options.max_tokens,
        },
        "hinted": best.hinted,
        "n_candidates": len(candidates),
        "n_passed": passed,
        "filter": {step: best.passed.get(step) for step in STEPS},
        "scores": best.scores,
        "tokens": {"reasoning": tokens(best.trace.reasoning), "answer": tokens(best.trace.answer)},
        "guard_version": None if speakers.guard is None else guard_version(speakers.guard.conventions),
    }
    return Reasoned(
        id=prompt.id,
        messages=row.prompt,
        type=prompt.kind,
        reasoning=best.trace.reasoning,
        answer=best.trace.answer,
        decision=decision,
        refusal=row.reference if prompt.kind == "harmful" and row.reference else None,
        restated=first_sentence(best.trace.reasoning),
        verdict=verdict,
        draft=draft,
        rejected=tuple(
            Rejected(one.trace.reasoning, one.trace.answer, one.reason)
            for one in own
            if one.trace is not None and not says_nothing(one.reason)
        ),
        lang=row.lang,
        meta=meta,
    )


def guard_version(conventions: Mapping[str, Any]) -> str:
    """What identifies a guard: its model, else its lists or name."""
    return str(conventions.get("model") or conventions.get("version") or conventions.get("judge") or "")


def says_nothing(reason: str) -> bool:
    """Whether a candidate was left out for no fault of its own."""
    step, _, what = reason.partition(": ")
    return step in ("failed", "refused", "overlong") or what in UNDECIDED


def summary(pool: PromptPool, states: Sequence[State], made: Sequence[Made]) -> dict[str, Any]:
    """The manifest's figures."""
    records = [record for _, _, record in made]
    candidates = [one for state in states for one in state.candidates]
    reasons = Counter(one.reason for one in candidates if one.reason)
    counted = Counter(record.type for record in records)
    return {
        "counts": {**dict(sorted(counted.items())), "records": len(records)},
        "left_out": dict(pool.dropped),
        "formatted": pool.formatted,
        "yield": yields(states),
        "candidates": len(candidates),
        "draws_per_request": len(candidates) / len(states) if states else 0.0,
        "rejected": dict(sorted(reasons.items())),
        "dropped": dict(
            sorted(Counter(state.candidates[-1].reason for state in states if not state.passed).items())
        ),
        "hinted": sum(best.hinted for _, best, _ in made),
        "fallback": sum(best.teacher == "fallback" for _, best, _ in made),
        "tokens": lengths(made),
        "warnings": warnings(states, made),
    }


def yields(states: Sequence[State]) -> list[dict[str, Any]]:
    """Requests, records and their share with its interval: of all, then of each kind's categories."""
    groups: dict[tuple[str, str], list[State]] = {("all", ""): list(states)}
    for state in states:
        for category in state.prompt.categories or (UNNAMED,):
            groups.setdefault((state.prompt.kind, category), []).append(state)
    table = []
    for (kind, category), own in groups.items():
        kept = sum(state.passed for state in own)
        interval = wilson(kept, len(own))
        table.append(
            {
                "type": kind,
                "category": category,
                "prompts": len(own),
                "kept": kept,
                "yield": kept / len(own),
                "low": interval.low,
                "high": interval.high,
            }
        )
    return table


def yield_words(table: Sequence[Mapping[str, Any]]) -> str:
    """The table of `yields` in lines."""
    return "\n".join(
        f"{row['type']:>9} {row['category'] or '(all)'}: {row['kept']} of {row['prompts']} "
        f"({row['yield']:.2f} [{row['low']:.2f}, {row['high']:.2f}])"
        for row in table
    )


def lengths(made: Sequence[Made]) -> dict[str, Any]:
    """Tokens of reasoning and answers by kind, roughly, and each kind's share of all that is learned."""
    found: dict[str, Any] = {}
    total = sum(sum(record.meta["tokens"].values()) for _, _, record in made)
    for kind in dict.fromkeys(record.type for _, _, record in made):
        own = [record.meta["tokens"] for _, _, record in made if record.type == kind]
        part = sum(one["reasoning"] + one["answer"] for one in own)
        found[kind] = {
            "records": len(own),
            "reasoning_mean": mean(one["reasoning"] for one in own),
            "reasoning_p95": _quantile([one["reasoning"] for one in own], 0.95),
            "answer_mean": mean(one["answer"] for one in own),
            "answer_p95": _quantile([one["answer"] for one in own], 0.95),
            "share_of_tokens": part / total if total else 0.0,
        }
    return found


def _quantile(values: Sequence[int], share: float) -> int:
    """The least value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def warnings(states: Sequence[State], made: Sequence[Made]) -> list[str]:
    """What whoever trains on the records should know."""
    found = []
    times = Counter(flat(record.reasoning) for _, _, record in made)
    same = sum(count for count in times.values() if count > 1)
    if made and same / len(made) > COLLAPSE:
        text, most = times.most_common(1)[0]
        found.append(
            f"{same} of {len(made)} records ({same / len(made):.1%}) have the very reasoning of another one "
            f"(most often, {most} times: {text[:60]!r}): the teacher fills in a template"
        )
    hinted = sum(best.hinted for _, best, _ in made)
    if hinted:
        found.append(f"{hinted} of {len(made)} records were written by a teacher that was told the label")
    failed = sum(any(one.failed for one in state.candidates) for state in states if not state.passed)
    if failed:
        found.append(
            f"{failed} of {len(states)} requests have no record because calls failed: give the command again"
        )
    judged = [one for state in states for one in state.candidates if "format" in one.passed]
    judged = [one for one in judged if one.passed["format"]]
    unparsed = sum(one.reason.endswith(": unparsed") for one in judged)
    if unparsed > MOST_UNPARSED * len(judged):
        found.append(
            f"{unparsed} of {len(judged)} judged candidates ({unparsed / len(judged):.1%}) were rejected because a "
            "judge's replies could not be read: it may be too small for its task"
        )
    kinds = {prompt.kind for prompt, _, _ in made}
    if made and "harmful" not in kinds:
        found.append("no record teaches to refuse: there are no harmful requests")
    if made and "harmful" in kinds and len(kinds) == 1:
        found.append(
            "every record is of a harmful request: without helpful ones a model learns to refuse all"
        )
    willing = [
        record.id for _, _, record in made if record.refusal is not None and not refuses(record.refusal)
    ]
    if willing:
        found.append(
            f"the answers that {len(willing)} harmful rows came with are no refusals by our rules (first: "
            f"{willing[0]}): target=rt learns them as they are"
        )
    words = [count_words(record.reasoning) for _, _, record in made]
    if words and mean(words) < 10:
        found.append(f"the reasoning has {mean(words):.1f} words on average: hardly any")
    return found


def about_yield(manifest: Mapping[str, Any], dropped: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a run keeps of a synthesis, passed or not."""
    kept = {key: manifest[key] for key in ("yield", "rejected", "dropped", "left_out", "warnings")}
    return {**kept, "requests": [{"id": one["id"], "reason": one["reason"]} for one in dropped]}
