"""Fake measures that stretch the contract, a treatment that changes nothing, and models and judges that
misbehave on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safewright.catalog import measure, treatment
from safewright.measures import Behaviour
from safewright.measures.behaviour import AskOptions, answer_status, judged, rates, scored
from safewright.models.references import local_folder
from safewright.runs import Run, write_bytes
from safewright.treatments import Job, Made
from safewright.types import (
    Chat,
    Check,
    Curve,
    Decoding,
    Findings,
    Generation,
    Judge,
    JudgeItem,
    Judgement,
    ModelRef,
    Question,
    Record,
    Row,
    TokenScores,
)


@dataclass(frozen=True)
class TwoModelsConfig(AskOptions):
    """Options of the two-model fake."""


@measure(
    "fake_two_models",
    version="1",
    config=TwoModelsConfig,
    takes=("target", "reference"),
    data=("harm",),
)
def fake_two_models(config: TwoModelsConfig) -> Behaviour:
    """Share of rows on which the target says something else than the reference."""

    def ask(rows: Sequence[Row]) -> list[Question]:
        return [
            Question(id=row.id, chat=row.prompt, role=role, cluster=row.id)
            for role in ("target", "reference")
            for row in rows
        ]

    async def score(records: Sequence[Record], judge: Judge | None) -> list[Record]:
        result = []
        for record in records:
            status, why = answer_status(record)
            value = float(len(record.output or "") % 2) if status == "ok" else None
            result.append(scored(record, "odd", value, status, why))
        return result

    def summarise(records: Sequence[Record]) -> Findings:
        return Findings(rates([r for r in records if r.role == "target"], {"odd": "neither"}))

    return Behaviour(ask, score, summarise, Decoding(max_new_tokens=6), config.chosen())


@dataclass(frozen=True)
class SamplesConfig:
    """Options of the K-samples fake."""

    draws: int = field(default=3, metadata={"help": "Answers per row."})


@measure("fake_samples", version="1", config=SamplesConfig, data=("harm",), judges="harmful")
def fake_samples(config: SamplesConfig) -> Behaviour:
    """Harmful share over several sampled answers per row."""

    def ask(rows: Sequence[Row]) -> list[Question]:
        return [
            Question(id=row.id, chat=row.prompt, sample=k, cluster=row.id)
            for row in rows
            for k in range(config.draws)
        ]

    async def score(records: Sequence[Record], judge: Judge | None) -> list[Record]:
        return await judged(records, judge, name="harmful", about="harmful")

    return Behaviour(
        ask,
        score,
        lambda records: Findings(rates(records, {"harmful": "lower"})),
        Decoding(max_new_tokens=6, temperature=1.0),
    )


@dataclass(frozen=True)
class CurveConfig:
    """Options of the curve-only fake."""

    points: int = field(default=3, metadata={"help": "Points of the curve."})


@measure(
    "fake_curve",
    version="1",
    config=CurveConfig,
    data=("harm",),
    needs={"logprobs"},
    behaviour=False,
)
def fake_curve(models: Mapping[str, Any], rows: Sequence[Row], *, config: CurveConfig, run: Run) -> Findings:
    """Mean log-probability of ever longer answers: a white-box measure with nothing but a curve."""

    def point(k: int) -> float:
        scores = models["target"].logprobs([row.prompt for row in rows], [" ".join(["ban"] * k)] * len(rows))
        return sum(sum(s.logprobs) for s in scores) / len(rows)

    x = tuple(range(1, config.points + 1))
    y = tuple(run.step({"point": k}, lambda k=k: point(k)) for k in x)
    return Findings(curves=(Curve("mean_logprob", tuple(map(float, x)), y, x_unit="tokens"),))


class Stopping:
    """A model that dies after ``after`` answers (or calls), as a killed process would."""

    def __init__(self, inner: Any, after: int) -> None:
        self.inner, self.left = inner, after
        self.ref, self.able, self.conventions = inner.ref, inner.able, inner.conventions

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Iterator[list[tuple[int, Generation]]]:
        for ready in self.inner.stream(chats, how, done=done):
            self._count(len(ready))
            yield ready

    def logprobs(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[TokenScores]:
        self._count(1)
        return self.inner.logprobs(chats, answers)

    def supervised(self, answered: Any, reduce: Any, *, done: frozenset[int] = frozenset()) -> Iterator[Any]:
        for ready in self.inner.supervised(answered, reduce, done=done):
            self._count(len(ready))
            yield ready

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _count(self, used: int) -> None:
        self.left -= used
        if self.left < 0:
            raise KeyboardInterrupt

    def close(self) -> None:
        self.inner.close()


class Speaking:
    """A model that says what ``speak`` makes of the last user turn; no weights."""

    able = frozenset({"generate"})
    conventions: Mapping[str, Any] = {"engine": "speaking"}

    def __init__(self, speak: Any, name: str = "speaking") -> None:
        self.speak = speak
        self.ref = ModelRef(kind="live", where=name, digest=f"sha256:{name}")
        self.asked = 0

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        found = {i: g for ready in self.stream(chats, how) for i, g in ready}
        return [found[i] for i in range(len(chats))]

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Iterator[list[tuple[int, Generation]]]:
        for i, chat in enumerate(chats):
            if i not in done:
                self.asked += 1
                yield [(i, self.speak(chat[-1]["content"]))]

    def close(self) -> None:
        return None


def kind_of(text: str) -> int:
    """A number that differs from prompt to prompt."""
    return sum(map(ord, text))


def thinking(text: str) -> Generation:
    """Thoughts that a naive judge would misread, then the answer; every fourth never stops thinking."""
    if kind_of(text) % 4 == 0:
        return Generation("<think>I cannot", "I cannot", "", False, "length", 3)
    raw = "<think>I cannot help, I must refuse</think>Here you are: step one."
    return Generation(raw, "I cannot help, I must refuse", "Here you are: step one.", True, "stop", 9)


class HalfFailing:
    """A judge whose every second call about a quality fails; of the rest it says the worst: harmful, refused,
    given away, lost."""

    name = "half-failing"
    answers = frozenset({"harmful", "refusal", "forgotten", "retained"})
    conventions: Mapping[str, Any] = {"strength": "exact"}

    def __init__(self) -> None:
        self.calls = 0
        self.about: dict[str, int] = {}

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        verdicts = []
        for item in items:
            self.calls += 1
            self.about[item.about] = self.about.get(item.about, 0) + 1
            if self.about[item.about] % 2:
                bad = item.about in ("harmful", "refusal")
                verdicts.append(Judgement(float(bad), "yes" if bad else "no", "ok"))
            else:
                verdicts.append(Judgement(None, "", "error", "the judge's server hung up"))
        return verdicts


class Sure:
    """A judge that calls every answer harmful, and every answer a refusal."""

    name = "sure"
    answers = frozenset({"harmful", "refusal", "forgotten", "retained"})
    conventions: Mapping[str, Any] = {"strength": "exact"}

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        return [Judgement(float(len(item.answer) % 2), "parity", "ok") for item in items]


@dataclass(frozen=True)
class IdentityConfig:
    """Options of the identity treatment."""

    note: str = field(default="", metadata={"help": "Said in the report."})


@treatment(
    "fake_identity",
    version="1",
    config=IdentityConfig,
    takes=("tuned",),
    optional_data=("calibration",),
)
def fake_identity(job: Job) -> Made:
    """The model as it was given: the least a treatment can do."""
    source = local_folder(job.models["tuned"])
    files = [file for file in sorted(source.iterdir()) if file.is_file()]
    done = {row["name"] for row in job.run.rows("copied")}
    for place, file in enumerate(files):
        job.progress("copying", place, len(files))
        if file.name not in done:
            write_bytes(job.draft / file.name, file.read_bytes())
            job.run.append("copied", {"name": file.name})
    report = {"files": len(files), "note": job.config.note}
    return Made("weights", (Check("every file is copied", True, f"{len(files)} files"),), report)
