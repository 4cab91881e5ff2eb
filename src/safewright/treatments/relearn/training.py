"""One training of `relearn`: model, reference and objective put together, fitted, checked and saved."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from safewright.errors import BadInput
from safewright.models import load
from safewright.models.blocks import decoder_blocks
from safewright.training import processes
from safewright.training.encoding import Example, collate, pad_token
from safewright.training.fitting import FitOptions, History, fell, fit, save_trained, with_lora
from safewright.training.forward import bare, logits_at
from safewright.training.losses import supervised
from safewright.training.pairing import collate_pairs
from safewright.treatments.job import Job, Made
from safewright.treatments.relearn.config import Resolved
from safewright.treatments.relearn.gathering import Gathered, gather
from safewright.treatments.relearn.objectives import Misled, Unlearning, mislead
from safewright.treatments.relearn.references import Cached, Live, Reference, frozen, kept_tokens
from safewright.treatments.relearn.reporting import report_of
from safewright.treatments.relearn.rules import Sure, rule_of
from safewright.treatments.relearn.soft import SoftOpenings, token_vectors
from safewright.types import Check

CHECKPOINTS = "training"
"""Where checkpoints are kept inside the run."""

PROBES = 4
"""Forget rows on which the base is compared before and after, at the first tokens of their answers (as many
tokens as there are rows)."""


def train(job: Job) -> Made:
    """The treatment of a job: gather, fit, check, save.

    Raises:
        BadInput: See `gathering.gather`; options that do not fit the model.
        NumericalFailure: A loss is no number, or ascent is beyond its bound and was to stop there.
    """
    settings = _settings(job)
    loaded: Any = load(job.models["tuned"], device=job.device, need=frozenset({"gradient"}))
    try:
        tokenizer, model = loaded.tokenizer, loaded.model
        pad = pad_token(tokenizer)
        gathered = gather(job, settings, tokenizer)
        _require_positions(model, gathered, settings)
        merged = job.models["tuned"].kind == "adapter"
        if merged:
            model = model.merge_and_unload()
        generation = copy.deepcopy(model.generation_config)
        vocabulary = int(model.get_input_embeddings().weight.shape[0])
        reference = _reference(job, settings, model, gathered, pad, vocabulary)
        probe = _Probe(model, gathered.pairs.parts["forget"][:PROBES], pad)
        model, misled = _trainable(job, settings, model)
        gathered.notes.extend(_coarse(model))
        options = fit_options(job.config, settings)
        objective = Unlearning(
            settings,
            pad=pad,
            vocabulary=vocabulary,
            reference=reference,
            beside=gathered.beside,
            together=job.config.fused and settings.modifier == "none",
            steps_per_epoch=len(gathered.pairs) / settings.batch,
            misled=misled,
            soft=_soft(job, settings, model, tokenizer, gathered),
        )
        rule = rule_of(settings)
        history = fit(
            model,
            gathered.pairs,
            collate_pairs(pad, settings.side, width=settings.pad_to),
            objective,
            options,
            folder=job.run.own(CHECKPOINTS),
            seed=job.seed,
            device=job.device,
            progress=job.progress,
            gradient_rule=rule,
        )
        checks = _checks(settings, history, probe, model)
        if merged and settings.lora_rank:
            # The result's base exists nowhere as a folder: it was given as an adapter.
            model = model.merge_and_unload()
            gathered.notes.append("the tuned model is an adapter: the result is the whole model, merged")
        if not hasattr(model, "peft_config"):
            model.generation_config = generation
        kind = save_trained(model, tokenizer, job.draft)
    finally:
        loaded.close()
    moved = rule.moved / rule.rows if isinstance(rule, Sure) and rule.rows else None
    report = report_of(job, settings, gathered, history, objective, vocabulary, moved)
    return Made(kind, checks, report)


def _require_positions(model: Any, gathered: Gathered, settings: Resolved) -> None:
    """Pass when the model has a position for every token of every row, and for openings that are sought.

    Raises:
        BadInput: A row is longer.
    """
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not limit:
        return
    room = limit - (settings.soft_tokens if gathered.soft is not None else 0)
    every = (example for rows in gathered.pairs.parts.values() for example in rows)
    longest = max(every, key=lambda example: len(example.ids))
    if len(longest.ids) > room:
        more = "" if room == limit else f" (with {limit - room} vectors of an opening)"
        raise BadInput(
            f"The row {longest.id} has {len(longest.ids)} tokens, and the model reads at most {limit}{more}.",
            fix=f"Use --set max_length={room} (rows that lose their answers are dropped), or shorten the row.",
        )


def _settings(job: Job) -> Resolved:
    """The job's settings; a reference model that was given is compared with.

    Raises:
        BadInput: It is compared with in no loss, or the adapter's base was to be.
    """
    settings: Resolved = job.config.resolved()
    if "reference" in job.models:
        if settings.reference == "none":
            raise BadInput(
                f"A reference model was given, and {settings.method} compares with none.",
                why="It would have no effect.",
                fix="Leave out --model reference=…, or choose a method with a KL term (_klr), npo, dpo or undial.",
            )
        if job.config.reference == "adapter_off":
            raise BadInput(
                "reference is adapter_off, and a reference model was given.",
                fix="Leave out --model reference=…, or use reference=model.",
            )
        if job.config.reference == "auto":
            settings = settings._replace(reference="model")
    return settings


def fit_options(config: Any, settings: Resolved) -> FitOptions:
    """How the shared loop is to fit, from the options of `relearn`."""
    return FitOptions(
        steps=settings.steps,
        epochs=settings.epochs,
        batch=settings.batch,
        accumulation=settings.accumulation,
        lr=settings.lr,
        schedule=config.schedule,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        clip=config.clip,
        optimiser=config.optimiser,
        precision=config.precision,
        gradient_checkpointing=config.gradient_checkpointing,
        save_every=config.save_every,
        normalise="batch" if settings.normalise == "micro_batch" else "global",
    )


def _soft(
    job: Job, settings: Resolved, model: Any, tokenizer: Any, gathered: Gathered
) -> SoftOpenings | None:
    """The openings that are sought while training, where the settings want some.

    Raises:
        BadInput: There are several processes: each would seek its own.
    """
    if gathered.soft is None:
        return None
    if processes.world_size() > 1:
        raise BadInput(
            "soft_openings on several processes.",
            why="Each process would seek openings of its own, and no two trainings would be alike.",
            fix="Leave out --launch, or use soft_openings=0.",
        )
    return SoftOpenings(
        gathered.soft.slots,
        longest=settings.soft_tokens,
        steps=settings.soft_steps,
        lr=settings.soft_lr,
        weight=settings.soft_weight,
        embedding=token_vectors(bare(model)),
        special=tokenizer.all_special_ids,
        seed=job.seed,
    )


def _reference(
    job: Job, settings: Resolved, model: Any, gathered: Gathered, pad: int, vocabulary: int
) -> Reference | None:
    """The model before, as the settings want it.

    Raises:
        BadInput: The reference model that was given has another vocabulary.
    """
    if settings.reference == "none":
        return None
    if settings.reference == "adapter_off":
        return Live(pad)
    before, bf16 = model, job.config.precision == "bf16"
    if "reference" in job.models:
        other: Any = load(job.models["reference"], device=job.device, need=frozenset({"gradient"}))
        before = other.model
        words = int(before.get_input_embeddings().weight.shape[0])
        if words != vocabulary:
            raise BadInput(
                f"The reference model has {words} tokens, the tuned model {vocabulary}.",
                why="Their probabilities are compared token by token.",
                fix="Give a reference with the same tokenizer.",
            )
    if settings.reference == "model":
        before = before if before is not model else copy.deepcopy(model)
        return Live(pad, before.requires_grad_(False).eval(), bf16)
    cached = Cached(kept_tokens(vocabulary, job.config.reference_top))
    examples: dict[str, Sequence[Example]] = {}
    if settings.loss in ("npo", "dpo", "undial"):
        examples["forget"] = gathered.pairs.parts["forget"]
        if gathered.beside:
            examples[gathered.beside] = gathered.pairs.parts[gathered.beside]
    if "kl" in settings.keeps:
        examples["retain"] = gathered.pairs.parts["retain"]
    tops = [
        *(["forget"] if settings.loss == "undial" else []),
        *(["retain"] if "kl" in settings.keeps else []),
    ]
    cached.take(before, examples, tops=tops, pad=pad, batch=settings.batch, progress=job.progress, bf16=bf16)
    return cached


def _trainable(job: Job, settings: Resolved, model: Any) -> tuple[Any, Misled | None]:
    """The model with what is trained of it, and RMU's layer.

    Raises:
        BadInput: The model has no such layer, or no down-projection there.
    """
    if settings.loss == "rmu":
        layers = len(decoder_blocks(model)[1])
        layer = min(7, layers - 1) if settings.rmu_layer is None else settings.rmu_layer
        if layer >= layers:
            raise BadInput(f"rmu_layer is {layer}.", fix=f"The model has the layers 0 to {layers - 1}.")
        trained = down_projections(model, range(max(0, layer - 2), layer + 1))
        for parameter in model.parameters():
            parameter.requires_grad_(any(parameter is weight for weight in trained))
        width = model.config.get_text_config().hidden_size
        return model, mislead(width, layer, settings.rmu_scale, settings.rmu_target, job.seed)
    if not settings.lora_rank:
        model.requires_grad_(True)
        return model, None
    targets: Any = job.config.lora_targets
    if targets != "all-linear":
        targets = [part.strip() for part in targets.split(",") if part.strip()]
    return (
        with_lora(
            model, settings.lora_rank, settings.lora_alpha, settings.lora_dropout, targets, seed=job.seed
        ),
        None,
    )


def _coarse(model: Any) -> list[str]:
    """A warning where weights of few digits are trained as they are; adapters are float32 on any model."""
    kinds = {p.dtype for p in model.parameters() if p.requires_grad} & {torch.bfloat16, torch.float16}
    return [
        f"weights of {str(kind).removeprefix('torch.')} are trained as they are: steps below their rounding "
        f"(about 1/{256 if kind == torch.bfloat16 else 2048} of a weight) are lost; a higher lr, an adapter, or "
        f"weights in float32 move more"
        for kind in sorted(kinds, key=str)
    ]


DOWN = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "w2", "fc_out")
"""Names of the matrix that leads out of a block's MLP."""


def down_projections(model: Any, layers: Sequence[int]) -> list[Any]:
    """The weights that lead out of the MLPs of some layers.

    Raises:
        BadInput: A layer has none that is known, or several.
    """
    blocks = decoder_blocks(model)[1]
    found = []
    for layer in layers:
        own = [
            module.weight
            for name, module in blocks[layer].named_modules()
            if name.rpartition(".")[2] in DOWN and "attn" not in name and "attention" not in name
        ]
        if len(own) != 1:
            raise BadInput(
                f"Layer {layer} of the {type(model).__name__} has {len(own)} matrices that lead out of an MLP.",
                why="rmu trains exactly one a layer.",
                fix="Use another method for this architecture.",
            )
        found += own
    return found


class _Probe:
    """What a model says of some rows before it is trained, to be compared with it afterwards."""

    def __init__(self, model: Any, examples: Sequence[Example], pad: int) -> None:
        device = next(model.parameters()).device
        self.part = {name: value.to(device) for name, value in collate(examples, pad).items()}
        self.before = self.logits(model)

    def logits(self, model: Any) -> Tensor:
        """Logits at the first tokens of the answers."""
        where = supervised(self.part["labels"])
        where &= where.cumsum(1) <= PROBES
        with frozen(model):
            return logits_at(model, self.part, where)


def _checks(settings: Resolved, history: History, probe: _Probe, model: Any) -> tuple[Check, ...]:
    checks = [fell(history.values("forget"))]
    checks[0] = Check("the forget loss fell", checks[0].passed, checks[0].detail)
    after = probe.logits(model)
    gap = float((after - probe.before).abs().max())
    checks.append(Check("the model's answers moved", gap > 0, f"largest change of a logit {gap:.3g}"))
    if settings.lora_rank:
        with model.disable_adapter():
            same = torch.equal(probe.logits(model), probe.before)
        checks.append(
            Check("adapter disabled equals base", same, f"{len(probe.part['input_ids'])} rows, bit for bit")
        )
    return tuple(checks)
