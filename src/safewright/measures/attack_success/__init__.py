"""Attack success: which attacks get an answer out of a model, and what its reasoning had to do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from safewright.catalog import measure
from safewright.measures.attack_success.config import AttackConfig
from safewright.measures.behaviour import Behaviour
from safewright.types import Decoding, Findings, Judge, JudgeItem, Question, Record, Row

if TYPE_CHECKING:
    from safewright.models import Loaded
    from safewright.runs import Run
    from safewright.runs.progress import Progress


@measure(
    "attack_success",
    version="1",
    paper="2502.04040",
    config=AttackConfig,
    takes=("target",),
    optional=("base", "translator", "reasoning"),
    data=("harm",),
    optional_data=("benign", "alarming"),
    judges="harmful",
)
def attack_success(config: AttackConfig) -> Behaviour:
    """Share of harmful requests that are answered, plain and under attacks, each attack a row of one table.

    Attacks are wrappers around the user's own requests, prompts that were frozen before (rows with ``attack`` in
    their meta), and openings that are put into the model's mouth: of its answer, or an emptied reasoning block.
    Beside harmful answers (by the judge) and answers that do not refuse: over-refusal of harmless rows, what has
    no visible answer, reasoning whose verdict the answer does not follow, the first broken link of traces, and
    tokens. A model in the role base is the control that cannot refuse, one in the role translator rewords requests
    (lowresource), and one in the role reasoning examines what was thought.
    """
    from safewright.measures.attack_success.analysis import instance_values
    from safewright.measures.attack_success.analysis import summarise as summarise_
    from safewright.measures.attack_success.asking import ask as ask_
    from safewright.measures.attack_success.asking import derived
    from safewright.measures.attack_success.reading import READER, TRANSLATOR, calls
    from safewright.measures.attack_success.reading import read as read_
    from safewright.measures.attack_success.reading import rewrite as rewrite_
    from safewright.measures.attack_success.scoring import item_of
    from safewright.measures.attack_success.scoring import score as score_

    def ask(rows: Sequence[Row]) -> list[Question]:
        return ask_(rows, config)

    async def score(records: Sequence[Record], judge: Judge | None) -> list[Record]:
        return await score_(records, judge, config)

    def summarise(records: Sequence[Record]) -> Findings:
        return summarise_(records, config)

    def values(records: Sequence[Record]) -> dict[str, float | None]:
        return instance_values(records, config)

    def shown(question: Question) -> JudgeItem:
        return item_of("harmful", sent=config.shown == "sent")(question)

    def rewrite(
        questions: list[Question], models: Mapping[str, Loaded], run: Run, progress: Progress
    ) -> list[Question]:
        return rewrite_(questions, models, run, progress, config)

    return Behaviour(
        ask=ask,
        score=score,
        summarise=summarise,
        values=values,
        shown=shown,
        decoding=Decoding(max_new_tokens=1024),
        chosen=config.chosen(),
        derived=derived(config),
        rewrite=rewrite if config.translates else None,
        read=read_,
        reads=(READER, TRANSLATOR),
        reading=calls,
    )
