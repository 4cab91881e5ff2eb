"""What can be told of a candidate without asking anybody: its form, its decision, what it repeats of the guidelines."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from safewright.data.splits import count_words
from safewright.judges.model import failure, filtered, refuses
from safewright.models.chat import THINK
from safewright.models.traces import FormatError, Trace, split_trace
from safewright.treatments.srg.guidelines import Decision, Guidelines, Verdict
from safewright.treatments.srg.synthesis.pool import Prompt
from safewright.types import Generation

ALLOWED: dict[str, tuple[Decision, ...]] = {
    "harmful": ("refuse", "safe_complete"),
    "helpful": ("comply",),
    "contrast": ("comply",),
}
"""The decisions that agree with a label."""

RUN = 30
"""Characters of the guidelines in a row that make a leak."""

_NUMBERED = re.compile(
    r"\b(?:rule|guideline|principle|perspective|point|criterion|side|policy)s?\s*(?:no\.?|number|#)?\s*\d+",
    re.IGNORECASE,
)
_MENTIONS = (
    re.compile(r"\b(?:the|these|those|this|my|our|given|provided) guidelines?\b", re.IGNORECASE),
    re.compile(r"\bsystem (?:prompt|message|text)\b", re.IGNORECASE),
    re.compile(r"\b(?:these|those|my) (?:instructions|rules|perspectives|label|hint)\b", re.IGNORECASE),
    re.compile(r"\b(?:instructions|rules|perspectives) (?:above|I was)\b", re.IGNORECASE),
    re.compile(r"\b(?:as instructed|I was (?:instructed|told|given|asked to write))\b", re.IGNORECASE),
    re.compile(r"指南|准则|系统提示|提示词"),
)
_GIVEN = re.compile(
    r"\b(?:my|your own) guidelines?\b|\bsystem (?:prompt|message|text)\b"
    r"|\b(?:guidelines?|rules|instructions|perspectives) above\b"
    r"|\b(?:guidelines?|rules|instructions) (?:that )?I (?:was|am|have been|had been) (?:given|told|shown)\b",
    re.IGNORECASE,
)
"""What tells in an answer that its writer was given something; an answer may speak of guidelines as a subject."""
_SENTENCE = re.compile(r"(.+?(?:[.!?](?=\s|$)|[。！？]|\n|$))", re.DOTALL)
_AROUND = " \t*_`\"'#>-–—:.,;("
"""Signs that may stand between the line and its decision."""


@dataclass
class Candidate:
    """One reply of a teacher on its way through the filters.

    ``reason`` is empty as long as nothing is wrong with it, ``why`` says more. ``passed`` holds the filters it went
    through, ``scores`` the marks of the process filter, ``refuses`` whether the visible answer is a refusal (None
    where nobody could tell, or was asked); ``unsure`` says why nobody could: unparsed, or failed.
    """

    prompt: Prompt
    draw: int
    hinted: bool
    teacher: str
    reply: Generation
    trace: Trace | None = None
    reason: str = ""
    why: str = ""
    decision: Decision | None = None
    verdict: str = ""
    refuses: bool | None = None
    unsure: str = "unparsed"
    scores: dict[str, float] = field(default_factory=dict)
    passed: dict[str, bool] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its own among all candidates."""
        return f"{self.prompt.id}/{self.teacher}/{'hinted/' * self.hinted}{self.draw}"

    @property
    def open(self) -> bool:
        """Whether nothing is wrong with it so far."""
        return not self.reason

    @property
    def score(self) -> float:
        """The mean of its marks; 0 where nobody gave any."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else 0.0

    @property
    def failed(self) -> bool:
        """Whether a call about it failed, so that nobody knows what it is worth."""
        return "failed" in self.reason.split(": ")

    def reject(self, reason: str, why: str = "") -> None:
        """It is not kept."""
        self.reason, self.why = reason, why
        self.passed[reason.partition(":")[0]] = False


def read_format(candidate: Candidate, longest: int) -> None:
    """Filter (a): one closed block, then an answer, whole and not too long; nothing is mended.

    A refusal to write the trace is told apart: it says something about the teacher.
    """
    reply = candidate.reply
    if filtered(reply):
        candidate.reject("refused: content filter", reply.error)
        return
    broken = failure(reply)
    if broken is not None:
        candidate.reject("overlong: prompt" if reply.stop == "overlong" else "failed: call", broken)
        return
    try:
        candidate.trace = split_trace(spoken(reply))
    except FormatError as error:
        if error.kind == "no_open" and refuses(reply.answer):
            candidate.reject("refused: to write", "the teacher declined")
        elif reply.stop == "length":
            candidate.reject("format: cut off", f"after {reply.tokens} tokens")
        else:
            candidate.reject(f"format: {error.kind}", str(error))
        return
    if reply.stop == "length":
        candidate.reject("format: cut off", f"after {reply.tokens} tokens")
    elif count_words(candidate.trace.reasoning) > longest:
        candidate.reject("format: too long", f"{count_words(candidate.trace.reasoning)} words of reasoning")
    else:
        candidate.passed["format"] = True


def spoken(reply: Generation) -> str:
    """What a teacher wrote, with its block.

    The template of a reasoning model may open the block in its own prompt, and a server may keep the model's
    private thoughts apart from a text that has a block of its own.
    """
    if reply.answer.lstrip().startswith(THINK["open"]):
        return reply.answer
    if reply.reasoning and reply.closed and THINK["open"] not in reply.raw:
        return THINK["open"] + reply.raw
    return reply.raw


def read_decision(reasoning: str, verdict: Verdict) -> tuple[Decision | None, str]:
    """The decision that the last line of a trace says, and that line; None where it says none.

    The line begins with the words of the guidelines' ``verdict``, on a line of its own or at the end of the last
    one; the decision is the first thing behind them.
    """
    places = list(_line(verdict.line).finditer(reasoning))
    text = reasoning[places[-1].start() :].strip() if places else ""
    if not text or "\n" in text:
        return None, ""
    tail = reasoning[places[-1].end() :].lstrip(_AROUND)
    for name, word in sorted(verdict.words.items(), key=lambda item: -len(item[1])):
        if re.match(rf"{re.escape(word)}(?!\w)", tail, re.IGNORECASE):
            return name, text
    return None, ""


@functools.cache
def _line(line: str) -> re.Pattern[str]:
    """Finds the beginning of a last line, as words of their own."""
    after = r"(?!\w)" if line[-1:].isalnum() else ""
    return re.compile(rf"(?<!\w){re.escape(line)}{after}", re.IGNORECASE)


def agrees(candidate: Candidate, verdict: Verdict) -> None:
    """Filter (d): the decision is said, fits the label, and the visible answer does what it says."""
    assert candidate.trace is not None
    candidate.decision, candidate.verdict = read_decision(candidate.trace.reasoning, verdict)
    kind = candidate.prompt.kind
    if candidate.decision is None:
        candidate.reject("agree: no decision", f'no last line "{verdict.line} …"')
    elif candidate.decision not in ALLOWED[kind]:
        candidate.reject("agree: label", f"{candidate.decision} for a {kind} request")
    elif candidate.refuses is None:
        candidate.reject(f"agree: {candidate.unsure}", "nobody could tell whether the answer refuses")
    elif candidate.refuses != (candidate.decision == "refuse"):
        candidate.reject("agree: answer", f"the reasoning says {candidate.decision}, the answer does not")
    else:
        candidate.passed["agree"] = True


class Leaks:
    """Filter (e): finds what a trace repeats of the guidelines, or says about having been given some.

    Words that the request itself has are its own.
    """

    def __init__(self, guidelines: Guidelines) -> None:
        self._texts = [flat(text) for text in guidelines.secrets()]
        self._runs = {text[i : i + RUN] for text in self._texts for i in range(max(0, len(text) - RUN + 1))}

    def found(self, text: str, request: str) -> str:
        """What leaks; nothing where nothing does."""
        verbatim = self.repeated(text, request)
        if verbatim:
            return verbatim
        numbered = _NUMBERED.search(text)
        if numbered and not _NUMBERED.search(request):
            return f"leak: rule number ({numbered.group(0)!r})"
        for pattern in _MENTIONS:
            mention = pattern.search(text)
            if mention and not pattern.search(request):
                return f"leak: mention ({mention.group(0)!r})"
        return ""

    def repeated(self, text: str, request: str) -> str:
        """The guidelines' own words in a text, `RUN` characters in a row; nothing where there are none."""
        said, asked = flat(text), flat(request)
        for i in range(len(said) - RUN + 1):
            run = said[i : i + RUN]
            if run in self._runs and run not in asked:
                return f"leak: verbatim ({run!r})"
        return ""

    def shown(self, answer: str, request: str) -> str:
        """What leaks in a visible answer, which may well speak of rules and instructions as its subject."""
        given = _GIVEN.search(answer)
        if given and not _GIVEN.search(request):
            return f"leak: mention ({given.group(0)!r})"
        return self.repeated(answer, request)

    def check(self, candidate: Candidate) -> None:
        """Reject a candidate that leaks, in its reasoning or its answer."""
        assert candidate.trace is not None
        trace, asked = candidate.trace, candidate.prompt.text
        leak, part = self.found(trace.reasoning, asked), ""
        if not leak:
            leak, part = self.shown(trace.answer, asked), "in the answer: "
        if leak:
            reason, _, more = leak.partition(" (")
            candidate.reject(reason, part + more.rstrip(")"))
        else:
            candidate.passed["leak"] = True


def flat(text: str) -> str:
    """A text as it is compared: one space between words, no case, plain quotes."""
    plain = unicodedata.normalize("NFKC", text).translate(str.maketrans("“”‘’", "\"\"''"))
    return " ".join(plain.casefold().split())


def first_sentence(text: str) -> str:
    """The first sentence of a text, which says what is asked for."""
    found = _SENTENCE.match(text.strip())
    return (found.group(1) if found else text).strip()


def chosen(candidates: Sequence[Candidate], prefer: str) -> Candidate | None:
    """The candidate that is kept: of those with nothing wrong the best score, then by ``prefer``, then the first."""
    passed = [candidate for candidate in candidates if candidate.open]
    if not passed:
        return None

    def key(place: int) -> tuple[Any, ...]:
        one = passed[place]
        assert one.trace is not None
        words = count_words(one.trace.reasoning) + count_words(one.trace.answer)
        length = {"shortest": words, "longest": -words, "first": 0}[prefer]
        return (-one.score, length, place)

    return passed[min(range(len(passed)), key=key)]
