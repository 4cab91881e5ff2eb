"""The stages ``apply``, ``verify`` and ``sweep``: Safe Delta over the folders of whole models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    merge_kinds,
    plan_output,
    reports,
    write_adapter_folder,
    write_model,
)
from safewright.treatments.job import Job, Made
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.matrix import HELD, edit_one, edit_step, step_squares
from safewright.treatments.safe_delta.prepared import Prepared
from safewright.treatments.sources import (
    Opened,
    Sources,
    check_tokenizers,
)
from safewright.types import Check


@dataclass(frozen=True)
class SafeDeltaEdit:
    """`safewright.treatments.editing.Edit` of Safe Delta."""

    prep: Path
    config: SafeDeltaConfig
    device: str = "cpu"
    groups: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, opened: Opened, matrix: Matrix, dtype: torch.dtype, put: Put) -> dict[str, Any]:
        def rows(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
            return (
                opened.aligned_rows(matrix, start, stop).to(self.device),
                opened.tuned_rows(matrix, start, stop).to(self.device),
            )

        return edit_one(
            matrix,
            rows,
            opened.shape(matrix),
            opened.kept(("prep", self.prep), lambda: Prepared(self.prep)),
            self.config,
            work=arithmetic(opened, matrix),
            dtype=dtype,
            device=self.device,
            put=put,
        )

    def needs(self, matrix: Matrix) -> str:
        return self.groups.get(matrix.module, "")


def arithmetic(opened: Opened, matrix: Matrix) -> torch.dtype:
    """The dtype a matrix is computed in: float64 for float64 weights, else float32."""
    dtypes = {opened.aligned[matrix.tensor].dtype, opened.tuned[matrix.tensor].dtype}
    return torch.float64 if "float64" in dtypes else torch.float32


ALIKE = 0.5
"""Cosine of the weights of two models below which one is no fine-tune of the other; strangers have 0."""


def keeps_form(sources: Sources, config: SafeDeltaConfig) -> bool:
    """Whether an adapter comes back as an adapter."""
    return sources.adapter and config.output != "model" and config.mode in ("exact", "soft")


@contextmanager
def fitting(job: Job) -> Iterator[tuple[Sources, Opened, Output]]:
    """The models, open, and what will be written, once they and the options fit together.

    Raises:
        BadInput: They do not; nothing was computed yet.
    """
    config: SafeDeltaConfig = job.config
    check_tokenizers(job.models)
    sources = Sources.of(job.models, config.row_chunk)
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
            merged=sources.adapter and not keeps_form(sources, config),
        )
        yield sources, opened, output
    finally:
        opened.close()


def apply(job: Job, prep: Path) -> Made:
    """Write the repaired model or adapter into ``job.draft``.

    Raises:
        BadInput: The models, the prepared folder and the options do not fit together.
        NumericalFailure: A weight is not finite, or H cannot be factorised.
    """
    config: SafeDeltaConfig = job.config
    prepared = Prepared(prep)
    prepared.require_for(job.models["aligned"])
    with fitting(job) as (sources, opened, output):
        as_adapter = keeps_form(sources, config)
        _check_covered(output, prepared, config)
        if as_adapter:
            layers, moved = write_adapter(job, opened, output, prepared)
        else:
            layers, moved = _write_full(job, sources, output, prep)
        kinds = merge_kinds(output, opened)
        unedited = sorted(set(opened.adapted()) - {matrix.module for matrix in output.matrices})
    summary = summarised(layers, kinds, moved, config, prepared)
    summary["notes"] += _left(unedited, config)
    job.run.write("layers.json", layers)
    return Made("adapter" if as_adapter else "weights", checks(layers, kinds), summary | {"layers": layers})


def _left(modules: Sequence[str], config: SafeDeltaConfig) -> list[str]:
    """What must be said of modules an adapter changes and nobody edits."""
    if not modules:
        return []
    kept = "their aligned values" if config.others == "aligned" else "what fine-tuning made of them"
    some = ", ".join(modules[:3]) + (", …" if len(modules) > 3 else "")
    return [f"{len(modules)} modules the adapter changes are not edited and keep {kept}: {some}"]


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
    groups = {module: group.name for module, group in Prepared(prep).of.items()}
    rows = write_model(job, sources, output, SafeDeltaEdit(prep, config, job.device, groups))
    copy_side_files(output, sources, job.models, config.edited_dtype)
    return reports(rows)


def write_adapter(
    job: Job, opened: Opened, output: Output, prepared: Prepared
) -> tuple[list[dict[str, Any]], float]:
    """Write an adapter of the same rank: A changes, B and the scaling stay.

    Returns:
        The layer reports, and the norm of the steps that are not edited.
    """
    config: SafeDeltaConfig = job.config
    adapter = opened.adapter
    assert adapter is not None
    tensors = {name: adapter.checkpoint.read(name) for name in adapter.checkpoint.stored}
    by_module = {matrix.module: matrix for matrix in output.matrices}
    layers, moved = [], 0.0
    for place, (module, factors) in enumerate(adapter.factors.items()):
        job.progress("editing", place, len(adapter.factors))
        A, B, scaling = adapter.read(module)
        if module not in by_module:
            moved += step_squares(A, B, scaling)
            if config.others == "aligned":
                tensors[factors.b_name] = torch.zeros_like(tensors[factors.b_name])
            continue
        new_A, report = edit_step(A, B, scaling, module, prepared, config, job.device)
        tensors[factors.a_name] = new_A
        matrix = by_module[module]
        layers.append({"tensor": matrix.tensor, "layer": matrix.layer, **report})
    job.progress("editing", len(adapter.factors), len(adapter.factors))
    dtype = getattr(torch, config.edited_dtype) if config.edited_dtype else None
    write_adapter_folder(
        adapter, job.draft, {name: t if dtype is None else t.to(dtype) for name, t in tensors.items()}
    )
    return layers, math.sqrt(max(0.0, moved))


def summarised(
    layers: Sequence[Mapping[str, Any]],
    kinds: Mapping[str, int],
    moved: float | None,
    config: SafeDeltaConfig,
    prepared: Prepared,
) -> dict[str, Any]:
    """The sums of a layer report, with what must be known before believing them.

    Args:
        moved: The norm of what fine-tuning moved outside the edited matrices; None where it is not known.
        prepared: What must be known of the calibration is said where the result is read.
    """
    counts = dict(prepared.facts["counts"])
    step = sum(row["step"] for row in layers)
    total = {name: _sum(layers, name) for name in HELD}
    notes = list(counts.pop("notes", []))
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
        "calibration": counts,
    }


def _sum(layers: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in layers]
    return None if any(value is None for value in values) else float(sum(values))


def checks(layers: Sequence[Mapping[str, Any]], kinds: Mapping[str, int]) -> tuple[Check, ...]:
    """What can be said about a repair without asking the model anything.

    Rounding to the saved dtype has a safety loss of its own; by the triangle inequality it may add up to its
    root to the root of the edit's.
    """
    counted = kinds["edited"] + kinds["exempt"] + kinds["refused"]
    found = [
        Check(
            "every matrix is accounted for",
            counted == kinds["in blocks"],
            f"{kinds['edited']} edited, {kinds['exempt']} exempt, {kinds['refused']} refused of {kinds['in blocks']}",
        )
    ]
    base, along, step = (sum(row.get(name, 0.0) for row in layers) for name in ("base", "along", "step"))
    if base and base + 2 * along + step > 0:
        cosine = (base + along) / math.sqrt(base * (base + 2 * along + step))
        found.append(
            Check(
                "the tuned model is a fine-tune of the aligned one",
                cosine >= ALIKE,
                f"cosine of their weights {cosine:.3f}"
                + ("" if cosine >= ALIKE else ": this is not the model it was fine-tuned from"),
            )
        )
    for prefix, rows in (("", "calibration"), ("held_", "held-out")):
        loss, full = _sum(layers, f"{prefix}loss"), _sum(layers, f"{prefix}loss_full")
        if loss is None or full is None:
            continue
        rounding = _sum(layers, f"{prefix}rounding") or 0.0
        allowed = (math.sqrt(full) + math.sqrt(rounding)) ** 2
        detail = f"{loss:.4g} of {full:.4g}" + (f" (rounding alone {rounding:.2g})" if rounding else "")
        found.append(Check(f"safety loss on {rows} rows is not raised", loss <= allowed * (1 + 1e-9), detail))
    return tuple(found)
