"""The stages ``apply``, ``verify`` and ``sweep``: Safe Delta over the folders of whole models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safewright.errors import BadInput
from safewright.models.blocks import Matrix
from safewright.runs import to_json
from safewright.treatments.editing import (
    Output,
    Put,
    copy_side_files,
    fill,
    merge_kinds,
    plan_output,
    reports,
    tiles,
    write_adapter_folder,
    write_model,
)
from safewright.treatments.job import Job, Made
from safewright.treatments.safe_delta.budget import Budget
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.core import (
    Basis,
    Decision,
    decide,
    edit_factor,
    edit_matrix,
    edit_rows,
    energies,
    factor_energies,
    needed_bases,
)
from safewright.treatments.safe_delta.curvature import Curvature
from safewright.treatments.safe_delta.prepared import Prepared
from safewright.treatments.sources import (
    Opened,
    Sources,
    check_tokenizers,
)
from safewright.types import Check

HELD = ("loss", "loss_full", "held_loss", "held_loss_full")
"""Safety losses of a layer's report: of the edit and of the whole step, on calibration and held-out rows."""


@dataclass
class Losses:
    """Sums over the rows of one matrix, tile by tile: what an edit costs, and what it keeps."""

    H: torch.Tensor
    held: torch.Tensor | None
    loss: float = 0.0
    loss_full: float = 0.0
    held_loss: float = 0.0
    held_loss_full: float = 0.0
    step: float = 0.0
    edit: float = 0.0
    gap: float = 0.0

    def add(self, edit: torch.Tensor, delta: torch.Tensor) -> None:
        """Add the rows of a tile: the edit as it was written, and the whole step."""
        for H, suffix in ((self.H, ""), (self.held, "held_")):
            if H is None:
                continue
            for rows, name in ((edit, "loss"), (delta, "loss_full")):
                cost = 0.5 * float(((rows @ H.to(rows.dtype)) * rows).sum(dtype=torch.float64))
                setattr(self, suffix + name, getattr(self, suffix + name) + cost)
        for name, rows in (("step", delta), ("edit", edit), ("gap", edit - delta)):
            setattr(self, name, getattr(self, name) + float((rows * rows).sum(dtype=torch.float64)))

    def report(self) -> dict[str, Any]:
        """Losses, kept energy |E|^2 / |D|^2 and distance |E - D|^2 / |D|^2."""
        found: dict[str, Any] = {name: getattr(self, name) for name in HELD}
        if self.held is None:
            found |= {"held_loss": None, "held_loss_full": None}
        kept = self.edit / self.step if self.step else 1.0
        return found | {
            "step": self.step,
            "kept": kept,
            "distance": self.gap / self.step if self.step else 0.0,
        }


@dataclass(frozen=True)
class SafeDeltaEdit:
    """`safewright.treatments.editing.Edit` of Safe Delta."""

    prep: Path
    config: SafeDeltaConfig
    device: str = "cpu"

    def __call__(self, opened: Opened, matrix: Matrix, dtype: torch.dtype, put: Put) -> dict[str, Any]:
        prepared = _prepared(self.prep)
        group = prepared.group(matrix.module)
        curvature = prepared.curvature(group, self.config, self.device)
        rows, width = opened.shape(matrix)
        if width != group.width:
            raise BadInput(f"{matrix.tensor} has {width} inputs, its H {group.width}.")
        losses = Losses(curvature.H, prepared.held(group, self.device))
        work = arithmetic(opened, matrix)
        if self.config.mode in ("official", "paper"):
            info = self._whole(opened, matrix, curvature, losses, dtype, put)
        else:
            info = self._tiled(opened, matrix, curvature, losses, work, dtype, put)
        return {
            "module": matrix.module,
            "layer": matrix.layer,
            "shape": [rows, width],
            "rank": group.rank,
            **losses.report(),
            **info,
        }

    def _tiled(
        self,
        opened: Opened,
        matrix: Matrix,
        curvature: Curvature,
        losses: Losses,
        work: torch.dtype,
        dtype: torch.dtype,
        put: Put,
    ) -> dict[str, Any]:
        rows, width = opened.shape(matrix)
        config = self.config
        budget = Budget.of(config.mode, config.mu, config.rms_tol, config.s)
        found: dict[Basis, torch.Tensor] = {}
        squares = torch.zeros(width, dtype=torch.float64, device=self.device)
        for start, stop in tiles(rows):
            _, _, delta = self._tile(opened, matrix, start, stop, work)
            squares += (delta * delta).sum(0, dtype=torch.float64)
            for basis in needed_bases(config.mode, budget):
                energy = energies(delta, curvature, basis)
                found[basis] = found[basis] + energy if basis in found else energy
        decision = decide(config.mode, budget, curvature, found, numel=rows * width, squares=squares)
        for start, stop in tiles(rows):
            aligned, tuned, delta = self._tile(opened, matrix, start, stop, work)
            new = edit_rows(aligned, tuned, decision, curvature, work)
            put_rows = new[: stop - start].to(dtype)
            edit = torch.zeros_like(delta)
            edit[: stop - start] = put_rows.to(work) - aligned[: stop - start]
            losses.add(edit, delta)
            put(start, put_rows.cpu())
        return described(decision, curvature)

    def _tile(
        self, opened: Opened, matrix: Matrix, start: int, stop: int, work: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        aligned = fill(opened.aligned_rows(matrix, start, stop).to(self.device), work)
        tuned = fill(opened.tuned_rows(matrix, start, stop).to(self.device), work)
        return aligned, tuned, tuned - aligned

    def _whole(
        self,
        opened: Opened,
        matrix: Matrix,
        curvature: Curvature,
        losses: Losses,
        dtype: torch.dtype,
        put: Put,
    ) -> dict[str, Any]:
        config = self.config
        rows, _ = opened.shape(matrix)
        aligned = opened.aligned_rows(matrix, 0, rows).to(self.device)
        tuned = opened.tuned_rows(matrix, 0, rows).to(self.device)
        new, info = edit_matrix(
            aligned,
            tuned,
            curvature,
            mode=config.mode,
            s=config.s,
            rms_tol=config.rms_tol,
            blocksize=config.blocksize,
            compensation=config.compensation,
        )
        new = new.to(dtype)
        work = arithmetic(opened, matrix)
        for start, stop in tiles(rows):
            base = fill(aligned[start:stop], work)
            losses.add(fill(new[start:stop], work) - base, fill(tuned[start:stop], work) - base)
            put(start, new[start:stop].cpu())
        return {"admitted": float(info["mask"].double().mean())}


def described(decision: Decision, curvature: Curvature) -> dict[str, Any]:
    """What a report says about a decision; ``mu`` is None where nothing of the step is kept."""
    return {
        "k": decision.k if decision.mode == "exact" else None,
        "mu": decision.mu if decision.mode == "soft" and math.isfinite(decision.mu or 0.0) else None,
        "epsilon": decision.epsilon,
        "percdamp": curvature.percdamp,
    }


def arithmetic(opened: Opened, matrix: Matrix) -> torch.dtype:
    """The dtype a matrix is computed in: float64 for float64 weights, else float32."""
    dtypes = {opened.aligned[matrix.tensor].dtype, opened.tuned[matrix.tensor].dtype}
    return torch.float64 if "float64" in dtypes else torch.float32


_open_prep: dict[Path, Prepared] = {}


def _prepared(folder: Path) -> Prepared:
    """The prepared folder, opened once per process."""
    if folder not in _open_prep:
        _open_prep.clear()
        _open_prep[folder] = Prepared(folder)
    return _open_prep[folder]


def apply(job: Job, prep: Path) -> Made:
    """Write the repaired model or adapter into ``job.draft``.

    Raises:
        BadInput: The models, the prepared folder and the options do not fit together.
        NumericalFailure: A weight is not finite, or H cannot be factorised.
    """
    config: SafeDeltaConfig = job.config
    prepared = Prepared(prep)
    prepared.require_for(job.models["aligned"])
    check_tokenizers(job.models)
    sources = Sources.of(job.models, config.row_chunk)
    as_adapter = sources.adapter and config.output != "model" and config.mode in ("exact", "soft")
    if config.output == "adapter" and not sources.adapter:
        raise BadInput(
            "output=adapter, but the tuned model is a whole folder.",
            why="A full fine-tune has no factors to keep.",
            fix="Give the adapter as --model tuned=…, or leave output out.",
        )
    opened = sources.open()
    try:
        output = plan_output(
            opened,
            job.draft,
            modules=config.modules,
            others=config.others,
            save_dtype=config.edited_dtype,
            allow_skip=config.allow_skip,
        )
        _check_covered(output, prepared, config)
        if as_adapter:
            layers, moved = write_adapter(job, opened, output, prepared), 0.0
        else:
            layers, moved = _write_full(job, sources, output, prep)
        kinds = merge_kinds(output, opened)
    finally:
        opened.close()
    summary = summarised(layers, kinds, moved, config)
    job.run.write("layers.json", layers)
    return Made("adapter" if as_adapter else "weights", checks(layers, kinds), summary | {"layers": layers})


def _check_covered(output: Output, prepared: Prepared, config: SafeDeltaConfig) -> None:
    for matrix in output.matrices:
        prepared.group(matrix.module)
    if config.utility == "task" and prepared.facts["utility"] != "task":
        raise BadInput(
            f"{prepared.folder} was prepared without fine-tuning rows.",
            fix="Prepare with utility=task and --data finetune=rows.jsonl",
        )


def _write_full(job: Job, sources: Sources, output: Output, prep: Path) -> tuple[list[dict[str, Any]], float]:
    config: SafeDeltaConfig = job.config
    rows = write_model(job, sources, output, SafeDeltaEdit(prep, config, job.device))
    copy_side_files(output, sources, job.models, config.edited_dtype)
    return reports(rows)


def write_adapter(job: Job, opened: Opened, output: Output, prepared: Prepared) -> list[dict[str, Any]]:
    """Write an adapter of the same rank: A changes, B and the scaling stay."""

    config: SafeDeltaConfig = job.config
    adapter = opened.adapter
    assert adapter is not None
    tensors = {name: adapter.checkpoint.read(name) for name in adapter.checkpoint.stored}
    by_module = {matrix.module: matrix for matrix in output.matrices}
    layers = []
    for place, (module, factors) in enumerate(adapter.factors.items()):
        job.progress("editing", place, len(adapter.factors))
        if module not in by_module:
            if config.others == "aligned":
                tensors[factors.b_name] = torch.zeros_like(tensors[factors.b_name])
            continue
        A, B, scaling = adapter.read(module)
        new_A, report = edit_step(A, B, scaling, module, prepared, config, job.device)
        tensors[factors.a_name] = new_A
        matrix = by_module[module]
        layers.append({"tensor": matrix.tensor, "layer": matrix.layer, **report})
    job.progress("editing", len(adapter.factors), len(adapter.factors))
    dtype = getattr(torch, config.edited_dtype) if config.edited_dtype else None
    write_adapter_folder(
        adapter, job.draft, {name: t if dtype is None else t.to(dtype) for name, t in tensors.items()}
    )
    return layers


def edit_step(
    A: torch.Tensor,
    B: torch.Tensor,
    scaling: float,
    module: str,
    prepared: Prepared,
    config: SafeDeltaConfig,
    device: str = "cpu",
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The new A of a low-rank step ``scaling B A``, and its report; the step is never formed."""
    group = prepared.group(module)
    curvature = prepared.curvature(group, config, device)
    if A.shape[1] != group.width:
        raise BadInput(f"The adapter's factor of {module} has {A.shape[1]} inputs, its H {group.width}.")
    wide = torch.float64 if A.dtype == torch.float64 else torch.float32
    old = A.to(device, wide)
    scaled = scaling * B.to(device, wide)
    gram = scaled.T @ scaled
    budget = Budget.of(config.mode, config.mu, config.rms_tol, config.s)
    found = {
        basis: factor_energies(old, gram, curvature, basis) for basis in needed_bases(config.mode, budget)
    }
    rows = B.shape[0]
    squares = (old * (gram @ old)).sum(0).double()
    decision = decide(config.mode, budget, curvature, found, numel=rows * A.shape[1], squares=squares)
    new_A = edit_factor(old, decision, curvature).to(A.dtype).cpu()
    edited = new_A.to(device, wide)
    held = prepared.held(group, device)

    def cost(H: torch.Tensor | None, factor: torch.Tensor) -> float | None:
        if H is None:
            return None
        return 0.5 * float((gram * (factor @ H.to(wide) @ factor.T)).sum(dtype=torch.float64))

    def size(factor: torch.Tensor) -> float:
        return float((factor * (gram @ factor)).sum(dtype=torch.float64))

    step = size(old)
    report = {
        "module": module,
        "shape": [rows, A.shape[1]],
        "rank": group.rank,
        "loss": cost(curvature.H, edited),
        "loss_full": cost(curvature.H, old),
        "held_loss": cost(held, edited),
        "held_loss_full": cost(held, old),
        "step": step,
        "kept": size(edited) / step if step else 1.0,
        "distance": size(edited - old) / step if step else 0.0,
        **described(decision, curvature),
    }
    return new_A, report


def summarised(
    layers: Sequence[Mapping[str, Any]], kinds: Mapping[str, int], moved: float, config: SafeDeltaConfig
) -> dict[str, Any]:
    """The sums of a layer report, with what must be known before believing them."""
    step = sum(row["step"] for row in layers)
    total = {name: _sum(layers, name) for name in HELD}
    notes = []
    if not step:
        notes.append("the edited matrices of both models are equal: nothing was there to repair")
    if config.others == "finetuned" and moved:
        notes.append(
            "norms, biases, embeddings and head are the fine-tuned model's: outside the method's reach"
        )
    return {
        "config": to_json(config),
        "matrices": dict(kinds),
        **total,
        "step_norm": math.sqrt(step),
        "kept": sum(row["kept"] * row["step"] for row in layers) / step if step else 1.0,
        "distance": sum(row["distance"] * row["step"] for row in layers) / step if step else 0.0,
        "moved_elsewhere_norm": moved,
        "notes": notes,
    }


def _sum(layers: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in layers]
    return None if any(value is None for value in values) else float(sum(values))


def checks(layers: Sequence[Mapping[str, Any]], kinds: Mapping[str, int]) -> tuple[Check, ...]:
    """What can be said about a repair without asking the model anything."""
    counted = kinds["edited"] + kinds["exempt"] + kinds["refused"]
    loss, full = _sum(layers, "loss") or 0.0, _sum(layers, "loss_full") or 0.0
    held, held_full = _sum(layers, "held_loss"), _sum(layers, "held_loss_full")
    found = [
        Check(
            "every matrix is accounted for",
            counted == kinds["in blocks"],
            f"{kinds['edited']} edited, {kinds['exempt']} exempt, {kinds['refused']} refused of {kinds['in blocks']}",
        ),
        Check("safety loss on calibration rows is not raised", loss <= full, f"{loss:.4g} of {full:.4g}"),
    ]
    if held is not None and held_full is not None:
        found.append(
            Check(
                "safety loss on held-out rows is not raised",
                held <= held_full,
                f"{held:.4g} of {held_full:.4g}",
            )
        )
    return tuple(found)
