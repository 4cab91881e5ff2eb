"""How a task runs: a solver that asks a row's questions, a scorer over their answers, and its metrics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log._samples import sample_active
from inspect_ai.model import Model, get_model, model_roles
from inspect_ai.model._generate_config import active_generate_config
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import StoreModel, collect, span
from pydantic import Field

from safewright import catalog
from safewright.compose.cases import Asked, Cases, Config, Given, gather, plain_options
from safewright.compose.inspect_log import KEY, Place, in_order, lean, whole
from safewright.errors import BadInput
from safewright.inspect_plugin.provider import SafewrightAPI, output_of, told
from safewright.judges import JUDGE_ROLES, JUDGES, models_of
from safewright.judges import resolve as resolve_judge
from safewright.measures import driver
from safewright.measures.behaviour import (
    findings_of,
    instance_of,
    mean_scores,
    put_to,
    record_of,
    source_of,
)
from safewright.measures.deriving import about_opening, sent
from safewright.measures.overflow import Attempt, next_attempt
from safewright.measures.plan import check_judgeable, check_seed, check_self_judge, describe_judge
from safewright.models import with_recipe
from safewright.models.inspect_model import InspectModel, config_of, messages_of, read_output, ref_of
from safewright.runs import Calls, call_key, from_json, to_json
from safewright.runs.atomic import dump_json
from safewright.types import Chat, Decoding, Generation, Judge, ModelRef, Question, Record

FOLDER = ".safewright-calls"
"""Where received answers are kept, inside the folder of the logs."""

OFF = "off"
"""For the option ``calls``: received answers are forgotten when the process ends."""

_stores: dict[str, Calls] = {}
_judges: dict[tuple[Any, ...], tuple[Judge, tuple[Any, ...]]] = {}


class JudgeFailed(RuntimeError):  # noqa: N818 - read as a sentence in Inspect's log
    """The judge could not be asked; the sample is retried, or errs, as Inspect is told."""


class Answers(StoreModel):
    """What a row's questions brought: kept in the sample, so that it can be scored later."""

    # As text: Inspect copies, compares and walks whatever is nested, several times.
    answers: list[str] = Field(default_factory=list)
    models: str = "{}"


@solver(name="ask")
def ask(
    measure: str,
    config: Config = None,
    data: Given = None,
    seed: int = 0,
    judge: str | None = None,
    calls: str | None = None,
) -> Solver:
    """Ask all questions of a row at the same time, each of the model in its role.

    An answer that was received is written down at once, and never asked for again by a task that keeps its
    answers in the same place.

    Args:
        measure: Whose questions.
        config: Its options.
        data: Its rows.
        seed: Of decoding above temperature 0.
        judge: The judge that will be needed; nothing is asked before it is there.
        calls: The folder of received answers; beside the logs where None, nowhere where ``off``.
    """
    cases = gather(measure, config, data)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        with told():
            asked = present(cases, cases[str(state.sample_id)])
            check_weights(cases)
            found_judge = judge_for(cases.entry, judge, calls, cases.options)
            check_judgeable(found_judge, cases.behaviour, [a.question for a in asked])
            store = calls_for(calls)
            roles = {a.question.role: target(source_of(cases.behaviour, a.question.role)) for a in asked}
            judged: Any = {role: InspectModel(model) for role, model in roles.items()}
            check_self_judge(cases.entry, cases.options, judged, found_judge)
        asker = _Asker(cases, store, seed, state.epoch)
        about = {role: await asker.about(role, model) for role, model in roles.items()}
        if len(asked) == 1:
            found = [await asker.ask(asked[0], roles[asked[0].question.role])]
        else:
            found = await collect(*(asker.labelled(a, roles[a.question.role]) for a in asked))
        kept = state.store_as(Answers)
        kept.answers = [_text({"generation": said, "share": share}) for said, share in found]
        kept.models = _text(about)
        last, (said, _) = asked[-1], found[-1]
        state.output = output_of(str(roles[last.question.role]), said)
        if len(asked) == 1 and state.messages and isinstance(state.input, list):
            state.messages = messages_of(last.question.chat)
        state.messages.append(state.output.message)
        return state

    return solve


class _Asker:
    """Asks the questions of one sample."""

    def __init__(self, cases: Cases, store: Calls, seed: int, epoch: int) -> None:
        self._cases, self._store, self._seed, self._epoch = cases, store, seed, epoch

    async def about(self, role: str, model: Model) -> dict[str, Any]:
        """What a scorecard says about a model and how it was asked."""
        ref = ref_of(model)
        # A run that finds all its answers written down does not even open the model.
        said = await self._store.get(call_key(_key(model), "conventions", None), lambda: _conventions(model))
        if "dtype" in said:
            ref = dataclasses.replace(ref, dtype=said["dtype"])
        derived = self._cases.behaviour.derived.get(role)
        if derived is not None and derived.begun:
            said = {**said, **about_opening(ref, derived)}
        return {
            "ref": to_json(ref),
            "conventions": said,
            "decoding": to_json(self._decoding(model, ref, role)),
        }

    def _decoding(self, model: Model, ref: ModelRef, role: str) -> Decoding:
        """The measure's defaults, under the recipe's, Inspect's own options, the measure's and the role's."""
        given = model.config
        if model.role is None:
            given = given.merge(active_generate_config())
        chosen = {
            "max_new_tokens": given.max_tokens,
            "temperature": given.temperature,
            "top_p": given.top_p,
            "top_k": given.top_k,
        }
        behaviour = self._cases.behaviour
        options = {name: value for name, value in chosen.items() if value is not None} | behaviour.chosen
        if role in behaviour.derived:
            options |= behaviour.derived[role].decoding
        how = with_recipe(behaviour.decoding, ref, options)
        return dataclasses.replace(how, seed=self._seed if given.seed is None else given.seed)

    async def labelled(self, asked: Asked, model: Model) -> tuple[Generation, float]:
        """`ask`, as a branch of its own in Inspect's transcript."""
        async with span(f"{asked.question.role}: {asked.question.id}"):
            return await self.ask(asked, model)

    async def ask(self, asked: Asked, model: Model) -> tuple[Generation, float]:
        """The answer to one question, and the share of its context that was shown."""
        if isinstance(model.api, SafewrightAPI):
            model.api.check_pinned()
        behaviour = self._cases.behaviour
        with told():
            how = self._decoding(model, ref_of(model), asked.question.role)
            attempt = Attempt(asked.question)
            while True:
                said = await self._call(asked, self._sent(attempt.asked(behaviour), model), model, how)
                found = next_attempt(behaviour, attempt, said, how)
                if not isinstance(found, Attempt):
                    return found, attempt.share
                attempt = found

    def _sent(self, question: Question, model: Model) -> Chat:
        """A question's conversation, as it is put to a model."""
        derived = self._cases.behaviour.derived.get(question.role)
        if derived is None or not derived.begun:
            return question.chat
        return sent(question.chat, ref_of(model), derived)

    async def _call(self, asked: Asked, chat: Chat, model: Model, how: Decoding) -> Generation:
        """What the model says to a conversation, from the store where it is written down."""
        config = config_of(how, model, asked.turn + (self._epoch - 1) * self._cases.questions)
        draw = asked.question.sample + (self._epoch - 1) * self._cases.draws

        async def call() -> dict[str, Any]:
            output = await model.generate(messages_of(chat), config=config)
            said = read_output(output, InspectModel(model).visible, how.max_new_tokens)
            plain: dict[str, Any] = to_json(said)
            return plain

        key = call_key(_key(model), chat, config.model_dump(exclude_none=True), draw)
        plain = await self._store.get(key, call, keep=lambda said: said["stop"] != "error")
        return from_json(Generation, plain)


def _text(plain: Any) -> str:
    return dump_json(plain, canonical=True)


def _key(model: Model) -> str:
    """All of a model that decides its answers."""
    return model.api.key if isinstance(model.api, SafewrightAPI) else ref_of(model).digest


async def _conventions(model: Model) -> dict[str, Any]:
    if isinstance(model.api, SafewrightAPI):
        opened = await model.api.engine.opened()
        limit = {} if model.api.engine.local else {"concurrency": "as Inspect limits it"}
        return {**to_json(opened.conventions), **limit}
    return dict(to_json(InspectModel(model).conventions))


def present(cases: Cases, asked: Sequence[Asked]) -> list[Asked]:
    """The questions without those to optional roles that no model is bound to."""
    bound = {"target", *model_roles()}
    kept = put_to(cases.behaviour, [a.question for a in asked], cases.entry.optional, bound)
    names = {id(question) for question in kept}
    return [a for a in asked if id(a.question) in names]


def check_weights(cases: Cases) -> None:
    """Pass when nothing needs the weights of a model, which Inspect cannot hand out.

    Raises:
        BadInput: An option changes weights, or a model is bound that log-probabilities are read from.
    """
    behaviour, name = cases.behaviour, cases.entry.name
    changed = [role for role, how in behaviour.derived.items() if how.make is not None]
    bound = [role for role in behaviour.reads if role in model_roles()]
    if changed or bound or behaviour.rewrite is not None:
        what = f"the attacks {', '.join(changed)}" if changed else f"the role {', '.join(bound)}"
        if not changed and not bound:
            what = "questions that a model rewrites before they are asked"
        raise BadInput(
            f"{name} cannot have {what} through Inspect.",
            why="They need a model's weights, or another model that reads or rewrites texts: Inspect has neither.",
            fix=f"Leave them out here, and use safewright measure {name} MODEL for them.",
        )


def target(role: str) -> Model:
    """The model in a role: the one under test is the target.

    Raises:
        BadInput: Nobody has that role.
    """
    if role == "target":
        return get_model()
    try:
        return get_model(role=role, required=True)
    except PrerequisiteError as error:
        raise BadInput(
            f"No model has the role {role!r}.", fix=f"Give one with --model-role {role}=MODEL."
        ) from error


def calls_for(calls: str | None) -> Calls:
    """The store of received answers: ``calls``, or a private folder beside the log being written."""
    place = calls
    if place is None:
        active = sample_active()
        log = active.log_location.removeprefix("file://") if active is not None else ""
        # Where logs go to a remote store, answers live as long as the process.
        place = str((Path(log).parent / FOLDER).resolve()) if log and "://" not in log else OFF
    found = _stores.get(place)
    if found is None:
        found = _stores[place] = Calls() if place == OFF else Calls.in_folder(place)
    return found


def judge_for(entry: catalog.Entry, spec: str | None, calls: str | None, options: Any = None) -> Judge | None:
    """The judge of a measure: the one named, or made of the models in the judge's roles.

    Args:
        entry: The measure.
        spec: The judge that is named.
        calls: Where received answers are kept.
        options: The measure's, which may say under what thresholds its own judge decides.

    Raises:
        BadInput: It needs a model and none is bound, or it does not decide what the measure asks.
    """
    if entry.judges is None:
        if spec is not None:
            raise BadInput(f"{entry.name} uses no judge.", fix="Leave out judge.")
        return None
    bound = {
        role: models[0] if isinstance(models, list) else models
        for role, models in model_roles().items()
        if role in JUDGE_ROLES and role not in entry.roles
    }
    own = getattr(options, "default_judge", entry.judge)
    name = spec or (own if not bound or JUDGES[entry.judge].model != "none" else "rubric")
    key = (name, *((role, id(model)) for role, model in sorted(bound.items())))
    if key not in _judges:
        made = resolve_judge(name, {role: InspectModel(model) for role, model in bound.items()})
        if entry.judges not in made.answers:
            raise BadInput(
                f"The judge {made.name} cannot say whether an answer is a {entry.judges} one.",
                fix=f"Choose another with -T judge=NAME; it decides: {', '.join(sorted(made.answers))}.",
            )
        _judges[key] = made, tuple(bound.values())  # kept, so that no other model gets their ids
    judge = _judges[key][0]
    if "store=" not in name:
        for model in models_of(judge):
            model.calls = calls_for(calls)
    return judge


@metric(scores="unreduced")
def readings() -> Metric:
    """The readings of the measure's scorecard, from all records of the log."""

    def compute(scores: list[SampleScore]) -> Value:
        found = [about for score in scores if (about := _about(score)) is not None]
        if not found:
            return {}
        entry = catalog.find(found[0]["measure"], "measure")
        options = catalog.read_options(entry, found[0]["config"])
        records = in_order([whole(plain) for about in found for plain in about["records"]])
        said = findings_of(entry.function(options), records)
        return {reading.name: reading.value for reading in said.readings if reading.value is not None}

    return compute


@metric(scores="unreduced")
def unscored() -> Metric:
    """How many records have no score, and by the first reason why: a scorecard's ``unscored``."""

    def compute(scores: list[SampleScore]) -> Value:
        found = [about for score in scores if (about := _about(score)) is not None]
        counts = driver.count_unscored([whole(plain)[1] for about in found for plain in about["records"]])
        return {"unscored": sum(counts.values()), **{f"unscored/{why}": n for why, n in counts.items()}}

    return compute


def _about(score: SampleScore) -> Mapping[str, Any] | None:
    kept = (score.score.metadata or {}).get(KEY)
    return kept if isinstance(kept, Mapping) else None


def make_scorer(entry: catalog.Entry) -> Callable[..., Scorer]:
    """The scorer of one measure, entered into Inspect's registry under the measure's name."""

    def made(
        config: Config = None,
        data: Given = None,
        seed: int = 0,
        judge: str | None = None,
        calls: str | None = None,
    ) -> Scorer:
        return _scorer(entry, config, data, seed, judge, calls)

    made.__doc__ = f"Scores answers as the measure {entry.name} does: {entry.summary}"
    registered: Callable[..., Scorer] = scorer(metrics=[readings(), unscored()], name=entry.name)(made)
    return registered


def _scorer(
    entry: catalog.Entry,
    config: Config,
    data: Given,
    seed: int,
    judge: str | None,
    calls: str | None,
) -> Scorer:
    with told():
        cases = gather(entry.name, config, data)
        check_seed(seed)

    async def score(state: TaskState, target: Target) -> Score | None:
        kept = state.store_as(Answers)
        put = json.loads(kept.models)
        asked = [a for a in cases[str(state.sample_id)] if a.question.role in put]
        if not asked or len(kept.answers) != len(asked):
            return None  # a limit stopped the sample before its answers were there
        with told():
            found = judge_for(entry, judge, calls, cases.options)
        blank = []
        places = []
        for a, text in zip(asked, kept.answers, strict=True):
            answer = json.loads(text)
            draw = a.question.sample + (state.epoch - 1) * cases.draws
            question = Attempt(a.question, answer["share"]).asked(cases.behaviour)
            said = from_json(Generation, answer["generation"])
            blank.append(record_of(dataclasses.replace(question, sample=draw), said))
            places.append(Place(a.place, answer["share"], state.epoch))
        records = await cases.behaviour.score(blank, found)
        _require_judged(records)
        return _as_score(
            cases, records, places, _text(describe_judge(found, cases.options)), seed, kept.models
        )

    return score


def _require_judged(records: Sequence[Record]) -> None:
    """Pass when no judge failed to be asked: that is no judgement, and a resume asks again."""
    for record in records:
        answered = record.generation is not None and record.generation.stop in ("stop", "length")
        if answered and "error" in record.status.values():
            raise JudgeFailed(f"{record.id}: {record.why}")


def _as_score(
    cases: Cases,
    records: Sequence[Record],
    places: Sequence[Place],
    judge: str,
    seed: int,
    models: str,
) -> Score:
    """One sample's score: what its instances say, by name, NaN where there is nothing to say.

    A sample without any value keeps the mapping, with a reason: as a bare NaN Inspect would hide it from the
    metrics, and its records would be missing from the bounds and counts of a scorecard.
    """
    instances: dict[str, list[Record]] = {}
    for record in records:
        instances.setdefault(instance_of(record), []).append(record)
    values: dict[str, float | None] = {}
    say = cases.behaviour.values or mean_scores
    first = next(iter(instances))
    for name, own in instances.items():
        # A further draw, or a measure whose instances say the same things: told apart by the instance.
        prefix = f"{name.removeprefix(first).strip('/~')}/" if name != first else ""
        values |= {key if key not in values else f"{prefix}{key}": value for key, value in say(own).items()}
    known = [value for value in values.values() if value is not None]
    why = [f"{record.id}: {record.why}" for record in records if record.why]
    return Score(
        value={name: float("nan") if value is None else float(value) for name, value in values.items()},
        answer=records[-1].output,
        explanation="\n".join(why) or None,
        reason=None if known else "unscored",
        metadata={
            KEY: {
                "measure": cases.entry.name,
                "version": cases.entry.version,
                "config": plain_options(cases.options),
                "seed": seed,
                "judge": judge,
                "models": models,
                "records": [lean(r, place) for r, place in zip(records, places, strict=True)],
            }
        },
    )
