"""An audit: harmful answers, over-refusal and utility of one model, under one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.compose.folders import load_records
from safewright.data import LoadedData, load_data
from safewright.errors import BadInput, Missing, nearest
from safewright.measures import MAX_UNSCORED, MeasurePlan, plan_measure, run_measure
from safewright.measures.plan import as_loaded, as_rows, check_engine, check_seed
from safewright.models import EngineOptions
from safewright.models.estimate import Estimate
from safewright.runs import open_run
from safewright.runs.progress import Progress
from safewright.runs.run import plan_digest
from safewright.types import Judge, ModelRef, Record, Scorecard

AUDIT: Mapping[str, str] = {"harm": "harmful_rate", "benign": "over_refusal", "utility": "utility"}
"""Which measure reads which role's rows."""

NEED = frozenset({"generate"})


@dataclass(frozen=True)
class Audit:
    """The scorecards of one model by role, with the records behind them."""

    model: ModelRef
    cards: Mapping[str, Scorecard]
    records: Mapping[str, tuple[Record, ...]]
    folder: Path


@dataclass(frozen=True)
class AuditPlan:
    """An audit with its model resolved and its rows loaded, before anything is run."""

    model: ModelRef
    measures: Mapping[str, MeasurePlan]
    ours: bool = True
    """Whether the model was opened for the audit, and is closed after it."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the results, in plain JSON."""
        return {"audit": {role: plan.identity for role, plan in self.measures.items()}}

    @property
    def folder(self) -> Path:
        """Where the audit goes when nothing else is said."""
        name = Path(self.model.where.rstrip("/")).name or "model"
        return Path("runs") / f"audit-{_safe(name)}-{plan_digest(self.identity)[7:19]}"

    def estimates(self) -> dict[str, Estimate]:
        """What each measure will ask for."""
        return {name: cost for plan in self.measures.values() for name, cost in plan.estimates().items()}


def plan_audit(
    model: str | Path | ModelRef | Any,
    *,
    data: Mapping[str, Any] | None = None,
    judges: Mapping[str, Judge | str] | None = None,
    options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    quick: bool = False,
    seed: int = 0,
    engine: EngineOptions | None = None,
) -> AuditPlan:
    """An audit ready to run.

    Args:
        model: What `safewright.models.resolve` takes, or what `safewright.models.load` returned.
        data: Rows by role (``harm``, ``benign``, ``utility``); a missing role takes its preset.
        judges: Judges by role; keyword rules where none is given.
        options: Options of every measure of the audit (``max_new_tokens``) or of one (``utility.metric``).
        limit: Rows per role.
        quick: 100 rows per role where no limit is given.
        seed: Of the samples.
        engine: How the model is run.

    Raises:
        BadInput: An unknown role, or rows that do not fit.
        Missing: Presets that cannot be loaded, all of them named.
    """
    how = check_engine(engine)
    check_seed(seed)
    for given, roles in (("data", data), ("judges", judges)):
        _check_roles(given, roles)
    # One model for all measures: opened once, when the first of them has something to ask.
    opened = as_loaded(model, NEED, how, name="the audit")
    rows: dict[str, LoadedData] = {}
    absent: dict[str, Missing] = {}
    for role in AUDIT:
        try:
            rows[role] = load_data(as_rows((data or {}).get(role)), role, limit=limit, seed=seed, quick=quick)
        except Missing as error:
            absent[role] = error
    if absent:
        raise _all_missing(absent)
    return AuditPlan(
        opened.ref,
        {
            role: plan_measure(
                name,
                opened,
                data=rows[role],
                judge=(judges or {}).get(role),
                config=_own_options(name, options or {}),
                seed=seed,
                engine=how,
            )
            for role, name in AUDIT.items()
        },
        ours=opened is not model,
    )


def _check_roles(given: str, roles: Mapping[str, Any] | None) -> None:
    if roles is not None and not isinstance(roles, Mapping):
        raise BadInput(
            f"The {given} of an audit are a {type(roles).__name__}.",
            fix=f"Give a mapping of the roles {', '.join(AUDIT)}.",
        )
    for role in roles or {}:
        if role not in AUDIT:
            raise BadInput(f"The audit has no role {role!r} for {given}.", fix=nearest(str(role), AUDIT))


def _own_options(measure: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for one measure: plain keys are for all, ``MEASURE.KEY`` for that one alone.

    A mapping under a measure's name (a table of a TOML file) holds options for that measure.

    Raises:
        BadInput: A key names a measure that is not part of the audit.
    """
    own: dict[str, Any] = {}
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": each for inner, each in value.items()})
        else:
            flat[key] = value
    for key, value in flat.items():
        target, dot, option = key.rpartition(".")
        if dot and target not in AUDIT.values():
            raise BadInput(f"The audit has no measure {target!r}.", fix=nearest(target, AUDIT.values()))
        if not dot or target == measure:
            own[option] = value
    return own


def _all_missing(absent: Mapping[str, Missing]) -> Missing:
    if len(absent) == 1:
        (error,) = absent.values()
        return error
    roles = ", ".join(absent)
    lines = "\n  ".join(f"{role}: {error.what} {error.fix}" for role, error in absent.items())
    files = " ".join(f"--data {role}=rows.jsonl" for role in absent)
    return Missing(f"No rows for the roles {roles}.\n  {lines}", fix=f"Or give your own: {files}")


def run_audit(
    plan: AuditPlan,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
    max_unscored: float = MAX_UNSCORED,
    progress: Progress | None = None,
    told: Callable[[str, Scorecard], None] | None = None,
) -> Audit:
    """The three scorecards of a planned audit.

    Args:
        plan: From `plan_audit`.
        out: The run's folder, ``plan.folder`` where None; each measure has its own inside.
        overwrite: Start anew where the folder holds another run.
        notes: Facts for plan.json that decide nothing.
        max_unscored: Share of unscored records above which the scorecards call themselves untrustworthy.
        progress: Called as work goes on.
        told: Called with each role's scorecard as it is ready.
    """
    folder = out or plan.folder
    cards: dict[str, Scorecard] = {}
    with open_run(folder, {**plan.identity, **(notes or {})}, overwrite=overwrite) as run:
        try:
            for role, measure in plan.measures.items():
                cards[role] = run_measure(
                    measure, run=folder / measure.entry.name, max_unscored=max_unscored, progress=progress
                )
                if told is not None:
                    told(role, cards[role])
        finally:
            for measure in plan.measures.values() if plan.ours else ():
                for model in measure.models.values():
                    model.close()
        paths = {role: f"{card.measure}/scorecard.json" for role, card in cards.items()}
        run.write("audit.json", {"model": plan.model, "cards": paths})
    records = {role: tuple(load_records(folder / card.measure)) for role, card in cards.items()}
    return Audit(plan.model, cards, records, folder)


def _safe(name: str) -> str:
    return "".join(character if character.isalnum() or character in "-._" else "-" for character in name)


def parse_judges(specs: list[str]) -> dict[str, str]:
    """Judges by role from ``NAME`` or ``ROLE=NAME``; a name alone serves every role it can decide.

    Raises:
        BadInput: An unknown role or judge, or one that can decide nothing an audit asks.
    """
    from safewright.judges import resolve as resolve_judge

    asked = {role: catalog.find(name).judges for role, name in AUDIT.items() if catalog.find(name).judges}
    chosen: dict[str, str] = {}
    for spec in specs:
        role, equals, name = spec.partition("=")
        if equals and role in AUDIT:
            if role not in asked:
                raise BadInput(f"--judge {spec}: the role {role!r} needs no judge.")
            chosen[role] = name
            continue
        answers = resolve_judge(spec).answers
        fitting = [role for role, quality in asked.items() if quality in answers]
        chosen.update({role: spec for role in fitting if role not in chosen})
    return chosen
