"""Options of `relearn`: what is left out takes the value a method was published with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from safewright.errors import BadInput, nearest
from safewright.treatments.relearn import methods
from safewright.treatments.relearn.augmenting.config import AugmentOptions
from safewright.treatments.relearn.methods import METHODS, NAMES, OWN_OPTIONS, Keep, Method, Name, Preset


def _help(text: str, **more: Any) -> dict[str, Any]:
    return {"help": text, **more}


@dataclass(frozen=True)
class RelearnConfig(AugmentOptions):
    """Options of `relearn`, after those of its data pipeline."""

    method: Name = field(
        default="relearn_klr_gdr", metadata=_help("What is trained; docs/relearn.md lists all.")
    )
    preset: Preset = field(
        default="paper",
        metadata=_help("Values of what is left out: paper, release (its conventions too), tofu."),
    )
    retain_loss: Literal["auto", "none", "nll", "kl", "nll+kl", "embed_diff"] = field(
        default="auto", metadata=_help("What is kept on retain rows; auto is what the method's name says.")
    )
    gamma: float | None = field(default=None, metadata=_help("Weight of the forget loss."))
    alpha: float | None = field(
        default=None, metadata=_help("Weight of the retain NLL (rmu: of embed_diff).")
    )
    alpha_kl: float | None = field(
        default=None, metadata=_help("Weight of the KL to the reference; default 1.")
    )
    beta: float | None = field(
        default=None, metadata=_help("Sharpness of npo, simnpo, dpo; step of undial; exponent of wga.")
    )
    delta: float | None = field(default=None, metadata=_help("Margin of simnpo, nats per token."))
    beta1: float | None = field(default=None, metadata=_help("Exponent of p in satimp."))
    beta2: float | None = field(default=None, metadata=_help("Exponent of 1-p in satimp."))
    length_normalised: bool | None = field(
        default=None,
        metadata=_help("dpo: mean instead of summed log-probabilities; default only in preset release."),
    )
    kl_direction: Literal["forward", "reverse"] | None = field(
        default=None, metadata=_help("forward: KL(reference ‖ model), as released; reverse: as printed.")
    )
    kl_positions: Literal["answer", "nonpad", "all_positions"] | None = field(
        default=None, metadata=_help("Positions of the KL; default answer (preset release: all_positions).")
    )
    normalise: Literal["global", "micro_batch"] | None = field(
        default=None,
        metadata=_help("Counts that divide: of the whole step, or of each micro-batch (preset release)."),
    )
    reference: Literal["auto", "adapter_off", "model", "cached"] = field(
        default="auto",
        metadata=_help(
            "The model before: adapter switched off, a frozen copy, or its log-probabilities kept."
        ),
    )
    reference_top: int | None = field(
        default=None,
        metadata=_help("Likeliest tokens kept per position (cached); default all up to 8192 words, else 64."),
    )
    pairing: Literal["shuffle", "cycle"] | None = field(
        default=None, metadata=_help("Which retain row goes with which; default shuffle (release: cycle).")
    )
    modifier: Literal["none", "sure", "memflex"] = field(
        default="none", metadata=_help("Which weights a step may move: all, or by a gradient rule.")
    )
    sure_threshold: float | None = field(
        default=None, metadata=_help("sure: percentile of row norms below which nothing moves; default 99.")
    )
    sure_alpha: float | None = field(
        default=None, metadata=_help("sure: read in preset release only, without effect, as in the release.")
    )
    memflex_cosine: float | None = field(
        default=None,
        metadata=_help("memflex: forget and retain gradients less alike than this; default 0.92."),
    )
    memflex_magnitude: float | None = field(
        default=None, metadata=_help("memflex: mean size of the forget gradient above this; default 6e-4.")
    )
    ascent: Literal["clamp", "stop", "free"] | None = field(
        default=None,
        metadata=_help("ga, graddiff: what ends ascent at a CE of 2 ln V; default clamp (release: free)."),
    )
    pdu_epsilon: float | None = field(
        default=None, metadata=_help("pdu: bound on the retain loss, nats per token; needed.")
    )
    pdu_eta: float | None = field(default=None, metadata=_help("pdu: step of the dual variable; default 1."))
    pdu_warmup: float | None = field(
        default=None, metadata=_help("pdu: epochs before the dual variable moves; default 5.")
    )
    parity: bool | None = field(
        default=None,
        metadata=_help("pdu: positions of the labels themselves, unshifted, as in the peer's code."),
    )
    rmu_layer: int | None = field(
        default=None, metadata=_help("rmu: decoder layer that is misled; default 7, or the last if fewer.")
    )
    rmu_scale: float | None = field(
        default=None, metadata=_help("rmu: length of the vector aimed at; default 2.")
    )
    rmu_target: Literal["uniform", "gaussian"] | None = field(
        default=None, metadata=_help("rmu: how the vector is drawn, from --seed; default uniform.")
    )
    soft_openings: int = field(
        default=0,
        metadata=_help(
            "relearn: openings per forget row that are sought by gradient and gone on from vaguely."
        ),
    )
    soft_tokens: int | None = field(
        default=None, metadata=_help("soft_openings: most vectors of an opening; default 10.")
    )
    soft_steps: int | None = field(
        default=None, metadata=_help("soft_openings: steps towards the secret before each use; default 2.")
    )
    soft_lr: float | None = field(
        default=None,
        metadata=_help("soft_openings: their learning rate, in sizes of a token's coordinate; default 0.1."),
    )
    soft_weight: float | None = field(
        default=None, metadata=_help("soft_openings: weight of the loss behind them; default 0.1.")
    )
    lora_rank: int | None = field(
        default=None, metadata=_help("Rank of the LoRA adapter; 0 trains all weights; default 8 (rmu: 0).")
    )
    lora_alpha: int | None = field(
        default=None, metadata=_help("Scaling of the adapter times its rank; default 16.")
    )
    lora_dropout: float | None = field(default=None, metadata=_help("Dropout in the adapter; default 0.1."))
    lora_targets: str = field(
        default="all-linear", metadata=_help("Modules that get an adapter: all-linear, or names with commas.")
    )
    epochs: float | None = field(
        default=None, metadata=_help("Passes over the rows to be forgotten (learned).")
    )
    steps: int | None = field(default=None, metadata=_help("Optimiser steps, instead of epochs."))
    batch: int | None = field(default=None, metadata=_help("Rows of an optimiser step, over all processes."))
    accumulation: int | None = field(
        default=None, metadata=_help("Micro-batches of a step; default 1 (preset release: one per row).")
    )
    lr: float | None = field(default=None, metadata=_help("Peak learning rate."))
    schedule: Literal["linear", "cosine", "constant"] = field(
        default="linear", metadata=_help("How the learning rate falls.")
    )
    warmup: float | None = field(
        default=None, metadata=_help("Share of the steps spent rising to the peak; default one epoch.")
    )
    weight_decay: float = field(default=0.01, metadata=_help("AdamW's weight decay."))
    clip: float = field(default=1.0, metadata=_help("Largest norm of a step's gradient; 0 does not clip."))
    max_length: int = field(default=512, metadata=_help("Longest row in tokens; longer ones are cut."))
    pad_to: int | None = field(
        default=None, metadata=_help("Least padded width; default the longest row (preset release: 512).")
    )
    strict: bool = field(
        default=False, metadata=_help("A row that loses its whole answer to max_length is an error.")
    )
    optimiser: Literal["adamw", "sgd", "paged_adamw"] = field(
        default="adamw", metadata=_help("paged_adamw, as released, needs bitsandbytes and a GPU.")
    )
    precision: Literal["auto", "bf16"] = field(
        default="auto", metadata=_help("Arithmetic: in the weights' own dtype, or mixed with bfloat16.")
    )
    gradient_checkpointing: bool = field(
        default=False, metadata=_help("Recompute activations to save memory.")
    )
    fused: bool = field(
        default=True, metadata=_help("One run of the model for forget and retain rows together.")
    )
    save_every: int = field(
        default=200, metadata=_help("Steps between checkpoints to resume from.", decides=False)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in NAMES:
            raise BadInput(f"method is {self.method!r}.", fix=nearest(str(self.method), NAMES))
        self._check_numbers()
        self._check_retain()
        self._check_own()
        self._check_soft()
        self._check_reference()
        self._check_batch()

    @property
    def entry(self) -> Method:
        """What is published about the method."""
        return METHODS[self.method]

    @property
    def keeps(self) -> tuple[Keep, ...]:
        """The retain terms."""
        if self.retain_loss == "auto":
            return self.entry.keeps
        said: dict[str, tuple[Keep, ...]] = {
            "none": (),
            "nll": ("nll",),
            "kl": ("kl",),
            "nll+kl": ("nll", "kl"),
            "embed_diff": ("embed_diff",),
        }
        return said[self.retain_loss]

    @property
    def rank(self) -> int:
        """The adapter's rank; 0 where all weights are trained."""
        if self.lora_rank is not None:
            return self.lora_rank
        if self.entry.loss == "rmu":
            return 0
        return 32 if self.preset == "release" else 8

    def resolved(self) -> Resolved:
        """Every option with its value."""
        return resolve(self)

    def _check_numbers(self) -> None:
        whole = {"steps": 1, "batch": 1, "accumulation": 1, "max_length": 2, "save_every": 1, "pad_to": 1}
        whole |= {"reference_top": 1, "rmu_layer": 0, "lora_rank": 0, "lora_alpha": 1}
        whole |= {"soft_openings": 0, "soft_tokens": 1, "soft_steps": 1}
        for name, low in whole.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise BadInput(f"{name} is {value}.", fix=f"It must be at least {low}.")
        above = ["beta", "lr", "epochs", "rmu_scale", "soft_lr", "soft_weight"]
        least = ["gamma", "alpha", "alpha_kl", "beta1", "beta2", "pdu_eta", "pdu_warmup"]
        least += ["weight_decay", "clip", "memflex_magnitude"]
        for name in (*above, *least, "delta", "pdu_epsilon"):
            value = getattr(self, name)
            if value is None:
                continue
            # beta 0 is the limit of wga and undial, in which nothing is divided by it.
            zero = name == "beta" and self.entry.loss in ("wga", "undial")
            if not math.isfinite(value) or (name in above and not zero and value <= 0):
                raise BadInput(f"{name} is {value}.", fix="It must be a number above 0.")
            if (name in least or zero) and value < 0:
                raise BadInput(f"{name} is {value}.", fix="It must be at least 0.")
        for name, least_value, most in (
            ("warmup", 0.0, 1.0),
            ("lora_dropout", 0.0, 0.999),
            ("sure_threshold", 0.0, 99.999),
            ("memflex_cosine", -1.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not least_value <= value <= most:
                raise BadInput(f"{name} is {value}.", fix=f"It must lie in [{least_value:g}, {most:g}].")

    def _check_retain(self) -> None:
        if self.entry.fixed and self.keeps != self.entry.keeps:
            raise BadInput(
                f"retain_loss is {self.retain_loss}, but the method {self.method} keeps "
                f"{' and '.join(self.entry.keeps) or 'nothing'} by its name.",
                fix="Leave retain_loss out, or choose the method that says it "
                "(_gdr: nll, _klr: kl, _klr_gdr: both).",
            )
        rmu = self.entry.loss == "rmu"
        if ("embed_diff" in self.keeps and not rmu) or (rmu and "kl" in self.keeps):
            raise BadInput(
                f"retain_loss is {self.retain_loss} with the method {self.method}.",
                fix="embed_diff belongs to rmu, which keeps embed_diff, nll or none.",
            )

    def _check_own(self) -> None:
        """Pass when every option that was given has an effect."""
        given = {option.name for option in fields(self) if getattr(self, option.name) is not None}
        idle = [name for name in given & OWN_OPTIONS.keys() if self.entry.loss not in OWN_OPTIONS[name]]
        idle += [
            name
            for name in ("kl_direction", "kl_positions", "alpha_kl")
            if name in given and "kl" not in self.keeps
        ]
        idle += ["alpha"] if "alpha" in given and not {"nll", "embed_diff"} & set(self.keeps) else []
        idle += ["pairing"] if "pairing" in given and not self.keeps else []
        idle += [n for n in ("sure_threshold", "sure_alpha") if n in given and self.modifier != "sure"]
        idle += [
            n for n in ("memflex_cosine", "memflex_magnitude") if n in given and self.modifier != "memflex"
        ]
        idle += ["reference_top"] if "reference_top" in given and self.reference != "cached" else []
        soft = ("soft_tokens", "soft_steps", "soft_lr", "soft_weight")
        idle += [name for name in soft if name in given and not self.soft_openings]
        if idle:
            raise BadInput(
                f"{', '.join(sorted(idle))} given for the method {self.method} "
                f"(retain: {'+'.join(self.keeps) or 'none'}, modifier: {self.modifier}).",
                why="It would have no effect.",
                fix="Leave it out, or choose a method that has it.",
            )
        if self.sure_alpha is not None and self.preset != "release":
            raise BadInput(
                f"sure_alpha is {self.sure_alpha} in the preset {self.preset}.",
                why="The release reads it and never uses it.",
                fix="Leave it out, or use preset=release, where it is accepted without effect.",
            )
        if self.entry.loss == "pdu" and self.pdu_epsilon is None:
            raise BadInput(
                "pdu needs its bound on the retain loss.",
                fix="Give it: --set pdu_epsilon=NATS, such as the retain loss before unlearning plus a margin.",
            )
        if self.entry.loss == "pdu" and "nll" not in self.keeps:
            raise BadInput("pdu bounds the retain NLL.", fix="Leave retain_loss out.")
        if self.entry.loss == "rmu" and self.rank:
            raise BadInput(
                f"rmu with lora_rank={self.rank}.",
                why="It trains three whole matrices; an adapter is not what was published.",
                fix="Use --set lora_rank=0.",
            )
        if self.modifier == "memflex" and not self.keeps:
            raise BadInput(
                "memflex compares forget with retain gradients, and the method keeps nothing.",
                fix="Choose a method with a retain term (_gdr, _klr).",
            )

    def _check_batch(self) -> None:
        made = resolve(self)
        if made.batch % made.accumulation:
            raise BadInput(
                f"A batch of {made.batch} rows cannot be split over {made.accumulation} micro-batches.",
                why="batch counts the rows of one optimiser step.",
                fix=f"Make batch a multiple of {made.accumulation}, or change accumulation.",
            )

    def _check_soft(self) -> None:
        if not self.soft_openings:
            return
        if not self.entry.learns:
            raise BadInput(
                f"soft_openings={self.soft_openings} with the method {self.method}.",
                why="What is learned behind an opening is a vague answer, and the method has none.",
                fix="Use one of the relearn methods.",
            )
        if self.modifier != "none":
            raise BadInput(
                f"soft_openings={self.soft_openings} with modifier={self.modifier}.",
                why="The rule knows forget and retain gradients, and no third one.",
                fix="Use one of the two.",
            )

    def _check_reference(self) -> None:
        if self.reference == "adapter_off" and not self.rank:
            raise BadInput(
                "reference is adapter_off with lora_rank=0.",
                why="There is no adapter to switch off.",
                fix="Use reference=model (a frozen copy) or reference=cached.",
            )
        if self.reference != "auto" and not needs_reference(self):
            raise BadInput(
                f"reference is {self.reference}, but {self.method} compares with no reference.",
                why="It would have no effect.",
                fix="Leave it out.",
            )
        if self.reference == "cached" and self.entry.loss == "rmu":
            raise BadInput("rmu compares activations, which are not cached.", fix="Use reference=model.")
        if self.reference == "cached" and self.kl_positions not in (None, "answer") and "kl" in self.keeps:
            raise BadInput(
                f"reference is cached with kl_positions={self.kl_positions}.",
                why="What is kept are the answers' positions.",
                fix="Use kl_positions=answer, or reference=model.",
            )


def require_retain(config: RelearnConfig, given: bool) -> None:
    """Pass when there are rows for the retain terms, or no such term.

    Raises:
        BadInput: There are none.
    """
    if config.keeps and not given:
        raise BadInput(
            f"The method {config.method} keeps {'+'.join(config.keeps)} on retain rows, and there are none.",
            why="Nothing would hold what the model is to keep.",
            fix="Give them: --data retain=FILE; or choose a method without a retain term (retain_loss=none).",
        )


def needs_reference(config: RelearnConfig) -> bool:
    """Whether anything is compared with the model before."""
    return config.entry.loss in ("npo", "dpo", "undial") or bool({"kl", "embed_diff"} & set(config.keeps))


class Resolved(NamedTuple):
    """Every number and choice of a training, with nothing left open; see `RelearnConfig` for each."""

    method: str
    preset: str
    loss: str
    keeps: tuple[str, ...]
    gamma: float
    alpha: float
    alpha_kl: float
    beta: float
    delta: float
    beta1: float
    beta2: float
    length_normalised: bool
    kl_direction: Literal["forward", "reverse"]
    kl_positions: Literal["answer", "nonpad", "all_positions"]
    normalise: Literal["global", "micro_batch"]
    reference: Literal["none", "adapter_off", "model", "cached"]
    pairing: Literal["shuffle", "cycle"]
    modifier: Literal["none", "sure", "memflex"]
    sure_threshold: float
    memflex_cosine: float
    memflex_magnitude: float
    ascent: Literal["clamp", "stop", "free"]
    pdu_epsilon: float
    pdu_eta: float
    pdu_warmup: float
    parity: bool
    rmu_layer: int | None
    rmu_scale: float
    rmu_target: str
    soft_openings: int
    soft_tokens: int
    soft_steps: int
    soft_lr: float
    soft_weight: float
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    epochs: float
    steps: int | None
    batch: int
    accumulation: int
    lr: float
    pad_to: int
    side: Literal["left", "right"]


def resolve(config: RelearnConfig) -> Resolved:
    """The options of ``config`` with what was left out filled in from its method and preset."""
    method, release = config.entry, config.preset == "release"
    own = dict(method.options or {})

    def or_else(name: str, default: Any) -> Any:
        value = getattr(config, name)
        return default if value is None else value

    memflex = config.modifier == "memflex"
    reference: Any = config.reference
    if reference == "auto":
        reference = "adapter_off" if config.rank else "model"
    if not needs_reference(config):
        reference = "none"
    batch = or_else("batch", methods.batch(config.method, config.preset))
    return Resolved(
        method=config.method,
        preset=config.preset,
        loss=method.loss,
        keeps=config.keeps,
        gamma=or_else("gamma", 0.4 if memflex else method.gamma),
        alpha=or_else("alpha", 2.0 if memflex else method.alpha),
        alpha_kl=or_else("alpha_kl", 1.0),
        beta=or_else("beta", own.get("beta", 0.1)),
        delta=or_else("delta", own.get("delta", 0.0)),
        beta1=or_else("beta1", own.get("beta1", 5.0)),
        beta2=or_else("beta2", own.get("beta2", 1.0)),
        length_normalised=or_else("length_normalised", release),
        kl_direction=or_else("kl_direction", "forward"),
        kl_positions=or_else(
            "kl_positions", "all_positions" if release and reference != "cached" else "answer"
        ),
        normalise=or_else("normalise", "micro_batch" if release else "global"),
        reference=reference,
        pairing=or_else("pairing", "cycle" if release else "shuffle"),
        modifier=config.modifier,
        sure_threshold=or_else("sure_threshold", 99.0),
        memflex_cosine=or_else("memflex_cosine", 0.92),
        memflex_magnitude=or_else("memflex_magnitude", 6e-4),
        ascent=or_else("ascent", "free" if release else "clamp"),
        pdu_epsilon=or_else("pdu_epsilon", 0.0),
        pdu_eta=or_else("pdu_eta", 1.0),
        pdu_warmup=or_else("pdu_warmup", 5.0),
        parity=or_else("parity", False),
        rmu_layer=config.rmu_layer,
        rmu_scale=or_else("rmu_scale", 2.0),
        rmu_target=or_else("rmu_target", "uniform"),
        soft_openings=config.soft_openings,
        soft_tokens=or_else("soft_tokens", 10),
        soft_steps=or_else("soft_steps", 2),
        soft_lr=or_else("soft_lr", 0.1),
        soft_weight=or_else("soft_weight", 0.1),
        lora_rank=config.rank,
        lora_alpha=or_else("lora_alpha", 32 if release else 16),
        lora_dropout=or_else("lora_dropout", 0.05 if release else 0.1),
        epochs=or_else("epochs", methods.epochs(config.method, config.preset)),
        steps=config.steps,
        batch=batch,
        accumulation=or_else("accumulation", batch if release else 1),
        lr=or_else("lr", methods.learning_rate(config.method, config.preset, config.modifier == "sure")),
        pad_to=or_else("pad_to", 512 if release else 0),
        side="left" if release else "right",
    )
