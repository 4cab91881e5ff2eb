"""The comparison of a treatment's variants on one's own model: rows made once, every variant trained and measured.

A stage of a treatment says which variants there are (`safewright.treatments.comparing`). Here the rows that are not
there are made, and then the variants are the arms of a matrix in which nothing is put after anything
(`safewright.compose.matrix`): each begins from the same model, each is measured, each is compared with the model
as it was, record by record, with Holm's adjustment over all. Everything lies in one folder: ``records/SOURCE``
holds rows that were made, ``compared`` the matrix, ``ablation.json`` the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.compose.effects import Arm, Contrast, contrasts
from safewright.compose.folders import load_finished
from safewright.compose.matrix import ARMS, Matrix, Told, run_matrix
from safewright.compose.matrix_plan import Costs, MatrixPlan, plan_matrix
from safewright.data import LoadedData, load_data
from safewright.data.loaded import chosen
from safewright.errors import BadInput, ExitCode, nearest
from safewright.measures import MAX_UNSCORED
from safewright.models import resolve
from safewright.runs import open_run
from safewright.runs.atomic import checked_path
from safewright.runs.progress import Progress
from safewright.treatments import TreatPlan, plan_treatment, run_stage
from safewright.treatments.comparing import Comparison, Source, Variant
from safewright.types import ModelRef

RECORDS = "records"
COMPARED = "compared"
ABLATION_FILE = "ablation.json"
TABLE, MARKDOWN = "table.json", "table.md"
"""The table, as whoever shows it writes it (`safewright.report.ablation`)."""


@dataclass(frozen=True)
class AblationPlan:
    """A comparison with everything resolved and checked, before anything runs.

    ``there`` are the sources whose rows are at hand, ``made`` the stages that make those of the others. ``matrix``
    is the plan of the arms: on the rows themselves where all are at hand, else on what they are made from.
    """

    entry: catalog.Entry
    comparison: Comparison
    models: Mapping[str, ModelRef]
    data: Mapping[str, LoadedData]
    options: Mapping[str, Any]
    there: Mapping[str, LoadedData]
    made: Mapping[str, TreatPlan]
    measured: Mapping[str, Any]
    """What `plan_matrix` is given of the measures."""
    settings: Mapping[str, Any]
    """What it is given of the engine and seed."""
    matrix: MatrixPlan
    out: Path

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result, in plain JSON."""
        return {
            "ablation": {
                "matrix": self.matrix.identity["matrix"],
                "made": {name: plan.identity for name, plan in self.made.items()},
                "shares": {variant.name: variant.share for variant in self.comparison.variants},
            }
        }

    def estimates(self, workers: int = 1) -> AblationCosts:
        """What the whole will ask for, before it starts."""
        costs = self.matrix.estimates(workers)
        made = {name: dict(plan.estimate(workers)) for name, plan in self.made.items()}
        return AblationCosts(costs, made)


@dataclass(frozen=True)
class AblationCosts:
    """``arms``: of training and measuring all arms; ``records``: of making the rows of each source that has none."""

    arms: Costs
    records: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ablation:
    """All arms, and their differences: from the untreated model in ``matrix``, from ``reference`` in ``against``."""

    treatment: str
    variants: tuple[ShownVariant, ...]
    matrix: Matrix
    reference: str | None = None
    against: tuple[Contrast, ...] = ()
    records: Mapping[str, int] = field(default_factory=dict)
    """Rows of each source."""

    @property
    def exit_code(self) -> ExitCode:
        """That of the matrix."""
        return self.matrix.exit_code


@dataclass(frozen=True)
class ShownVariant:
    """A row of the table: its name, what it is, its part of the table, its source, and how many rows it had."""

    name: str
    about: str
    group: str
    source: str
    share: float
    rows: int


def plan_ablation(
    name: str,
    stage: str,
    models: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    out: str | Path,
    own: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    measures: Sequence[str] | None = None,
    measured: Mapping[str, Mapping[str, Any]] | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    threads: int = 1,
) -> AblationPlan:
    """A comparison ready to run.

    Args:
        name: A treatment of the catalog.
        stage: A stage of it that compares.
        models: Models by role: the one all arms begin from, and those that make rows.
        data: Rows by role of the treatment.
        out: The folder of the whole.
        own: Options of the stage.
        options: Options of the treatment, which every arm has.
        measures: Measures taken; those the stage names where None, as far as there are rows for them.
        measured: ``models``, ``data``, ``options`` and ``judges`` by measure; see `plan_matrix`.
        limit: At most so many rows of each role and measure.
        seed: Of everything drawn.
        device: Where models are run.
        batch_size: Prompts answered together.
        threads: Compute threads of a training.

    Raises:
        BadInput: An unknown name anywhere, options that the arms decide, rows or models that do not fit.
        Missing: A model, data or a package is not there.
    """
    entry = catalog.find(name, "treatment")
    found = entry.stages.get(stage)
    if found is None or not found.measures or found.config is None:
        raise BadInput(f"{name} has no stage {stage!r} that compares.", fix=nearest(stage, entry.stages))
    _known("model", models, entry.roles)
    _known("rows", data, entry.data_roles)
    rows = {role: load_data(given, role, limit=limit, seed=seed) for role, given in data.items()}
    refs = {role: given if isinstance(given, ModelRef) else resolve(given) for role, given in models.items()}
    chosen_own = catalog.read_config(f"{name} {stage}", found.config, own or {})
    comparison: Comparison = found.function(chosen_own, refs, rows)
    if comparison.treated not in refs:
        raise BadInput(
            f"{name} {stage} needs the {comparison.treated} model.",
            fix=f"Give it: --model {comparison.treated}=FOLDER",
        )
    decided = sorted(comparison.decided & set(options or {}))
    if decided:
        raise BadInput(
            f"{decided[0]} was given, and the arms of {stage} decide it.",
            why="Each arm is one way to train; the options given are those that all have.",
            fix=f"Leave out --set {decided[0]}=…, or choose arms: --set arms=…",
        )
    there = {s.name: held for s in comparison.sources if (held := _there(s, rows, limit, seed)) is not None}
    made = {
        source.name: plan_treatment(
            name,
            {**refs, **source.models},
            rows,
            stage=source.stage,
            config={**(options or {}), **source.options},
            out=Path(out) / RECORDS / source.name,
            seed=seed,
            device=device,
            threads=threads,
        )
        for source in comparison.sources
        if source.name not in there
    }
    plan = AblationPlan(
        entry,
        comparison,
        refs,
        rows,
        dict(options or {}),
        there,
        made,
        {**_measured(found, comparison, measures, measured or {}), "limit": limit},
        {"seed": seed, "device": device, "batch_size": batch_size, "threads": threads},
        None,  # type: ignore[arg-type]
        checked_path(out),
    )
    return replace(plan, matrix=_matrix(plan, there))


def _known(what: str, given: Mapping[str, Any], roles: Sequence[str]) -> None:
    for role in given:
        if role not in roles:
            raise BadInput(f"There is no {what} in the role {role!r}.", fix=nearest(role, roles))


def _there(source: Source, rows: Mapping[str, LoadedData], limit: int | None, seed: int) -> LoadedData | None:
    """The rows of a source that are at hand."""
    if source.file is not None:
        return load_data(source.file, source.role, limit=limit, seed=seed)
    return rows[source.role] if source.stage is None else None


def _measured(
    stage: catalog.Stage,
    comparison: Comparison,
    measures: Sequence[str] | None,
    given: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The measures that are taken, with what they are given.

    Raises:
        BadInput: There are rows for none of them.
    """
    names = list(measures if measures is not None else comparison.measures) or [
        name for name in stage.measures if _ready(catalog.find(name, "measure"), given.get("data", {}))
    ]
    if not names:
        needed = ", ".join(
            f"--data {name}.{role}=FILE"
            for name in stage.measures
            for role in catalog.find(name, "measure").data
        )
        raise BadInput(
            "There are no rows to measure the arms on.",
            why="A table of arms without figures says nothing.",
            fix=f"Give some of: {needed}; or name measures: --set measures=…",
        )
    return {"measures": names, **given}


def _ready(entry: catalog.Entry, data: Mapping[str, Any]) -> bool:
    """Whether a measure has the rows it must have."""
    own = data.get(entry.name)
    if own is None:
        return not entry.data
    return not isinstance(own, Mapping) or all(role in own for role in entry.data)


def _matrix(plan: AblationPlan, records: Mapping[str, LoadedData]) -> MatrixPlan:
    """The plan of the arms, on the rows of those sources that are there, else on what they are made from."""
    given: dict[str, Any] = {"models": {}, "data": {}, "options": {}}
    for variant in plan.comparison.variants:
        source = next(s for s in plan.comparison.sources if s.name == variant.source)
        further = {role: ref for role, ref in plan.models.items() if role != plan.comparison.treated}
        data: dict[str, Any] = dict(plan.data)
        shared = {key: value for key, value in plan.options.items() if key not in variant.without}
        options = {**shared, **variant.options}
        if source.name in records:
            further = {role: ref for role, ref in further.items() if role not in plan.comparison.further}
            # What the rows were made from is no longer read.
            data = {role: held for role, held in data.items() if role not in plan.comparison.raw}
            data[source.role] = _thinned(plan, variant, records[source.name])
        else:
            further |= {role: resolve(where) for role, where in source.models.items()}
            options |= source.options
        given["models"][variant.name] = further
        given["data"][variant.name] = data
        given["options"][variant.name] = options
    measured = dict(plan.measured)
    names, limit = measured.pop("measures"), measured.pop("limit")
    return plan_matrix(
        plan.models[plan.comparison.treated],
        {variant.name: plan.entry.name for variant in plan.comparison.variants},
        names,
        models={**given["models"], **measured.get("models", {})},
        data={**given["data"], **measured.get("data", {})},
        options={**given["options"], **measured.get("options", {})},
        judges=measured.get("judges"),
        orders="none",
        limit=limit,
        **plan.settings,
    )


def _thinned(plan: AblationPlan, variant: Variant, records: LoadedData) -> LoadedData:
    if variant.share >= 1:
        return records
    return chosen(records, lambda rows: plan.comparison.thin(rows, variant.share, int(plan.settings["seed"])))


def run_ablation(
    plan: AblationPlan,
    *,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
    workers: int = 1,
    max_unscored: float = MAX_UNSCORED,
    progress: Progress | None = None,
    told: Told | None = None,
    making: Callable[[str], None] | None = None,
) -> Ablation:
    """The comparison of a plan; the same call goes on after a kill, and makes, trains and asks nothing twice.

    Args:
        plan: From `plan_ablation`.
        overwrite: Start anew where the folder holds another run.
        notes: Facts for plan.json that decide nothing.
        workers: Processes of a treatment.
        max_unscored: Share of unscored records above which a scorecard is not to be trusted.
        progress: Called as work goes on.
        told: Called with every part that is ready; see `run_matrix`.
        making: Called with the name of a source whose rows are made now.
    """
    with open_run(plan.out, {**plan.identity, **(notes or {})}, overwrite=overwrite) as run:
        run.own(RECORDS, COMPARED, TABLE, MARKDOWN)
        records = dict(plan.there)
        for name, stage in plan.made.items():
            if making is not None:
                making(name)
            run_stage(stage, workers=workers, progress=progress)
            source = next(s for s in plan.comparison.sources if s.name == name)
            assert stage.out is not None
            records[name] = load_data(stage.out / source.writes, source.role)
        arms = _matrix(plan, records) if plan.made else plan.matrix
        found = run_matrix(
            arms,
            out=plan.out / COMPARED,
            workers=workers,
            max_unscored=max_unscored,
            progress=progress,
            told=told,
        )
        result = _result(plan, records, found)
        run.write(ABLATION_FILE, result)
    return result


def _result(plan: AblationPlan, records: Mapping[str, LoadedData], found: Matrix) -> Ablation:
    """What the arms are, and how they differ from the one that all are held against."""
    comparison = plan.comparison
    shown = tuple(
        ShownVariant(
            variant.name,
            variant.about,
            variant.group,
            variant.source,
            variant.share,
            len(_thinned(plan, variant, records[variant.source]).rows),
        )
        for variant in comparison.variants
    )
    against: tuple[Contrast, ...] = ()
    if comparison.reference is not None:
        home = plan.out / COMPARED / ARMS
        places = {(arm, name): home / arm / name for arm, cards in found.cards.items() for name in cards}
        one = Arm((comparison.reference,))
        others = [Arm((variant.name,)) for variant in comparison.variants if variant.name != one.name]
        against = contrasts(
            [one, *others],
            places,
            seed=int(plan.settings["seed"]),
            pairs=[("reference", one, other) for other in others],
        )
    counts = {name: len(held.rows) for name, held in records.items()}
    return Ablation(plan.entry.name, shown, found, comparison.reference, against, counts)


def load_ablation(folder: Path | str) -> Ablation:
    """The comparison of a finished run.

    Raises:
        BadInput: The folder holds none.
    """
    return load_finished(folder, ABLATION_FILE, Ablation, "comparison")
