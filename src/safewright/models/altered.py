"""A model derived from another by a change of its weights in memory; the other stays as it is.

Rounding is simulated: weights are put on the grid of a narrower type and kept in their own, so that what is
measured is the rounding, not the arithmetic of some kernel.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput
from safewright.models.engine import Deferred, Loaded
from safewright.models.hf import HfModel
from safewright.runs import digest_json

if TYPE_CHECKING:
    import torch

GROUP = 32
"""Neighbouring weights of one output that share a scale."""

BITS: Mapping[str, int] = {"int8": 8, "int4": 4}
ROUNDINGS = ("int8", "int4", "bf16")
"""Changes that `rounded` makes."""

HERE = ("hf", "adapter", "live")
"""Kinds of models that are run here."""

_GIVE_FOLDER = "Give the model's folder, or leave out the attacks on weights (int8, int4, bf16, relearn)."

Change = Callable[[Any, Any], tuple[Any, Mapping[str, Any]]]
"""From a copy of a model and its tokenizer to the changed model, and facts for the scorecard."""


class Altered(Deferred):
    """A `Loaded` of a copy of ``base`` with changed weights, made when it is first asked.

    Args:
        base: A model that is run here.
        alteration: All that decides the change, in plain JSON; with the digest of ``base`` it makes the digest.
        change: Makes it, on a copy.
        name: How it is called where models are named.

    Raises:
        BadInput: The model runs elsewhere.
    """

    def __init__(self, base: Loaded, alteration: Mapping[str, Any], change: Change, name: str) -> None:
        if base.ref.kind not in HERE:
            raise BadInput(
                f"The weights of {base.ref.where} cannot be changed ({name}): they are not here.",
                fix=_GIVE_FOLDER,
            )
        self._base, self._change, self._alteration = base, change, dict(alteration)
        self._facts: dict[str, Any] = {}
        ref = dataclasses.replace(
            base.ref,
            kind="live",
            where=f"{base.ref.where} ({name})",
            digest=altered_digest(base.ref.digest, alteration),
            base=None,
            revision=None,
        )
        super().__init__(ref, open=self._make)

    def _make(self) -> HfModel:
        """The changed model.

        Raises:
            BadInput: The weights of the model it is made of are not here.
        """
        source: Any = getattr(self._base, "opened", self._base)
        model = getattr(source, "model", None)
        if "weights" not in source.able or model is None:
            raise BadInput(
                f"The weights of {self.ref.where} cannot be changed: its engine does not hand them out.",
                fix=_GIVE_FOLDER,
            )
        changed, facts = self._change(merged_copy(model), source.tokenizer)
        self._facts = {**self._alteration, **facts}
        ref = dataclasses.replace(self.ref, dtype=source.ref.dtype)
        return HfModel(changed.eval(), source.tokenizer, ref, source.batch_size)

    @property
    def able(self) -> frozenset[str]:
        return HfModel.able

    @property
    def conventions(self) -> Mapping[str, Any]:
        return {**self.opened.conventions, "altered": self._facts}


def altered_digest(base: str, alteration: Mapping[str, Any]) -> str:
    """The digest of a model with a change: of the model's own, and of all that decides the change."""
    return digest_json({"base": base, "alteration": dict(alteration)})


def merged_copy(model: Any) -> Any:
    """A copy of a model that shares no weight with it; a LoRA adapter is merged into the copy's weights.

    Raises:
        BadInput: An adapter that works beside the weights, not on them.
    """
    own = copy.deepcopy(model)
    if not hasattr(own, "peft_config"):
        return own
    merge = getattr(own, "merge_and_unload", None)
    if merge is None or any(config.is_prompt_learning for config in own.peft_config.values()):
        raise BadInput(
            "An adapter of prompt learning has no weights of its own in the model.",
            why="Changing the base's weights alone would measure another model.",
            fix="Leave out the attacks on weights, or give a model folder or a LoRA adapter.",
        )
    return merge(safe_merge=True)


def rounded(base: Loaded, how: str) -> Altered:
    """``base`` with its matrices rounded, ``int8`` or ``int4`` in groups; or with all of its weights as ``bf16``.

    In groups, all `matrices` are rounded: no embedding (nor a head tied to it); see `round_groups`.

    Raises:
        BadInput: An unknown rounding.
    """
    if how not in ROUNDINGS:
        raise BadInput(f"There is no rounding {how!r}.", fix=f"Use one of {', '.join(ROUNDINGS)}.")
    alteration: dict[str, Any] = {"kind": how, "version": "2"}
    if how in BITS:
        alteration |= {"bits": BITS[how], "group": GROUP, "scale": "largest magnitude", "symmetric": True}
    return Altered(base, alteration, lambda model, _: (model, _round(model, how)), how)


def _round(model: Any, how: str) -> dict[str, Any]:
    import torch

    tensors = weights = changed = 0
    chosen = matrices(model) if how in BITS else ((parameter, False) for parameter in model.parameters())
    with torch.no_grad():
        for weight, across in chosen:
            if how == "bf16":
                new = weight.to(torch.bfloat16).to(weight.dtype)
            else:
                lines = weight.mT if across else weight
                new = round_groups(lines.reshape(-1, lines.shape[-1]), BITS[how]).reshape(lines.shape)
                new = new.mT if across else new
            tensors, weights = tensors + 1, weights + weight.numel()
            changed += int((new != weight).sum())
            weight.copy_(new)
    whole = sum(parameter.numel() for parameter in model.parameters())
    return {
        "tensors": tensors,
        "weights": weights,
        "changed_weights": changed,
        "weights_left_alone": whole - weights,
    }


def matrices(model: Any) -> Iterator[tuple[torch.nn.Parameter, bool]]:
    """The weights of a model that multiply, each once: no embeddings, biases or convolutions.

    The matrices of several experts may be one tensor of three dimensions. The second of a pair says whether
    outputs lie along the columns, as in GPT-2's layers.
    """
    from torch import nn

    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim not in (2, 3) or name.endswith("bias"):
                continue
            if id(parameter) in embeddings or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            yield (
                parameter,
                type(module).__name__ == "Conv1D" or bool(getattr(module, "is_transposed", False)),
            )


def round_groups(weight: torch.Tensor, bits: int, group: int = GROUP) -> torch.Tensor:
    """A matrix (outputs, inputs) with each run of ``group`` inputs rounded to the nearest of 2^bits - 1 steps.

    scale = max|w| / (2^(bits-1) - 1) over the run, w' = scale * round(w / scale). The last run of a row may be
    shorter. The result has the matrix's own dtype.
    """
    import torch

    outputs, inputs = weight.shape
    padding = -inputs % group
    runs = torch.nn.functional.pad(weight.float(), (0, padding)).reshape(outputs, -1, group)
    scale = runs.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    steps = torch.where(scale > 0, runs / scale.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
    new: torch.Tensor = (torch.round(steps) * scale).reshape(outputs, -1)[:, :inputs]
    return new.to(weight.dtype)
