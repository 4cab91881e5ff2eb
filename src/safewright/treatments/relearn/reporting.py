"""What the provenance of an unlearned model says: its settings, losses per part, and the conventions it follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safewright.runs import versions
from safewright.training.fitting import History
from safewright.treatments.job import Job
from safewright.treatments.relearn.config import Resolved
from safewright.treatments.relearn.gathering import Gathered
from safewright.treatments.relearn.methods import OWN_OPTIONS

OWN = frozenset({"learning_rate", "grad_norm", "step", "loss"})
"""Columns of the loop that are no part of the loss."""


def report_of(
    job: Job,
    settings: Resolved,
    gathered: Gathered,
    history: History,
    objective: Any,
    vocabulary: int,
    moved: float | None,
) -> dict[str, Any]:
    """The report: facts of the data, losses, conventions, and notes that must be read first."""
    notes = [*gathered.notes, *_notes(job, settings, objective, moved)]
    by_part = losses_by_part(history)
    report: dict[str, Any] = {
        "method": settings.method,
        "formula": job.config.entry.formula,
        **gathered.facts,
        "steps": history.steps,
        "first_and_last": {name: _ends(values) for name, values in by_part.items()},
        "losses": by_part,
        "conventions": conventions(job, settings, vocabulary),
        "notes": notes,
    }
    if settings.loss == "ascent":
        report["ascent"] = {
            "bound_nats": objective.bound,
            "steps_beyond": objective.clamped_steps,
            "largest_share_of_tokens": objective.most_clamped,
        }
    if settings.loss == "pdu":
        report["dual_variable"] = objective.dual
    if moved is not None:
        report["rows_moved_in_the_last_step"] = moved
    return report


def losses_by_part(history: History) -> dict[str, list[float]]:
    """What was seen of every part, step by step."""
    names = sorted({name for line in history.losses for name in line} - OWN)
    found = {"loss": history.values("loss")}
    return found | {name: [line[name] for line in history.losses if name in line] for name in names}


def conventions(job: Job, settings: Resolved, vocabulary: int) -> dict[str, Any]:
    """What the numbers were taken under: weights, normaliser, KL, reference, pairing, optimiser, versions."""
    said: dict[str, Any] = {
        "preset": settings.preset,
        "keeps": "+".join(settings.keeps) or "nothing",
        "weights": {"gamma": settings.gamma, "alpha": settings.alpha, "alpha_kl": settings.alpha_kl},
        "normaliser": "counts of the whole step" if settings.normalise == "global" else "of each micro-batch",
        "reference": settings.reference,
        "pairing": settings.pairing,
        "modifier": settings.modifier,
        "trained": f"LoRA of rank {settings.lora_rank}" if settings.lora_rank else "all weights",
        "batch": settings.batch,
        "accumulation": settings.accumulation,
        "lr": settings.lr,
        "schedule": job.config.schedule,
        "warmup": "one epoch" if job.config.warmup is None else job.config.warmup,
        "weight_decay": job.config.weight_decay,
        "seed": job.seed,
        "padding": f"{settings.side}, to {settings.pad_to or 'the longest row'}",
        "versions": versions(("torch", "transformers", "peft", "accelerate")),
    }
    if settings.soft_openings:
        said["soft_openings"] = {
            "per_forget_row": settings.soft_openings,
            "most_vectors": settings.soft_tokens,
            "steps": settings.soft_steps,
            "lr": settings.soft_lr,
            "weight": settings.soft_weight,
        }
    values = settings._asdict()
    own = {name for name, losses in OWN_OPTIONS.items() if settings.loss in losses} & values.keys()
    said |= {name: values[name] for name in sorted(own) if values[name] is not None}
    if settings.lora_rank:
        said["lora"] = {"alpha": settings.lora_alpha, "dropout": settings.lora_dropout}
    if settings.loss == "rmu":
        said["trained"] = "down-projections of three layers"
    if "kl" in settings.keeps:
        said["kl"] = {"direction": settings.kl_direction, "positions": settings.kl_positions}
        if settings.reference == "cached":
            from safewright.treatments.relearn.references import kept_tokens

            kept = kept_tokens(vocabulary, job.config.reference_top)
            said["kl"]["tokens_kept"] = kept
            said["kl"]["exact"] = kept == vocabulary
    if job.config.entry.learns:
        said["generic_ratio_asked"] = job.config.generic_ratio
    return said


def _notes(job: Job, settings: Resolved, objective: Any, moved: float | None) -> list[str]:
    notes = []
    if settings.loss == "ascent" and objective.clamped_steps:
        what = {
            "clamp": "such tokens were not pushed further",
            "free": "nothing was held back",
            "stop": "the mean stayed below it",
        }[settings.ascent]
        notes.append(
            f"ascent went beyond a CE of 2 ln V = {objective.bound:.3g} nats in {objective.clamped_steps} of "
            f"{objective.steps} steps (at most {objective.most_clamped:.0%} of a step's tokens): {what}"
        )
    if settings.loss == "pdu" and objective.steps <= objective.warm_steps:
        notes.append(
            f"the dual variable never moved: its warm-up of {settings.pdu_warmup:g} epochs is as long as the "
            f"training (pdu_warmup)"
        )
    if job.config.sure_alpha is not None:
        notes.append(
            f"sure_alpha={job.config.sure_alpha:g} has no effect, as in the release, which never uses it"
        )
    if settings.reference == "cached" and "kl" in settings.keeps and job.config.reference_top is not None:
        notes.append("the cached KL merges all tokens outside its top into one: never above the exact KL")
    if settings.modifier != "none" and job.config.fused:
        notes.append("a gradient rule needs each part's gradient: parts were run one by one")
    if settings.steps is not None and job.config.warmup is None:
        notes.append("warm-up takes one epoch of steps; with few steps lr is never reached: set warmup")
    return notes


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]:.4g} to {values[-1]:.4g}" if values else "–"
