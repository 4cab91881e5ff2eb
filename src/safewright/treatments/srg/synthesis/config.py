"""Options of the synthesis of reasoning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safewright.errors import BadInput
from safewright.treatments.bounds import check_calls

DEFAULT = "default"
"""Names the guidelines that come with this package."""


def _help(text: str, **more: Any) -> dict[str, Any]:
    return {"help": text, **more}


@dataclass(frozen=True)
class SynthesisOptions:
    """Options of `safewright treat srg synthesize`; `treat srg` has them too."""

    guidelines: str = field(
        default="default",
        metadata=_help("Guidelines the teacher reasons by: default, or a YAML file.", decides=False),
    )
    teacher_self: bool = field(
        default=False, metadata=_help("The student itself writes the reasoning: no teacher is given.")
    )
    k: int = field(default=8, metadata=_help("Most candidates drawn for each prompt."))
    adaptive_k: bool = field(
        default=True, metadata=_help("Draw no more for a prompt once a candidate has passed; else all k.")
    )
    draws: int = field(default=2, metadata=_help("Candidates of a prompt drawn at once (adaptive_k)."))
    temperature: float = field(default=0.7, metadata=_help("Sampling temperature of the teacher."))
    top_p: float = field(default=0.95, metadata=_help("Nucleus of the teacher's sampling."))
    max_tokens: int = field(default=4096, metadata=_help("Room for a candidate, reasoning and answer."))
    cases: int = field(default=2, metadata=_help("Most cases of the guidelines shown in a prompt: 0 to 2."))
    least_words: int = field(default=80, metadata=_help("Words of reasoning asked for, at least."))
    most_words: int = field(default=250, metadata=_help("Words of reasoning asked for, at most."))
    longest: int = field(
        default=500, metadata=_help("Words of reasoning beyond which a candidate is rejected.")
    )
    hinted: Literal["second", "never", "always"] = field(
        default="second",
        metadata=_help(
            "When the teacher is told the label: for prompts of which no candidate passed, or so."
        ),
    )
    filter: Literal["process", "outcome", "none"] = field(
        default="process",
        metadata=_help(
            "none: format, decision (agree) and leaks; outcome: also the guard and refusals; process: also scores."
        ),
    )
    agree: bool = field(
        default=True, metadata=_help("Reject a candidate whose decision and visible answer disagree.")
    )
    min_score: float = field(
        default=8.0, metadata=_help("Least score of each of the four criteria, 0 to 10 (filter=process).")
    )
    score_by: Literal["auto", "judge", "teacher", "student"] = field(
        default="auto",
        metadata=_help("Who scores a trace; auto is the judge where one is given, else the teacher."),
    )
    score_tries: int = field(
        default=3, metadata=_help("Questions for readable scores before a candidate is rejected as unparsed.")
    )
    score_tokens: int = field(default=1024, metadata=_help("Room for each reply of a scorer or guard."))
    guard: str = field(
        default="rubric",
        metadata=_help(
            "Judge of harm in answers: rubric asks the scoring model; or a judge's name, or a guard model."
        ),
    )
    prefer: Literal["shortest", "first", "longest"] = field(
        default="shortest", metadata=_help("Which candidate is kept among those of equal score.")
    )
    drafts: bool = field(
        default=False,
        metadata=_help(
            "Also ask for one sentence of what a full reply to a harmful request would hold; "
            "target=answer_then_check needs it, and asks."
        ),
    )
    formats: float = field(
        default=0.25, metadata=_help("Share of helpful rows put into unusual formats (role-play, code, …).")
    )
    min_yield: float = field(
        default=0.5, metadata=_help("Share of prompts that must get a trace.", decides=False)
    )
    max_refusing: float = field(
        default=0.3,
        metadata=_help("Share of prompts a teacher may refuse to write for.", decides=False),
    )
    at_once: int | None = field(
        default=None, metadata=_help("Requests to a served model at once.", decides=False)
    )
    call_timeout: float | None = field(
        default=None, metadata=_help("Seconds for one such request.", decides=False)
    )
    call_store: str | None = field(
        default=None, metadata=_help("Folder that keeps received replies for later runs.", decides=False)
    )
    price_in: float | None = field(
        default=None, metadata=_help("Price of a million prompt tokens, for the estimate.", decides=False)
    )
    price_out: float | None = field(
        default=None, metadata=_help("Price of a million reply tokens, for the estimate.", decides=False)
    )

    def __post_init__(self) -> None:
        check(self)

    def inputs(self) -> dict[str, Path]:
        """The files whose content decides the traces."""
        return guideline_file(self)


def check(options: Any) -> None:
    """Pass when the options of the synthesis can be used.

    Args:
        options: A `SynthesisOptions`, or a configuration with its fields.

    Raises:
        BadInput: One cannot, with the values that can.
    """
    for name in ("k", "draws", "max_tokens", "least_words", "longest", "score_tries", "score_tokens"):
        if getattr(options, name) < 1:
            raise BadInput(f"{name} is {getattr(options, name)}.", fix="It must be at least 1.")
    if options.most_words < options.least_words:
        raise BadInput(
            f"most_words is {options.most_words}, least_words {options.least_words}.",
            fix="most_words must be at least least_words.",
        )
    if options.longest < options.least_words:
        raise BadInput(
            f"longest is {options.longest}, least_words {options.least_words}.",
            why="Every candidate that does as it is asked would be rejected as too long.",
            fix="longest must be at least least_words.",
        )
    for name, high in (
        ("temperature", 10.0),
        ("min_score", 10.0),
        ("cases", 2),
        ("formats", 1.0),
        ("min_yield", 1.0),
        ("max_refusing", 1.0),
    ):
        if not 0 <= getattr(options, name) <= high:
            raise BadInput(f"{name} is {getattr(options, name)}.", fix=f"It must lie in [0, {high:g}].")
    if not 0 < options.top_p <= 1:
        raise BadInput(f"top_p is {options.top_p}.", fix="It must lie in (0, 1].")
    if not options.temperature and options.k > 1:
        raise BadInput(
            f"temperature is 0, and k is {options.k}.",
            why="Greedy draws are all the same.",
            fix="Use k=1, or a temperature above 0.",
        )
    check_calls(options)


def options_of(config: Any) -> SynthesisOptions:
    """The synthesis' options among those of a treatment that has all of them.

    A treatment that is to learn drafts (``target`` answer_then_check) has them written.
    """
    said = {one.name: getattr(config, one.name) for one in dataclasses.fields(SynthesisOptions)}
    said["drafts"] |= getattr(config, "target", "") == "answer_then_check"
    return SynthesisOptions(**said)


def guideline_file(options: Any) -> dict[str, Path]:
    """The file of guidelines, where one is named.

    Raises:
        BadInput: There is no such file.
    """
    if options.guidelines == DEFAULT:
        return {}
    file = Path(options.guidelines)
    if not file.is_file():
        raise BadInput(
            f"guidelines={file} is no file.",
            fix="Name a YAML file (safewright treat srg guidelines --out DIR writes one to edit), or default.",
        )
    return {"guidelines": file}
