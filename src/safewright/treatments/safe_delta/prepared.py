"""A prepared folder read back: H of every layer input, with what was derived from it."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput
from safewright.models.checkpoint import read_file
from safewright.runs import digest_file
from safewright.types import ModelRef

if TYPE_CHECKING:
    import torch

    from safewright.treatments.safe_delta.config import SafeDeltaConfig
    from safewright.treatments.safe_delta.curvature import Curvature

FACTS = "prep.json"


@dataclass(frozen=True)
class Group:
    """One layer input: the linear maps that read it, and how well calibration covered it.

    ``rank`` of H; ``dead`` channels that were always zero; ``condition``: largest over smallest eigenvalue;
    ``outlier``: largest over median diagonal entry. Rank and condition are None where no eigenvalues were computed.
    ``pooled``: too few tokens came (to an expert), and H is that of all tokens of its layer's experts.
    """

    name: str
    file: str
    layer: int
    width: int
    modules: tuple[str, ...]
    tokens: int
    rank: int | None
    dead: int
    condition: float | None
    outlier: float
    digest: str
    pooled: bool = False

    def as_json(self) -> dict[str, Any]:
        """Its fields as plain JSON."""
        return {**asdict(self), "modules": list(self.modules)}


def group_file(name: str, layer: int) -> str:
    """The file of a group, called after its layer and the place there of the first map that reads it."""
    # Not by its last name alone: GPT-2 has a c_proj in the attention and another in the MLP.
    return f"L{layer:03d}.{name.partition(f'.{layer}.')[2]}.safetensors"


def _checked(facts: Any) -> dict[str, Any]:
    """The facts, once all that is read of them is there.

    Raises:
        ValueError: Something is not.
    """
    needed = {"aligned": dict, "counts": dict, "utility": str, "groups": list}
    for key, kind in needed.items():
        if not isinstance(facts, dict) or not isinstance(facts.get(key), kind):
            raise ValueError(f"it has no {key!r}")
    for key in ("digest", "where"):
        if not isinstance(facts["aligned"].get(key), str):
            raise ValueError(f"its 'aligned' has no {key!r}")
    for place, group in enumerate(facts["groups"]):
        # What older folders do not have has a default.
        names = [f.name for f in fields(Group) if f.default is MISSING]
        lacking = [name for name in names if not isinstance(group, dict) or name not in group]
        if lacking:
            raise ValueError(f"its group {place} has no {lacking[0]!r}")
    checked: dict[str, Any] = facts
    return checked


class Prepared:
    """A folder of the stage ``prepare``.

    Raises:
        BadInput: It is none, or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).expanduser()
        file = self.folder / FACTS
        if not file.is_file():
            raise BadInput(
                f"{self.folder} is not a prepared folder: it has no {FACTS}.",
                fix="Make one: safewright treat safe_delta prepare --model aligned=… --data calibration=… --out DIR",
            )
        try:
            self.facts: dict[str, Any] = _checked(json.loads(file.read_text("utf-8")))
            self.groups = [Group(**{**g, "modules": tuple(g["modules"])}) for g in self.facts["groups"]]
        except (ValueError, TypeError) as error:
            raise BadInput(f"{file} is damaged: {error}.", fix="Run the stage prepare again.") from error
        self._checked: set[str] = set()
        self.of = {module: group for group in self.groups for module in group.modules}

    def require_for(self, aligned: ModelRef) -> None:
        """Pass when it was made from this aligned model.

        Raises:
            BadInput: It was made from another.
        """
        made = self.facts["aligned"]
        if made["digest"] != aligned.digest:
            raise BadInput(
                f"{self.folder} was prepared for another aligned model ({made['where']}, {made['digest'][:19]}…; "
                f"this one is {aligned.digest[:19]}…).",
                why="Its H says nothing about this model's layers.",
                fix="Run the stage prepare for this model.",
            )

    def group(self, module: str) -> Group:
        """The layer input a linear map reads.

        Raises:
            BadInput: The folder was prepared without it.
        """
        if module not in self.of:
            raise BadInput(
                f"{self.folder} holds no H for {module}.",
                fix="Prepare with the same modules option, or modules=all.",
            )
        return self.of[module]

    def read(self, group: Group, *names: str) -> dict[str, torch.Tensor]:
        """Tensors of a group's file by name; those it does not have are left out.

        Raises:
            BadInput: The file is missing, damaged, or not the one that was prepared.
        """
        self.check_file(group)
        return read_file(self.folder / group.file, names)

    def check_file(self, group: Group) -> None:
        """Pass when a group's file is the one that was prepared; it is digested once.

        Raises:
            BadInput: It is missing, or another.
        """
        file = self.folder / group.file
        if group.file in self._checked:
            return
        if not file.is_file():
            raise BadInput(f"The file {file} is missing.", fix="Run the stage prepare again.")
        if digest_file(file) != group.digest:
            raise BadInput(
                f"{file} is not the file that {FACTS} describes: its digest differs.",
                why="Its H would decide every edited weight.",
                fix="Run the stage prepare again.",
            )
        self._checked.add(group.file)

    def curvature(self, group: Group, config: SafeDeltaConfig, device: str = "cpu") -> Curvature:
        """H of a group with its eigenvectors, on a device."""
        return _curvature(self, group, config.damp, config.percdamp, config.utility == "task", device)

    def held(self, group: Group, device: str = "cpu") -> torch.Tensor | None:
        """H of the held-out sequences; None where none were held out."""
        return _held(self, group, device)


@lru_cache(maxsize=1)
def _held(prepared: Prepared, group: Group, device: str) -> torch.Tensor | None:
    found = prepared.read(group, "H_held").get("H_held")
    return None if found is None else found.to(device)


@lru_cache(maxsize=1)
def _curvature(
    prepared: Prepared, group: Group, damping: Any, percdamp: float, task: bool, device: str
) -> Curvature:
    """The last group read: the maps that share an input come one after another."""
    from safewright.treatments.safe_delta.curvature import Curvature

    found = {
        name: tensor.to(device)
        for name, tensor in prepared.read(group, "H", "values", "vectors", "G").items()
    }
    if task and "G" not in found:
        raise BadInput(
            f"{prepared.folder} was prepared without fine-tuning rows.",
            fix="Prepare with utility=task and --data finetune=rows.jsonl",
        )
    return Curvature(
        found["H"],
        damping=damping,
        percdamp=percdamp,
        G=found["G"] if task else None,
        eigen=(found["values"].double(), found["vectors"]) if "values" in found else None,
        spectral="values" in found,
    )
