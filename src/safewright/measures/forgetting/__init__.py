"""Forgetting: what a model has forgotten of a forget set, what it still knows of a retain set, and under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.catalog import measure
from safewright.measures.behaviour import Behaviour, Derived
from safewright.measures.forgetting.config import WEIGHTS, ForgettingConfig
from safewright.types import Findings, Judge, ModelRef, Question, Record, Row

if TYPE_CHECKING:
    from safewright.models import Loaded
    from safewright.runs import Run
    from safewright.runs.progress import Progress


def _rescore(path: Path, config: ForgettingConfig) -> tuple[Findings, list[Record], dict[str, Any]]:
    from safewright.measures.forgetting.stored import rescore

    return rescore(path, config)


@measure(
    "forgetting",
    version="1",
    paper="2502.11190",
    config=ForgettingConfig,
    takes=("target",),
    optional=("fluency", "rubric"),
    data=("forget", "retain"),
    role_needs={"fluency": {"logprobs"}},
    judges="forgotten",
    judge="coverage",
    rescore=_rescore,
)
def forgetting(config: ForgettingConfig) -> Behaviour:
    """Share of the forget rows whose answers have forgotten (KFR), and of the retain rows that are kept (KRR).

    Beside them ROUGE recall, the linguistic score (with a model in the role fluency) and ratings of fluency and
    relevance (with one in the role rubric), and attacks as rows of the same table: opened answers, paraphrases,
    a role-play, best of n draws, rounded weights, and relearning on some of the rows. An answer that nobody
    judged counts neither as forgotten nor as retained.
    """
    from safewright.measures.forgetting.analysis import instance_values
    from safewright.measures.forgetting.analysis import summarise as summarise_
    from safewright.measures.forgetting.asking import ask as ask_
    from safewright.measures.forgetting.reading import FLUENCY, RUBRIC, calls
    from safewright.measures.forgetting.reading import read as read_
    from safewright.measures.forgetting.release import FILE, release_keys
    from safewright.measures.forgetting.scoring import score as score_
    from safewright.measures.forgetting.scoring import shown

    def ask(rows: Sequence[Row]) -> list[Question]:
        return ask_(rows, config)

    async def score(records: Sequence[Record], judge: Judge | None) -> list[Record]:
        return await score_(records, judge, config)

    def summarise(records: Sequence[Record]) -> Findings:
        return summarise_(records, config)

    def read(
        records: list[Record], models: Mapping[str, Loaded], run: Run, progress: Progress
    ) -> list[Record]:
        return read_(records, models, run, progress, config)

    def files(findings: Findings, models: Mapping[str, ModelRef]) -> dict[str, Any]:
        return {FILE: release_keys(findings, models)} if config.preset == "release" else {}

    return Behaviour(
        ask=ask,
        score=score,
        summarise=summarise,
        values=instance_values,
        shown=shown,
        decoding=config.decoding,
        chosen=config.chosen(),
        derived=derived(config),
        read=read,
        reads=(FLUENCY, RUBRIC),
        reading=lambda questions: calls(questions, config),
        files=files,
    )


def derived(config: ForgettingConfig) -> dict[str, Derived]:
    """The models that attacks are put to, where it is not simply the target."""
    found: dict[str, Derived] = {}
    for attack in config.attack_names():
        if attack == "prefix":
            found[attack] = Derived(begun=True, goes_on=config.continue_final_message)
        elif attack == "sampling":
            found[attack] = Derived(
                decoding={"temperature": config.draw_temperature, "top_p": 1.0, "top_k": 0}
            )
        elif attack in WEIGHTS:
            steps = f"{config.relearn_steps} steps of training on {config.relearn_rows} or more rows"
            besides = steps if attack == "relearn" else ""
            found[attack] = Derived(make=_maker(attack, config), besides=besides)
    return found


def _maker(attack: str, config: ForgettingConfig) -> Any:
    def make(base: Loaded, run: Run, rows: Sequence[Row], progress: Progress) -> Loaded:
        from safewright.models.altered import rounded

        if attack != "relearn":
            return rounded(base, attack)
        from safewright.measures.forgetting.relearning import relearned

        return relearned(base, run, rows, progress, config)

    return make
