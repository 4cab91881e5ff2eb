"""The side-effect matrix: every treatment alone and after every other, and every measure taken again after each.

One model, tuned somehow, is treated by each treatment and by pairs of them in both orders; what one treatment
makes is what the next is given. Roles other than ``tuned`` (the ``aligned`` original of a repair) stay the same
in every order. Everything lies in one run's folder: ``models/ARM`` holds what was made, ``arms/ARM/MEASURE``
what was measured, ``matrix.json`` the result.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.compose.effects import Arm, Contrast, Finding, contrasts, findings
from safewright.compose.folders import CARD_FILE, PLAN_FILE, load_card, load_finished, read_json
from safewright.compose.matrix_plan import MODELS, MatrixPlan, plan_arm, plan_cell, plan_matrix
from safewright.errors import BadInput, ExitCode, Incomplete, SafewrightError
from safewright.measures import MAX_UNSCORED, MeasurePlan, beyond_bounds, run_measure, unscored_share
from safewright.models import resolve
from safewright.models.merging import merged
from safewright.models.references import base_folder
from safewright.runs import Run, open_run
from safewright.runs.atomic import FULL
from safewright.runs.progress import Progress
from safewright.runs.run import plan_digest
from safewright.treatments import run_treatment
from safewright.types import Check, ModelRef, Scorecard

__all__ = ["Matrix", "load_matrix", "matrix", "plan_matrix", "run_matrix"]

ARMS = "arms"
MATRIX_FILE = "matrix.json"


@dataclass(frozen=True)
class Treated:
    """An arm's model, with the checks of its last treatment; no model where the arm failed."""

    arm: str
    steps: tuple[str, ...]
    model: ModelRef | None = None
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """What was not done for an arm: ``what`` is the treatment or measure, ``exit_code`` that of its error."""

    arm: str
    what: str
    error: str
    exit_code: int


@dataclass(frozen=True)
class Matrix:
    """Every arm's model and scorecards, and what differs between arms, record by record.

    ``cards`` are by arm and measure; ``unscored`` holds the shares above the bound by ``ARM/MEASURE``.
    """

    model: ModelRef
    arms: tuple[Treated, ...]
    cards: Mapping[str, Mapping[str, Scorecard]]
    contrasts: tuple[Contrast, ...]
    findings: tuple[Finding, ...]
    failures: tuple[Failure, ...] = ()
    unscored: Mapping[str, float] = field(default_factory=dict)
    treatments: Mapping[str, str] = field(default_factory=dict)
    """The method behind every label."""

    @property
    def exit_code(self) -> ExitCode:
        """That of the first failure, else 10 where a treatment's check failed, else 11 where too much is unscored."""
        if self.failures:
            return ExitCode(self.failures[0].exit_code)
        if any(not check.passed for arm in self.arms for check in arm.checks):
            return ExitCode.GATE
        return ExitCode.UNSCORED if self.unscored else ExitCode.OK


def matrix(
    model: str | Path | ModelRef,
    treatments: Sequence[str] | Mapping[str, str],
    measures: Sequence[str],
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    max_unscored: float = MAX_UNSCORED,
    progress: Progress | None = None,
    **given: Any,
) -> Matrix:
    """Treat a model by each treatment and by pairs of them in both orders, and take every measure after each.

    What `plan_matrix` takes goes to it, the rest to `run_matrix`. A treatment that fails loses its own arms and
    no others: see ``failures`` and ``exit_code`` of the result.

    Raises:
        BadInput: Something given cannot be used; nothing has run then.
        Missing: A model, data or a package is not there.
        Incomplete: The disk is full; the same call goes on.
    """
    plan = plan_matrix(model, treatments, measures, **given)
    return run_matrix(plan, out=out, overwrite=overwrite, max_unscored=max_unscored, progress=progress)


Told = Callable[[str, str, Any], None]
"""Called with arm, treatment or measure, and its result, scorecard or error, as it is ready."""


def run_matrix(
    plan: MatrixPlan,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
    workers: int = 1,
    max_unscored: float = MAX_UNSCORED,
    progress: Progress | None = None,
    told: Told | None = None,
) -> Matrix:
    """The matrix of a plan; the same call goes on after a kill, and asks and makes nothing twice.

    Args:
        plan: From `plan_matrix`.
        out: The run's folder, ``plan.folder`` where None.
        overwrite: Start anew where the folder holds another run.
        notes: Facts for plan.json that decide nothing.
        workers: Processes of a treatment.
        max_unscored: Share of unscored records above which a scorecard is not to be trusted.
        progress: Called as work goes on.
        told: Called with every part that is ready.
    """
    folder = Path(out) if out is not None else plan.folder
    with open_run(folder, {**plan.identity, **(notes or {})}, overwrite=overwrite) as run:
        work = _Work(plan, run, folder, workers, max_unscored, progress, told or (lambda *_: None))
        work.go()
        found = work.result()
        run.write(MATRIX_FILE, found)
    return found


@dataclass
class _Work:
    """A matrix at work."""

    plan: MatrixPlan
    run: Run
    folder: Path
    workers: int
    max_unscored: float
    progress: Progress | None
    told: Told
    treated: dict[str, Treated] = field(default_factory=dict)
    cards: dict[str, dict[str, Scorecard]] = field(default_factory=dict)
    places: dict[tuple[str, str], Path] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    unscored: dict[str, float] = field(default_factory=dict)

    def go(self) -> None:
        """Make every arm and measure it; arms come after those they are made from."""
        self.run.own(MODELS)
        self.run.own(ARMS)
        for arm in self.plan.arms:
            treated = self._treat(arm)
            self.treated[arm.name] = treated
            self.cards[arm.name] = {}
            if treated.model is None:
                continue
            for name in self.plan.measures:
                self._measure(arm, name, treated.model)

    def _treat(self, arm: Arm) -> Treated:
        if not arm.steps:
            return Treated(arm.name, (), self.plan.model)
        label = arm.steps[-1]
        source = self.treated[arm.before.name].model
        if source is None:
            why = f"There is no model to treat: {arm.before.name} failed."
            earlier = next(f for f in self.failures if f.arm == arm.before.name)
            self._failed(arm, label, why, earlier.exit_code)
            return Treated(arm.name, arm.steps)
        try:
            tuned, notes = self._handed(arm, label, source)
            plan = plan_arm(self.plan, label, tuned, self.folder / MODELS / arm.name)
            made = run_treatment(plan, workers=self.workers, progress=self.progress)
        except Exception as error:  # noqa: BLE001 - one treatment that fails must not lose the others
            self._caught(arm, label, error)
            return Treated(arm.name, arm.steps)
        self.told(arm.name, label, made)
        return Treated(arm.name, arm.steps, made.model, made.checks, notes)

    def _handed(self, arm: Arm, label: str, source: ModelRef) -> tuple[ModelRef, tuple[str, ...]]:
        """The model a treatment is given, merged where it is an adapter on a base the treatment is not given."""
        if source.kind != "adapter":
            return source, ()
        given = self.plan.treatments[label]
        takes = catalog.find(given.method).takes
        base = resolve(base_folder(source)).digest
        if any(given.models[role].digest == base for role in takes if role in given.models):
            return source, ()
        name = f"{arm.before.name}-merged-{source.digest[7:19]}"
        place = merged(source, self.folder / MODELS / name)
        note = f"The adapter of {arm.before.name} was merged into its base before {label}."
        return resolve(place), (note,)

    def _measure(self, arm: Arm, name: str, model: ModelRef) -> None:
        place = self.folder / ARMS / arm.name / name
        try:
            plan = plan_cell(self.plan, name, model)
            card = _finished(place, plan)
            if card is None:
                card = run_measure(plan, run=place, max_unscored=self.max_unscored, progress=self.progress)
        except Exception as error:  # noqa: BLE001 - one measure that fails must not lose the others
            self._caught(arm, name, error)
            return
        self.cards[arm.name][name] = card
        self.places[arm.name, name] = place
        total = len(load_card(place)[1])
        if beyond_bounds(card, total, self.max_unscored):
            self.unscored[f"{arm.name}/{name}"] = unscored_share(card, total)
        self.told(arm.name, name, card)

    def _caught(self, arm: Arm, what: str, error: Exception) -> None:
        """Count a failure of one part; what stops the whole goes on up."""
        full = isinstance(error, OSError) and error.errno in FULL
        if isinstance(error, Incomplete) or full:
            raise error  # the next arm would meet the same disk
        if isinstance(error, SafewrightError):
            self._failed(arm, what, str(error), error.exit_code)
            return
        lines = "".join(traceback.format_exception(error))
        self.run.event("crash", arm=arm.name, what=what, trace=lines)
        said = f"{type(error).__name__}: {error}"
        self._failed(arm, what, f"{said} (see journal/events.jsonl)", ExitCode.INTERNAL)

    def _failed(self, arm: Arm, what: str, error: str, code: int) -> None:
        self.failures.append(Failure(arm.name, what, error, int(code)))
        self.told(arm.name, what, self.failures[-1])

    def result(self) -> Matrix:
        """What was made and measured, compared."""
        found = contrasts(self.plan.arms, self.places, seed=self.plan.seed)
        return Matrix(
            self.plan.model,
            tuple(self.treated.values()),
            self.cards,
            found,
            findings(self.plan.arms, found),
            tuple(self.failures),
            self.unscored,
            {label: given.method for label, given in self.plan.treatments.items()},
        )


def _finished(place: Path, plan: MeasurePlan) -> Scorecard | None:
    """The scorecard of this very plan, where it is finished and no answer of it failed on the way."""
    if not (place / CARD_FILE).is_file():
        return None
    found = read_json(place / PLAN_FILE)
    if plan_digest(found) != plan_digest(plan.identity):
        return None
    try:
        card, _ = load_card(place)
    except BadInput:
        return None  # killed between its two files: the run goes on from its journal
    return None if card.unscored.get("error") else card


def load_matrix(folder: Path | str) -> Matrix:
    """The matrix of a finished run.

    Raises:
        BadInput: The folder holds none.
    """
    return load_finished(folder, MATRIX_FILE, Matrix, "matrix")


def cards_of(found: Matrix) -> Iterator[tuple[str, Scorecard]]:
    """Every scorecard with its arm, measure by measure."""
    for name in dict.fromkeys(name for cards in found.cards.values() for name in cards):
        for arm, cards in found.cards.items():
            if name in cards:
                yield arm, cards[name]
