"""One Inspect task per behaviour measure of the catalog."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import get_model
from inspect_ai.model._model import active_model
from inspect_ai.scorer import Scorer

from safewright import catalog
from safewright.compose.cases import Asked, Cases, Config, Given, gather, plain_options
from safewright.compose.inspect_log import KEY, LONG, chat_length
from safewright.errors import BadInput
from safewright.inspect_plugin.provider import short, told
from safewright.inspect_plugin.scoring import OFF, ask, check_weights, judge_for, make_scorer
from safewright.judges import JUDGES
from safewright.judges import resolve as resolve_judge
from safewright.measures.plan import check_judgeable, check_seed, check_self_judge
from safewright.models.inspect_model import InspectModel, messages_of

LINE = 200
"""Characters of a long prompt that the log shows as the sample's input."""

LABEL = 80
"""Characters of a value of a question's meta that the log carries along, to sort and filter by."""


def make_task(entry: catalog.Entry, scored_by: Callable[..., Scorer]) -> Callable[..., Task]:
    """The task of one measure, entered into Inspect's registry under the measure's name."""

    def made(
        data: Given = None,
        judge: str | None = None,
        seed: int = 0,
        config: Config = None,
        calls: str | None = None,
    ) -> Task:
        with told():
            if not entry.behaviour:
                raise BadInput(
                    f"{entry.name} looks into a model's weights, which Inspect cannot hand out.",
                    fix=f"Use safewright measure {entry.name} MODEL.",
                )
            return _task(entry, scored_by, data, judge, check_seed(seed), config, calls)

    made.__doc__ = entry.summary
    made.__name__ = made.__qualname__ = entry.name
    made.__signature__ = inspect.signature(made)  # type: ignore[attr-defined]
    registered: Callable[..., Task] = task(name=entry.name)(made)
    return registered


def _task(
    entry: catalog.Entry,
    scored_by: Callable[..., Scorer],
    data: Given,
    judge: str | None,
    seed: int,
    config: Config,
    calls: str | None,
) -> Task:
    cases = gather(entry.name, config, data)
    _check_judge(entry, judge)
    check_weights(cases)
    if active_model() is not None:
        # Made by an evaluation: its models are known, and one error now is better than one a sample.
        made = judge_for(entry, judge, OFF, cases.options)
        check_judgeable(made, cases.behaviour, [a.question for row in cases.rows.values() for a in row])
        check_self_judge(entry, cases.options, {"target": InspectModel(get_model())}, made)
    digest = cases.data.digest if cases.data else ""
    common: dict[str, Any] = {
        "config": plain_options(cases.options),
        "data": data,
        "seed": seed,
        "judge": judge,
        "calls": calls,
    }
    return Task(
        dataset=MemoryDataset(
            [_sample(row, asked) for row, asked in cases.rows.items()],
            name=cases.data.source if cases.data else entry.name,
        ),
        solver=ask(measure=entry.name, **common),
        scorer=scored_by(**common),
        # Other rows under the same name are another task: an eval-set must not take its old log for done.
        version=f"{entry.version}+{short(digest)}" if digest else entry.version,
        # A log with missing samples must not say success: a later eval-set would do nothing.
        fail_on_error=True,
        continue_on_fail=True,
        metadata={
            KEY: {
                "measure": entry.name,
                "version": entry.version,
                "config": common["config"],
                "data": cases.data.describe() if cases.data else None,
                "data_argument": data,
                "seed": seed,
            }
        },
        description=entry.summary,
    )


def _check_judge(entry: catalog.Entry, judge: str | None) -> None:
    """Pass when a named judge exists; whether its model is bound is known when the task runs."""
    if judge is None:
        return
    if entry.judges is None:
        raise BadInput(f"{entry.name} uses no judge.", fix="Leave out judge.")
    if ":" in judge or judge.partition("?")[0] not in JUDGES:
        resolve_judge(judge)


def _sample(row: str, asked: tuple[Asked, ...]) -> Sample:
    """One row: its prompt as it is asked where it is one and short, else a line of it."""
    first = asked[0].question
    common = {
        name: value
        for name, value in first.meta.items()
        if _label(value) and all(a.question.meta.get(name) == value for a in asked)
    }
    short_one = len(asked) == 1 and chat_length(first.chat) <= LONG
    return Sample(
        id=row,
        input=messages_of(first.chat) if short_one else _line(first.meta, first.chat[-1]["content"]),
        target=first.reference or "",
        metadata={
            **common,
            "cluster": first.cluster or row,
            "lang": first.lang,
            "questions": len(asked),
        },
    )


def _line(meta: Any, text: str) -> str:
    line = " ".join(str(meta.get("instruction") or text).split())
    return line if len(line) <= LINE else line[: LINE - 1] + "…"


def _label(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= LABEL)


def register() -> dict[str, Callable[..., Task]]:
    """Enter a task and a scorer for each measure of the catalog; the tasks by name."""
    found = {}
    for entry in catalog.entries("measure"):
        found[entry.name] = make_task(entry, make_scorer(entry))
    return found


__all__ = ["Cases", "make_task", "register"]
