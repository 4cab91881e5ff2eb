"""A measure with everything it needs gathered and checked, before anything is run."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.data import LoadedData, load_data
from safewright.errors import BadInput, nearest
from safewright.measures.behaviour import Behaviour
from safewright.models import Deferred, EngineOptions, Loaded, resolve, with_recipe
from safewright.models.estimate import Estimate, estimate
from safewright.runs import to_json
from safewright.runs.run import plan_digest
from safewright.types import Judge, ModelRef, Row

Models = str | Path | ModelRef | Any
"""What names a model: see `safewright.models.load`."""


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
                },
                "models": {role: dataclasses.replace(ref, where="") for role, ref in refs.items()},
                "data": {"digest": self.data.digest, "rows": len(self.data.rows)} if self.data else None,
                "judge": describe_judge(self.judge),
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

    def estimates(self) -> dict[str, Estimate]:
        """What each model role will be asked for; empty for a white-box measure."""
        if not self.entry.behaviour:
            return {}
        behaviour: Behaviour = self.entry.function(self.options)
        found: dict[str, Estimate] = {}
        questions = behaviour.ask(self.data.rows if self.data else [])
        for role in dict.fromkeys(question.role for question in questions):
            ref = self.models[role].ref
            how = with_recipe(behaviour.decoding, ref, behaviour.chosen)
            chats = [question.chat for question in questions if question.role == role]
            device = self.identity["engine"]["device"]
            name = f"{self.entry.name} ({role})" if len(self.models) > 1 else self.entry.name
            found[name] = estimate(ref, chats, how.max_new_tokens, self.engine.batch_size, device)
        return found


def plan_measure(
    name: str,
    models: Models | Mapping[str, Models],
    *,
    data: str | Path | LoadedData | Sequence[Row] | None = None,
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
    options = config if isinstance(config, entry.config) else catalog.read_options(entry, config or {})
    how = engine or EngineOptions()
    by_role = _models(entry, models, how)
    ours = tuple(role for role, model in by_role.items() if model is not _given(models, role))
    rows = _data(entry, data, limit=limit, seed=seed)
    return MeasurePlan(entry, options, by_role, rows, _judge(entry, judge), seed, how, ours)


def describe_judge(judge: Judge | None) -> dict[str, Any] | None:
    """What a scorecard and a plan say about a judge."""
    return {"name": judge.name, **judge.conventions} if judge else None


def _models(
    entry: catalog.Entry, models: Models | Mapping[str, Models], how: EngineOptions
) -> dict[str, Loaded]:
    """Models by role. Those given by name are opened only when they are asked."""
    by_role = dict(models) if isinstance(models, Mapping) else {entry.roles[0]: models}
    for role in by_role:
        if role not in entry.roles:
            raise BadInput(
                f"{entry.name} takes no model in the role {role!r}.", fix=nearest(role, entry.roles)
            )
    for role in entry.takes:
        if role not in by_role:
            raise BadInput(
                f"{entry.name} needs a model in the role {role!r}.",
                fix=f"Give it with --model-role {role}=MODEL",
            )
    return {role: _open_later(model, entry, how) for role, model in by_role.items()}


def _given(models: Models | Mapping[str, Models], role: str) -> Models:
    return models.get(role) if isinstance(models, Mapping) else models


def _open_later(model: Models, entry: catalog.Entry, how: EngineOptions) -> Loaded:
    if isinstance(model, (str, Path)):
        model = resolve(model, dtype=how.dtype)
    if not isinstance(model, ModelRef):
        opened: Loaded = model  # the caller's, and the caller's to close
        return opened
    return Deferred(model, entry.needs, how)


def _data(
    entry: catalog.Entry,
    data: str | Path | LoadedData | Sequence[Row] | None,
    *,
    limit: int | None,
    seed: int,
) -> LoadedData | None:
    if not entry.data:
        if data is not None:
            raise BadInput(f"{entry.name} takes no data.", fix="Leave out --data.")
        if limit is not None:
            raise BadInput(f"{entry.name} has no rows to limit.", fix="Leave out --limit.")
        return None
    return load_data(data, entry.data[0], limit=limit, seed=seed)


def _judge(entry: catalog.Entry, judge: Judge | str | None) -> Judge | None:
    if entry.judges is None:
        if judge is not None:
            raise BadInput(f"{entry.name} uses no judge.", fix="Leave out --judge.")
        return None
    from safewright.judges import resolve as resolve_judge

    found = resolve_judge(judge or "keyword") if judge is None or isinstance(judge, str) else judge
    if entry.judges not in found.answers:
        raise BadInput(
            f"The judge {found.name} cannot say whether an answer is a "
            f"{entry.judges} one (it decides: {', '.join(sorted(found.answers))}).",
            fix="Choose another with --judge; safewright list shows what each decides.",
        )
    return found


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
    names = ["safewright", *(["torch", "transformers"] if local else [])]
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
