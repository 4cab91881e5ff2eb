"""What a synthesis will ask, before it asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safewright.data import LoadedData
from safewright.models.estimate import estimate as estimate_model
from safewright.models.estimate import tokens
from safewright.treatments.asking import user
from safewright.treatments.srg.guidelines import Guidelines
from safewright.treatments.srg.synthesis.config import SynthesisOptions, options_of
from safewright.treatments.srg.synthesis.pool import PromptPool, prompt_pool
from safewright.treatments.srg.synthesis.voices import synthesis_prompt
from safewright.types import Chat, ModelRef

ANSWER = 150
"""Tokens of an answer, about."""
MARKS = 60
"""Tokens of a scorer's or guard's reply, about."""
PER_WORD = 1.4
"""Tokens of a word, about."""


def estimate(models: Mapping[str, ModelRef], data: Mapping[str, LoadedData], config: Any) -> dict[str, float]:
    """Calls and tokens of teacher, guard and scorer, the teacher's memory and time here, and money at given prices.

    ``calls`` is what is asked if the first draws of every request pass, ``calls_at_most`` if none ever does. Tokens
    are those of ``calls``. Empty where nobody is asked.
    """
    options = options_of(config)
    own = "student" if options.teacher_self else "teacher"
    rows = [data[role].rows if role in data else () for role in ("harmful", "helpful", "contrast")]
    if own not in models or not any(rows):
        return {}
    pool = prompt_pool(*rows, share=options.formats)
    guidelines = Guidelines.load(options.guidelines)
    draws = first_draws(options)
    chats: list[Chat] = [
        [user(synthesis_prompt(prompt, guidelines, options, hinted=False))] for prompt in pool.prompts
    ]
    reply = int(PER_WORD * (options.least_words + options.most_words) / 2) + ANSWER
    found = estimate_model(models[own], chats, reply, options.at_once)
    calls, most = least_calls(pool, options), most_calls(pool, options, "fallback" in models)
    written = draws * len(chats)
    asked = calls - written
    shown = max((tokens(guidelines.render(kind, 0)) for kind in pool.counts()), default=0)
    prompt_tokens = draws * found.prompt_tokens + asked * (shown + reply + 2 * MARKS)
    new_tokens = written * reply + asked * MARKS
    said = {
        "calls": float(calls),
        "calls_at_most": float(most),
        "prompt_tokens": float(prompt_tokens),
        "new_tokens": float(new_tokens),
    }
    if options.price_in is not None or options.price_out is not None:
        paid = prompt_tokens * (options.price_in or 0.0) + new_tokens * (options.price_out or 0.0)
        said["cost"] = paid / 1e6
        said["cost_at_most"] = said["cost"] * most / calls
    if found.memory_bytes:
        said["memory_bytes"] = float(found.memory_bytes)
    if found.seconds is not None:
        said["seconds"] = found.seconds * draws
    return said


def first_draws(options: SynthesisOptions) -> int:
    """Candidates of a request in its first round."""
    return min(options.draws, options.k) if options.adaptive_k else options.k


def per_candidate(kind: str, options: SynthesisOptions) -> tuple[int, int]:
    """What is asked about a candidate that passes everything, and at most about any."""
    from safewright.judges.resolve import JUDGES

    entry = JUDGES.get(options.guard.partition("?")[0].partition(":")[0])
    guards = asks_guard(options)
    tells = entry is None or "refusal" in entry.answers
    process = options.filter == "process"
    harmful = 2 + int(tells and options.agree and not process)
    judged = guards * (harmful if kind == "harmful" else int(tells))
    return judged + process, judged + process * options.score_tries


def least_calls(pool: PromptPool, options: SynthesisOptions) -> int:
    """Calls if the first draws of every request pass."""
    draws = first_draws(options)
    drafts = sum(count * per_draft(kind, options) for kind, count in pool.counts().items())
    return drafts + sum(
        count * draws * (1 + per_candidate(kind, options)[0]) for kind, count in pool.counts().items()
    )


def most_calls(pool: PromptPool, options: SynthesisOptions, fallback: bool) -> int:
    """Calls if no candidate ever passes at its last filter."""
    draws = options.k * (1 + (options.hinted == "second")) + (first_draws(options) if fallback else 0)
    drafts = sum(count * per_draft(kind, options) for kind, count in pool.counts().items())
    return drafts + sum(
        count * draws * (1 + per_candidate(kind, options)[1]) for kind, count in pool.counts().items()
    )


def per_draft(kind: str, options: SynthesisOptions) -> int:
    """Calls for the draft of a request: its own, and the guard's."""
    return int(options.drafts and kind == "harmful") * (1 + asks_guard(options))


def asks_guard(options: SynthesisOptions) -> bool:
    """Whether judging an outcome asks a model."""
    from safewright.judges.resolve import JUDGES

    entry = JUDGES.get(options.guard.partition("?")[0].partition(":")[0])
    return options.filter != "none" and (entry is None or entry.model != "none")
