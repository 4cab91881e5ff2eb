"""Repairs that blend whole models entry by entry."""

from __future__ import annotations

import dataclasses

from safewright.treatments.editing import (
    Blend,
    copy_side_files,
    every_tensor,
    plan_output,
    scale_adapter,
    write_model,
)
from safewright.treatments.job import Job, Made
from safewright.treatments.sources import (
    Sources,
    check_tokenizers,
    third_model,
)
from safewright.types import Check


def blend(job: Job, edit: Blend, *, other: str | None = None, scale: float | None = None) -> Made:
    """Write ``edit`` of every tensor; of an adapter, where ``scale`` says how, an adapter.

    Args:
        edit: What becomes of an entry.
        other: Role of the further model it reads.
        scale: What the factor B of an adapter is multiplied by to the same effect.

    Raises:
        BadInput: The models do not fit together.
        NumericalFailure: A weight is not finite.
    """
    check_tokenizers(job.models)
    models = {role: ref for role, ref in job.models.items() if role in ("aligned", "tuned")}
    sources = Sources.of(models, job.config.row_chunk)
    opened = sources.open()
    try:
        if opened.adapter is not None and scale is not None:
            scale_adapter(opened, job.draft, lambda module, B: B * scale)
            count = len(opened.adapter.factors)
            return Made("adapter", (_counted(count, count),), {"matrices": count, "scale": scale})
        if other is not None:
            edit = dataclasses.replace(edit, other=third_model(job.models, other, opened))
        output = every_tensor(opened, plan_output(opened, job.draft, allow_skip=True))
    finally:
        opened.close()
    rows = write_model(job, sources, output, edit)
    copy_side_files(output, sources, models, None)
    step, gap = sum(row.get("step", 0.0) for row in rows), sum(row.get("gap", 0.0) for row in rows)
    report = {"tensors": len(rows), "step_norm": step**0.5, "distance": gap / step if step else 0.0}
    return Made("weights", (_counted(len(rows), len(output.planned)),), report)


def _counted(written: int, planned: int) -> Check:
    return Check("every tensor is accounted for", written == planned, f"{written} of {planned} written")
