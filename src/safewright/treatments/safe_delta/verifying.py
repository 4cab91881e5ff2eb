"""The stages ``verify``, ``sweep`` and ``inspect``: what can be said about a repair without asking the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from safewright.errors import BadInput
from safewright.models.blocks import Matrix
from safewright.models.checkpoint import Checkpoint
from safewright.treatments.editing import plan_output, tiles
from safewright.treatments.job import Job
from safewright.treatments.placing import differing
from safewright.treatments.safe_delta.applying import arithmetic
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.core import loss
from safewright.treatments.safe_delta.curvature import Curvature
from safewright.treatments.safe_delta.matrix import HELD, Losses
from safewright.treatments.safe_delta.prepared import FACTS, Prepared
from safewright.treatments.sources import Sources, fill
from safewright.types import Check

SAME = 1e-6
"""Relative difference up to which a loss that was computed again is the same."""


def verify(
    models: Mapping[str, Any], folder: Path, prep: Path, config: SafeDeltaConfig, layers: Sequence[Any]
) -> list[Check]:
    """Recompute every layer's safety loss from the files, and compare it with the report.

    Args:
        models: ``aligned`` and ``tuned``, as resolved references.
        folder: The repaired model or adapter.
        prep: The prepared folder.
        config: The options it was made with.
        layers: Its layer report.
    """
    prepared = Prepared(prep)
    prepared.require_for(models["aligned"])
    opened = Sources.of(models, config.row_chunk).open()
    matrices = {matrix.tensor: matrix for matrix in opened.blocks.matrices}
    repaired = None if (folder / "adapter_config.json").exists() else Checkpoint(folder)
    factors = _factors_of(folder, models) if repaired is None else None
    off, worst = [], 0.0
    try:
        for row in layers:
            matrix = matrices[row["tensor"]]
            group = prepared.group(matrix.module)
            curvature = prepared.curvature(group, config)
            losses = Losses(curvature.H, prepared.held(group))
            work = arithmetic(opened, matrix)
            rows, _ = opened.shape(matrix)
            for start, stop in tiles(rows):
                aligned = fill(opened.aligned_rows(matrix, start, stop), work)
                delta = fill(opened.tuned_rows(matrix, start, stop), work) - aligned
                if repaired is not None:
                    stored = _stored_rows(repaired, matrix, start, stop)
                    losses.add(fill(stored, work) - aligned, delta)
                else:
                    assert factors is not None
                    A, B, scaling = factors.read(matrix.module)
                    losses.add(fill(scaling * (B[start:stop].to(work) @ A.to(work)), work), delta)
            found = losses.report()
            for name in HELD:
                said, now = row[name], found[name]
                gap = abs((said or 0.0) - (now or 0.0)) / max(abs(row["loss_full"]), 1e-30)
                worst = max(worst, gap)
                # A low-rank step is summed in another order than its report. A gap that is no number is one.
                same = gap <= (SAME if repaired is not None else 1e-4)
                if not same or (said is None) != (now is None):
                    off.append(f"{row['tensor']} {name}: reported {said}, found {now}")
    finally:
        opened.close()
        if repaired is not None:
            repaired.close()
    detail = "; ".join(off[:3]) if off else f"{len(layers)} matrices, largest relative difference {worst:.1e}"
    return [Check("the files have the reported safety losses", not off, detail)]


def _stored_rows(repaired: Checkpoint, matrix: Matrix, start: int, stop: int) -> torch.Tensor:
    if matrix.transposed:
        return repaired.read(matrix.tensor).T[start:stop]
    return repaired.rows(matrix.tensor, start, stop)


def _factors_of(folder: Path, models: Mapping[str, Any]) -> Any:
    from safewright.models.adapters import Adapter
    from safewright.models.blocks import skeleton
    from safewright.models.references import local_folder

    return Adapter(folder, skeleton(local_folder(models["aligned"])))


def sweep(job: Job, prep: Path) -> dict[str, Any]:
    """Safety loss and distance to the fine-tuned weights along mu, without generating anything.

    Returns:
        ``points``: for every mu the summed ``loss``, ``held_loss``, ``kept`` and ``distance``, as shares of
        the whole step's; ``loss_full`` and ``held_loss_full`` to scale them.
    """
    config: SafeDeltaConfig = job.config
    prepared = Prepared(prep)
    prepared.require_for(job.models["aligned"])
    opened = Sources.of(job.models, config.row_chunk).open()
    values = config.sweep_points()
    sums = [[0.0] * 4 for _ in values]
    full, held_full, step = 0.0, 0.0, 0.0
    held_known = True
    try:
        output = plan_output(opened, job.draft, modules=config.modules, allow_skip=config.allow_skip)
        for place, matrix in enumerate(output.matrices):
            job.progress("sweeping", place, len(output.matrices))
            group = prepared.group(matrix.module)
            curvature = prepared.curvature(group, config, job.device)
            held = prepared.held(group, job.device)
            held_known = held_known and held is not None
            work = arithmetic(opened, matrix)
            rows, _ = opened.shape(matrix)
            # Without eigenvectors every price has a matrix as large as H: one of them at a time.
            at_once = len(values) if curvature.spectral else 1
            for first, (start, stop) in product(range(0, len(values), at_once), tiles(rows)):
                aligned = fill(opened.aligned_rows(matrix, start, stop).to(job.device), work)
                delta = fill(opened.tuned_rows(matrix, start, stop).to(job.device), work) - aligned
                if first == 0:
                    full += loss(delta, curvature.H)
                    step += float((delta * delta).sum(dtype=torch.float64))
                    held_full += loss(delta, held) if held is not None else 0.0
                some = slice(first, first + at_once)
                for sum_, gap in zip(sums[some], _along(curvature, values[some], work, delta), strict=True):
                    edit = delta - gap
                    sum_[0] += loss(edit, curvature.H)
                    sum_[1] += loss(edit, held) if held is not None else 0.0
                    sum_[2] += float((edit * edit).sum(dtype=torch.float64))
                    sum_[3] += float((gap * gap).sum(dtype=torch.float64))
        job.progress("sweeping", len(output.matrices), len(output.matrices))
    finally:
        opened.close()

    def share(part: float, whole: float) -> float:
        return part / whole if whole else 0.0

    return {
        "unit": "mu, in units of 1 / mean diagonal of H",
        "loss_full": full,
        "held_loss_full": held_full if held_known else None,
        "points": [
            {
                "mu": value,
                "loss": share(sum_[0], full),
                "held_loss": share(sum_[1], held_full) if held_known else None,
                "kept": share(sum_[2], step),
                "distance": share(sum_[3], step),
            }
            for value, sum_ in zip(values, sums, strict=True)
        ],
    }


def _along(
    curvature: Curvature, values: Sequence[float], work: torch.dtype, delta: torch.Tensor
) -> Iterator[torch.Tensor]:
    """What `soft` takes away of a step's rows at every mu."""
    if not curvature.spectral:
        for value in values:
            yield delta @ curvature.taken(value, work)
        return
    along, spectrum = delta @ curvature.cast("left", work), curvature.spectrum[0]
    for value in values:
        mu = value * curvature.mu_unit
        taken = (mu * spectrum / (1 + mu * spectrum)).to(work)
        yield (along * taken) @ curvature.cast("right", work).T


def inspect(folder: Path) -> dict[str, Any]:
    """What a prepared folder holds: rank, conditioning, outlier channels and tokens of every input.

    Rank and condition are None where no eigenvalues were computed; ``pooled``: H of all tokens of the layer's experts
    stands in for an expert's own.

    Raises:
        BadInput: It is none, or a file of it is missing or was changed.
    """
    prepared = Prepared(folder)
    for group in prepared.groups:
        prepared.check_file(group)
    return {
        "aligned": prepared.facts["aligned"],
        "counts": prepared.facts["counts"],
        "utility": prepared.facts["utility"],
        "groups": [
            {
                "layer": group.layer,
                "input of": [_called(name, group.layer) for name in group.modules],
                "width": group.width,
                "tokens": group.tokens,
                "rank": group.rank,
                "dead": group.dead,
                "condition": group.condition,
                "outlier": group.outlier,
                "pooled": group.pooled,
            }
            for group in prepared.groups
        ],
        "bytes": sum((prepared.folder / group.file).stat().st_size for group in prepared.groups),
    }


def _called(module: str, layer: int) -> str:
    """A map's last name; that of an expert's map says of which one."""
    *_, last = parts = module.partition(f".{layer}.")[2].split(".")
    return ".".join(parts[-3:]) if parts[-2:-1] and parts[-2].isdigit() else last


def read_provenance(folder: Path) -> dict[str, Any]:
    """The provenance beside a treated model's weights.

    Raises:
        BadInput: There is none, or it is damaged.
    """
    file = folder / "provenance.json"
    if not file.is_file():
        raise BadInput(
            f"{folder} has no provenance.json.", fix="Name the folder a treatment wrote with --out."
        )
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is damaged: {error}.", fix="Run the treatment again.") from error
    return found


def same_files(found: Mapping[str, Any], folder: Path) -> Check:
    """Whether every file of a result still has the bytes it was written with."""
    said: Mapping[str, str] = found.get("files", {})
    gone, off = differing(folder, said)
    parts = [f"missing: {', '.join(gone[:3])}"] * bool(gone) + [f"changed: {', '.join(off[:3])}"] * bool(off)
    return Check("the files are those that were written", not parts, "; ".join(parts) or f"{len(said)} files")


def config_of(report: Mapping[str, Any]) -> SafeDeltaConfig:
    """The options a report was made with."""
    return SafeDeltaConfig(**report["config"])


def parents(found: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The models a result was made from, once their bytes are still the same.

    Raises:
        BadInput: One of them is gone or has changed.
    """
    from safewright.models import resolve

    refs = {}
    for role, parent in found["parents"].items():
        refs[role] = resolve(parent["where"])
        if refs[role].digest != parent["digest"]:
            raise BadInput(
                f"The {role} model {parent['where']} has changed since {folder} was made from it.",
                fix="Give back the model it was made from, or make the repair again.",
            )
    return refs


def prep_of(found: Mapping[str, Any], folder: Path, config: SafeDeltaConfig) -> Path:
    """The prepared folder of a result: the one named now, the one named then, or that of its run."""
    then = found.get("inputs", {}).get("prep")
    place = folder.absolute()
    for file in (
        Path(config.prep).expanduser() / FACTS if config.prep else None,
        Path(then) if then else None,
        place.with_name(f"{place.name}.run") / "prep" / FACTS,
    ):
        if file is not None and file.is_file():
            return file.parent
    raise BadInput(
        f"The prepared folder of {folder} is gone.", fix="Name it: --set prep=DIR, or prepare again."
    )
