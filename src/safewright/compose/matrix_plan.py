"""A matrix with everything gathered and checked on the untreated model, before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from safewright import catalog
from safewright.compose.effects import NONE, Arm
from safewright.data import load_data
from safewright.errors import BadInput, nearest
from safewright.measures import MeasurePlan, plan_measure
from safewright.measures.plan import as_rows, check_seed
from safewright.models import EngineOptions, resolve
from safewright.models.estimate import Estimate
from safewright.models.references import base_folder, local_folder
from safewright.runs.run import plan_digest
from safewright.treatments import TreatPlan, plan_treatment
from safewright.types import ModelRef

Orders = Literal["pairs", "all", "none"]
HANDED = ("tuned", "student")
"""Roles of the model that is treated, and handed on from one treatment to the next: a fine-tuned model that is
mended, or a student that is taught."""

MODELS = "models"
FOLDERS = ("hf", "adapter")
MOST_ARMS = 200
"""More arms than anybody waits for; a longer list is a slip."""

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Given:
    """A method with what it is given in every arm: models and rows by role, options, a measure's judge."""

    method: str
    models: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    judge: Any = None


@dataclass(frozen=True)
class MatrixPlan:
    """A matrix with everything resolved, loaded and checked on the untreated model, before anything runs."""

    model: ModelRef
    arms: tuple[Arm, ...]
    treatments: Mapping[str, Given]
    measures: Mapping[str, Given]
    first: Mapping[str, TreatPlan]
    """Each treatment, planned on the untreated model."""
    asked: Mapping[str, MeasurePlan]
    """Each measure, planned on the untreated model."""
    seed: int
    limit: int | None
    engine: EngineOptions
    threads: int

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the results, in plain JSON."""
        return {
            "matrix": {
                "arms": [arm.name for arm in self.arms],
                "treatments": {label: plan.identity for label, plan in self.first.items()},
                "measures": {name: plan.identity for name, plan in self.asked.items()},
            }
        }

    @property
    def folder(self) -> Path:
        """Where the matrix goes when nothing else is said."""
        name = re.sub(r"[^\w.-]", "-", Path(self.model.where.rstrip("/")).name) or "model"
        return Path("runs") / f"matrix-{name}-{plan_digest(self.identity)[7:19]}"

    def estimates(self, workers: int = 1) -> Costs:
        """What the whole will ask for, before it starts."""
        own = _size(self.model)
        disk = seconds = 0.0
        unknown = []
        for arm in self.arms:
            if not arm.steps:
                continue
            expected = self.first[arm.steps[-1]].estimate(workers)
            # A treatment that says nothing about it writes a model as large as the one it is given.
            disk += expected.get("disk_bytes", own)
            seconds += expected.get("seconds", 0.0)
            if "seconds" not in expected:
                unknown.append(arm.steps[-1])
        measures: dict[str, Estimate] = {}
        judged: dict[str, int] = {}
        for name, plan in self.asked.items():
            for what, cost in plan.estimates().items():
                measures[what] = _times(cost, len(self.arms))
            calls = plan.judge_calls()
            if calls is not None:
                judged[name] = calls * len(self.arms)
        return Costs(len(self.arms), int(disk), seconds, tuple(dict.fromkeys(unknown)), measures, judged)


@dataclass(frozen=True)
class Costs:
    """What a matrix will use: disk and time of its treatments, calls of its measures and judges over all arms.

    ``unknown`` names treatments that do not say how long they take; ``seconds`` is that of the others.
    """

    arms: int
    disk_bytes: int
    seconds: float
    unknown: tuple[str, ...]
    measures: Mapping[str, Estimate]
    judge_calls: Mapping[str, int]


def arms_of(labels: Sequence[str], orders: Orders) -> tuple[Arm, ...]:
    """The arms: none, each treatment alone, then ordered pairs, or every order of every choice of them.

    Raises:
        BadInput: They are more than `MOST_ARMS`.
    """
    longest = {"none": 1, "pairs": 2, "all": len(labels)}[orders]
    found = [Arm(steps) for length in range(longest + 1) for steps in itertools.permutations(labels, length)]
    if len(found) > MOST_ARMS:
        raise BadInput(
            f"{len(labels)} treatments make {len(found)} arms.",
            fix="Use --orders pairs or none, or fewer treatments.",
        )
    return tuple(found)


def plan_matrix(
    model: str | Path | ModelRef,
    treatments: Sequence[str] | Mapping[str, str],
    measures: Sequence[str],
    *,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    data: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    judges: Mapping[str, Any] | None = None,
    orders: Orders = "pairs",
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    threads: int = 1,
) -> MatrixPlan:
    """A matrix ready to run.

    Args:
        model: The model that is treated: a folder, adapter or hub id.
        treatments: Treatments of the catalog, or a mapping of labels to them (one method under two settings).
        measures: Measures of the catalog.
        models: By treatment's label or measure: further models by role, a judge's among them.
        data: By label or measure: rows by role, or the rows themselves where the method has one role.
        options: By label or measure: options of the method.
        judges: By measure: a judge or its name.
        orders: ``pairs`` (both orders of every two), ``all`` (every order of every choice), ``none``.
        limit: At most so many rows of each measure; treatments always take all of theirs.
        seed: Of everything drawn.
        device: Where models are run.
        batch_size: Prompts answered together.
        threads: Compute threads of a treatment.

    Raises:
        BadInput: An unknown name anywhere, a treatment that treats no model, rows that do not fit.
        Missing: A model, data or a package is not there.
    """
    check_seed(seed)
    if orders not in ("pairs", "all", "none"):
        raise BadInput(f"orders is {orders!r}.", fix=nearest(str(orders), ("pairs", "all", "none")))
    labels = checked_labels(treatments, measures)
    names = list(measures)
    if not names:
        raise BadInput("No measure was named.", fix="Name some: --measures harmful_rate,utility")
    arms = arms_of(list(labels), orders)
    ref = model if isinstance(model, ModelRef) else resolve(model)
    if ref.kind not in FOLDERS:
        raise BadInput(
            f"{ref.where} has no folder (it is of the kind {ref.kind!r}), so it cannot be treated.",
            fix="Give a model folder, adapter or hub id.",
        )
    known = {**labels, **{name: name for name in names}}
    for given in (models, data, options, judges):
        for name in given or {}:
            if name not in known:
                raise BadInput(f"The matrix has no method {name!r}.", fix=nearest(str(name), known))
    engine = EngineOptions(device=device, batch_size=batch_size)
    treated = {
        label: Given(
            name,
            {role: _as_ref(m) for role, m in (models or {}).get(label, {}).items()},
            _rows(catalog.find(name, "treatment"), label, (data or {}).get(label)),
            (options or {}).get(label, {}),
        )
        for label, name in labels.items()
    }
    taken = {
        name: Given(
            name,
            (models or {}).get(name, {}),
            _rows(catalog.find(name, "measure"), name, (data or {}).get(name)),
            (options or {}).get(name, {}),
            (judges or {}).get(name),
        )
        for name in names
    }
    plan = MatrixPlan(ref, arms, treated, taken, {}, {}, seed, limit, engine, threads)
    # Planned on the untreated model: whatever is wrong shows before anything has run.
    return replace(
        plan,
        first={label: plan_arm(plan, label, ref, Path(MODELS) / label) for label in treated},
        asked={name: plan_cell(plan, name, ref) for name in taken},
    )


def checked_labels(treatments: Sequence[str] | Mapping[str, str], measures: Sequence[str]) -> dict[str, str]:
    """Treatments by label.

    Raises:
        BadInput: An unknown treatment or measure, one named twice, a label that cannot be one, or none at all.
    """
    if isinstance(treatments, str) or isinstance(measures, str):
        raise BadInput("Treatments and measures are lists of names.", fix="Give lists.")
    given = treatments.items() if isinstance(treatments, Mapping) else [(name, name) for name in treatments]
    labels: dict[str, str] = {}
    for label, name in given:
        entry = catalog.find(name, "treatment")
        if handed(entry) is None:
            raise BadInput(
                f"{name} takes no tuned model or student (it takes: {', '.join(entry.takes)}).",
                why="A matrix treats a model that is there, and hands it on.",
                fix="Name treatments that take one: "
                + ", ".join(e.name for e in catalog.entries("treatment") if handed(e)),
            )
        if label in labels:
            raise BadInput(
                f"The treatment {label!r} is named twice.",
                fix="Give each a label: --treatments a=NAME,b=NAME",
            )
        if not _LABEL.fullmatch(label) or label == NONE or label in measures:
            raise BadInput(
                f"{label!r} cannot be the label of a treatment.",
                fix="Use letters, digits and _, another word than none, and no measure's name.",
            )
        labels[label] = name
    if not labels:
        raise BadInput("No treatment was named.", fix="Name some: --treatments safe_delta")
    for name in measures:
        catalog.find(name, "measure")
        if list(measures).count(name) > 1:
            raise BadInput(f"The measure {name!r} is named twice.", fix="Leave out one of them.")
    return labels


def handed(entry: catalog.Entry) -> str | None:
    """The role in which a treatment takes the model it treats; None where it has none."""
    return next((role for role in HANDED if role in entry.takes), None)


def _as_ref(model: Any) -> Any:
    return resolve(model) if isinstance(model, (str, Path)) else model


def _rows(entry: catalog.Entry, name: str, given: Any) -> dict[str, Any]:
    """A method's rows by role, loaded once for all arms; presets stay names."""
    if given is None:
        return {}
    roles = entry.data_roles
    by_role = given
    if not isinstance(given, Mapping):
        if len(roles) != 1:
            raise BadInput(
                f"Rows were given for {name} without a role.",
                fix=f"Name it: {', '.join(f'{name}.{role}' for role in roles)}"
                if roles
                else f"{entry.name} takes no rows.",
            )
        by_role = {roles[0]: given}
    for role in by_role:
        if role not in roles:
            raise BadInput(f"{name} takes no rows in the role {role!r}.", fix=nearest(str(role), roles))
    return {role: load_data(as_rows(rows), role) for role, rows in by_role.items()}


def plan_arm(plan: MatrixPlan, label: str, tuned: ModelRef, out: Path) -> TreatPlan:
    """A treatment of a matrix, of the model it is handed."""
    given = plan.treatments[label]
    role = handed(catalog.find(given.method, "treatment"))
    assert role is not None  # `checked_labels`
    if role in given.models:
        raise BadInput(
            f"A {role} model was given for {label}.", fix=f"MODEL is the {role} one: leave out its role."
        )
    return plan_treatment(
        given.method,
        {**given.models, role: tuned},
        given.data,
        config=given.options,
        out=out,
        seed=plan.seed,
        device=plan.engine.device,
        threads=plan.threads,
    )


def plan_cell(plan: MatrixPlan, name: str, model: ModelRef) -> MeasurePlan:
    """A measure of a matrix, of an arm's model."""
    given = plan.measures[name]
    entry = catalog.find(name, "measure")
    role = entry.roles[0]
    if role in given.models:
        raise BadInput(
            f"A {role} model was given for {name}.",
            fix="MODEL and its arms are measured: leave out that role.",
        )
    data: Any = given.data if len(entry.data_roles) > 1 else next(iter(given.data.values()), None)
    return plan_measure(
        name,
        {role: model, **given.models},
        data=data or None,
        judge=given.judge,
        config=given.options,
        limit=plan.limit if entry.data_roles else None,
        seed=plan.seed,
        engine=plan.engine,
    )


def _size(ref: ModelRef) -> int:
    """Bytes of a model's weights on disk, an adapter's with its base's."""
    folders = [local_folder(ref), *([base_folder(ref)] if ref.kind == "adapter" else [])]
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))


def _times(cost: Estimate, count: int) -> Estimate:
    return replace(
        cost,
        calls=cost.calls * count,
        prompt_tokens=cost.prompt_tokens * count,
        new_tokens=cost.new_tokens * count,
        seconds=None if cost.seconds is None else cost.seconds * count,
    )
