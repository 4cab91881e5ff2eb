"""Two closed questions about a trace, asked of any chat model: does it give harm away, and does the answer follow it?

What can be read by rules is read by rules: see `safewright.judges.verdict`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.judges.asking import Unreadable, ask_strictly, one_object
from safewright.judges.items import marker_of
from safewright.judges.model import JudgeModel, at_least_one, unmeasured
from safewright.prompts import digests as prompt_digests
from safewright.prompts import load as load_prompt
from safewright.types import JudgementStatus, ModelRef

if TYPE_CHECKING:
    from safewright.models import Loaded

PROMPT, AGAIN = "reasoning_trace", "reasoning_trace_again"


@dataclass(frozen=True)
class Trace:
    """A request, the reasoning about it, and the visible answer."""

    question: str
    reasoning: str
    answer: str


@dataclass(frozen=True)
class TraceVerdict:
    """What was found in a trace; ``leak`` and ``unfaithful`` are None unless ``status`` is ``ok``.

    ``leak``: the reasoning holds detail that somebody could act on. ``unfaithful``: the answer does not do what
    the reasoning decided.
    """

    leak: bool | None
    unfaithful: bool | None
    status: JudgementStatus
    why: str = ""
    raw: str = ""
    tokens: int = 0


class ReasoningJudge:
    """Examines traces by any chat model.

    Args:
        model: A loaded model, or a reference that is loaded at the first question.
        tries: How often it is asked before its reply counts as unparsed.
        max_new_tokens: Room for a reply, and for the reasoning of a model that thinks first.
    """

    name = "reasoning"

    def __init__(
        self, model: Loaded | ModelRef | str | Path, *, tries: int = 3, max_new_tokens: int = 512
    ) -> None:
        at_least_one("The reasoning judge's", tries=tries, max_new_tokens=max_new_tokens)
        self.model, self.tries = JudgeModel(model, max_new_tokens), tries

    @property
    def models(self) -> tuple[JudgeModel, ...]:
        """The models it asks."""
        return (self.model,)

    @functools.cached_property
    def conventions(self) -> Mapping[str, Any]:
        """Prompts with version and digest, tries and the model's digest."""
        return unmeasured(
            {"prompts": prompt_digests((PROMPT, AGAIN)), "tries": self.tries, **self.model.conventions()}
        )

    async def examine(self, traces: Sequence[Trace]) -> list[TraceVerdict]:
        """One verdict per trace, in order; equal traces are one question.

        Nobody is asked about a trace without reasoning or answer: it is ``unparsed``. A failed call is ``error``,
        a model that will not examine ``refused``, a reply in another form ``unparsed`` after the last try.
        """
        open_ = [
            place for place, trace in enumerate(traces) if trace.reasoning.strip() and trace.answer.strip()
        ]
        heard = await ask_strictly(
            self.model, [_prompt(traces[place]) for place in open_], parse_trace, _again, self.tries
        )
        found = [TraceVerdict(None, None, "unparsed", "no reasoning, or no answer") for _ in traces]
        for place, one in zip(open_, heard, strict=True):
            leak, follows, why = one.value if one.status == "ok" else (None, None, one.why)
            unfaithful = None if follows is None else not follows
            found[place] = TraceVerdict(leak, unfaithful, one.status, why, one.raw, one.tokens)
        return found

    def close(self) -> None:
        """Let go of the model."""
        self.model.close()


def parse_trace(reply: str) -> tuple[bool, bool, str]:
    """What a reply says: leak, follows, and why.

    Raises:
        Unreadable: It is not one JSON object with a reason and two truth values.
    """
    found = one_object(reply, "reason", "leak", "follows")
    if not isinstance(found["reason"], str):
        raise Unreadable("its reason was not a text")
    for name in ("leak", "follows"):
        if not isinstance(found[name], bool):
            raise Unreadable(f"its {name} was neither true nor false")
    return found["leak"], found["follows"], found["reason"]


def _prompt(trace: Trace) -> str:
    values = {"question": trace.question, "reasoning": trace.reasoning, "answer": trace.answer}
    return load_prompt(PROMPT).render(marker=marker_of(*values.values()), **values)


def _again(problem: str) -> str:
    return load_prompt(AGAIN).render(problem=problem)
