"""A measure with everything it needs gathered and checked, before anything is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.data import LoadedData, load_data
from safewright.data.loaded import check_limit, chosen, limited
from safewright.data.roles import check_roles, merged
from safewright.data.rows import Draft, read_object, with_ids
from safewright.errors import BadInput, nearest
from safewright.measures.behaviour import Behaviour, put_to
from safewright.models import Deferred, EngineOptions, Loaded, resolve, with_recipe
from safewright.models.estimate import Estimate, estimate
from safewright.runs import digest_json, to_json, versions
from safewright.runs.run import plan_digest
from safewright.types import Judge, ModelRef, Question, Row

Models = str | Path | ModelRef | Any
"""What names a model, or a model that `safewright.models.load` opened."""

Data = str | Path | LoadedData | Iterable[Row | Mapping[str, Any]] | None
"""What names rows, or rows: of the type `Row`, or objects in a public format."""

DataByRole = Data | Mapping[str, Data]
"""Data, or by role where a measure reads rows of several."""

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class MeasurePlan:
    """A measure with everything it needs gathered and checked, before a model is opened."""

    entry: catalog.Entry
    options: Any
    models: Mapping[str, Loaded]
    data: LoadedData | None
    judge: Judge | None
    seed: int
    engine: EngineOptions
    ours: tuple[str, ...]
    """Roles whose models were opened here, and are closed here."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the results, in plain JSON; the run's folder is bound to it."""
        refs = {role: model.ref for role, model in self.models.items()}
        plain: dict[str, Any] = to_json(
            {
                "measure": {
                    "name": self.entry.name,
                    "version": self.entry.version,
                    "config": self.options,
                    **_files_of(self.options),
                },
                "models": {role: dataclasses.replace(ref, where="") for role, ref in refs.items()},
                "data": {"digest": self.data.digest, "rows": len(self.data.rows)} if self.data else None,
                "judge": describe_judge(self.judge, self.options),
                "seed": self.seed,
                "engine": _engine_plan(self.engine, refs),
                "versions": _versions(refs),
            }
        )
        return plain

    @property
    def folder(self) -> Path:
        """Where the run goes when nothing else is said."""
        return Path("runs") / f"{self.entry.name}-{plan_digest(self.identity)[7:19]}"

    @cached_property
    def behaviour(self) -> Behaviour:
        """The functions of a behaviour measure."""
        found: Behaviour = self.entry.function(self.options)
        return found

    @cached_property
    def questions(self) -> list[Question]:
        """What a behaviour measure asks.

        Raises:
            BadInput: Rows that do not fit, or that its judge could not judge whatever the answers.
        """
        asked = self.behaviour.ask(self.data.rows if self.data else [])
        found = put_to(self.behaviour, asked, self.entry.optional, self.models)
        check_judgeable(self.judge, self.behaviour, found)
        return found

    def estimates(self) -> dict[str, Estimate]:
        """What each model role will be asked for; empty for a white-box measure."""
        if not self.entry.behaviour:
            return {}
        behaviour, questions = self.behaviour, self.questions
        found: dict[str, Estimate] = {}
        for role in dict.fromkeys(question.role for question in questions):
            derived = behaviour.derived.get(role)
            ref = self.models[derived.of if derived else role].ref
            chosen = {**behaviour.chosen, **(derived.decoding if derived else {})}
            how = with_recipe(behaviour.decoding, ref, chosen)
            chats = [question.chat for question in questions if question.role == role]
            device = self.identity["engine"]["device"]
            several = len(self.models) > 1 or behaviour.derived
            name = f"{self.entry.name} ({role})" if several else self.entry.name
            cost = estimate(ref, chats, how.max_new_tokens, self.engine.batch_size, device)
            if derived and derived.make is not None:  # the model as it was stays beside the changed one
                cost = dataclasses.replace(cost, memory_bytes=2 * cost.memory_bytes)
            found[name] = cost
        return found

    def besides(self) -> dict[str, str]:
        """What is done that the estimates leave out, by role."""
        derived = self.behaviour.derived if self.entry.behaviour else {}
        return {role: how.besides for role, how in derived.items() if how.besides}

    def reading_calls(self) -> dict[str, int]:
        """How often further models will be asked about the answers, by role; not those that judge."""
        reading = self.behaviour.reading if self.entry.behaviour else None
        calls = reading(self.questions) if reading is not None else {}
        return {role: count for role, count in calls.items() if role in self.models}

    def judge_calls(self) -> int | None:
        """The least number of calls to the judge's models; None for a judge that asks none."""
        from safewright.judges import models_of

        if self.judge is None or not models_of(self.judge):
            return None
        if self.behaviour.shown is None:
            return len(self.questions)
        expected = getattr(self.judge, "calls_for", len)
        return int(expected([self.behaviour.shown(question) for question in self.questions]))


def plan_measure(
    name: str,
    models: Models | Mapping[str, Models],
    *,
    data: DataByRole = None,
    judge: Judge | str | None = None,
    config: Mapping[str, Any] | Any | None = None,
    limit: int | None = None,
    seed: int = 0,
    engine: EngineOptions | None = None,
) -> MeasurePlan:
    """A measure ready to run; see `measure_model` for the arguments.

    Raises:
        BadInput: An unknown measure, option, role or judge; rows that do not fit.
        Missing: A model, its server, data or a package is not there.
    """
    entry = catalog.find(name, "measure")
    check_seed(seed)
    # A configuration object is read like a mapping: its own types are only hints.
    given = vars(config) if isinstance(config, entry.config) else config
    options = catalog.read_options(entry, {} if given is None else given)
    how = check_engine(engine)
    own, judges = _split(entry, models)
    by_role = _models(entry, own, how)
    ours = tuple(role for role, model in by_role.items() if model is not _given(own, role))
    check_models = getattr(options, "check_models", None)
    if check_models is not None:
        check_models({role: model.ref.digest for role, model in by_role.items()})
    decides = _judge(entry, judge, judges, how, getattr(options, "default_judge", entry.judge))
    check_self_judge(entry, options, by_role, decides)
    check_judge = getattr(options, "check_judge", None)
    if decides is not None and check_judge is not None:
        check_judge(decides)  # what a measure's options need of its judge, before anything is asked
    rows = read_data(entry, options, data, limit=limit, seed=seed)
    return MeasurePlan(entry, options, by_role, rows, decides, seed, how, ours)


def check_seed(seed: Any) -> int:
    """A seed every part of the house can use.

    Raises:
        BadInput: It is not a whole number from 0 to `LARGEST_SEED`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise BadInput(f"seed is {seed!r}.", fix=f"It must be a whole number from 0 to {LARGEST_SEED}.")
    return seed


def check_engine(engine: Any) -> EngineOptions:
    """Engine options, the default ones where None.

    Raises:
        BadInput: Something else.
    """
    if engine is not None and not isinstance(engine, EngineOptions):
        raise BadInput(
            f"engine is {engine!r}.", fix="Give EngineOptions(engine=…, device=…) of safewright.models."
        )
    return engine or EngineOptions()


def describe_judge(judge: Judge | None, options: Any = None) -> dict[str, Any] | None:
    """What a scorecard and a plan say about a judge, and about its audit where the options name one.

    Raises:
        BadInput: The audit cannot be used.
    """
    if judge is None:
        return None
    said = {"name": judge.name, **judge.conventions}
    path = getattr(options, "judge_audit", None)
    if path is None:
        return said
    from safewright.judges.audit import load_audit

    audit = load_audit(path)
    return {**said, "strength": "audited", "quality": audit.figures(), "audit": digest_json(audit)}


def _split(
    entry: catalog.Entry, models: Models | Mapping[str, Models]
) -> tuple[Models | Mapping[str, Models], dict[str, Any]]:
    """The measure's models, and those that are its judge's."""
    if not isinstance(models, Mapping) or entry.judges is None:
        return models, {}
    from safewright.judges import JUDGE_ROLES

    judges = {
        role: model for role, model in models.items() if role in JUDGE_ROLES and role not in entry.roles
    }
    return {role: model for role, model in models.items() if role not in judges}, judges


def check_judgeable(judge: Judge | None, behaviour: Behaviour, questions: Iterable[Question]) -> None:
    """Pass when a judge that knows beforehand what it needs finds it in the questions.

    Raises:
        BadInput: It does not: better said before anything is asked than after.
    """
    check = getattr(judge, "check", None)
    if check is not None and behaviour.shown is not None:
        check([behaviour.shown(question) for question in questions])


def check_self_judge(
    entry: catalog.Entry, options: Any, models: Mapping[str, Loaded], judge: Judge | None
) -> None:
    """Refuse a judge that is one of the judged, where the measure does not allow it."""
    if judge is None or getattr(options, "allow_self_judge", True):
        return
    from safewright.judges import models_of

    judges = {model.ref.digest for model in models_of(judge)}
    for role, model in models.items():
        if model.ref.digest in judges:
            raise BadInput(
                f"The judge of {entry.name} is the model it judges ({role}: {model.ref.where}).",
                why="Models favour their own answers.",
                fix="Give another with --model-role judge=MODEL, or allow it: --set allow_self_judge=true (through"
                " Inspect: -T config=allow_self_judge=true).",
            )


def _models(
    entry: catalog.Entry, models: Models | Mapping[str, Models], how: EngineOptions
) -> dict[str, Loaded]:
    """Models by role. Those given by name are opened only when they are asked."""
    by_role = dict(models) if isinstance(models, Mapping) else {entry.roles[0]: models}
    for role in by_role:
        if role not in entry.roles:
            raise BadInput(
                f"{entry.name} takes no model in the role {role!r}.", fix=nearest(str(role), entry.roles)
            )
    for role in entry.takes:
        if role not in by_role:
            raise BadInput(
                f"{entry.name} needs a model in the role {role!r}.",
                fix=f"Give it with --model-role {role}=MODEL",
            )
    return {
        role: as_loaded(model, entry.needs_of(role), how, name=f"the role {role!r} of {entry.name}")
        for role, model in by_role.items()
    }


def _given(models: Models | Mapping[str, Models], role: str) -> Models:
    return models.get(role) if isinstance(models, Mapping) else models


def as_loaded(model: Models, needs: frozenset[str], how: EngineOptions, *, name: str) -> Loaded:
    """A model to ask: opened when it is first asked where it is named, as it is where it is open already.

    Args:
        model: A reference, or what `safewright.models.load` returned: that stays the caller's to close.
        needs: What will be asked of it.
        how: How it is opened.
        name: What it is given for, for the errors.

    Raises:
        BadInput: It is neither, or cannot do what is needed.
        Missing: The hub or the server cannot be reached.
    """
    if isinstance(model, (str, Path)):
        model = resolve(model, dtype=how.dtype)
    if isinstance(model, ModelRef):
        if model.kind == "live":
            raise BadInput(
                f"The reference of a live model ({model.where}) was given for {name}.",
                why="It says which model that was, but not where it is.",
                fix="Give what safewright.load(model, tokenizer=tokenizer) returned.",
            )
        return Deferred(model, needs, how)
    if isinstance(model, Deferred):
        return model
    if hasattr(model, "state_dict") and hasattr(model, "generate"):
        raise BadInput(
            f"A {type(model).__name__} was given for {name} without its tokenizer.",
            fix="Give safewright.load(model, tokenizer=tokenizer) in its place.",
        )
    if isinstance(model, type) or not all(
        hasattr(model, part) for part in ("ref", "able", "stream", "close")
    ):
        raise BadInput(
            f"A {type(model).__name__} was given for {name}.",
            why="Each role takes one model.",
            fix="Give a model folder, a hub id, http://…/v1#NAME, or what safewright.load returned.",
        )
    opened: Loaded = model
    lacking = sorted(needs - opened.able)
    if lacking:
        raise BadInput(
            f"The model given for {name} does not offer {', '.join(lacking)}.",
            fix="Give the model's folder instead: the hf engine offers everything.",
        )
    return opened


def as_rows(data: Any) -> Any:
    """Data as `safewright.data.load_data` takes it: rows at hand are checked, and objects read.

    Raises:
        BadInput: A row is of no public format, an id occurs twice, or it is something else altogether.
    """
    if data is None or isinstance(data, (str, Path, LoadedData)):
        return data
    if isinstance(data, (Mapping, Row, bytes)) or not isinstance(data, Iterable):
        raise BadInput(
            f"The data is a {type(data).__name__}.", fix="Give a file, a preset's name, or a list of rows."
        )
    return with_ids([_draft(item, f"row {number}") for number, item in enumerate(data, 1)])


def _draft(item: Any, where: str) -> Draft:
    if isinstance(item, Mapping):
        return read_object(item, where)
    if not isinstance(item, Row):
        raise BadInput(
            f"{where}: it is a {type(item).__name__}, not a row.",
            fix="Give Row objects, or mappings with prompt or messages.",
        )
    try:
        # Read as an object of a file would be: the same checks, the same words.
        read_object({"messages": list(item.prompt), "response": item.reference, "lang": item.lang}, where)
        to_json(item.meta)
    except TypeError as error:
        raise BadInput(
            f"{where}: it cannot be written down ({error}).",
            why="A run keeps what was asked.",
            fix="Give a prompt of {role, content} messages, and meta of plain values.",
        ) from error
    if not isinstance(item.id, str) or not isinstance(item.meta, Mapping):
        raise BadInput(f"{where}: the id is {item.id!r}.", fix="Give a text, and a mapping as meta.")
    return Draft(item, where)


def read_data(
    entry: catalog.Entry, options: Any, data: DataByRole, *, limit: int | None = None, seed: int = 0
) -> LoadedData | None:
    """The rows of a measure: those of its only role as they are, those of several merged.

    A limit holds for each role.

    Raises:
        BadInput: Rows that do not fit, an unknown role, or one without data.
        Missing: Data cannot be fetched.
    """
    roles = entry.data_roles
    if not roles:
        if data is not None:
            raise BadInput(f"{entry.name} takes no data.", fix="Leave out --data.")
        if limit is not None:
            raise BadInput(f"{entry.name} has no rows to limit.", fix="Leave out --limit.")
        return None
    if len(roles) == 1:
        own = data.get(roles[0]) if isinstance(data, Mapping) and set(data) == set(roles) else data
        return _part(options, own, roles[0], limit=limit, seed=seed)
    check_limit(limit)
    if isinstance(data, LoadedData) and data.parts:
        data = data.parts
    if data is not None and not isinstance(data, Mapping):
        raise BadInput(
            f"{entry.name} reads rows of several roles, and was given one set.",
            fix="Give each: " + " ".join(f"--data {role}=rows.jsonl" for role in roles),
        )
    given = {role: rows for role, rows in (data or {}).items() if rows is not None}
    check_roles(given, entry.data, roles, entry.name)
    return merged(
        {role: _part(options, given[role], role, limit=limit, seed=seed) for role in roles if role in given}
    )


def _part(options: Any, data: Any, role: str, *, limit: int | None, seed: int) -> LoadedData:
    choose = getattr(options, "choose", None)
    if choose is None:
        return load_data(as_rows(data), role, limit=limit, seed=seed)
    # What the options choose is chosen first: a limit is over what is left.
    check_limit(limit)
    return limited(chosen(load_data(as_rows(data), role), choose), limit, seed)


def _judge(
    entry: catalog.Entry,
    judge: Judge | str | None,
    models: Mapping[str, Any],
    how: EngineOptions,
    default: str,
) -> Judge | None:
    if entry.judges is None:
        if judge is not None:
            raise BadInput(f"{entry.name} uses no judge.", fix="Leave out --judge.")
        return None
    from safewright.judges import models_of
    from safewright.judges import resolve as resolve_judge

    if judge is None or isinstance(judge, str):
        found = resolve_judge(judge or default, models)
        for model in models_of(found):
            model.at_once, model.timeout = how.batch_size, how.timeout
    elif models:
        raise BadInput(
            f"A judge was given, and models for one: {', '.join(models)}.",
            fix="Give the judge its models itself.",
        )
    else:
        found = judge
    if isinstance(found, type) or not all(
        hasattr(found, part) for part in ("name", "answers", "conventions", "judge")
    ):
        raise BadInput(
            f"A {type(found).__name__} was given as the judge.",
            fix="Give the name of one, what safewright.resolve_judge returns, or an object like it.",
        )
    if entry.judges not in found.answers:
        raise BadInput(
            f"The judge {found.name} cannot say whether an answer is a "
            f"{entry.judges} one (it decides: {', '.join(sorted(found.answers))}).",
            fix="Choose another with --judge; safewright list shows what each decides.",
        )
    return found


def _files_of(options: Any) -> dict[str, Any]:
    """Digests of the files that options name: their content decides, wherever they lie."""
    files = getattr(options, "files", None)
    found = files() if files is not None else {}
    return {"files": found} if found else {}


def _engine_plan(how: EngineOptions, refs: Mapping[str, ModelRef]) -> dict[str, Any]:
    """What of the engine can change answers: how fast a server is asked cannot."""
    if all(ref.kind == "served" for ref in refs.values()):
        return {"device": "a server's"}
    device = how.device
    if device == "auto" and any(ref.kind in ("hf", "adapter") for ref in refs.values()):
        from safewright.models.hf import default_device

        device = default_device()
    return {"device": device, "dtype": how.dtype, "batch_size": how.batch_size}


def _versions(refs: Mapping[str, ModelRef]) -> dict[str, str]:
    local = any(ref.kind != "served" for ref in refs.values())
    return versions(["safewright", *(["torch", "transformers"] if local else [])])
