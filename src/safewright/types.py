"""The nouns of the house: frozen dataclasses, standard library only, JSON in and JSON out.

Rates lie in [0, 1] everywhere in code; percent exists only where something is rendered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Message = Mapping[str, str]
"""One turn of a conversation: ``{"role": "system"|"user"|"assistant", "content": text}``."""

Chat = Sequence[Message]
"""A conversation, oldest turn first."""

Better = Literal["higher", "lower", "neither"]
Status = Literal["ok", "unparsed", "refused", "error", "no_answer"]
"""Whether a score exists. Everything but ``ok`` is unscored, and never counts as safe."""

JudgementStatus = Literal["ok", "unparsed", "refused", "error"]
Quality = Literal["harmful", "refusal", "forgotten", "retained"]
"""What a judge is asked to decide about an answer.

``forgotten``: it does not give away what the reference says; ``retained``: it still says it. They are not each
other's negation: an answer about which a judge is in doubt may be neither.
"""

Stop = Literal["stop", "length", "overlong", "error"]
"""Why generation ended: end-of-turn token, token limit, prompt too long to be asked, failure."""


@dataclass(frozen=True)
class Interval:
    """A two-sided interval for a quantity, with the method that made it."""

    low: float
    high: float
    level: float = 0.95
    method: str = "wilson"


@dataclass(frozen=True)
class Reading:
    """One number of a scorecard.

    ``n`` counts the scored records behind ``value``; ``unscored`` those left out of it. ``value`` is
    None when nothing could be scored.
    """

    name: str
    value: float | None
    n: int
    unscored: int
    interval: Interval | None
    unit: str = "rate"
    better: Better = "neither"


@dataclass(frozen=True)
class Curve:
    """A quantity along an axis; ``low`` and ``high`` are its band, empty when there is none."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    x_unit: str = ""


@dataclass(frozen=True)
class Test:
    """A hypothesis test; ``minimum_detectable`` is the smallest effect this n could have shown."""

    __test__ = False  # not a pytest class

    name: str
    statistic: float
    p: float
    method: str
    n: int
    minimum_detectable: float | None = None


@dataclass(frozen=True)
class Decoding:
    """How answers are generated. ``temperature`` 0 is greedy; ``seed`` matters only above 0.

    A prompt that leaves an answer less room than ``least_room`` tokens (or ``max_new_tokens``, where that is
    less) is overlong. ``special_twice`` puts the tokenizer's special tokens around a rendered template that has
    them already, as some authors' code does; only a model that is run here can be asked so.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    least_room: int = 1
    special_twice: bool = False


@dataclass(frozen=True)
class Generation:
    """What a model said. Judges see ``answer`` unless a measure declares ``sees="raw"``.

    ``closed`` is False when a reasoning block was opened and never closed: there is no answer then.
    ``error`` says what went wrong when ``stop`` is ``error`` or ``overlong``.
    """

    raw: str
    reasoning: str
    answer: str
    closed: bool
    stop: Stop
    tokens: int
    error: str = ""


@dataclass(frozen=True)
class TokenScores:
    """Log-probabilities (nats) of the tokens of one answer, in order."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One line of a data file, in the shape every measure reads.

    ``prompt`` is the conversation up to the turn the model has to answer; ``reference`` the known
    answer, where the file gives one.
    """

    id: str
    prompt: tuple[Message, ...]
    reference: str | None = None
    lang: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """One thing a behaviour measure asks of one model; ``sample`` numbers repeated draws.

    Questions of one ``instance`` (their own id where None) are scored together.
    """

    id: str
    chat: tuple[Message, ...]
    role: str = "target"
    sample: int = 0
    instance: str | None = None
    cluster: str | None = None
    reference: str | None = None
    lang: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One answered and scored question.

    ``scores`` maps a score's name to its value, None when there is none; ``status`` says why.
    """

    id: str
    input: tuple[Message, ...]
    output: str | None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    status: Mapping[str, Status] = field(default_factory=dict)
    why: str = ""
    role: str = "target"
    sample: int = 0
    instance: str | None = None
    cluster: str | None = None
    lang: str | None = None
    reference: str | None = None
    generation: Generation | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a model must be asked and read, where its weights alone do not say so.

    ``prepare`` names a prompt step, ``decoding`` holds defaults (keys of `Decoding`), ``visible`` the
    markers that split raw output into reasoning and answer: ``{"open": str, "close": str}``.
    """

    prepare: str | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    visible: Mapping[str, str] = field(default_factory=dict)


ModelKind = Literal["hf", "adapter", "served", "inspect", "live"]


@dataclass(frozen=True)
class ModelRef:
    """Which model, down to its bytes.

    ``digest`` is ``sha256:…`` over weights, tokenizer and configuration when they were read here
    (*verified*), ``declared:…`` when a server only says what it serves.
    """

    kind: ModelKind
    where: str
    digest: str
    base: str | None = None
    dtype: str = "auto"
    revision: str | None = None
    template_digest: str = ""
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Cost:
    """What a run used. Never part of what two runs are compared by."""

    seconds: float = 0.0
    model_calls: int = 0
    tokens: int = 0
    judge_calls: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Scorecard:
    """What a measure found about one or more models.

    ``records`` names the JSONL file beside it, ``records_digest`` the bytes of that file.
    """

    measure: str
    version: str
    models: Mapping[str, ModelRef]
    readings: tuple[Reading, ...]
    curves: tuple[Curve, ...] = ()
    tests: tuple[Test, ...] = ()
    records: str = ""
    records_digest: str = ""
    conventions: Mapping[str, Any] = field(default_factory=dict)
    unscored: Mapping[str, int] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Findings:
    """What a measure concludes from its records: the parts of a scorecard it decides itself.

    ``conventions`` is what its numbers were taken under beyond its options.
    """

    readings: tuple[Reading, ...] = ()
    curves: tuple[Curve, ...] = ()
    tests: tuple[Test, ...] = ()
    conventions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Delta:
    """A paired difference ``b - a`` of one score over the records two runs share."""

    measure: str
    score: str
    n: int
    a: float
    b: float
    difference: float
    interval: Interval
    p: float
    p_holm: float
    gained: int
    lost: int
    method: str
    better: Better = "neither"


@dataclass(frozen=True)
class Check:
    """A named test of a treatment's result, with what was seen."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class TreatmentResult:
    """A better model and how it came to be; ``history`` is the provenance file beside the weights."""

    model: ModelRef
    parents: tuple[str, ...]
    kind: Literal["weights", "adapter"]
    history: str
    checks: tuple[Check, ...] = ()
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class JudgeItem:
    """One answer to be judged: does it have the quality ``about``?"""

    question: str
    answer: str
    about: Quality
    reference: str | None = None
    lang: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """A judge's word on one item: ``value`` is 1.0 when the item has the quality asked about.

    ``value`` is None unless ``status`` is ``ok``: an unparsed or failed judgement decides nothing.
    """

    value: float | None
    label: str
    status: JudgementStatus
    why: str = ""
    raw: str = ""
    judge: str = ""
    prompt_digest: str = ""
    tokens: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else the judge wrote on the way (an analysis, a summary), kept with the record."""


class Judge(Protocol):
    """Batch in, batch out, same length and order; a failing item is a status, not an exception."""

    name: str
    answers: frozenset[str]
    """The qualities it can decide, each one of `Quality`."""

    @property
    def conventions(self) -> Mapping[str, Any]:
        """What a scorecard must say about it: version, lists or prompt digest, measured quality, strength."""
        ...

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]: ...
