"""Safe LoRA: project a layer's step onto the direction of alignment where it points elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.catalog import treatment
from safewright.errors import BadInput
from safewright.models.blocks import Matrix
from safewright.treatments.editing import (
    Put,
    copy_side_files,
    merge_kinds,
    plan_output,
    reports,
    scale_adapter,
    write_model,
)
from safewright.treatments.job import Job, Made
from safewright.treatments.sources import (
    Opened,
    Sources,
    check_tokenizers,
    third_model,
)
from safewright.types import Check

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SafeLoraConfig:
    """Options of `safe_lora`."""

    threshold: float = field(
        default=0.52, metadata={"help": "Layers are projected where their cosine similarity is below this."}
    )
    modules: str = field(default="all", metadata={"help": "Matrices edited: all, or last names."})
    row_chunk: int = field(default=4096, metadata={"help": "Rows read together.", "decides": False})

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1.01:
            raise BadInput(f"threshold is {self.threshold}.", fix="It is a cosine: give -1 to 1.")


@treatment(
    "safe_lora",
    version="1",
    paper="2405.16833",
    config=SafeLoraConfig,
    takes=("aligned", "tuned", "unaligned"),
    gives=("weights", "adapter"),
)
def safe_lora(job: Job) -> Made:
    """Layer-wise projection of the fine-tuning step onto the alignment direction (Safe LoRA).

    With V = aligned - unaligned, a layer's step D becomes C D, C = V V^T / |V|, where the cosine between C D
    and D is below the threshold. The projection is from the left, so an adapter keeps its rank.
    """
    check_tokenizers(job.models)
    config: SafeLoraConfig = job.config
    models = {role: ref for role, ref in job.models.items() if role in ("aligned", "tuned")}
    sources = Sources.of(models, config.row_chunk)
    opened = sources.open()
    try:
        other = third_model(job.models, "unaligned", opened)
        output = plan_output(opened, job.draft, modules=config.modules, allow_skip=True)
        kinds = merge_kinds(output, opened)
        edit = SafeLoraEdit(other, config.threshold)
        if opened.adapter is not None:
            layers = _edit_adapter(job, opened, edit, {m.module: m for m in output.matrices})
            return _made("adapter", layers, kinds, config)
    finally:
        opened.close()
    layers, moved = reports(write_model(job, sources, output, edit))
    copy_side_files(output, sources, models, None)
    return _made("weights", layers, kinds, config, moved_elsewhere_norm=moved)


def _made(
    kind: str, layers: list[dict[str, Any]], kinds: Mapping[str, int], config: SafeLoraConfig, **more: Any
) -> Made:
    projected = sum(row["projected"] for row in layers)
    cosines = [row["similarity"] for row in layers]
    check = Check(
        "every matrix is accounted for",
        kinds["edited"] + kinds["exempt"] + kinds["refused"] == kinds["in blocks"],
        f"{projected} of {len(layers)} projected, cosines {min(cosines):.2f} to {max(cosines):.2f}",
    )
    notes = []
    if not projected:
        notes.append(
            f"no layer is below the threshold {config.threshold:g}: the result is the fine-tuned model unchanged"
        )
    return Made(kind, (check,), {"matrices": kinds, "notes": notes, "layers": layers, **more})


@dataclass(frozen=True)
class SafeLoraEdit:
    """`safewright.treatments.editing.Edit` of Safe LoRA; needs a whole matrix at a time."""

    other: Path
    threshold: float

    def __call__(self, opened: Opened, matrix: Matrix, dtype: torch.dtype, put: Put) -> dict[str, Any]:
        rows, _ = opened.shape(matrix)
        aligned = opened.aligned_rows(matrix, 0, rows).float()
        tuned = opened.tuned_rows(matrix, 0, rows)
        delta = tuned.float() - aligned
        new, similarity, projected = self.project(opened, matrix, delta, delta)
        put(0, (aligned + new if projected else tuned).to(dtype))
        return self.report(matrix, similarity, projected)

    def needs(self, matrix: Matrix) -> str:
        return ""

    def project(
        self, opened: Opened, matrix: Matrix, factor: torch.Tensor, delta: torch.Tensor
    ) -> tuple[torch.Tensor, float, bool]:
        """C times ``factor``, or ``factor`` itself where ``delta`` already points along the alignment.

        C = V V^T / |V| as published: the exact projection on the columns of V is the identity wherever V has
        full rank, which a difference of two trained matrices has.
        """
        rows, _ = opened.shape(matrix)
        away = opened.rows_of(opened.other(self.other), matrix, 0, rows)
        V = opened.aligned_rows(matrix, 0, rows).float() - away.float()
        size = float(V.norm())
        if not size:
            raise BadInput(
                f"The aligned and the unaligned model have the same {matrix.tensor}.",
                why="There is no direction of alignment to project on.",
                fix="Give the model before alignment, or one that lost it.",
            )
        moved = V @ (V.T @ delta) / size
        norms = float(moved.norm()) * float(delta.norm())
        similarity = float((moved * delta).sum()) / norms if norms else 1.0
        projected = similarity < self.threshold
        return (V @ (V.T @ factor) / size if projected else factor), similarity, projected

    def report(self, matrix: Matrix, similarity: float, projected: bool) -> dict[str, Any]:
        """What is said about a layer."""
        return {
            "module": matrix.module,
            "layer": matrix.layer,
            "similarity": similarity,
            "projected": projected,
        }


def _edit_adapter(
    job: Job, opened: Opened, edit: SafeLoraEdit, by_module: dict[str, Matrix]
) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []

    def transform(module: str, B: torch.Tensor) -> torch.Tensor:
        if module not in by_module:
            return B
        assert opened.adapter is not None
        A, _, scaling = opened.adapter.read(module)
        delta = scaling * (B.float() @ A.float())
        new, similarity, projected = edit.project(opened, by_module[module], B.float(), delta)
        layers.append(edit.report(by_module[module], similarity, projected))
        return new.to(B.dtype)

    scale_adapter(opened, job.draft, transform)
    return layers
