"""LoRA adapters as factors: what a PEFT folder adds to each matrix of its base."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, NumericalFailure, need_extra
from safewright.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

KNOWN_FIELDS = frozenset(
    {
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "target_modules",
        "exclude_modules",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "use_rslora",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "megatron_core",
        "runtime_config",
        "init_lora_weights",
        "eva_config",
    }
)
"""Settings under which the step is ``scaling * B A``; any other must stand at its default."""

PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base's weights as they are."""

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "lm_head", "embed_out")
"""Modules whose weight has a row for every token; PEFT saves them beside the factors where it is asked to."""


@dataclass(frozen=True)
class Factors:
    """The step of one matrix: ``scaling * B A``, B (out, r), A (r, in); the names are those on disk."""

    module: str
    a_name: str
    b_name: str
    scaling: float


class Adapter:
    """A LoRA adapter's folder.

    Args:
        folder: Written by PEFT's ``save_pretrained``.
        model: The skeleton of its base model (`safewright.models.blocks.skeleton`).

    Raises:
        BadInput: It is no plain LoRA adapter, or does not fit the model; the setting or tensor is named.
        Missing: peft is not installed.
    """

    def __init__(self, folder: Path, model: Any) -> None:
        try:
            import peft
        except ImportError as error:
            raise need_extra("peft", "models") from error
        import torch

        self.folder = folder
        self.config = peft.PeftConfig.from_pretrained(str(folder))
        check_plain(self.config)
        self.checkpoint = Checkpoint(folder)
        with torch.device("meta"):
            adapted: Any = peft.PeftModel(model, self.config)
        self.factors: dict[str, Factors] = {}
        names = set(self.checkpoint.stored)
        for name, module in adapted.base_model.model.named_modules():
            if not isinstance(module, peft.tuners.lora.LoraLayer):
                continue
            stem = f"base_model.model.{name}"
            if not len(module.lora_A):
                raise BadInput(
                    f"{folder} adapts {name}, which is an embedding.",
                    why="An embedding has no input whose safety loss could be measured.",
                    fix="Merge the adapter (peft: merge_and_unload) and give the merged folder.",
                )
            pair = (f"{stem}.lora_A.weight", f"{stem}.lora_B.weight")
            for tensor in pair:
                if tensor not in names:
                    raise BadInput(f"{folder} lacks the tensor {tensor}.", fix="Copy it again.")
            names -= set(pair)
            self.factors[name] = Factors(name, *pair, float(next(iter(module.scaling.values()))))
            self._check_shape(self.factors[name], module)
        layers = sorted(name for name in names if _of_embeddings(name))
        if layers:
            raise BadInput(
                f"{folder} was saved with its embedding layers ({layers[0]}).",
                why="They would replace the base's own, which no product of two factors does.",
                fix="Save it without them (peft: save_pretrained(..., save_embedding_layers=False)), or, where "
                "they were trained, merge it (merge_and_unload) and give the merged folder.",
            )
        if names:
            raise BadInput(
                f"{folder} holds {len(names)} tensors without a place in its base, first {min(names)}.",
                fix="Check that base_model_name_or_path names the model the adapter was trained on.",
            )

    def _check_shape(self, factors: Factors, module: Any) -> None:
        a, b = self.checkpoint[factors.a_name].shape, self.checkpoint[factors.b_name].shape
        if (
            len(a) != 2
            or len(b) != 2
            or a[0] != b[1]
            or (b[0], a[1]) != (module.out_features, module.in_features)
        ):
            raise BadInput(
                f"{self.folder}: the factors of {factors.module} have the shapes {a} and {b}, its matrix "
                f"({module.out_features}, {module.in_features}).",
                fix="Check that the adapter belongs to this base model.",
            )

    def read(self, module: str) -> tuple[torch.Tensor, torch.Tensor, float]:
        """A (r, in), B (out, r) and the scaling of a module's step.

        Raises:
            NumericalFailure: A number is not finite.
        """
        import torch

        found = self.factors[module]
        A, B = (self.checkpoint.read(name) for name in (found.a_name, found.b_name))
        for name, factor in ((found.a_name, A), (found.b_name, B)):
            bad = int((~torch.isfinite(factor)).sum())
            if bad:
                raise NumericalFailure(
                    f"{name} of {self.folder} holds {bad} non-finite numbers.",
                    why="Every weight it touches would become one.",
                    fix="Train or download that adapter again.",
                )
        return A, B, found.scaling


def _of_embeddings(name: str) -> bool:
    """Whether an adapter's tensor is a base's embedding or head, as PEFT saves them on request."""
    parts = name.split(".")
    return "lora_A" not in parts and "lora_B" not in parts and any(part in EMBEDDINGS for part in parts)


def check_plain(config: Any) -> None:
    """Raise BadInput, naming the setting, unless an adapter's step is ``scaling * B A`` on an unchanged base."""
    import peft

    if not isinstance(config, peft.LoraConfig):
        raise BadInput(
            f"The adapter is of the kind {config.peft_type}, not LoRA.",
            fix="Merge it (peft: merge_and_unload) and give the merged folder.",
        )
    plain = peft.LoraConfig(bias="none")
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(plain, field.name)
        if field.name not in KNOWN_FIELDS and value != default and value not in (None, [], {}, set()):
            raise BadInput(
                f"The adapter sets {field.name}={value!r}.",
                why="Its step is then not a product of two factors.",
                fix="Merge it (peft: merge_and_unload) and give the merged folder.",
            )
    start = config.init_lora_weights
    if start not in PLAIN_STARTS:
        raise BadInput(
            f"The adapter was initialised with init_lora_weights={start!r}.",
            why="That changes the base's weights too, so the step is not what the adapter adds.",
            fix="Convert it first: save_pretrained(..., path_initial_model_for_weight_conversion=...).",
        )
